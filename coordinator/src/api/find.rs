//! Finding what a caller means by the beginning of an id, or by a name that is not unique.

use domain::id::RunId;
use domain::runner::task::{Task, WorkerId};
use proto::status::{Reason, of_reject, status};
use tonic::Status;

use crate::reactor::Knowledge;

/// The run whose id begins with `text`; for an empty text, the run submitted last.
pub(super) fn run(knowledge: &Knowledge, text: &str) -> Result<RunId, Status> {
    let scheduler = &knowledge.scheduler;
    if text.is_empty() {
        let none = || status(Reason::UnknownRun, "there are no runs yet; submit one");
        return scheduler.runs().next_back().map(|run| run.id).ok_or_else(none);
    }
    let none = || format!("no run begins with {}", shown(text));
    let prefix = text.parse().map_err(|_| status(Reason::UnknownRun, none()))?;
    let several = || format!("several runs begin with {text}; give more digits");
    only(scheduler.runs_beginning(&prefix).map(|run| run.id), Reason::UnknownRun, none, several)
}

/// The task whose key begins with `text`.
pub(super) fn task<'a>(knowledge: &'a Knowledge, text: &str) -> Result<&'a Task, Status> {
    let scheduler = &knowledge.scheduler;
    if let Ok(key) = text.parse() {
        return scheduler.task(key).map_err(of_reject);
    }
    let none = || format!("no task begins with {:?}", shown(text));
    let prefix = text.parse().map_err(|_| status(Reason::UnknownTask, none()))?;
    let several = || format!("several tasks begin with {text:?}; give more digits");
    only(scheduler.tasks_beginning(&prefix), Reason::UnknownTask, none, several)
}

/// The worker with that id, or the only worker with that name.
pub(super) fn worker(knowledge: &Knowledge, text: &str) -> Result<WorkerId, Status> {
    let workers = || knowledge.scheduler.workers();
    if let Some((id, _)) = workers().find(|(id, _)| id.0 == text) {
        return Ok(id.clone());
    }
    let named = workers().filter(|(_, worker)| worker.name == text).map(|(id, _)| id.clone());
    let none = || format!("no worker is called {text:?}; `lithogen worker list` names all");
    let several = || format!("several workers are called {text:?}; give its id instead");
    only(named, Reason::UnknownWorker, none, several)
}

/// The only join token or identity, as `what` says, among those that match a text.
pub(super) fn registered<T>(fitting: impl Iterator<Item = T>, what: &str, text: &str) -> Result<T, Status> {
    let none = || format!("there is no {what} {text:?}");
    let several = || format!("more than one {what} fits {text:?}; give its whole id");
    only(fitting, Reason::Unknown, none, several)
}

/// The part of a caller's text that fits an answer.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The only match; an error if there is none or more than one.
fn only<T>(
    mut fitting: impl Iterator<Item = T>,
    reason: Reason,
    none: impl FnOnce() -> String,
    several: impl FnOnce() -> String,
) -> Result<T, Status> {
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(status(reason, none())),
        (Some(_), Some(_)) => Err(status(reason, several())),
    }
}
