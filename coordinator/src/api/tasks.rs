//! Single tasks: which there are, why they stand where they stand, what their
//! attempts said.

use std::time::Duration;

use domain::digest::Digest;
use domain::scheduler::Reject;
use domain::task::{State, Task};
use proto::status::{of_reject, status};
use proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::driver::Handle;
use crate::logs::Logs;
use crate::reactor::Knowledge;
use crate::tables::changes;

/// Tasks looked at for one page of a list.
const PAGE: usize = 4096;

/// How often a log that is followed is looked at.
const LOG_LOOK: Duration = Duration::from_millis(250);

/// Looks at a log after its attempt has ended: its worker may still send lines.
const LAST_LOOKS: u32 = 4;

/// Bytes of a log in one answer.
const LOG_PIECE: u64 = 256 * 1024;

/// The task whose key begins so.
pub(super) fn find<'a>(knowledge: &'a Knowledge, text: &str) -> Result<&'a Task, Status> {
    let unknown = |message: String| status(Code::NotFound, "UNKNOWN_TASK", message);
    if let Ok(key) = text.parse() {
        return knowledge.scheduler.task(key).map_err(|reject| of_reject(&reject));
    }
    let mut matching = knowledge.scheduler.tasks().filter(|task| task.spec.key.to_string().starts_with(text));
    match (matching.next(), matching.next()) {
        (Some(task), None) => Ok(task),
        (None, _) => Err(unknown(format!("no task begins with {text:?}"))),
        (Some(_), Some(_)) => Err(unknown(format!("several tasks begin with {text:?}; give more digits"))),
    }
}

/// The state of a task in a word.
fn state_name(state: &State) -> &'static str {
    match state {
        State::Waiting { .. } => "waiting",
        State::Ready => "ready",
        State::Leased(_) => "running",
        State::Committed { .. } => "succeeded",
        State::Failed(_) => "failed",
        State::Cancelled => "cancelled",
        State::Pruned => "pruned",
    }
}

/// The digest of a task's result, or nothing.
fn artifact_of(task: &Task) -> String {
    task.artifact().map_or_else(String::new, |artifact| artifact.to_string())
}

/// A page of the tasks of a run.
///
/// # Errors
/// If there is no such run.
pub(super) fn list(
    knowledge: &Knowledge,
    run: Digest,
    state: &str,
    from: u64,
) -> Result<v1::ListTasksResponse, Status> {
    let scheduler = &knowledge.scheduler;
    let run = scheduler.run(run).map_err(|reject| of_reject(&reject))?;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let page = scheduler.tasks_of(run).skip(from).take(PAGE);
    let described = |task: &Task| v1::TaskStatus {
        task_key: task.spec.key.to_string(),
        label: task.spec.label(),
        state: state_name(&task.state).to_owned(),
        attempts: task.attempts,
        worker: task.lease().map_or_else(String::new, |lease| {
            scheduler.worker(&lease.worker).map_or_else(|_| lease.worker.to_string(), |worker| worker.name.clone())
        }),
        artifact: artifact_of(task),
    };
    let tasks = page.filter(|task| state.is_empty() || state_name(&task.state) == state).map(described).collect();
    let next = from.saturating_add(PAGE);
    Ok(v1::ListTasksResponse { tasks, next: if next < run.counts.total { next as u64 } else { 0 } })
}

/// Where a task stands and why, and what became of its attempts.
///
/// # Errors
/// If there is no such task or the journal cannot be read.
pub(super) async fn explain(driver: &Handle, text: String) -> Result<v1::ExplainTaskResponse, Status> {
    let read = move |knowledge: &Knowledge| {
        let task = find(knowledge, &text)?;
        let explained = || {
            let key = task.spec.key;
            Ok(v1::ExplainTaskResponse {
                task_key: key.to_string(),
                label: task.spec.label(),
                state: state_name(&task.state).to_owned(),
                reasons: knowledge.scheduler.reasons(key)?,
                differences: knowledge.scheduler.differences(key)?,
                changes: vec![],
                // A spec that came from JSON goes back to it.
                spec_json: serde_json::to_string(&task.spec).unwrap_or_default(),
                artifact: artifact_of(task),
            })
        };
        explained().map(|answer| (task.spec.key, answer)).map_err(|reject: Reject| of_reject(&reject))
    };
    let (key, mut answer) = driver.read(read).await??;
    let attempts = driver.ask(move |tables| tables.attempts(key)).await?;
    let attempts = attempts.map_err(|error| status(Code::Internal, "JOURNAL", error.to_string()))?;
    answer.changes = changes(&attempts, 0, u64::MAX);
    Ok(answer)
}

/// What an attempt said, piece by piece.
///
/// # Errors
/// If there is no such task or attempt, or the journal cannot be read.
pub(super) async fn read_log(
    driver: Handle,
    logs: Logs,
    closing: CancellationToken,
    request: v1::ReadLogRequest,
) -> Result<ReceiverStream<Result<v1::ReadLogResponse, Status>>, Status> {
    let v1::ReadLogRequest { task_key, attempt, mut offset, follow } = request;
    let key = driver.read(move |knowledge| Ok::<_, Status>(find(knowledge, &task_key)?.spec.key)).await??;
    let attempts = driver.ask(move |tables| tables.attempts(key)).await?;
    let attempts = attempts.map_err(|error| status(Code::Internal, "JOURNAL", error.to_string()))?;
    let chosen = attempts.into_iter().rev().find(|known| attempt == 0 || known.attempt == attempt);
    let chosen = chosen.ok_or_else(|| {
        let problem = match attempt {
            0 => "the task has not been tried yet; `lithogen task why` says why".to_owned(),
            number => format!("the task has no attempt {number}"),
        };
        status(Code::NotFound, "UNKNOWN_ATTEMPT", problem)
    })?;
    let (token, attempt) = (chosen.token, chosen.attempt);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        // The last lines come after the end.
        let mut looks_after_end = if follow { LAST_LOOKS } else { 0 };
        loop {
            let reading = logs.clone();
            let piece = tokio::task::spawn_blocking(move || reading.read(key, token, offset, LOG_PIECE)).await;
            let piece = match piece {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(error)) => Err(Status::from(error)),
                Err(error) => Err(Status::internal(error.to_string())),
            };
            let is_error = piece.is_err();
            let is_empty = piece.as_ref().is_ok_and(Vec::is_empty);
            if !is_empty {
                let answer = piece.map(|bytes| {
                    offset += bytes.len() as u64;
                    v1::ReadLogResponse { bytes, next_offset: offset, attempt }
                });
                if sender.send(answer).await.is_err() || is_error {
                    return;
                }
                continue;
            }
            let is_current = driver.read(move |knowledge| knowledge.scheduler.lease(token).is_some()).await;
            if !follow || !is_current.unwrap_or(false) {
                if looks_after_end == 0 {
                    return;
                }
                looks_after_end -= 1;
            }
            tokio::select! {
                () = tokio::time::sleep(LOG_LOOK) => {}
                () = sender.closed() => return,
                () = closing.cancelled() => {
                    // A client that has gone away needs no goodbye.
                    let _ = sender.send(Err(Status::unavailable("the coordinator is shutting down"))).await;
                    return;
                }
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}
