//! `lithogen cell explain`.

use anyhow::Context;
use domain::plan::{Source, TaskSpec};
use domain::results::{Cell, export};
use proto::v1;
use serde::Serialize;

use crate::args::{self, CellCommand};
use crate::exit::{self, Problem};
use crate::remote::{Remote, short};
use crate::{local, out};

/// Where a number of Table I comes from.
#[derive(Debug, Serialize)]
struct Explained {
    schema_version: u32,
    run: String,
    /// The cell as in the results document.
    cell: Cell,
    /// Version of this program, which explains.
    program_version: &'static str,
    runs: Vec<RunOf>,
}

/// One training behind it.
#[derive(Debug, Serialize)]
struct RunOf {
    name: String,
    /// Accuracy in percent; absent if it did not finish.
    accuracy: Option<f64>,
    task: String,
    label: String,
    state: String,
    /// Digest of the artifact with weights and metrics; empty without one.
    artifact: String,
    seed: u64,
    stage: &'static str,
    stage_version: u32,
    /// Who made the result, and in which attempt; absent without one.
    worker: Option<String>,
    attempt: Option<u32>,
    seconds: Option<f64>,
    inputs: Vec<InputOf>,
}

/// What a training read: patches of the split, weights.
#[derive(Debug, Serialize)]
struct InputOf {
    name: String,
    /// Key of the task that made it; absent for what was handed in.
    task: Option<String>,
    /// Stage and subject of that task.
    label: Option<String>,
    artifact: String,
}

/// Traces a number to its runs.
///
/// # Errors
/// Exit code 2 if there is no such cell; or if the run has no results yet.
pub async fn run(command: &CellCommand) -> anyhow::Result<()> {
    let CellCommand::Explain { cell, run, remote, state, json } = command;
    let coordinator = remote.coordinator.as_deref();
    let explained =
        local::ask(coordinator, &state.state, |remote| async move { explain(&remote, cell, run).await }).await?;
    match json {
        true => out::line(serde_json::to_string_pretty(&explained)?),
        false => print(&explained, &place(remote, state)),
    }
    Ok(())
}

async fn explain(remote: &Remote, id: &str, run: &str) -> anyhow::Result<Explained> {
    let status = remote.status(run).await?;
    let (_, results) = remote.results(&status).await?;
    let unknown = || Problem::new(exit::USAGE, format!("there is no cell {id}; they are called SUR-1-1 to SEC-8-2"));
    let cell = results.cells.iter().find(|cell| cell.id == id).ok_or_else(unknown)?.clone();
    let tasks = remote.tasks(&status.run_id, "").await?;
    let mut runs = vec![];
    for repeat in 0..results.repeats {
        for fold in 0..results.folds {
            let label = label(&cell, repeat, fold, results.folds);
            let task = tasks.iter().find(|task| task.label == label);
            let task = task.with_context(|| format!("the run has no task {label}"))?;
            runs.push(run_of(remote, &cell, format!("r{repeat} f{fold}"), task, &tasks).await?);
        }
    }
    Ok(Explained { schema_version: 1, run: status.run_id, cell, program_version: env!("CARGO_PKG_VERSION"), runs })
}

/// How the plan calls the training of a cell.
fn label(cell: &Cell, repeat: u32, fold: u32, folds: u32) -> String {
    let training = cell.training.replace(" → ", "-");
    let fold = if folds == 1 { String::new() } else { format!(" fold {fold}") };
    format!("classify.train {} {training} repeat {repeat}{fold}", cell.view)
}

async fn run_of(
    remote: &Remote,
    cell: &Cell,
    name: String,
    task: &v1::TaskStatus,
    tasks: &[v1::TaskStatus],
) -> anyhow::Result<RunOf> {
    let answer = remote.task(&task.task_key).await?;
    let spec: TaskSpec = serde_json::from_str(&answer.spec_json).context("the coordinator does not tell the task")?;
    let input = |(name, input): (&str, &domain::plan::Input)| match input.from {
        Source::Artifact(artifact) => {
            InputOf { name: name.to_owned(), task: None, label: None, artifact: artifact.to_string() }
        }
        Source::Task(key) => {
            let made = tasks.iter().find(|task| task.task_key == key.to_string());
            InputOf {
                name: name.to_owned(),
                task: Some(key.to_string()),
                label: made.map(|task| task.label.clone()),
                artifact: made.map(|task| task.artifact.clone()).unwrap_or_default(),
            }
        }
    };
    let made = answer.changes.iter().rev().find(|change| change.state == "succeeded");
    let at = cell.run_names.iter().position(|known| *known == name);
    Ok(RunOf {
        accuracy: at.and_then(|at| cell.runs.get(at).copied()),
        name,
        task: answer.task_key,
        label: answer.label,
        state: answer.state,
        artifact: answer.artifact,
        seed: spec.seed.0,
        stage: spec.stage.name(),
        stage_version: spec.version,
        worker: made.map(|change| change.worker.clone()),
        attempt: made.map(|change| change.attempt),
        seconds: made.map(|change| change.seconds),
        inputs: spec.inputs.iter().map(input).collect(),
    })
}

/// The option that says whom to ask.
fn place(remote: &args::Remote, state: &args::State) -> String {
    match &remote.coordinator {
        Some(url) => format!("--coordinator {url}"),
        None => format!("--state {}", state.state.display()),
    }
}

fn print(explained: &Explained, place: &str) {
    let cell = &explained.cell;
    out::line(format_args!(
        "{} {}, tested on {}: {} (n = {}), paper {}: {}",
        cell.id,
        cell.training,
        export::tested_on(cell),
        export::plus_minus(cell.mean, cell.std),
        export::count(cell),
        export::plus_minus(Some(cell.paper_mean), Some(cell.paper_std)),
        cell.verdict.words()
    ));
    if let Some(why) = &cell.why {
        out::line(format_args!("  {why}"));
    }
    out::line(format_args!(
        "  each run learns from {:.0} images and is tested on {:.0}; 95 % interval {}; run {}, lithogen {}",
        cell.train_images,
        cell.test_images,
        export::interval(cell.interval),
        short(&explained.run),
        explained.program_version
    ));
    for run in &explained.runs {
        let accuracy = run.accuracy.map_or_else(|| run.state.clone(), |accuracy| format!("{accuracy:.2}"));
        let by = match (&run.worker, run.attempt, run.seconds) {
            (Some(worker), Some(attempt), Some(seconds)) => format!(", attempt {attempt} on {worker}, {seconds:.1} s"),
            _ => String::new(),
        };
        out::line(format_args!("{}: {accuracy}  {} ({})", run.name, short(&run.task), run.label));
        out::line(format_args!("  {} version {}, seed {}{by}", run.stage, run.stage_version, run.seed));
        for input in &run.inputs {
            let made = match (&input.label, &input.task) {
                (Some(label), Some(task)) => format!("{label} ({})", short(task)),
                _ => "handed in".to_owned(),
            };
            out::line(format_args!("  {} {}: {made}", input.name, short(&input.artifact)));
        }
        if !run.artifact.is_empty() {
            out::line(format_args!("  weights and metrics {}", run.artifact));
        }
    }
    if let Some(run) = explained.runs.iter().find(|run| run.accuracy.is_some()) {
        let task = short(&run.task);
        out::line(format_args!("run one again and compare: lithogen task rerun {task} {place} --out rerun-{task}"));
    }
}
