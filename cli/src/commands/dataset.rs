//! `lithogen dataset`.

use std::path::Path;
use std::time::{Duration, Instant};

use domain::seed::Seed;

use crate::args::{Dataset, DatasetCommand, Spec};
use crate::dataset::{checkup, folders, preview};
use crate::exit::{self, Problem};
use crate::out;
use crate::progress::Counter;
use crate::spec;

/// Makes a data set, or looks at one.
///
/// # Errors
/// If they cannot be written; exit code 4 if a study could not use them.
pub fn run(args: &Dataset, quiet: bool) -> anyhow::Result<()> {
    match &args.command {
        DatasetCommand::Phantom { out, spec } => phantom(out, spec, quiet),
        DatasetCommand::Patches { folder, spec, preview, json } => patches(folder, spec, preview, *json, quiet),
        DatasetCommand::Check { folder, spec, json } => check(folder, spec, *json, quiet),
    }
}

fn phantom(folder: &Path, spec: &Spec, quiet: bool) -> anyhow::Result<()> {
    let experiment = spec::resolve(spec)?;
    let mut counter = Counter::new("drawing stand-ins", quiet);
    science::data::phantom::draw(&experiment.phantom, Seed(experiment.seed), folder, &mut |done, total| {
        counter.show(done, total);
    })?;
    counter.end();
    let found = folders::find(folder)?;
    out::line(format_args!("{}: {}", folder.display(), found.remarks.join("; ")));
    let scale = experiment.scale.name();
    out::line(format_args!("next: lithogen reproduce --scale {scale} --data {}", folder.display()));
    Ok(())
}

/// How long cutting may take before it is counted.
const PATIENCE: Duration = Duration::from_secs(2);

fn patches(folder: &Path, spec: &Spec, to: &Path, json: bool, quiet: bool) -> anyhow::Result<()> {
    let experiment = spec::resolve(spec)?;
    let (mut counter, began) = (Counter::new("cutting patches", quiet), Instant::now());
    let preview = preview::cut(folder, &experiment, to, &mut |done, total| {
        if began.elapsed() > PATIENCE {
            counter.show(done, total);
        }
    })?;
    counter.end();
    if json {
        out::line(serde_json::to_string_pretty(&preview)?);
    } else {
        let (scale, folds) = (experiment.scale.name(), preview.split.folds);
        out::line(format_args!("{} for a study of scale {scale}, fold 1 of {folds}\n", folder.display()));
        out::line(preview::text(&preview));
    }
    Ok(())
}

fn check(folder: &Path, spec: &Spec, json: bool, quiet: bool) -> anyhow::Result<()> {
    let experiment = spec::resolve(spec)?;
    let mut counter = Counter::new("opening pictures", quiet);
    let checkup = checkup::check(folder, &experiment, &mut |done, total| counter.show(done, total))?;
    counter.end();
    if json {
        out::line(serde_json::to_string_pretty(&checkup)?);
    } else {
        let (scale, folds) = (experiment.scale.name(), experiment.tl.most_folds());
        out::line(format_args!("{} for a study of scale {scale} with {folds} fold(s)\n", folder.display()));
        out::line(checkup::text(&checkup).trim_end());
    }
    if checkup.blocks() {
        Err(Problem::new(exit::DATA, format!("a study cannot use the data in {}", folder.display())).into())
    } else {
        Ok(())
    }
}
