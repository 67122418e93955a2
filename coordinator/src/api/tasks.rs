//! Calls about single tasks: listing, explaining their states, reading the logs of their
//! attempts.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use domain::digest::Digest;
use domain::plan::TaskSpec;
use domain::scheduler::Reject;
use domain::stage::Failure;
use domain::task::{State, Task, WorkerId};
use domain::text::cut;
use proto::status::{of_reject, status};
use proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::api::{find, internal};
use crate::background::Background;
use crate::driver::Handle;
use crate::history::changes;
use crate::logs::Logs;
use crate::reactor::Knowledge;
use crate::seats::Seat;

/// Most tasks looked at for one page of a list.
const PAGE: usize = 4096;

/// How often a followed log is checked for new lines.
const LOG_LOOK: Duration = Duration::from_millis(250);

/// Number of checks of a log after its attempt has ended: the worker may still send lines.
const LAST_LOOKS: u32 = 4;

/// Most bytes of a reason or a difference.
const LINE_MAX: usize = 2 * Failure::MESSAGE_MAX;

/// Most bytes of a log in one answer.
const LOG_PIECE: u64 = 256 * 1024;

/// The name of a state in answers.
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

/// The digest of a task's result as text, or an empty text.
fn artifact_of(task: &Task) -> String {
    task.artifact().map_or_else(String::new, |artifact| artifact.to_string())
}

/// A page of the tasks of a run.
///
/// # Errors
/// If the run does not exist.
pub(super) async fn list(
    driver: &Handle,
    run: Digest,
    state: String,
    from: u64,
) -> Result<v1::ListTasksResponse, Status> {
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let read = move |knowledge: &Knowledge| {
        let scheduler = &knowledge.scheduler;
        let run = scheduler.run(run)?;
        let page = scheduler.tasks_from(run, from).take(PAGE);
        let wanted = page.filter(|task| state.is_empty() || state_name(&task.state) == state);
        let seen: Vec<Seen> = wanted.map(|task| Seen::of(knowledge, task)).collect();
        Ok((seen, run.counts.total))
    };
    let (seen, total) = driver.read(read).await?.map_err(|reject: Reject| of_reject(&reject))?;
    let next = from.saturating_add(PAGE);
    let tasks = seen.into_iter().map(Seen::told).collect();
    Ok(v1::ListTasksResponse { tasks, next: if next < total { next as u64 } else { 0 } })
}

/// What the driver's thread reads of a task; other threads make text of it.
struct Seen {
    spec: Arc<TaskSpec>,
    state: &'static str,
    attempts: u32,
    worker: Option<String>,
    artifact: String,
}

impl Seen {
    fn of(knowledge: &Knowledge, task: &Task) -> Self {
        let name_of = |worker: &WorkerId| {
            let known = knowledge.scheduler.worker(worker);
            known.map_or_else(|_| worker.to_string(), |worker| worker.name.clone())
        };
        Self {
            spec: task.spec.clone(),
            state: state_name(&task.state),
            attempts: task.attempts,
            worker: task.lease().map(|lease| name_of(&lease.worker)),
            artifact: artifact_of(task),
        }
    }

    fn told(self) -> v1::TaskStatus {
        v1::TaskStatus {
            task_key: self.spec.key.to_string(),
            label: self.spec.label(),
            state: self.state.to_owned(),
            attempts: self.attempts,
            worker: self.worker.unwrap_or_default(),
            artifact: self.artifact,
        }
    }
}

/// The state of a task with its reasons, and the history of its attempts.
///
/// # Errors
/// If the task does not exist or the journal cannot be read.
pub(super) async fn explain(driver: &Handle, text: String) -> Result<v1::ExplainTaskResponse, Status> {
    let read = move |knowledge: &Knowledge| {
        let task = find::task(knowledge, &text)?;
        let scheduler = &knowledge.scheduler;
        let looked_up = || Ok((scheduler.reasons(task.spec.key)?, scheduler.comparison(task.spec.key)?));
        let (reasons, comparison) = looked_up().map_err(|reject: Reject| of_reject(&reject))?;
        Ok::<_, Status>((Seen::of(knowledge, task), reasons, comparison))
    };
    let (seen, reasons, comparison) = driver.read(read).await??;
    let key = seen.spec.key;
    let attempts = driver.ask(move |tables| tables.attempts(key)).await??;
    let written = tokio::task::spawn_blocking(move || v1::ExplainTaskResponse {
        task_key: key.to_string(),
        label: seen.spec.label(),
        state: seen.state.to_owned(),
        reasons: bounded(&reasons),
        differences: bounded(&comparison.lines()),
        changes: changes(&attempts, 0, u64::MAX).into_iter().map(v1::TaskChange::from).collect(),
        // A spec that came from JSON goes back to it.
        spec_json: serde_json::to_string(&seen.spec).unwrap_or_default(),
        artifact: seen.artifact,
    });
    written.await.map_err(internal)
}

/// Cuts lines that may quote other people's texts of any length.
fn bounded(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| cut(line, LINE_MAX)).collect()
}

/// The log of an attempt, piece by piece.
///
/// # Errors
/// If the task or the attempt does not exist, or the journal cannot be read.
pub(super) async fn read_log(
    driver: Handle,
    logs: Logs,
    background: &Background,
    seat: Option<Arc<Seat>>,
    request: v1::ReadLogRequest,
) -> Result<ReceiverStream<Result<v1::ReadLogResponse, Status>>, Status> {
    let v1::ReadLogRequest { task_key, attempt, mut offset, follow } = request;
    let key = driver.read(move |knowledge| Ok::<_, Status>(find::task(knowledge, &task_key)?.spec.key)).await??;
    let attempts = driver.ask(move |tables| tables.attempts(key)).await??;
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
    let closed = background.closed();
    background.spawn(async move {
        let _seat = seat;
        let mut closed = pin!(closed);
        // The last lines come after the end.
        let mut looks_after_end = if follow { LAST_LOOKS } else { 0 };
        loop {
            let reading = logs.clone();
            let piece = tokio::task::spawn_blocking(move || reading.read(key, token, offset, LOG_PIECE)).await;
            let piece = match piece {
                Ok(Ok(bytes)) => Ok(bytes),
                Ok(Err(error)) => Err(Status::from(error)),
                Err(error) => Err(internal(error)),
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
                () = &mut closed => {
                    // A client that has gone away needs no goodbye.
                    let _ = sender.send(Err(Status::unavailable("the coordinator is shutting down"))).await;
                    return;
                }
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}
