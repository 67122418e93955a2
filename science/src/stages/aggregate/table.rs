//! The cells of Table I from the runs behind them.

use std::collections::BTreeMap;

use domain::seed::Seed;
use domain::study::experiment::{Trials, Varied};
use domain::study::paper::{Printed, Row};
use domain::study::records::Metrics;
use domain::study::results::{Cell, ClassAccuracy, Gate, Generator, LEVEL, Leak, Untested, Verdict, Votes};
use domain::study::stage::Aggregate;
use domain::study::stats::estimate::Estimate;
use domain::study::stats::{bootstrap, mean, sample_std};
use domain::study::stone::{Class, Dataset, View};
use domain::study::trial::{Training, Trial};

use super::leaks::Pictures;
use super::{RESAMPLES, Trained};
use crate::random;

/// Table I by one protocol.
pub(super) struct Table<'a> {
    pub(super) aggregate: &'a Aggregate,
    pub(super) trials: Trials,
    pub(super) seed: Seed,
    pub(super) trained: &'a Trained,
    pub(super) pictures: &'a Pictures<'a>,
    pub(super) generators: &'a [Generator],
}

impl Table<'_> {
    /// All cells, in the paper's order.
    pub(super) fn cells(&self) -> Vec<Cell> {
        let mut cells = Cell::of_table_1(|row, second, printed| self.cell(row, second, printed));
        Cell::judge(&mut cells, self.aggregate.correction);
        cells
    }

    /// The test images that were recognised in the runs behind each cell.
    pub(super) fn votes(&self, cells: &[Cell]) -> Votes {
        let of_trial = |cell: &Cell, trial: Trial| {
            let name = trial.name();
            let is_counted = cell.run_names.contains(&name);
            let metrics = self.trained.get(&(trial, cell.steps()?)).filter(|_| is_counted)?;
            let images = metrics.images.iter().map(|image| ((image.dataset, image.id), image.vote == image.label));
            Some((name, images.collect()))
        };
        let of_cell = |cell: &Cell| {
            let trials = Trial::of_view(self.trials, cell.view);
            (cell.id.clone(), trials.filter_map(|trial| of_trial(cell, trial)).collect())
        };
        cells.iter().map(of_cell).collect()
    }

    fn cell(&self, row: &Row, second: Option<Dataset>, printed: Printed) -> Cell {
        let Self { aggregate, trials, .. } = self;
        let training = Training { first: row.first, second };
        let leaks = self.leaks(row.view, training);
        let is_refused = !leaks.is_empty() && !aggregate.allow_leak;
        let (mut run_names, mut missing, mut metrics) = (vec![], vec![], Vec::<&Metrics>::new());
        for trial in Trial::of_view(*trials, row.view) {
            match self.trained.get(&(trial, training)) {
                None => missing.push(trial.name()),
                Some(_) if is_refused => {}
                Some(found) => {
                    run_names.push(trial.name());
                    metrics.push(found);
                }
            }
        }
        let average = |of: fn(&Metrics) -> f64| mean(&metrics.iter().map(|run| of(run)).collect::<Vec<f64>>());
        let accuracies: Vec<f64> = metrics.iter().map(|run| run.accuracy).collect();
        let n = accuracies.len() as u32;
        let per_class = class_accuracies(&metrics);
        let class_means: Vec<f64> = per_class.iter().map(|class| class.mean).collect();
        let (train_images, test_images) = (
            average(|run| f64::from(run.train[0])).unwrap_or(0.0),
            average(|run| f64::from(run.test_images)).unwrap_or(0.0),
        );
        // Images, not patches: patches of one image are far from independent. Where only
        // seeds differ, the spread holds no images that could be corrected for.
        let split_correction = match trials.protocol.varied() {
            Varied::PicturesAndSeeds if train_images > 0.0 => test_images / train_images,
            Varied::PicturesAndSeeds | Varied::SeedsOnly => 0.0,
        };
        let estimate = Estimate::corrected(&accuracies, split_correction);
        let comparable = aggregate.stand_ins.is_empty() && leaks.is_empty();
        let verdict = match n {
            0 if !is_refused => Verdict::NotRun,
            _ if !comparable => Verdict::NotComparable,
            _ => Verdict::Consistent,
        };
        let full: Vec<f64> = metrics.iter().filter(|run| tests_all(run)).map(|run| run.accuracy).collect();
        let untested = untested(&metrics, &run_names);
        let gate = Gate::of(self.generators, row.view).filter(|_| row.rests_on(second, Dataset::B));
        let draws = &mut random::stream(self.seed, &format!("bootstrap {} {training}", row.view), 0);
        let difference = mean(&accuracies).map(|ours| ours - printed.mean);
        let mut cell = Cell {
            mean: mean(&accuracies),
            std: sample_std(&accuracies),
            n,
            n_asked: trials.repeats * trials.folds,
            std_over_classes: sample_std(&class_means),
            per_class,
            run_names,
            missing,
            std_pooled: sample_std(&recalls(&metrics)),
            image_accuracy: average(|run| run.image_accuracy),
            image_accuracy_by_score: average(|run| run.image_accuracy_by_score),
            image_interval: bootstrap(&of_images(&metrics), RESAMPLES, LEVEL, |n| random::below(draws, n)),
            macro_f1: average(|run| 100.0 * run.macro_average.f1),
            train_images,
            test_images,
            split_correction,
            mean_of_full_runs: mean(&full).filter(|_| !untested.is_empty()),
            difference,
            within_printed_std: difference.map(|difference| difference.abs() <= printed.std),
            why: why(verdict, n, estimate.is_some(), &leaks, aggregate),
            verdict,
            runs: accuracies,
            untested,
            leaks,
            passing: gate.map(Gate::passing),
            ..Cell::blank(row, second, printed)
        };
        if let Some(ours) = estimate {
            cell.test(ours, aggregate.margin, comparable);
        }
        cell
    }

    /// The test pictures that the trainings of a view have seen, each with the way on
    /// which it came in the first trial that tests it.
    fn leaks(&self, view: View, training: Training) -> Vec<Leak> {
        let mut leaks: BTreeMap<String, Leak> = BTreeMap::new();
        for trial in Trial::of_view(self.trials, view) {
            for (image, path) in self.pictures.seen(trial, training) {
                let leak = leaks.entry(image.clone()).or_insert(Leak { image, path, runs: vec![] });
                leak.runs.push(trial.name());
            }
        }
        leaks.into_values().collect()
    }
}

fn why(verdict: Verdict, n: u32, has_interval: bool, leaks: &[Leak], aggregate: &Aggregate) -> Option<String> {
    let leak = leaks.first().map(|leak| format!("test picture {} was learnt from", leak.image));
    match verdict {
        Verdict::NotComparable => {
            Some(leak.into_iter().chain(aggregate.stand_ins.clone()).collect::<Vec<_>>().join("; "))
        }
        Verdict::NotRun => Some("no run finished".to_owned()),
        _ if n == 1 => Some("one run has no interval".to_owned()),
        _ if !has_interval => Some("all runs have the same accuracy, which shows no spread".to_owned()),
        _ => None,
    }
}

/// Tells whether a run has test patches of every label.
fn tests_all(run: &Metrics) -> bool {
    (0..run.labels.len()).all(|label| recall(run, label).is_some())
}

/// Labels without test patches, and the runs in which they have none.
fn untested(runs: &[&Metrics], names: &[String]) -> Vec<Untested> {
    let Some(first) = runs.first() else { return Vec::new() };
    let of_label = |(label, classes): (usize, &Vec<Class>)| {
        let lacking = runs.iter().zip(names).filter(|(run, _)| recall(run, label).is_none());
        let runs: Vec<String> = lacking.map(|(_, name)| name.clone()).collect();
        (!runs.is_empty()).then(|| Untested { classes: classes.clone(), runs })
    };
    first.labels.iter().enumerate().filter_map(of_label).collect()
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

/// The share of the runs that tested each image in which its vote was right, in percent.
fn of_images(runs: &[&Metrics]) -> Vec<f64> {
    let mut outcomes: BTreeMap<(Dataset, u32), Vec<f64>> = BTreeMap::new();
    for image in runs.iter().flat_map(|run| &run.images) {
        let is_right = if image.vote == image.label { 100.0 } else { 0.0 };
        outcomes.entry((image.dataset, image.id)).or_default().push(is_right);
    }
    outcomes.values().filter_map(|outcomes| mean(outcomes)).collect()
}
