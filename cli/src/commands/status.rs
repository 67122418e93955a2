//! `lithogen status`.

use proto::channel::call;
use proto::v1;

use crate::args::Status;
use crate::local;
use crate::out;
use crate::remote::{Remote, short};

/// Lists workers and runs.
///
/// # Errors
/// If there is no coordinator.
pub async fn run(args: &Status) -> anyhow::Result<()> {
    let (workers, runs) = local::ask(args.remote.coordinator.as_deref(), &args.state.state, fetch).await?;
    if args.json {
        let worker = |worker: &v1::Worker| {
            serde_json::json!({
                "id": worker.id, "name": worker.name, "connected": worker.connected, "slots": worker.slots,
                "running": worker.running.iter().map(|attempt| &attempt.label).collect::<Vec<_>>(),
                "attempts": worker.running.iter().map(attempt).collect::<Vec<_>>(),
            })
        };
        let run = |run: &v1::RunStatus| {
            serde_json::json!({
                "run_id": run.run_id, "state": state(run), "scale": run.title, "tasks": run.tasks,
                "committed": run.committed, "failed": run.failed, "running": run.running,
                "attention": run.attention, "differences": run.differences, "submitted_by": run.submitted_by,
            })
        };
        let document = serde_json::json!({
            "schema_version": 1,
            "workers": workers.iter().map(worker).collect::<Vec<_>>(),
            "runs": runs.iter().map(run).collect::<Vec<_>>(),
        });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    out::line(format_args!("{:<20} {:<12} {:>7}  running", "worker", "state", "slots"));
    for worker in &workers {
        let connected = if worker.connected { "connected" } else { "away" };
        let running: Vec<&str> = worker.running.iter().map(|attempt| attempt.label.as_str()).collect();
        let slots = format!("{}/{}", running.len(), worker.slots);
        out::line(format_args!("{:<20} {connected:<12} {slots:>7}  {}", worker.name, running.join(", ")));
    }
    out::line(format_args!("\n{:<10} {:<8} {:<10} {:>10}", "run", "scale", "state", "done"));
    for run in &runs {
        let done = format!("{}/{}", run.committed, run.tasks);
        out::line(format_args!("{:<10} {:<8} {:<10} {done:>10}", short(&run.run_id), run.title, state(run)));
        if let Some(differences) = told(&run.differences) {
            out::line(format_args!("           {differences}"));
        }
        for matter in &run.attention {
            out::line(format_args!("           ! {matter}"));
        }
    }
    Ok(())
}

/// The differences that a line has room for.
fn told(differences: &[String]) -> Option<String> {
    const MOST: usize = 6;
    let first = differences.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join("  ");
    match differences.len() {
        0 => None,
        count if count > MOST => Some(format!("{first}  and {} more (--json)", count - MOST)),
        _ => Some(first),
    }
}

async fn fetch(remote: Remote) -> anyhow::Result<(Vec<v1::Worker>, Vec<v1::RunStatus>)> {
    let workers = remote.cluster().list_workers(call(v1::ListWorkersRequest {})).await;
    let workers = workers.map_err(|status| remote.explain(&status))?;
    let runs = remote.runs().list_runs(call(v1::ListRunsRequest {})).await.map_err(|status| remote.explain(&status))?;
    Ok((workers.into_inner().workers, runs.into_inner().runs))
}

/// A running attempt and how far it is, in `--json`.
pub fn attempt(attempt: &v1::RunningAttempt) -> serde_json::Value {
    serde_json::json!({
        "task": attempt.task_key, "label": attempt.label, "worker": attempt.worker, "attempt": attempt.attempt,
        "done": attempt.done, "total": attempt.total, "note": attempt.note, "values": attempt.values,
    })
}

/// The state of a run in a word.
pub fn state(run: &v1::RunStatus) -> &'static str {
    match run.state() {
        v1::RunState::Unspecified => "unknown",
        v1::RunState::Running => "running",
        v1::RunState::Succeeded => "succeeded",
        v1::RunState::Failed => "failed",
        v1::RunState::Cancelled => "cancelled",
        v1::RunState::Paused => "paused",
    }
}
