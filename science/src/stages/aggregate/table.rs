//! The cells of Table I from the runs behind them.

use std::collections::BTreeMap;

use domain::paper::{Printed, Row};
use domain::results::{Cell, ClassAccuracy, LEVEL, PaperN, Verdict};
use domain::seed::Seed;
use domain::stage::Aggregate;
use domain::stats::estimate::Estimate;
use domain::stats::{bootstrap, mean, sample_std};
use domain::stone::{Class, Dataset};

use super::{Runs, model_name, tested_on};
use crate::random;
use crate::records::Metrics;

/// Samples behind an interval over images.
const RESAMPLES: u32 = 2000;

/// The cell of a row, or both.
pub(super) fn cells_of(row: &Row, aggregate: &Aggregate, seed: Seed, runs: &Runs) -> Vec<Cell> {
    let first = cell(row, None, row.accuracy_1, aggregate, seed, runs);
    let second = row.accuracy_2.map(|printed| cell(row, row.second, printed, aggregate, seed, runs));
    std::iter::once(first).chain(second).collect()
}

fn cell(row: &Row, second: Option<Dataset>, printed: Printed, aggregate: &Aggregate, seed: Seed, runs: &Runs) -> Cell {
    let step = if second.is_some() { 2 } else { 1 };
    let name = model_name(row.first, second);
    let none = BTreeMap::new();
    let finished = runs.get(&(row.view, name.clone())).unwrap_or(&none);
    let metrics: Vec<&Metrics> = finished.values().collect();
    let average = |of: fn(&Metrics) -> f64| mean(&metrics.iter().map(|run| of(run)).collect::<Vec<f64>>());
    let accuracies: Vec<f64> = metrics.iter().map(|run| run.accuracy).collect();
    let n = accuracies.len() as u32;
    let per_class = class_accuracies(&metrics);
    let class_means: Vec<f64> = per_class.iter().map(|class| class.mean).collect();
    let (train_images, test_images) = (
        average(|run| f64::from(run.train[0])).unwrap_or(0.0),
        average(|run| f64::from(run.test_images)).unwrap_or(0.0),
    );
    // Images, not patches: patches of one image are far from independent.
    let ratio = if train_images > 0.0 { test_images / train_images } else { 0.0 };
    let estimate = Estimate::corrected(&accuracies, ratio);
    let comparable = aggregate.stand_ins.is_empty();
    let compared = estimate.filter(|_| comparable);
    let verdict = Verdict::of_accuracy(comparable, n, estimate, printed.mean, aggregate.margin);
    let asked = (0..aggregate.repeats).flat_map(|repeat| (0..aggregate.folds).map(move |fold| (repeat, fold)));
    let missing = asked.filter(|run| !finished.contains_key(run)).map(run_name);
    let draws = &mut random::stream(seed, &format!("bootstrap {} {name}", row.view), 0);
    Cell {
        id: format!("{}-{}-{step}", row.view, row.row),
        view: row.view,
        row: row.row,
        step,
        training: second.map_or_else(|| row.first.to_string(), |second| format!("{} → {second}", row.first)),
        config: row.config.clone(),
        tested_on: tested_on(row.first, second),
        paper_mean: printed.mean,
        paper_std: printed.std,
        mean: mean(&accuracies),
        std: sample_std(&accuracies),
        n,
        n_asked: aggregate.repeats * aggregate.folds,
        std_over_classes: sample_std(&class_means),
        per_class,
        run_names: finished.keys().copied().map(run_name).collect(),
        missing: missing.collect(),
        std_pooled: sample_std(&recalls(&metrics)),
        image_accuracy: average(|run| run.image_accuracy),
        image_accuracy_by_score: average(|run| run.image_accuracy_by_score),
        image_interval: bootstrap(&of_images(&metrics), RESAMPLES, LEVEL, |n| random::below(draws, n)),
        macro_f1: average(|run| 100.0 * run.macro_average.f1),
        train_images,
        test_images,
        interval: estimate.map(|ours| ours.interval(LEVEL)),
        difference: mean(&accuracies).map(|ours| ours - printed.mean),
        p_equivalent: compared.map(|ours| ours.p_equivalent(printed.mean, aggregate.margin)),
        p_by_paper_n: compared.map_or_else(Vec::new, |ours| PaperN::all(ours, printed)),
        why: why(verdict, n, estimate.is_some(), aggregate),
        verdict,
        runs: accuracies,
    }
}

/// `r0 f1`: repeat and fold.
fn run_name((repeat, fold): (u32, u32)) -> String {
    format!("r{repeat} f{fold}")
}

fn why(verdict: Verdict, n: u32, has_interval: bool, aggregate: &Aggregate) -> Option<String> {
    match verdict {
        Verdict::NotComparable => Some(aggregate.stand_ins.join("; ")),
        Verdict::NotRun => Some("no run finished".to_owned()),
        _ if n == 1 => Some("one run has no interval".to_owned()),
        _ if !has_interval => Some("all runs have the same accuracy, which shows no spread".to_owned()),
        _ => None,
    }
}

/// Mean over runs of each label's recall. A run without test patches of a label
/// says nothing about it.
fn class_accuracies(runs: &[&Metrics]) -> Vec<ClassAccuracy> {
    let Some(first) = runs.first() else { return Vec::new() };
    let of_label = |(label, classes): (usize, &Vec<Class>)| {
        let recalls: Vec<f64> = runs.iter().filter_map(|run| recall(run, label)).collect();
        Some(ClassAccuracy { label: label as u8, classes: classes.clone(), mean: mean(&recalls)? })
    };
    first.labels.iter().enumerate().filter_map(of_label).collect()
}

/// The recall of each label in each run.
fn recalls(runs: &[&Metrics]) -> Vec<f64> {
    runs.iter().flat_map(|run| (0..run.confusion.len()).filter_map(|label| recall(run, label))).collect()
}

/// Share of the patches of one label that were recognised, in percent.
fn recall(run: &Metrics, label: usize) -> Option<f64> {
    let counts = run.confusion.get(label)?;
    let all: u32 = counts.iter().sum();
    let right = *counts.get(label)?;
    (all > 0).then(|| 100.0 * f64::from(right) / f64::from(all))
}

/// How often the vote of each image was right, in percent, over the runs that
/// tested it.
fn of_images(runs: &[&Metrics]) -> Vec<f64> {
    let mut outcomes: BTreeMap<(Dataset, u32), Vec<f64>> = BTreeMap::new();
    for image in runs.iter().flat_map(|run| &run.images) {
        let is_right = if image.vote == image.label { 100.0 } else { 0.0 };
        outcomes.entry((image.dataset, image.id)).or_default().push(is_right);
    }
    outcomes.values().filter_map(|outcomes| mean(outcomes)).collect()
}
