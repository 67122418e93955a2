//! `lithogen cell explain`.

use anyhow::Context;
use domain::id::ArtifactId;
use domain::study::experiment::Trials;
use domain::study::plan::{Source, TaskSpec};
use domain::study::records::{ImageRef, Metrics, PatchesRecord, Record};
use domain::study::results::Cell;
use domain::study::stage::{InputName, StageKind, Subject};
use domain::study::stone::Dataset;
use domain::study::trial::Trial;
use proto::v1;
use report::format;
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
    /// The cell as the results document has it.
    cell: Cell,
    /// Version of this program, which explains.
    program_version: &'static str,
    runs: Vec<RunOf>,
}

/// One training behind a number.
#[derive(Debug, Serialize)]
struct RunOf {
    name: String,
    /// Accuracy in percent; absent if the training did not finish.
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
    /// The device that computed the result; absent without one.
    device: Option<String>,
    inputs: Vec<InputOf>,
}

/// What a training read: patches of the split, weights.
#[derive(Debug, Serialize)]
struct InputOf {
    name: String,
    /// Key of the task that made the input; absent for an artifact that was handed in.
    task: Option<String>,
    /// Stage and subject of that task.
    label: Option<String>,
    artifact: String,
    /// The pictures on either side of the split, if the input is patches.
    images: Option<Sides>,
}

/// Pictures by the names of their classes and files.
#[derive(Debug, Serialize)]
struct Sides {
    train: Vec<String>,
    test: Vec<String>,
}

/// Traces a number to its runs.
///
/// # Errors
/// Exit code 2 if there is no such cell; or if the run has no results yet.
pub async fn run(command: &CellCommand) -> anyhow::Result<()> {
    let CellCommand::Explain { cell, run, protocol, remote, state, json } = command;
    let coordinator = remote.coordinator.as_deref();
    let explained = local::ask(coordinator, &state.state, |remote| async move {
        explain(&remote, cell, run, protocol.as_deref()).await
    })
    .await?;
    if *json {
        out::line(serde_json::to_string_pretty(&explained)?)
    } else {
        print(&explained, &place(remote, state))
    }
    Ok(())
}

async fn explain(remote: &Remote, id: &str, run: &str, protocol: Option<&str>) -> anyhow::Result<Explained> {
    let status = remote.status(run).await?;
    let (_, results) = remote.results(&status).await?;
    let unknown = || Problem::new(exit::USAGE, format!("there is no cell {id}; they are called SUR-1-1 to SEC-8-2"));
    let known: Vec<&str> = results.tables().map(|(trials, _)| trials.protocol.name()).collect();
    let absent = || Problem::new(exit::USAGE, format!("the run has no such protocol; it has {}", known.join(", ")));
    let wanted = |trials: &Trials| protocol.is_none_or(|name| trials.protocol.name() == name);
    let (trials, cells) = results.tables().find(|(trials, _)| wanted(trials)).ok_or_else(absent)?;
    let cell = cells.iter().find(|cell| cell.id == id).ok_or_else(unknown)?.clone();
    let tasks = remote.tasks_of(&status.run_id, "").await?;
    let mut runs = vec![];
    let training = cell.steps().with_context(|| format!("the paper has no cell {id}"))?;
    for trial in Trial::of_view(trials, cell.view) {
        let label = StageKind::ClassifyTrain.label(&Subject::Training(trial, training).to_string());
        let task = tasks.iter().find(|task| task.label == label);
        let task = task.with_context(|| format!("the run has no task {label}"))?;
        runs.push(run_of(remote, &cell, trial.name(), task, &tasks).await?);
    }
    Ok(Explained { schema_version: 1, run: status.run_id, cell, program_version: env!("CARGO_PKG_VERSION"), runs })
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
    let mut inputs = vec![];
    let patches = Dataset::ALL.map(|dataset| InputName::Patches(dataset).to_string());
    for (name, input) in spec.inputs.iter() {
        let (task, label, artifact) = match input.from {
            Source::Artifact(artifact) => (None, None, artifact.to_string()),
            Source::Task(key) => {
                let made = tasks.iter().find(|task| task.task_key == key.to_string());
                let label = made.map(|task| task.label.clone());
                (Some(key.to_string()), label, made.map(|task| task.artifact.clone()).unwrap_or_default())
            }
        };
        let images = match artifact.parse() {
            Ok(artifact) if patches.iter().any(|known| known == name) => Some(sides(remote, artifact).await?),
            _ => None,
        };
        inputs.push(InputOf { name: name.to_owned(), task, label, artifact, images });
    }
    let device = match answer.artifact.parse() {
        Ok(artifact) => {
            let metrics = remote.text(artifact, Metrics::FILE).await?;
            Some(serde_json::from_str::<Metrics>(&metrics).context(Metrics::FILE)?.device)
        }
        Err(_) => None,
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
        stage: spec.stage.kind().name(),
        stage_version: spec.version,
        worker: made.map(|change| change.worker.clone()),
        attempt: made.map(|change| change.attempt),
        seconds: made.map(|change| change.seconds),
        device,
        inputs,
    })
}

/// Which pictures a split puts where.
async fn sides(remote: &Remote, patches: ArtifactId) -> anyhow::Result<Sides> {
    let text = remote.text(patches, PatchesRecord::FILE).await?;
    let record: PatchesRecord = serde_json::from_str(&text).context(PatchesRecord::FILE)?;
    let names = |images: Vec<ImageRef>| images.iter().map(|image| format!("{}/{}", image.class, image.file)).collect();
    Ok(Sides { train: names(record.train_images), test: names(record.test_images) })
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
        cell.test_sets(),
        format::ours(cell),
        format::count(cell),
        format::plus_minus(Some(cell.paper_mean), Some(cell.paper_std)),
        format::verdict(cell)
    ));
    if let Some(why) = &cell.why {
        out::line(format_args!("  {why}"));
    }
    out::line(format_args!(
        "  each run learns from {:.0} images and is tested on {:.0}; 95 % interval {}; run {}, lithogen {}",
        cell.train_images,
        cell.test_images,
        format::interval(cell.interval),
        short(&explained.run),
        explained.program_version
    ));
    for leak in &cell.leaks {
        let (runs, path) = (leak.runs.join(", "), leak.path.join(" ← "));
        out::line(format_args!("  leak: {} is tested in {runs} and was learnt from: {path}", leak.image));
    }
    for run in &explained.runs {
        let accuracy = run.accuracy.map_or_else(|| run.state.clone(), |accuracy| format!("{accuracy:.2}"));
        let by = match (&run.worker, run.attempt, run.seconds) {
            (Some(worker), Some(attempt), Some(seconds)) => {
                let device = run.device.as_deref().unwrap_or("an unknown device");
                format!(", attempt {attempt} on {worker} ({device}), {seconds:.1} s")
            }
            _ => String::new(),
        };
        out::line(format_args!("{}: {accuracy}  {} ({})", run.name, short(&run.task), run.label));
        out::line(format_args!("  {} version {}, seed {}{by}", run.stage, run.stage_version, run.seed));
        for input in &run.inputs {
            let made = match (&input.label, &input.task) {
                (Some(label), Some(task)) => format!("{label} ({})", short(task)),
                _ => "handed in".to_owned(),
            };
            let images = input.images.as_ref().map_or_else(String::new, |images| {
                format!(", {} images to learn from, {} to test on", images.train.len(), images.test.len())
            });
            out::line(format_args!("  {} {}: {made}{images}", input.name, short(&input.artifact)));
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
