//! Recomputing results that are lost or not trusted: which tasks have to run again.

use std::collections::{BTreeMap, BTreeSet};

use domain::id::{ArtifactId, TaskKey};
use domain::runner::scheduler::{Request, Scheduler};
use domain::runner::task::Task;
use domain::study::plan::{Input, Source};
use proto::status::{Reason, of_reject, status};
use proto::v1;
use tonic::Status;

use super::find;
use crate::blobs::{Blobs, Error};
use crate::driver::Handle;
use crate::reactor::Knowledge;

/// Most dependent results that an answer names; the answer counts all of them.
const NAMED: usize = 20;

/// A result and its inputs.
#[derive(Clone)]
struct Made {
    task: TaskKey,
    label: String,
    result: ArtifactId,
    /// Artifacts given from outside, with the names of their inputs.
    given: Vec<(String, ArtifactId)>,
    /// Keys of the tasks whose results this one reads.
    read: Vec<TaskKey>,
}

/// Finds the tasks that have to run again and invalidates their results; with `dry_run`, only
/// reports them. With `lost`, these are all results that a run needs and that are not stored.
///
/// # Errors
/// If a named task is unknown or has no result, or if an artifact that was given to it is lost
/// as well.
pub(super) async fn recompute(
    driver: &Handle,
    blobs: &Blobs,
    request: v1::RecomputeTasksRequest,
) -> Result<v1::RecomputeTasksResponse, Status> {
    let v1::RecomputeTasksRequest { task_keys, lost, dry_run } = request;
    let named = move |knowledge: &Knowledge| -> Result<Vec<Made>, Status> {
        task_keys.iter().map(|key| named(knowledge, key)).collect()
    };
    let named = driver.read(named).await??;
    let mut again: BTreeMap<TaskKey, (Made, &str)> =
        named.into_iter().map(|made| (made.task, (made, "asked for"))).collect();
    if lost {
        let wanted = driver.read(|knowledge| wanted(&knowledge.scheduler)).await?;
        for made in wanted {
            if !is_whole(blobs, made.result).await? {
                again.entry(made.task).or_insert((made, "its result is lost"));
            }
        }
    }
    let mut open: Vec<TaskKey> = again.keys().copied().collect();
    while let Some(task) = open.pop() {
        let made = again[&task].0.clone();
        for (name, artifact) in &made.given {
            if !is_whole(blobs, *artifact).await? {
                let problem = format!(
                    "{} cannot be computed again: its input {name} is not stored whole either; hand its study in again \
                     with the data, or store {artifact} again with `lithogen artifact put`",
                    made.label
                );
                return Err(status(Reason::MissingBlob, problem));
            }
        }
        let read = made.read;
        let inputs = driver.read(move |knowledge| {
            let inputs = read.into_iter().filter_map(|key| self::made(knowledge.scheduler.task(key).ok()?));
            inputs.collect::<Vec<Made>>()
        });
        for input in inputs.await? {
            if !again.contains_key(&input.task) && !is_whole(blobs, input.result).await? {
                open.push(input.task);
                again.insert(input.task, (input, "its result is lost, and one of these reads it"));
            }
        }
    }
    let keys: BTreeSet<TaskKey> = again.keys().copied().collect();
    let made_from = driver.read(move |knowledge| made_from(&knowledge.scheduler, &keys)).await?;
    let tasks = again.values().map(|(made, why)| v1::RecomputedTask {
        task_key: made.task.to_string(),
        label: made.label.clone(),
        why: (*why).to_owned(),
    });
    let answer = v1::RecomputeTasksResponse {
        tasks: tasks.collect(),
        made_from: made_from.iter().take(NAMED).cloned().collect(),
        made_from_count: made_from.len() as u64,
    };
    if !dry_run {
        let request = Request::Invalidate { tasks: again.into_keys().collect() };
        driver.request(request).await?.map_err(of_reject)?;
    }
    Ok(answer)
}

fn named(knowledge: &Knowledge, key: &str) -> Result<Made, Status> {
    let task = find::task(knowledge, key)?;
    made(task).ok_or_else(|| {
        let problem = format!("{} has no result that could be computed again", task.spec.label());
        status(Reason::NoResult, problem)
    })
}

fn made(task: &Task) -> Option<Made> {
    let given = |(name, input): (&str, &Input)| match input.from {
        Source::Artifact(artifact) => Some((name.to_owned(), artifact)),
        Source::Task(_) => None,
    };
    Some(Made {
        task: task.spec.key,
        label: task.spec.label(),
        result: task.artifact()?,
        given: task.spec.inputs.iter().filter_map(given).collect(),
        read: task.spec.needs().collect(),
    })
}

/// The results of all runs that were not cancelled.
fn wanted(scheduler: &Scheduler) -> Vec<Made> {
    scheduler.tasks().filter(|task| scheduler.wants(task.spec.key)).filter_map(made).collect()
}

/// Whether all files of an artifact are stored, as far as can be said without reading their
/// contents.
async fn is_whole(blobs: &Blobs, artifact: ArtifactId) -> Result<bool, Status> {
    match blobs.first_missing_of(artifact).await {
        Ok(missing) => Ok(missing.is_none()),
        Err(Error::Unknown(_) | Error::Damaged { .. } | Error::NotAManifest { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Labels of the results that were made from these tasks, directly or through others.
fn made_from(scheduler: &Scheduler, tasks: &BTreeSet<TaskKey>) -> Vec<String> {
    let mut seen = tasks.clone();
    let mut open: Vec<TaskKey> = tasks.iter().copied().collect();
    let mut labels = vec![];
    while let Some(key) = open.pop() {
        for task in scheduler.dependents_of(key) {
            if task.artifact().is_some() && seen.insert(task.spec.key) {
                open.push(task.spec.key);
                labels.push(task.spec.label());
            }
        }
    }
    labels.sort();
    labels
}
