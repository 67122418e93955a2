//! Brings the numbers of the whole study together, cell by cell of Table I.
//!
//! What is missing is not counted: a training that gave up makes `n` smaller
//! than `n_asked`. What is not a number ends the stage, naming the run, because
//! a mean that silently skips it would look better than the study is.

mod leaks;
mod table;
mod trainings;

use std::collections::BTreeMap;
use std::path::Path;

use domain::experiment::Rounds;
use domain::paper::{self, FirstStep, Printed};
use domain::plan::{Run, training_name};
use domain::results::{
    Claim, DdpmScore, DriftScore, Generator, HeatmapScore, OtherTable, Results, SCHEMA_VERSION, SifidScore, Verdict,
};
use domain::stage::{Aggregate, Failure, FailureCode, Folder};
use domain::stats::{mean, sample_std};
use domain::stone::{Dataset, View};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::table::Table;
use super::Attempt;
use crate::records::{self, DriftRecord, HeatmapRecord, Metrics, SamplesRecord, SifidRecord};

/// By how much a drift score may miss the paper's, which printed no spread.
const DRIFT_TOLERANCE: f64 = 0.05;

/// The one entry of a record that may be absent without being a failed number.
const OPTIONAL: &str = "val_accuracy";

/// Finished trainings of the study, by the name of the input with their metrics.
type Trained = BTreeMap<String, Metrics>;

/// Reads every input and writes `results.json`.
///
/// # Errors
/// If a record cannot be read, is not about what its folder is named after, or
/// holds something that is not a number.
pub fn run(aggregate: &Aggregate, attempt: Attempt<'_>) -> Result<(), Failure> {
    let folder = attempt.folder;
    let trained = read_trained(aggregate, folder)?;
    let comparable = aggregate.stand_ins.is_empty();
    let pictures = leaks::Pictures::read(folder, &aggregate.lineage)?;
    let table = |rounds: &Rounds| {
        let table = Table { aggregate, rounds: *rounds, seed: attempt.seed, trained: &trained, pictures: &pictures };
        let cells = table.cells();
        OtherTable {
            protocol: rounds.protocol,
            repeats: rounds.repeats,
            folds: rounds.folds,
            spread: rounds.spread(),
            claims: Claim::all(&cells, comparable),
            cells,
        }
    };
    let mut tables: Vec<OtherTable> = aggregate.rounds.iter().map(table).collect();
    if tables.is_empty() {
        return Err(Failure::new(FailureCode::Internal, "the study names no runs"));
    }
    let OtherTable { protocol, repeats, folds, spread, cells, claims } = tables.remove(0);
    let results = Results {
        schema_version: SCHEMA_VERSION,
        scale: aggregate.scale.clone(),
        seed: aggregate.seed,
        comparable,
        stand_ins: aggregate.stand_ins.clone(),
        protocol,
        repeats,
        folds,
        spread,
        chance: 100.0 / Dataset::A.classes().len() as f64,
        margin: aggregate.margin,
        claims,
        cells,
        others: tables,
        drift: drift(folder, aggregate, comparable)?,
        sifid: sifid(folder, comparable)?,
        heatmap: heatmap(folder)?,
        generators: generators(folder)?,
        ddpm: ddpm(folder)?,
        trainings: trainings::trainings(folder)?,
    };
    records::write(&folder.output("results.json"), &results)
}

/// The data sets whose test patches score a training.
fn tested_on(first: FirstStep, second: Option<Dataset>) -> Vec<Dataset> {
    second.map_or_else(|| first.datasets(), |second| vec![second])
}

/// Every distinct training of one view.
fn trainings() -> BTreeMap<String, Vec<Dataset>> {
    let second_steps = paper::TABLE_1.iter().map(|row| (row.first, row.second));
    let first_steps = FirstStep::ALL.into_iter().map(|first| (first, None));
    first_steps
        .chain(second_steps)
        .map(|(first, second)| (training_name(first, second), tested_on(first, second)))
        .collect()
}

fn read_trained(aggregate: &Aggregate, folder: &Folder) -> Result<Trained, Failure> {
    let (mut trained, trainings) = (Trained::new(), trainings());
    for run in aggregate.rounds.iter().copied().flat_map(Run::all) {
        for (model, datasets) in &trainings {
            let name = run.input(model);
            let Some(metrics) = read_if_there::<Metrics>(folder, &name, "metrics.json")? else { continue };
            if metrics.view != run.view || metrics.datasets != *datasets {
                let about = format!("{name}: its metrics are of {} {:?}", metrics.view, metrics.datasets);
                return Err(Failure::new(FailureCode::Internal, about));
            }
            trained.insert(name, metrics);
        }
    }
    Ok(trained)
}

fn drift(folder: &Folder, aggregate: &Aggregate, comparable: bool) -> Result<Vec<DriftScore>, Failure> {
    let mut scores = Vec::new();
    for view in View::ALL {
        let Some(record) = read_if_there::<DriftRecord>(folder, &format!("drift.{view}"), "drift.json")? else {
            continue;
        };
        for (property, printed) in paper::DRIFT_PROPERTIES.into_iter().zip(paper::drift(view)) {
            let Some(found) = record.properties.iter().find(|found| found.property == property) else { continue };
            scores.push(DriftScore {
                view,
                property: property.to_owned(),
                ks: found.ks,
                emd: found.emd,
                ks_null: found.ks_null,
                n_real: record.n_real,
                n_synthetic: record.n_synthetic,
                passed: found.ks < aggregate.drift_threshold,
                paper: printed,
                verdict: Verdict::within(comparable, found.ks, Printed { mean: printed, std: DRIFT_TOLERANCE }),
            });
        }
    }
    Ok(scores)
}

/// The paper's mean is over six classes, so a view that lacks one has no score.
fn sifid(folder: &Folder, comparable: bool) -> Result<Vec<SifidScore>, Failure> {
    let mut scores = Vec::new();
    for view in View::ALL {
        let mut per_class = Vec::new();
        for class in Dataset::A.classes() {
            let name = format!("sifid.{view}.{class}");
            if let Some(record) = read_if_there::<SifidRecord>(folder, &name, "sifid.json")? {
                per_class.push((class, record.mean));
            }
        }
        let means: Vec<f64> = per_class.iter().map(|(_, mean)| *mean).collect();
        if let (6, Some(centre), Some(std)) = (means.len(), mean(&means), sample_std(&means)) {
            let printed = paper::sifid(view);
            scores.push(SifidScore {
                view,
                mean: centre,
                std,
                per_class,
                paper_mean: printed.mean,
                paper_std: printed.std,
                verdict: Verdict::within(comparable, centre, printed),
            });
        }
    }
    Ok(scores)
}

fn heatmap(folder: &Folder) -> Result<Vec<HeatmapScore>, Failure> {
    let mut scores = Vec::new();
    for view in View::ALL {
        if let Some(record) = read_if_there::<HeatmapRecord>(folder, &format!("heatmap.{view}"), "heatmap.json")? {
            scores.push(HeatmapScore {
                view,
                mean_difference: record.mean_difference,
                foreground_real: record.foreground_real,
                foreground_synthetic: record.foreground_synthetic,
            });
        }
    }
    Ok(scores)
}

fn generators(folder: &Folder) -> Result<Vec<Generator>, Failure> {
    let mut generators = Vec::new();
    for view in View::ALL {
        for class in Dataset::A.classes() {
            let name = format!("samples.{view}.{class}");
            if let Some(record) = read_if_there::<SamplesRecord>(folder, &name, "samples.json")? {
                generators.push(Generator {
                    view,
                    class,
                    samples: record.foreground.len() as u32,
                    empty: record.empty,
                    foreground: mean(&record.foreground).unwrap_or(0.0),
                });
            }
        }
    }
    Ok(generators)
}

/// Scores of the plain diffusion models: one of a view, or one of each class.
fn ddpm(folder: &Folder) -> Result<Vec<DdpmScore>, Failure> {
    let mut scores = Vec::new();
    for view in View::ALL {
        let of_classes = Dataset::A.classes().map(|class| format!("{view}.{class}"));
        for model in std::iter::once(view.to_string()).chain(of_classes) {
            let Some(drift) = read_if_there::<DriftRecord>(folder, &format!("ddpm-drift.{model}"), "drift.json")?
            else {
                continue;
            };
            let (sifid, heatmap) = (format!("ddpm-sifid.{model}"), format!("ddpm-heatmap.{model}"));
            let sifid: SifidRecord = read(&folder.input(&sifid), "sifid.json", &sifid)?;
            let heatmap: HeatmapRecord = read(&folder.input(&heatmap), "heatmap.json", &heatmap)?;
            let drift = drift.properties.into_iter().map(|found| (found.property, found.ks, found.emd)).collect();
            scores.push(DdpmScore { model, drift, sifid: sifid.mean, mean_difference: heatmap.mean_difference });
        }
    }
    Ok(scores)
}

fn read_if_there<T: DeserializeOwned>(folder: &Folder, name: &str, file: &str) -> Result<Option<T>, Failure> {
    let input = folder.input(name);
    if !input.exists() {
        return Ok(None);
    }
    read(&input, file, name).map(Some)
}

/// Reads a record all of whose numbers are numbers: JSON has no NaN and writes
/// it as null.
fn read<T: DeserializeOwned>(input: &Path, file: &str, name: &str) -> Result<T, Failure> {
    let path = input.join(file);
    let value: Value = records::read(&path)?;
    if let Some(entry) = null_entry(&value) {
        let message = format!("{name}: {entry} is not a number; see {file} of that task");
        return Err(Failure::new(FailureCode::NotANumber, message));
    }
    serde_json::from_value(value)
        .map_err(|error| Failure::new(FailureCode::Internal, format!("{}: {error}", path.display())))
}

/// Where the first null is, if any.
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
