//! Finding what somebody means who gives the beginning of a name, or a name that several
//! may have.

use domain::digest::Digest;
use domain::task::{Task, WorkerId};
use proto::status::{of_reject, status};
use tonic::{Code, Status};

use crate::reactor::Knowledge;

/// The run whose name begins so; the one submitted last for an empty name.
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

/// The task whose key begins so.
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

/// The worker of that id, or the only one of that name.
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

/// The only one of the join tokens or identities, which `what` says, that fit a text.
pub(super) fn registered<T>(fitting: impl Iterator<Item = T>, what: &str, text: &str) -> Result<T, Status> {
    let none = || format!("there is no {what} {text:?}");
    let several = || format!("more than one {what} fits {text:?}; give its whole id");
    only(fitting, "UNKNOWN", none, several)
}

/// As much of a text that somebody sent as an answer has room for.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The only one that fits.
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
