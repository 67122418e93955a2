//! `lithogen task rerun`.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use domain::id::ArtifactId;
use domain::study::plan::{Source, TaskSpec};
use domain::study::stage::{Cadence, Folder};
use worker::child::protocol::{ORDER, Order};

use crate::args::TaskOf;
use crate::exit::{self, Problem};
use crate::remote::{Remote, look};
use crate::{local, out};

/// Fetches a task's inputs, runs its stage in a process as a worker does, and
/// compares the files with those of its result.
///
/// # Errors
/// Exit code 2 if the folder is there already or this program computes another
/// version of the stage; 1 if files differ.
pub async fn run(task: &TaskOf, folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        return Err(Problem::new(exit::USAGE, format!("{} is there already", folder.display())).into());
    }
    let theirs = local::ask(task.remote.coordinator.as_deref(), &task.state.state, |remote| async move {
        let answer = remote.task(&task.task).await?;
        let spec: TaskSpec =
            serde_json::from_str(&answer.spec_json).context("the coordinator does not tell the task")?;
        prepare(&remote, &spec, folder).await?;
        let artifact: ArtifactId = answer.artifact.parse().context("the task has no result yet to compare with")?;
        remote.transfer().manifest(artifact).await.map_err(|error| remote.of_transfer(error))
    })
    .await?;
    attempt(folder).await?;
    let (_, ours) = look(&Folder::new(folder).outputs())?;
    let differs = theirs.entries().iter().filter(|entry| !ours.entries().contains(entry));
    let differs: Vec<&str> = differs.map(|entry| entry.path.as_str()).collect();
    if ours.id() == theirs.id() {
        out::line(format_args!("the same bytes: {}", ours.id()));
        return Ok(());
    }
    let message = format!("other bytes than those of {}: {}", theirs.id(), differs.join(", "));
    Err(Problem::new(exit::ERROR, message).into())
}

/// Makes the folder of the attempt.
async fn prepare(remote: &Remote, spec: &TaskSpec, folder: &Path) -> anyhow::Result<()> {
    if spec.version != spec.stage.kind().version() {
        let (ours, stage) = (spec.stage.kind().version(), spec.stage.kind().name());
        let message =
            format!("this program computes version {ours} of {stage}, the task is of version {}", spec.version);
        return Err(Problem::new(exit::USAGE, message).into());
    }
    let place = Folder::new(folder);
    for (name, input) in spec.inputs.iter() {
        let artifact = match input.from {
            Source::Artifact(artifact) => artifact,
            Source::Task(key) => {
                let made = remote.task(&key.to_string()).await?;
                made.artifact.parse().with_context(|| format!("{} has no result", made.label))?
            }
        };
        let pulled = remote.transfer().pull(artifact, &input.only, &place.inputs().join(name)).await;
        pulled.map_err(|error| remote.of_transfer(error))?;
    }
    let checkpoint = Cadence { every_steps: None, every_seconds: None };
    let order = Order { stage: spec.stage.clone(), seed: spec.seed, checkpoint };
    let path = folder.join(ORDER);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    std::fs::write(&path, serde_json::to_vec(&order)?).with_context(|| format!("cannot write {}", path.display()))
}

async fn attempt(folder: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("where this program is")?;
    let mut child = tokio::process::Command::new(program)
        .arg("attempt")
        .arg(folder)
        // It ends when its input closes.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the attempt")?;
    let input = child.stdin.take();
    let ended = child.wait().await.context("the attempt")?;
    drop(input);
    if ended.success() {
        Ok(())
    } else {
        Err(Problem::new(exit::ERROR, format!("the attempt ended with {ended}")).into())
    }
}
