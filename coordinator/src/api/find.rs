//! Finding what a caller means by the beginning of an id, or by a name that is not unique.

use domain::digest::Digest;
use domain::task::{Task, WorkerId};
use proto::status::{of_reject, status};
use tonic::{Code, Status};

use crate::reactor::Knowledge;

/// The run whose id begins with `text`; for an empty text, the run submitted last.
pub(super) fn run(knowledge: &Knowledge, text: &str) -> Result<Digest, Status> {
    const UNKNOWN: &str = "UNKNOWN_RUN";
    let scheduler = &knowledge.scheduler;
    if text.is_empty() {
        let none = || status(Code::NotFound, UNKNOWN, "there are no runs yet; submit one");
        return scheduler.runs().next_back().map(|run| run.id).ok_or_else(none);
    }
    let none = || format!("no run begins with {}", shown(text));
    let prefix = text.parse().map_err(|_| status(Code::NotFound, UNKNOWN, none()))?;
    let several = || format!("several runs begin with {text}; give more digits");
    only(scheduler.runs_beginning(&prefix).map(|run| run.id), UNKNOWN, none, several)
}

/// The task whose key begins with `text`.
pub(super) fn task<'a>(knowledge: &'a Knowledge, text: &str) -> Result<&'a Task, Status> {
    const UNKNOWN: &str = "UNKNOWN_TASK";
    let scheduler = &knowledge.scheduler;
    if let Ok(key) = text.parse() {
        return scheduler.task(key).map_err(|reject| of_reject(&reject));
    }
    let none = || format!("no task begins with {:?}", shown(text));
    let prefix = text.parse().map_err(|_| status(Code::NotFound, UNKNOWN, none()))?;
    let several = || format!("several tasks begin with {text:?}; give more digits");
    only(scheduler.tasks_beginning(&prefix), UNKNOWN, none, several)
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
    only(named, "UNKNOWN_WORKER", none, several)
}

/// The only join token or identity, as `what` says, among those that match a text.
pub(super) fn registered<T>(fitting: impl Iterator<Item = T>, what: &str, text: &str) -> Result<T, Status> {
    let none = || format!("there is no {what} {text:?}");
    let several = || format!("more than one {what} fits {text:?}; give its whole id");
    only(fitting, "UNKNOWN", none, several)
}

/// The part of a caller's text that fits an answer.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The only match; an error if there is none or more than one.
fn only<T>(
    mut fitting: impl Iterator<Item = T>,
    reason: &str,
    none: impl FnOnce() -> String,
    several: impl FnOnce() -> String,
) -> Result<T, Status> {
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(status(Code::NotFound, reason, none())),
        (Some(_), Some(_)) => Err(status(Code::NotFound, reason, several())),
    }
}
