//! `lithogen artifact`.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use domain::artifact::Manifest;
use domain::id::ArtifactId;
use proto::channel::blob_call;
use proto::transfer::Error;
use proto::v1;

use crate::args::{Artifact, ArtifactCommand, At};
use crate::exit::{self, Problem};
use crate::local;
use crate::out;
use crate::remote::{Remote, look, short};
use crate::units::size;

/// Fetches, stores, checks or clears away artifacts.
///
/// # Errors
/// If the coordinator is away or refuses, or a file cannot be read or written.
pub async fn run(args: &Artifact) -> anyhow::Result<()> {
    match &args.command {
        ArtifactCommand::Get { what, path, out, at } => {
            ask(at, |remote| async move { get(&remote, what, path.as_deref(), out).await }).await
        }
        ArtifactCommand::Put { path, at } => ask(at, |remote| async move { put(&remote, path).await }).await,
        ArtifactCommand::Verify { json, at } => ask(at, |remote| async move { verify(&remote, *json).await }).await,
        ArtifactCommand::Gc { dry_run, grace, json, at } => {
            ask(at, |remote| async move { gc(&remote, *dry_run, *grace, *json).await }).await
        }
    }
}

async fn ask<T, F: Future<Output = anyhow::Result<T>>>(at: &At, question: impl Fn(Remote) -> F) -> anyhow::Result<T> {
    local::ask(at.remote.coordinator.as_deref(), &at.state.state, question).await
}

async fn get(remote: &Remote, what: &str, path: Option<&str>, out: &Path) -> anyhow::Result<()> {
    let transfer = remote.transfer();
    let artifact = match what.parse::<ArtifactId>() {
        Ok(artifact) => artifact,
        Err(_) => report_of(remote, what).await?,
    };
    let manifest = match transfer.manifest(artifact).await {
        // A single file can be named as well.
        Err(Error::NotAManifest { .. } | Error::TooLarge { .. }) => {
            std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
            let file = out.join(artifact.to_string());
            transfer.get_file(artifact.0, &file).await.map_err(|error| remote.of_transfer(error))?;
            note!("{}", file.display());
            return Ok(());
        }
        manifest => manifest.map_err(|error| remote.of_transfer(error))?,
    };
    let only = wanted(&manifest, path)?;
    transfer.pull(artifact, &only, out).await.map_err(|error| remote.of_transfer(error))?;
    let count = if only.is_empty() { manifest.entries().len() } else { only.len() };
    note!("{} in {}", files(count), out.display());
    Ok(())
}

fn files(count: usize) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Finds the report of a run.
async fn report_of(remote: &Remote, run: &str) -> anyhow::Result<ArtifactId> {
    let status = remote.status(run).await?;
    let report = status.report_artifact.parse();
    report.map_err(|_| {
        anyhow::anyhow!(
            "run {} has no report yet: {} of {} tasks are done",
            short(&status.run_id),
            status.committed,
            status.tasks
        )
    })
}

/// The paths of an artifact that a person means; none for all.
fn wanted(manifest: &Manifest, path: Option<&str>) -> anyhow::Result<Vec<String>> {
    let Some(path) = path else { return Ok(vec![]) };
    let path = path.trim_end_matches('/');
    let all = || manifest.entries().iter().map(|entry| entry.path.as_str());
    let below = |entry: &&str| *entry == path || entry.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
    let found: Vec<String> = all().filter(below).map(str::to_owned).collect();
    if found.is_empty() {
        let mut some: Vec<&str> = all().take(10).collect();
        if all().count() > some.len() {
            some.push("…");
        }
        let message = format!("the artifact has no {path}; it has: {}", some.join(", "));
        return Err(Problem::new(exit::USAGE, message).into());
    }
    Ok(found)
}

async fn put(remote: &Remote, path: &Path) -> anyhow::Result<()> {
    let transfer = remote.transfer();
    let (root, manifest) = look(path)?;
    let artifact = transfer.push(&root, &manifest).await.map_err(|error| remote.of_transfer(error))?;
    note!("{}, {}", files(manifest.entries().len()), size(manifest.size()));
    out::line(artifact);
    Ok(())
}

async fn verify(remote: &Remote, json: bool) -> anyhow::Result<()> {
    let request = blob_call(v1::VerifyArtifactsRequest {});
    let explain = |status: tonic::Status| remote.explain(&status);
    let mut answers = remote.artifacts().verify_artifacts(request).await.map_err(explain)?.into_inner();
    let shows = std::io::stderr().is_terminal();
    let end = loop {
        let answer = answers.message().await.map_err(explain)?.context("the coordinator ended the check early")?;
        if shows {
            let (checked, total) = (answer.checked_files, answer.total_files);
            // Whoever does not listen is not told.
            let _ = write!(std::io::stderr(), "\r{checked}/{total} files, {}   ", size(answer.checked_bytes));
        }
        if answer.done {
            break answer;
        }
    };
    if shows {
        note!("");
    }
    let found = &end.problems;
    if json {
        let problem = |problem: &v1::ArtifactProblem| {
            serde_json::json!({
                "digest": problem.digest,
                "kind": problem.kind,
                "why": problem.why,
                "tasks": problem.tasks,
                "makers": problem.makers,
            })
        };
        let document = serde_json::json!({
            "schema_version": 1,
            "files": end.checked_files,
            "bytes": end.checked_bytes,
            "problems": found.iter().map(problem).collect::<Vec<_>>(),
        });
        out::line(serde_json::to_string_pretty(&document)?);
    } else {
        found.iter().map(said).for_each(out::line);
    }
    if found.is_empty() {
        note!("{} files, {}: all are whole", end.checked_files, size(end.checked_bytes));
        return Ok(());
    }
    let message = format!(
        "{} of {} files are damaged, missing or cannot be read; what is damaged was moved aside: store it again with \
         `lithogen artifact put`, hand the study in again if they are its pictures, or have the task that made it do so \
         again with `lithogen task recompute KEY`",
        found.len(),
        end.checked_files
    );
    Err(Problem::new(exit::ERROR, message).into())
}

/// A line about a problem: what is wrong, whom it concerns, what to do.
fn said(problem: &v1::ArtifactProblem) -> String {
    let mut line = format!("{} {}", problem.kind, problem.digest);
    if !problem.why.is_empty() {
        line += &format!(" ({})", problem.why);
    }
    line += &if problem.tasks.is_empty() {
        " no task needs it".to_owned()
    } else {
        format!(" needed by {}", problem.tasks.join(", "))
    };
    if let Some(maker) = problem.makers.first() {
        line += &format!("; `lithogen task recompute {maker}` computes it again");
    }
    line
}

async fn gc(remote: &Remote, dry_run: bool, grace: Duration, json: bool) -> anyhow::Result<()> {
    let request = v1::CollectGarbageRequest { grace_seconds: grace.as_secs(), dry_run };
    let answer = remote.artifacts().collect_garbage(blob_call(request)).await;
    let answer = answer.map_err(|status| remote.explain(&status))?.into_inner();
    if json {
        let document = serde_json::json!({
            "schema_version": 1,
            "dry_run": dry_run,
            "removed_files": answer.removed_files,
            "removed_bytes": answer.removed_bytes,
            "removed_uploads": answer.removed_uploads,
            "kept_files": answer.kept_files,
            "kept_bytes": answer.kept_bytes,
            "digests": answer.digests,
        });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    answer.digests.iter().for_each(out::line);
    let verb = if dry_run { "would remove" } else { "removed" };
    note!(
        "{verb} {} files, {}, and {} unfinished uploads; kept {} files, {}",
        answer.removed_files,
        size(answer.removed_bytes),
        answer.removed_uploads,
        answer.kept_files,
        size(answer.kept_bytes)
    );
    Ok(())
}
