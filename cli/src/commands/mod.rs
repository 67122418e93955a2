//! One command per file.

pub mod artifact;
#[cfg(feature = "worker")]
pub mod attempt;
pub mod cancel;
pub mod cell;
pub mod check;
pub mod completions;
pub mod config;
pub mod coordinator;
#[cfg(feature = "worker")]
pub mod dataset;
pub mod exec;
pub mod journal;
pub mod login;
#[cfg(feature = "worker")]
pub mod model;
pub mod paper;
pub mod pause;
pub mod plan;
#[cfg(feature = "worker")]
pub mod reproduce;
#[cfg(feature = "worker")]
pub mod rerun;
pub mod results;
pub mod status;
pub mod submit;
pub mod task;
pub mod token;
pub mod watch;
#[cfg(feature = "worker")]
pub mod weights;
pub mod worker;
pub mod workers;

use std::path::{Path, PathBuf};

use domain::command::Commands;
use domain::experiment::Experiment;
use domain::overrides::{self, SpecFile};

use crate::args::Spec;
use crate::data::{self, Found};
use crate::exit::{self, Problem};

/// The spec that the options describe.
///
/// # Errors
/// Exit code 2, naming the knob or the place in the file.
pub fn resolve(spec: &Spec) -> anyhow::Result<Experiment> {
    match work(spec)? {
        Work::Study(experiment) => Ok(*experiment),
        Work::Commands(_) => {
            let problem = "the spec asks for commands, not for a study; hand it in with `lithogen submit`";
            Err(Problem::new(exit::USAGE, problem).into())
        }
    }
}

/// What a spec asks for.
pub enum Work {
    /// The study, as far as it is not as published.
    Study(Box<Experiment>),
    /// Programs of somebody's own.
    Commands(Commands),
}

/// What the options ask for.
///
/// # Errors
/// Exit code 2, naming the knob or the place in the file.
pub fn work(spec: &Spec) -> anyhow::Result<Work> {
    let wrong = |problem: String| Problem::new(exit::USAGE, problem);
    let name = spec.spec.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot read {name}: {error}")));
    let text = spec.spec.as_ref().map(read).transpose()?;
    let file = text.as_deref().map(|text| SpecFile { name: &name, text });
    let commands = file.map(overrides::commands).transpose().map_err(|error| wrong(error.to_string()))?;
    match commands.flatten() {
        Some(_) if !spec.sets.is_empty() || spec.allow_leak => {
            let problem = format!("{name} asks for commands, which have no knobs: leave --set and --allow-leak out");
            Err(wrong(problem).into())
        }
        Some(commands) => Ok(Work::Commands(commands)),
        None => {
            let allowed = spec.allow_leak.then(|| "tl.allow_leak=true".to_owned());
            let sets: Vec<String> = spec.sets.iter().cloned().chain(allowed).collect();
            let resolved = overrides::resolve(spec.scale.into(), file, &sets);
            Ok(Work::Study(Box::new(resolved.map_err(|error| wrong(error.to_string()))?)))
        }
    }
}

/// The data to use: those given, or stand-ins drawn below the state folder.
///
/// # Errors
/// Exit code 4 if they cannot be used.
pub fn data(
    given: Option<&Path>,
    experiment: &Experiment,
    state: &Path,
    tell: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Found> {
    match given {
        Some(root) => data::find(root),
        None => data::find(&phantom(experiment, state, tell)?),
    }
}

/// Draws the stand-ins of a spec once; their folder is named by what determines them.
#[cfg(feature = "worker")]
fn phantom(experiment: &Experiment, state: &Path, tell: &mut dyn FnMut(u64, u64)) -> anyhow::Result<PathBuf> {
    use domain::digest::Digest;
    use domain::seed::Seed;
    let name = Digest::of_json(&(science::data::phantom::VERSION, &experiment.phantom, experiment.seed)).short();
    let folder = state.join(format!("phantom-{name}"));
    proto::private::folder(state)?;
    science::data::phantom::draw(&experiment.phantom, Seed(experiment.seed), &folder, tell)?;
    Ok(folder)
}

#[cfg(not(feature = "worker"))]
fn phantom(_: &Experiment, _: &Path, _: &mut dyn FnMut(u64, u64)) -> anyhow::Result<PathBuf> {
    Err(Problem::new(exit::USAGE, "this build cannot draw stand-ins; give pictures with --data DIR").into())
}
