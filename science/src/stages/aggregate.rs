//! Brings the numbers of the whole study together, cell by cell of Table I.
//!
//! What is missing is not counted: a training that gave up makes `n` smaller
//! than `n_asked`. What is not a number in a training ends the stage, naming the run,
//! because a mean that silently skips it would look better than the study is. A score of
//! the synthetic pictures that cannot be had is absent, with its reason.

mod leaks;
mod table;
mod trainings;

use std::collections::BTreeMap;
use std::path::Path;

use domain::seed::Seed;
use domain::study::experiment::{DriftMethod, StdOver, Trials};
use domain::study::paper;
use domain::study::records::{
    Absent, DriftRecord, HeatmapRecord, Metrics, PadRecord, PropertyDrift, Record, SamplesRecord, SifidRecord,
};
use domain::study::results::{
    Claim, ComparedScore, DriftScore, Evidence, Gate, Generator, HeatmapScore, LEVEL, OtherTable, Results,
    SCHEMA_VERSION, Scores, SifidScore, Verdict,
};
use domain::study::stage::{Aggregate, Failure, FailureCode, Folder, InputName, StageKind, Subject};
use domain::study::stats::distance::{earth_movers, kolmogorov_smirnov, resampled};
use domain::study::stats::kolmogorov::{ks_probability, ks_probability_below};
use domain::study::stats::{mean, quantile, sample_std};
use domain::study::stone::{Dataset, View};
use domain::study::system::{Model, System};
use domain::study::trial::{Training, Trial};
use serde_json::Value;

use self::table::Table;
use super::Attempt;
use crate::files;
use crate::random;

/// The number of bootstrap samples behind an interval over images.
const RESAMPLES: u32 = 2000;

/// The number of bootstrap samples behind an interval of a drift score, whose p-value has to
/// stay small when it is corrected for ten scores and all claims.
const DRIFT_RESAMPLES: u32 = 10_000;

/// The one entry of a record that may be absent without being a failed number.
const OPTIONAL: &str = "val_accuracy";

/// The metrics of the finished trainings of the study.
type Trained = BTreeMap<(Trial, Training), Metrics>;

/// Reads every input and writes `results.json`.
///
/// # Errors
/// If a record cannot be read, is not about what its folder is named after, or
/// holds something that is not a number.
pub fn run(aggregate: &Aggregate, attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder;
    let trained = read_trained(aggregate, folder)?;
    let generators = generators(folder)?;
    let comparable = aggregate.stand_ins.is_empty();
    let pictures = leaks::Pictures::read(folder, aggregate)?;
    let drift = drift(attempt.seed, folder, aggregate, comparable, &generators)?;
    let (sifid, compared) = (sifid(folder, aggregate, comparable, &generators)?, compared(folder)?);
    let scores = Scores { drift: &drift, drift_limit: aggregate.drift_threshold, sifid: &sifid, compared: &compared };
    let table = |(number, trials): (usize, &Trials)| {
        let table = Table {
            aggregate,
            trials: *trials,
            seed: attempt.seed,
            trained: &trained,
            pictures: &pictures,
            generators: &generators,
        };
        let cells = table.cells();
        let votes = table.votes(&cells);
        // No protocol changes the pictures.
        let scores = (number == 0).then_some(scores);
        let evidence = Evidence { cells: &cells, votes: &votes, margin: aggregate.margin, scores, comparable };
        OtherTable {
            protocol: trials.protocol,
            repeats: trials.repeats,
            folds: trials.folds,
            spread: trials.spread(),
            varied: trials.protocol.varied(),
            claims: Claim::all(&evidence),
            cells,
        }
    };
    let mut tables: Vec<OtherTable> = aggregate.trials.iter().enumerate().map(table).collect();
    if tables.is_empty() {
        return Err(Failure::new(FailureCode::Internal, "the study names no trials"));
    }
    let OtherTable { protocol, repeats, folds, spread, varied, cells, claims } = tables.remove(0);
    let results = Results {
        schema_version: SCHEMA_VERSION,
        scale: aggregate.scale.clone(),
        seed: aggregate.seed,
        comparable,
        stand_ins: aggregate.stand_ins.clone(),
        readings: aggregate.readings.clone(),
        protocol,
        repeats,
        folds,
        spread,
        varied,
        chance: 100.0 / Dataset::A.classes().len() as f64,
        margin: aggregate.margin,
        correction: aggregate.correction,
        claims,
        cells,
        others: tables,
        drift,
        sifid,
        heatmap: heatmap(folder, &generators)?,
        generators,
        compared,
        trainings: trainings::trainings(folder)?,
    };
    files::write(&folder.output(Results::FILE), &results)
}

fn read_trained(aggregate: &Aggregate, folder: &Folder) -> Result<Trained, Failure> {
    let (mut trained, trainings) = (Trained::new(), Training::all());
    for trial in aggregate.trials.iter().copied().flat_map(Trial::all) {
        for training in trainings.iter().copied() {
            let name = InputName::MetricsOf(trial, training);
            let Some(metrics) = read_if_there::<Metrics>(folder, name)? else { continue };
            if metrics.view != trial.view || metrics.datasets != training.datasets() {
                let about = format!("{name}: its metrics are of {} {:?}", metrics.view, metrics.datasets);
                return Err(Failure::new(FailureCode::Internal, about));
            }
            trained.insert((trial, training), metrics);
        }
    }
    Ok(trained)
}

fn drift(
    seed: Seed,
    folder: &Folder,
    aggregate: &Aggregate,
    comparable: bool,
    generators: &[Generator],
) -> Result<Vec<DriftScore>, Failure> {
    let mut scores = Vec::new();
    for view in View::ALL {
        let (record, why) = match score::<DriftRecord>(folder, InputName::DriftOf(System::Sinddm, Model::View(view)))? {
            None => continue,
            Some(Score::Is(record)) => (record, None),
            Some(Score::Absent(why)) => (DriftRecord { n_real: 0, n_synthetic: 0, properties: vec![] }, Some(why)),
        };
        for (property, paper) in paper::DRIFT_PROPERTIES.into_iter().zip(paper::drift(view)) {
            let found = record.properties.iter().find(|found| found.property == property);
            let of = |found: &PropertyDrift| match aggregate.drift_method {
                DriftMethod::Ks => found.ks,
                DriftMethod::Emd => found.emd,
            };
            let mut score = DriftScore {
                view,
                property: property.to_owned(),
                method: aggregate.drift_method,
                ks: found.and_then(|found| found.ks),
                emd: found.and_then(|found| found.emd),
                ks_null: found.map_or([0.0, 0.0, 1.0], |found| found.ks_null),
                p_null: None,
                interval: None,
                p_threshold: None,
                n_real: record.n_real,
                n_synthetic: record.n_synthetic,
                passed: None,
                paper,
                p_null_paper: None,
                verdict: Verdict::NotRun,
                passing: Gate::of(generators, view).map(Gate::passing),
                why: why.clone().or_else(|| found.map_or_else(|| Some("not measured".to_owned()), reason)),
            };
            if let Some((found, value)) = found.and_then(|found| Some((found, of(found)?))) {
                judge_drift(&mut score, found, value, aggregate, seed);
                score.verdict = Verdict::of_score(comparable, score.interval, paper);
            }
            scores.push(score);
        }
    }
    Ok(scores)
}

/// The reason why a property has no score, if it has none.
fn reason(found: &PropertyDrift) -> Option<String> {
    let unknown = found.ks.is_none() || found.emd.is_none();
    found.why.clone().or_else(|| unknown.then(|| "not a number; see drift.json of that task".to_owned()))
}

/// Adds to a score what chance and other pictures would have made of it.
fn judge_drift(score: &mut DriftScore, found: &PropertyDrift, value: f64, aggregate: &Aggregate, seed: Seed) {
    let [real, synthetic] = [&found.real[..], &found.synthetic[..]];
    let threshold = aggregate.drift_threshold;
    let draws = &mut random::stream(seed, &format!("bootstrap drift {} {}", score.view, score.property), 0);
    let statistic = |real: &[f64], synthetic: &[f64]| match score.method {
        DriftMethod::Ks => kolmogorov_smirnov(real, synthetic),
        // Of ten values and more something is left when their ends are cut.
        DriftMethod::Emd => earth_movers(real, synthetic, aggregate.drift_margin).unwrap_or(0.0),
    };
    let resampled = resampled([real, synthetic], DRIFT_RESAMPLES, statistic, |n| random::below(draws, n));
    let tail = (1.0 - LEVEL) / 2.0;
    // One more than were counted of one more than were drawn: no p-value is 0.
    let share = |count: usize| (count + 1) as f64 / f64::from(DRIFT_RESAMPLES + 1);
    let below = resampled.partition_point(|score| *score < threshold);
    if score.method == DriftMethod::Ks {
        // Of the other distance no distribution is known.
        score.p_null = Some(1.0 - ks_probability_below(real.len(), synthetic.len(), value));
        score.p_null_paper = Some(ks_probability(real.len(), synthetic.len(), score.paper));
    }
    score.interval = Some([tail, 1.0 - tail].map(|share| quantile(&resampled, share).clamp(0.0, 1.0)));
    score.p_threshold = Some((2.0 * share(below).min(share(resampled.len() - below))).min(1.0));
    score.passed = Some(value < threshold);
}

/// The paper's mean is over six classes, so a view that lacks one has no score.
fn sifid(
    folder: &Folder,
    aggregate: &Aggregate,
    comparable: bool,
    generators: &[Generator],
) -> Result<Vec<SifidScore>, Failure> {
    let mut scores = Vec::new();
    for view in View::ALL {
        let (mut per_class, mut per_image, mut why) = (Vec::new(), Vec::new(), Vec::new());
        for class in Dataset::A.classes() {
            match score::<SifidRecord>(folder, InputName::SifidOf(System::Sinddm, Model::Class(view, class)))? {
                None => why.push(format!("{class}: not computed")),
                Some(Score::Is(record)) => {
                    per_class.push((class, record.mean));
                    per_image.extend(record.per_image);
                }
                Some(Score::Absent(reason)) => why.push(format!("{class}: {reason}")),
            }
        }
        let over: Vec<f64> = match aggregate.sifid_std_over {
            StdOver::Class => per_class.iter().map(|(_, mean)| *mean).collect(),
            StdOver::Image => per_image,
        };
        let is_whole = why.is_empty();
        let mean = mean(&over).filter(|_| is_whole);
        let printed = paper::sifid(view);
        scores.push(SifidScore {
            view,
            mean,
            std: sample_std(&over).filter(|_| is_whole),
            std_over: aggregate.sifid_std_over,
            per_class,
            paper_mean: printed.mean,
            paper_std: printed.std,
            verdict: mean.map_or(Verdict::NotRun, |mean| Verdict::within(comparable, mean, printed)),
            passing: Gate::of(generators, view).map(Gate::passing),
            why: (!is_whole).then(|| why.join("; ")),
        });
    }
    Ok(scores)
}

fn heatmap(folder: &Folder, generators: &[Generator]) -> Result<Vec<HeatmapScore>, Failure> {
    let mut scores = Vec::new();
    for view in View::ALL {
        let Some(found) = score::<HeatmapRecord>(folder, InputName::HeatmapOf(System::Sinddm, Model::View(view)))?
        else {
            continue;
        };
        let (record, why) = found.split();
        scores.push(HeatmapScore {
            view,
            mean_difference: record.as_ref().map(|record| record.mean_difference),
            foreground_real: record.as_ref().map(|record| record.foreground_real),
            foreground_synthetic: record.as_ref().map(|record| record.foreground_synthetic),
            passing: Gate::of(generators, view).map(Gate::passing),
            why,
        });
    }
    Ok(scores)
}

fn generators(folder: &Folder) -> Result<Vec<Generator>, Failure> {
    let mut generators = Vec::new();
    for view in View::ALL {
        for class in Dataset::A.classes() {
            let model = Model::Class(view, class);
            let samples = InputName::SamplesOf(System::Sinddm, model);
            if let Some(record) = read_if_there::<SamplesRecord>(folder, samples)? {
                let mut faults = BTreeMap::new();
                for fault in record.faults.values().flatten() {
                    *faults.entry(*fault).or_insert(0) += 1;
                }
                let pad = InputName::RecordOf(StageKind::Pad, Subject::Model(model));
                let pad = read_if_there::<PadRecord>(folder, pad)?;
                generators.push(Generator {
                    view,
                    class,
                    samples: record.foreground.len() as u32,
                    empty: record.empty,
                    foreground: mean(&record.foreground).unwrap_or(0.0),
                    passed: passed(&record),
                    faults,
                    drawn: (!record.draws.is_empty()).then(|| record.draws.iter().sum()),
                    learnt: pad.as_ref().map(|pad| pad.images.len() as u32),
                    black: pad.and_then(|pad| mean(&pad.black)),
                });
            }
        }
    }
    Ok(generators)
}

/// The number of samples that pass the gate, if they were judged.
fn passed(record: &SamplesRecord) -> Option<u32> {
    record.limits.as_ref().map(|_| record.passed.iter().filter(|passed| **passed).count() as u32)
}

/// The scores of the networks of compared systems: one of a view, or one of each class.
fn compared(folder: &Folder) -> Result<Vec<ComparedScore>, Failure> {
    let mut scores = Vec::new();
    for (system, model) in System::compared()
        .flat_map(|system| View::ALL.into_iter().flat_map(Model::of_view).map(move |model| (system, model)))
    {
        let of = |name: fn(System, Model) -> InputName| name(system, model);
        let Some(drift) = score::<DriftRecord>(folder, of(InputName::DriftOf))? else { continue };
        let sifid = score::<SifidRecord>(folder, of(InputName::SifidOf))?;
        let heatmap = score::<HeatmapRecord>(folder, of(InputName::HeatmapOf))?;
        let ((drift, no_drift), (sifid, no_sifid), (heatmap, no_heatmap)) =
            (drift.split(), Score::split_any(sifid), Score::split_any(heatmap));
        let properties = drift.map(|record| record.properties).unwrap_or_default();
        let no_drift = no_drift.or_else(|| properties.iter().find_map(reason));
        let why = [("drift", no_drift), ("sifid", no_sifid), ("heatmap", no_heatmap)];
        let samples = read_if_there::<SamplesRecord>(folder, of(InputName::SamplesOf))?;
        let passing = samples.and_then(|record| Some(f64::from(passed(&record)?) / record.passed.len().max(1) as f64));
        scores.push(ComparedScore {
            system,
            view: model.view(),
            class: model.class(),
            drift: properties.into_iter().map(|found| (found.property, found.ks, found.emd)).collect(),
            sifid: sifid.map(|record| record.mean),
            mean_difference: heatmap.map(|record| record.mean_difference),
            why: why.into_iter().filter_map(|(kind, why)| Some((kind.to_owned(), why?))).collect(),
            passing,
        });
    }
    Ok(scores)
}

/// The result of an evaluation.
enum Score<T> {
    Is(T),
    /// There is no record, for this reason.
    Absent(String),
}

impl<T> Score<T> {
    fn split(self) -> (Option<T>, Option<String>) {
        match self {
            Score::Is(record) => (Some(record), None),
            Score::Absent(why) => (None, Some(why)),
        }
    }

    /// [`Score::split`] where the score may not even have been computed.
    fn split_any(score: Option<Self>) -> (Option<T>, Option<String>) {
        score.map_or_else(|| (None, Some("not computed".to_owned())), Self::split)
    }
}

/// Reads the record of an evaluation, if it was run. A number that is none, which JSON
/// writes as null, makes it an absent one.
fn score<T: Record>(folder: &Folder, name: InputName) -> Result<Option<Score<T>>, Failure> {
    let (path, file) = (folder.input(name).join(T::FILE), T::FILE);
    if !folder.input(name).exists() {
        return Ok(None);
    }
    let value = files::value(&path)?;
    if let Ok(Absent { absent }) = serde_json::from_value(value.clone()) {
        return Ok(Some(Score::Absent(absent)));
    }
    let is_number = |error: serde_json::Error| match null_entry(&value) {
        Some(entry) => Ok(Some(Score::Absent(format!("{entry} is not a number; see {file} of that task")))),
        None => Err(files::unusable(&path, error)),
    };
    match serde_json::from_value(value.clone()) {
        Ok(record) => Ok(Some(Score::Is(files::checked(record, &path)?))),
        Err(error) => is_number(error),
    }
}

fn read_if_there<T: Record>(folder: &Folder, name: InputName) -> Result<Option<T>, Failure> {
    let input = folder.input(name);
    if !input.exists() {
        return Ok(None);
    }
    read(&input, name).map(Some)
}

/// Reads a record all of whose numbers are numbers: JSON has no NaN and writes
/// it as null.
fn read<T: Record>(input: &Path, name: InputName) -> Result<T, Failure> {
    let (path, file) = (input.join(T::FILE), T::FILE);
    let value = files::value(&path)?;
    if let Some(entry) = null_entry(&value) {
        let message = format!("{name}: {entry} is not a number; see {file} of that task");
        return Err(Failure::new(FailureCode::NotANumber, message));
    }
    let record = serde_json::from_value(value).map_err(|error| files::unusable(&path, error))?;
    files::checked(record, &path)
}

/// The path of the first null, if there is any.
fn null_entry(value: &Value) -> Option<String> {
    let join = |key: &str, inner: String| if inner.is_empty() { key.to_owned() } else { format!("{key}.{inner}") };
    match value {
        Value::Null => Some(String::new()),
        Value::Array(values) => values
            .iter()
            .enumerate()
            .find_map(|(index, value)| null_entry(value).map(|inner| join(&index.to_string(), inner))),
        Value::Object(entries) => entries
            .iter()
            .filter(|(key, _)| *key != OPTIONAL)
            .find_map(|(key, value)| null_entry(value).map(|inner| join(key, inner))),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests;
