//! What the options of a command ask for: a study or commands, and the data that it is made with.

use std::path::{Path, PathBuf};

use domain::runner::command::Commands;
use domain::study::experiment::Experiment;
use domain::study::overrides::{self, SpecFile};

use crate::args::Spec;
use crate::dataset::folders::{self, Found};
use crate::exit::{self, Problem};
use crate::progress::Counter;
use crate::weights::Needed;

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
    let commands = file.map(Commands::from_file).transpose().map_err(|error| wrong(error.to_string()))?;
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

/// The data to use, those given or stand-ins drawn below the state folder, and the weights
/// that the study starts from.
///
/// # Errors
/// Exit code 4 if the data cannot be used.
pub fn prepare(
    given: Option<&Path>,
    experiment: &Experiment,
    weights: Needed,
    state: &Path,
    quiet: bool,
) -> anyhow::Result<Found> {
    let mut counter = Counter::new("drawing stand-ins", quiet);
    let mut found = match given {
        Some(root) => folders::find(root)?,
        None => folders::find(&phantom(experiment, state, &mut |done, total| counter.show(done, total))?)?,
    };
    counter.end();
    weights.join(&mut found);
    Ok(found)
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
