//! Studies: handing them in, watching them, calling them off.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use domain::digest::Digest;
use domain::experiment::Experiment;
use domain::plan::{self, Data, Plan};
use domain::scheduler::{Reject, Request as SchedulerRequest, Run};
use domain::stage::Stage;
use domain::task::{Lease, State, Task};
use proto::convert::invalid;
use proto::status::{of_invalid, of_reject, status};
use proto::v1;
use proto::v1::experiment_service_server::ExperimentService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::blobs::Blobs;
use crate::driver::{Handle, Knowledge};

/// Least time between two answers of one watch.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Events whose changes are asked from the tables at once: an answer stays far
/// below the largest message.
const PAGE: u64 = 8192;

/// The service.
#[derive(Debug)]
pub struct Experiments {
    driver: Handle,
    blobs: Blobs,
    closing: CancellationToken,
}

impl Experiments {
    /// On that driver and store.
    pub fn new(driver: Handle, blobs: Blobs, closing: CancellationToken) -> Self {
        Self { driver, blobs, closing }
    }

    async fn find(&self, text: String) -> Result<Digest, Status> {
        self.driver.read(move |knowledge| find(knowledge, &text)).await?
    }

    async fn status_of(&self, run: Digest) -> Result<v1::RunStatus, Status> {
        let read =
            move |knowledge: &Knowledge| knowledge.scheduler.run(run).map(|found| run_status(knowledge, run, found));
        self.driver.read(read).await?.map_err(|reject| of_reject(&reject))
    }
}

/// The run whose name begins so; the one submitted last for an empty name.
fn find(knowledge: &Knowledge, text: &str) -> Result<Digest, Status> {
    let mut matching =
        knowledge.scheduler.runs().rev().map(|(run, _)| run).filter(|run| run.to_string().starts_with(text));
    let unknown = |message: String| status(Code::NotFound, "UNKNOWN_RUN", message);
    let Some(first) = matching.next() else {
        let none = if text.is_empty() {
            "there are no runs yet; submit one".to_owned()
        } else {
            format!("no run begins with {text}")
        };
        return Err(unknown(none));
    };
    match matching.next() {
        Some(_) if !text.is_empty() => Err(unknown(format!("several runs begin with {text}; give more digits"))),
        _ => Ok(first),
    }
}

/// What happened to a run from a number on, and whether that is all. What no
/// longer is in memory comes from the tables, in pages.
async fn look(driver: &Handle, run: Digest, from: u64) -> Result<(v1::WatchRunResponse, bool), Status> {
    let from = from.max(1);
    let read = move |knowledge: &Knowledge| {
        let (tail, found) = (&knowledge.tail, knowledge.scheduler.run(run).map_err(|reject| of_reject(&reject))?);
        let changes = match from < tail.next() {
            true => {
                let tasks: BTreeSet<Digest> = found.tasks.iter().copied().collect();
                tail.since(from, |task| tasks.contains(&task))
            }
            false => vec![],
        };
        let status = Some(run_status(knowledge, run, found));
        Ok::<_, Status>((tail.first(), v1::WatchRunResponse { status, changes, next_change: tail.next() }))
    };
    let (first, mut answer) = driver.read(read).await??;
    if from >= first {
        return Ok((answer, true));
    }
    let to = first.min(from + PAGE);
    let older = driver.ask(move |tables| tables.changes(run, from, to)).await?;
    let older = older.map_err(|error| status(Code::Internal, "JOURNAL", error.to_string()))?;
    if to == first {
        answer.changes.splice(0..0, older);
        return Ok((answer, true));
    }
    if let Some(status) = &mut answer.status {
        // For those who watch it is not over before they have seen how it ended.
        status.set_state(v1::RunState::Running);
    }
    (answer.changes, answer.next_change) = (older, to);
    Ok((answer, false))
}

/// How a run stands, for people and scripts.
fn run_status(knowledge: &Knowledge, id: Digest, run: &Run) -> v1::RunStatus {
    let scheduler = &knowledge.scheduler;
    let counts = scheduler.counts(run);
    let tasks = || run.tasks.iter().filter_map(|key| scheduler.task(*key).ok());
    let state = match () {
        () if run.cancelled => v1::RunState::Cancelled,
        () if counts.is_complete() => v1::RunState::Succeeded,
        () if counts.is_over() => v1::RunState::Failed,
        () => v1::RunState::Running,
    };
    let mut stages: Vec<v1::StageStatus> = Vec::new();
    for task in tasks() {
        let name = task.spec.stage.name();
        let index = stages.iter().position(|stage| stage.stage == name).unwrap_or_else(|| {
            stages.push(v1::StageStatus { stage: name.to_owned(), ..Default::default() });
            stages.len() - 1
        });
        let stage = &mut stages[index];
        stage.tasks += 1;
        match task.state {
            State::Committed { .. } => stage.committed += 1,
            State::Leased(_) => stage.running += 1,
            State::Failed(_) => stage.failed += 1,
            State::Waiting { .. } | State::Ready | State::Cancelled => {}
        }
    }
    let attempt = |task: &Task| match &task.state {
        State::Leased(lease) => Some(running(knowledge, task, lease)),
        _ => None,
    };
    let failure = |task: &Task| match &task.state {
        State::Failed(failure) => Some(v1::TaskFailure {
            task_key: task.spec.key.to_string(),
            label: task.spec.label(),
            code: failure.code.name().to_owned(),
            message: failure.message.clone(),
            attempts: task.attempts,
        }),
        _ => None,
    };
    let result_of = |wanted: fn(&Stage) -> bool| {
        tasks().find(|task| wanted(&task.spec.stage)).map_or(String::new(), |task| match task.state {
            State::Committed { artifact, .. } => artifact.to_string(),
            _ => String::new(),
        })
    };
    v1::RunStatus {
        run_id: id.to_string(),
        state: state.into(),
        scale: run.experiment.scale.name().to_owned(),
        tasks: counts.total as u32,
        cached: run.cached as u32,
        committed: counts.committed as u32,
        failed: counts.failed as u32,
        running: counts.leased as u32,
        stages,
        attempts: tasks().filter_map(attempt).collect(),
        failures: tasks().filter_map(failure).collect(),
        results_artifact: result_of(|stage| matches!(stage, Stage::Aggregate(_))),
        report_artifact: result_of(|stage| matches!(stage, Stage::Report)),
        workers: knowledge.sessions.connected(),
    }
}

fn running(knowledge: &Knowledge, task: &Task, lease: &Lease) -> v1::RunningAttempt {
    let session = knowledge.sessions.get(&lease.worker);
    let progress = session.and_then(|session| session.progress.get(&lease.token));
    v1::RunningAttempt {
        task_key: task.spec.key.to_string(),
        label: task.spec.label(),
        worker: session.map_or_else(|| lease.worker.to_string(), |session| session.hello.name.clone()),
        attempt: lease.attempt.0,
        done: progress.map_or(0, |progress| progress.done),
        total: progress.map_or(0, |progress| progress.total),
        note: progress.map_or_else(String::new, |progress| progress.note.clone()),
    }
}

fn parse_submission(request: &v1::SubmitRequest) -> Result<(Experiment, Data, Plan), Status> {
    let experiment: Experiment = serde_json::from_str(&request.experiment_json)
        .map_err(|error| of_invalid(&invalid("experiment_json", error)))?;
    experiment.check().map_err(|error| of_invalid(&invalid("experiment_json", error)))?;
    let data: Data =
        serde_json::from_str(&request.data_json).map_err(|error| of_invalid(&invalid("data_json", error)))?;
    let plan = plan::plan(&experiment, &data).map_err(|error| of_invalid(&invalid("data_json", error)))?;
    Ok((experiment, data, plan))
}

#[tonic::async_trait]
impl ExperimentService for Experiments {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let (experiment, data, plan) = parse_submission(&request.into_inner())?;
        let (blobs, folders) = (self.blobs.clone(), data.clone());
        let missing = tokio::task::spawn_blocking(move || {
            folders.classes.iter().find_map(|raw| match blobs.first_missing(raw.artifact) {
                Ok(None) => None,
                Ok(Some(missing)) => Some(Ok((raw.dataset, raw.view, raw.class, missing))),
                Err(error) => Some(Err(error)),
            })
        });
        if let Some(found) = missing.await.map_err(|error| Status::internal(error.to_string()))? {
            let (dataset, view, class, missing) = found?;
            let problem =
                format!("file {} of {dataset}/{view}/{class} is not stored; upload the data first", missing.short());
            return Err(status(Code::FailedPrecondition, "MISSING_BLOB", problem));
        }
        let run = plan.digest();
        let submit = SchedulerRequest::Submit { experiment: Box::new(experiment), data, run, tasks: plan.tasks };
        self.driver.request(submit).await?.map_err(|reject: Reject| of_reject(&reject))?;
        let status = self.status_of(run).await?;
        Ok(Response::new(v1::SubmitResponse { run_id: run.to_string(), status: Some(status) }))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let run = self.find(request.into_inner().run_id).await?;
        Ok(Response::new(v1::GetRunResponse { status: Some(self.status_of(run).await?) }))
    }

    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<v1::WatchRunResponse, Status>> + Send>>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let v1::WatchRunRequest { run_id, mut from_change } = request.into_inner();
        let run = self.find(run_id).await?;
        let (driver, closing) = (self.driver.clone(), self.closing.clone());
        let mut changed = driver.changed();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut last = None;
            loop {
                changed.mark_unchanged();
                let (answer, complete) = match look(&driver, run, from_change).await {
                    Ok((answer, complete)) => (Ok(answer), complete),
                    Err(status) => (Err(status), true),
                };
                from_change = answer.as_ref().map_or(from_change, |answer| answer.next_change);
                let over = match &answer {
                    Ok(v1::WatchRunResponse { status: Some(status), .. }) => status.state() != v1::RunState::Running,
                    _ => true,
                };
                if last.as_ref() != answer.as_ref().ok() || answer.is_err() {
                    last = answer.as_ref().ok().cloned();
                    if sender.send(answer).await.is_err() {
                        return;
                    }
                }
                if over {
                    return;
                }
                if !complete {
                    continue;
                }
                tokio::select! {
                    more = changed.changed() => if more.is_err() { return },
                    () = sender.closed() => return,
                    () = closing.cancelled() => {
                        // A client that has gone away needs no goodbye.
                        let _ = sender.send(Err(Status::unavailable("the coordinator is shutting down"))).await;
                        return;
                    }
                }
                tokio::time::sleep(WATCH_PAUSE).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let run = self.find(request.into_inner().run_id).await?;
        self.driver.request(SchedulerRequest::Cancel { run }).await?.map_err(|reject| of_reject(&reject))?;
        Ok(Response::new(v1::CancelRunResponse { status: Some(self.status_of(run).await?) }))
    }

    async fn list_runs(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let read = |knowledge: &Knowledge| {
            knowledge.scheduler.runs().rev().map(|(id, run)| run_status(knowledge, id, run)).collect()
        };
        Ok(Response::new(v1::ListRunsResponse { runs: self.driver.read(read).await? }))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let read = |knowledge: &Knowledge| {
            let worker = |(id, session): (&domain::task::WorkerId, &crate::sessions::Session)| v1::Worker {
                id: id.to_string(),
                name: session.hello.name.clone(),
                connected: session.is_connected(),
                slots: session.hello.slots,
                running: knowledge
                    .scheduler
                    .leases_of(id)
                    .map(|(task, lease)| running(knowledge, task, lease))
                    .collect(),
            };
            knowledge.sessions.iter().map(worker).collect()
        };
        Ok(Response::new(v1::ListWorkersResponse { workers: self.driver.read(read).await? }))
    }
}
