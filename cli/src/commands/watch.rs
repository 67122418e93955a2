//! `lithogen watch` and `lithogen wait`.

use std::time::Duration;

use proto::channel::blob_call;
use proto::v1;

use super::status::{attempt, state};
use crate::args::{RunOf, Watch};
use crate::exit::{self, Problem};
use crate::local;
use crate::out;
use crate::progress::View;
use crate::remote::{Remote, short};

/// How often a broken connection is tried again before giving up.
const TRIES: u32 = 20;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows a run to its end.
///
/// # Errors
/// Exit code 5 if tasks failed, 6 if the coordinator stays away.
pub async fn run(args: &Watch, quiet: bool) -> anyhow::Result<()> {
    let run = &args.run;
    let status = local::ask(run.remote.coordinator.as_deref(), &run.state.state, |remote| async move {
        let name = remote.status(&run.run).await?.run_id;
        if args.jsonl {
            let mut shown = None;
            let show = |status: &v1::RunStatus, changes: &[v1::TaskChange]| {
                if shown.replace(status.clone()).as_ref() != Some(status) || !changes.is_empty() {
                    out::line(json(status, changes));
                }
            };
            return follow(&remote, &name, false, show).await;
        }
        let mut view = View::new(quiet);
        let followed = follow(&remote, &name, false, |status, changes| view.show(status, changes)).await;
        view.end();
        followed
    })
    .await?;
    conclude(&status)
}

/// Waits for the end of a run and says nothing meanwhile.
///
/// # Errors
/// Exit code 5 if tasks failed, 6 if the coordinator stays away.
pub async fn wait(run: &RunOf) -> anyhow::Result<()> {
    let status = local::ask(run.remote.coordinator.as_deref(), &run.state.state, |remote| async move {
        let name = remote.status(&run.run).await?.run_id;
        follow(&remote, &name, true, |_, _| {}).await
    })
    .await?;
    conclude(&status)
}

/// Calls `show` for every change until the run is over, or with `status_only`
/// whenever its status changes; lives through restarts of the coordinator.
///
/// # Errors
/// If the coordinator stays away or knows no such run.
pub async fn follow(
    remote: &Remote,
    run: &str,
    status_only: bool,
    mut show: impl FnMut(&v1::RunStatus, &[v1::TaskChange]),
) -> anyhow::Result<v1::RunStatus> {
    let mut from_change = 0;
    let mut tries = 0;
    loop {
        let request = v1::WatchRunRequest { run_id: run.to_owned(), from_change, status_only };
        let ended = match remote.runs().watch_run(blob_call(request)).await {
            Ok(answer) => {
                let mut updates = answer.into_inner();
                let mut last = None;
                loop {
                    let update = match tokio::time::timeout(PAUSE, updates.message()).await {
                        Ok(update) => update,
                        Err(_) => {
                            // Nothing happens: for how long is worth knowing.
                            last.iter().for_each(|status| show(status, &[]));
                            continue;
                        }
                    };
                    match update {
                        Ok(Some(update)) => {
                            (tries, from_change) = (0, update.next_change);
                            let Some(status) = update.status else { continue };
                            show(&status, &update.changes);
                            if status.state().is_over() {
                                return Ok(status);
                            }
                            last = Some(status);
                        }
                        Ok(None) => break tonic::Status::unavailable("the stream ended"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        tries += 1;
        if tries > TRIES || proto::status::is_final(&ended) {
            return Err(remote.explain(&ended));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a run that is over means for the exit code.
///
/// # Errors
/// Exit code 5 unless everything is done.
pub fn conclude(status: &v1::RunStatus) -> anyhow::Result<()> {
    let run = short(&status.run_id);
    match status.state() {
        v1::RunState::Succeeded => Ok(()),
        state if status.failures.is_empty() => {
            let word = if state == v1::RunState::Cancelled { "was cancelled" } else { "ended" };
            let message = format!("run {run} {word} with {} of {} tasks done", status.committed, status.tasks);
            Err(Problem::new(exit::FAILED_TASKS, message).into())
        }
        _ => {
            let mut failures: Vec<String> = status.failures.iter().map(failure).collect();
            if failures.len() < status.failed as usize {
                failures.push("and more: `lithogen task list --only failed`".to_owned());
            }
            let message = format!(
                "{} of {} tasks failed:\n  {}\n{} tasks are done and stay done; mend the cause and run the same command again",
                status.failed,
                status.tasks,
                failures.join("\n  "),
                status.committed
            );
            Err(Problem::new(exit::FAILED_TASKS, message).into())
        }
    }
}

fn failure(failure: &v1::TaskFailure) -> String {
    format!("{} ({}, attempt {}): {}", failure.label, failure.code, failure.attempts, failure.message)
}

fn json(status: &v1::RunStatus, changes: &[v1::TaskChange]) -> serde_json::Value {
    let change = |change: &v1::TaskChange| {
        serde_json::json!({
            "at_ms": change.at_ms, "task_key": change.task_key, "label": change.label, "state": change.state,
            "worker": change.worker, "attempt": change.attempt, "seconds": change.seconds, "message": change.message,
        })
    };
    serde_json::json!({
        "schema_version": 1, "run_id": status.run_id, "state": state(status), "tasks": status.tasks,
        "committed": status.committed, "failed": status.failed, "running": status.running,
        "attention": status.attention, "attempts": status.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "changes": changes.iter().map(change).collect::<Vec<_>>(),
    })
}
