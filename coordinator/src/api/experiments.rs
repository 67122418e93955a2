//! The gRPC service for runs: submission, status, watching, cancellation.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::command::{self, Commands};
use domain::differences::{Study, differences};
use domain::digest::Digest;
use domain::experiment::Experiment;
use domain::plan::{self, Data, Plan, Source, TaskSpec};
use domain::registry::{IdentityId, Role};
use domain::scheduler::{Counts, Phase, Request as SchedulerRequest, Run, Worker};
use domain::stage::{Stage, StageKind};
use domain::task::{Lease, State, Task, WorkerId};
use domain::work::Work;
use proto::convert::invalid;
use proto::status::{MISSING_BLOB, of_invalid, of_reject, status};
use proto::v1;
use proto::v1::experiment_service_server::ExperimentService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::access::Caller;
use crate::api::{find, internal, recompute, tasks};
use crate::background::Background;
use crate::blobs::Blobs;
use crate::config::Limits;
use crate::driver::Handle;
use crate::logs::Logs;
use crate::reactor::Knowledge;
use crate::seats::Seat;

/// Least time between two answers of one watch.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Number of checks whether a run is over between two answers of one watch: a busy cluster
/// writes more often than that.
const LOOKS: u32 = 16;

/// Most failed tasks that a status names; ListTasks lists all of them.
const FAILURES: usize = 100;

/// Most attempts under way that a status names.
const ATTEMPTS: usize = 1000;

/// Most runs that ListRuns names: those submitted last.
const RUNS: usize = 1000;

/// Most tasks that one call may prune.
const KEYS: usize = 10_000;

/// Number of events whose changes are read from the tables at once: the answer stays far below
/// the size limit of a message.
const PAGE: u64 = 8192;

#[derive(Debug)]
pub struct Experiments {
    driver: Handle,
    blobs: Blobs,
    logs: Logs,
    background: Background,
    /// Limit of [`Limits::kept_for_one`].
    kept_for_one: u64,
    /// Limit of [`Limits::open_runs_of_one`].
    open_runs_of_one: usize,
    deciding: tokio::sync::Mutex<()>,
}

impl Experiments {
    /// A service that uses this driver and these stores.
    pub fn new(driver: Handle, blobs: Blobs, logs: Logs, background: Background, limits: &Limits) -> Self {
        let Limits { kept_for_one, open_runs_of_one, .. } = *limits;
        Self {
            driver,
            blobs,
            logs,
            background,
            kept_for_one,
            open_runs_of_one,
            deciding: tokio::sync::Mutex::default(),
        }
    }

    async fn find(&self, text: String) -> Result<Digest, Status> {
        self.driver.read(move |knowledge| find::run(knowledge, &text)).await?
    }

    /// Has the driver decide a request that changes all tasks of a run. Such requests are
    /// decided one at a time, so that messages of workers come in between.
    async fn decide(&self, request: SchedulerRequest) -> Result<(), Status> {
        let _turn = self.deciding.lock().await;
        self.driver.request(request).await?.map_err(|reject| of_reject(&reject))
    }

    /// Checks that a submitter may hand in that much more. A submitter submits one run at a
    /// time.
    async fn check_kept(&self, submitter: IdentityId, run: Digest, priority: i32, weight: u64) -> Result<(), Status> {
        let (most, most_open) = (self.kept_for_one, self.open_runs_of_one);
        let name = submitter.clone();
        let read = move |knowledge: &Knowledge| {
            let scheduler = &knowledge.scheduler;
            let known = scheduler.run(run).ok();
            if known.is_some_and(|known| known.goes_on(priority)) {
                return None;
            }
            let open = scheduler.open_runs_of(&submitter).filter(|open| open.id != run).count();
            // Of what was cut off, the rest is new.
            let left = match known.map(|known| known.counts) {
                Some(counts) if counts.missing > 0 => weight * counts.missing as u64 / counts.total as u64,
                _ => weight,
            };
            Some((scheduler.kept_for(&submitter), left, open))
        };
        match self.driver.read(read).await? {
            Some((.., open)) if open >= most_open => {
                let problem = format!(
                    "{name} has {open} runs that are not over, which is the most: wait for some, or hand in several \
                     commands as one run (`exec --array`, `exec --each-line`, `submit FILE`)"
                );
                Err(status(Code::ResourceExhausted, "OPEN_RUNS", problem))
            }
            Some((kept, left, _)) if kept + left > most => {
                let problem = format!(
                    "{name} has handed in {kept} tasks and this run has {left}; at most {most} are kept for one \
                     submitter, and each KiB of a command or spec counts as one more: hand in less, or ask an \
                     administrator for a larger `coordinator --kept-for-one`"
                );
                Err(status(Code::ResourceExhausted, "KEPT_FOR_ONE", problem))
            }
            _ => Ok(()),
        }
    }

    async fn status_of(&self, run: Digest) -> Result<v1::RunStatus, Status> {
        let read = move |knowledge: &Knowledge| knowledge.scheduler.run(run).map(|found| run_status(knowledge, found));
        self.driver.read(read).await?.map_err(|reject| of_reject(&reject))
    }
}

/// Changes of a run's tasks from event number `from` on, and whether these are all. Changes
/// that are no longer in memory are read from the tables, page by page.
async fn look(
    driver: &Handle,
    run: Digest,
    from: u64,
    status_only: bool,
) -> Result<(v1::WatchRunResponse, bool), Status> {
    let from = if status_only { u64::MAX } else { from.max(1) };
    let read = move |knowledge: &Knowledge| {
        let (tail, found) = (&knowledge.tail, knowledge.scheduler.run(run).map_err(|reject| of_reject(&reject))?);
        let changes = if from < tail.next() {
            tail.since(from, |task| knowledge.scheduler.runs_of(task).any(|other| other.id == run))
        } else {
            vec![]
        };
        let status = Some(run_status(knowledge, found));
        let changes = changes.into_iter().map(v1::TaskChange::from).collect();
        Ok::<_, Status>((tail.first(), v1::WatchRunResponse { status, changes, next_change: tail.next() }))
    };
    let (first, mut answer) = driver.read(read).await??;
    if from >= first {
        return Ok((answer, true));
    }
    let to = first.min(from + PAGE);
    let older = driver.ask(move |tables| tables.changes(run, from, to)).await??;
    let older = older.into_iter().map(v1::TaskChange::from);
    if to == first {
        answer.changes.splice(0..0, older);
        return Ok((answer, true));
    }
    if let Some(status) = &mut answer.status {
        // For those who watch it is not over before they have seen how it ended.
        status.set_state(v1::RunState::Running);
    }
    (answer.changes, answer.next_change) = (older.collect(), to);
    Ok((answer, false))
}

/// Whether nothing more can happen to a run by itself.
async fn is_over(driver: &Handle, run: Digest) -> bool {
    let state = move |knowledge: &Knowledge| knowledge.scheduler.run(run).map(run_state);
    driver.read(state).await.is_ok_and(|state| state.is_ok_and(v1::RunState::is_over))
}

fn run_state(run: &Run) -> v1::RunState {
    match run.phase {
        Phase::Cancelled => v1::RunState::Cancelled,
        _ if run.counts.is_complete() => v1::RunState::Succeeded,
        _ if run.counts.is_over() => v1::RunState::Failed,
        Phase::Paused => v1::RunState::Paused,
        Phase::Active => v1::RunState::Running,
    }
}

/// The status of a run, for people and scripts.
fn run_status(knowledge: &Knowledge, run: &Run) -> v1::RunStatus {
    let (scheduler, counts) = (&knowledge.scheduler, run.counts);
    let stage = |(kind, counts): (&StageKind, &Counts)| v1::StageStatus {
        stage: kind.name().to_owned(),
        tasks: counts.total as u32,
        committed: counts.committed as u32,
        running: counts.leased as u32,
        failed: counts.failed as u32,
    };
    let leases = scheduler.leases_in(run).take(ATTEMPTS);
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
    let failures = scheduler.failed_in(run).filter_map(failure).take(FAILURES).collect();
    let result_of = |wanted: fn(&Stage) -> bool| {
        let made = |task: &Task| task.artifact().filter(|_| wanted(&task.spec.stage)).map(|made| made.to_string());
        match *run.work {
            // The last two tasks of a study make them.
            Work::Study { .. } => scheduler.tasks_of(run).rev().take(2).find_map(made).unwrap_or_default(),
            Work::Commands { .. } => String::new(),
        }
    };
    v1::RunStatus {
        run_id: run.id.to_string(),
        state: run_state(run).into(),
        scale: run.work.title().to_owned(),
        tasks: counts.total as u32,
        cached: run.cached as u32,
        committed: counts.committed as u32,
        failed: counts.failed as u32,
        running: counts.leased as u32,
        stages: run.stages.iter().map(stage).collect(),
        attempts: leases.map(|(task, lease)| running(knowledge, task, lease)).collect(),
        failures,
        results_artifact: result_of(|stage| matches!(stage, Stage::Aggregate(_))),
        report_artifact: result_of(|stage| matches!(stage, Stage::Report)),
        workers: knowledge.sessions.connected(),
        priority: run.priority,
        submitted_by: run.by.as_ref().map_or_else(String::new, IdentityId::to_string),
        pruned: counts.pruned as u32,
        attention: scheduler.attention(run),
        differences: vec![],
    }
}

/// The short status of a run in a list, with what its results follow from.
struct Listed {
    status: v1::RunStatus,
    work: Arc<Work>,
    versions: BTreeMap<StageKind, u32>,
}

impl Listed {
    fn of(knowledge: &Knowledge, run: &Run) -> Self {
        let status = v1::RunStatus { attempts: vec![], failures: vec![], ..run_status(knowledge, run) };
        Self { status, work: run.work.clone(), versions: run.versions.clone() }
    }
}

/// Adds to each study how it differs from the others with the same title.
fn tell_apart(runs: Vec<Listed>) -> Vec<v1::RunStatus> {
    let mut by_title: BTreeMap<String, (Vec<usize>, Vec<Study>)> = BTreeMap::new();
    for (place, Listed { status, work, versions }) in runs.iter().enumerate() {
        if let Work::Study { experiment, data } = &**work {
            let (places, studies) = by_title.entry(status.scale.clone()).or_default();
            let (experiment, data, versions) = ((**experiment).clone(), data.clone(), versions.clone());
            places.push(place);
            studies.push(Study { experiment, data, versions });
        }
    }
    let mut statuses: Vec<v1::RunStatus> = runs.into_iter().map(|run| run.status).collect();
    for (places, studies) in by_title.into_values() {
        for (place, differences) in places.into_iter().zip(differences(&studies)) {
            statuses[place].differences = differences;
        }
    }
    statuses
}

fn running(knowledge: &Knowledge, task: &Task, lease: &Lease) -> v1::RunningAttempt {
    let (scheduler, session) = (&knowledge.scheduler, knowledge.sessions.get(&lease.worker));
    let progress = session.and_then(|session| session.progress.get(&lease.token));
    v1::RunningAttempt {
        task_key: task.spec.key.to_string(),
        label: task.spec.label(),
        worker: scheduler.worker(&lease.worker).map_or_else(|_| lease.worker.to_string(), |worker| worker.name.clone()),
        attempt: lease.attempt.0,
        done: progress.map_or(0, |progress| progress.done),
        total: progress.map_or(0, |progress| progress.total),
        note: progress.map_or_else(String::new, |progress| progress.note.clone()),
    }
}

/// A submission that was parsed and planned.
struct Planned {
    work: Work,
    run: Digest,
    plan: Plan,
    /// Weight of the submission in the limit on what is kept for its submitter.
    weight: u64,
    /// The artifacts that the plan starts from, each with the label of a task that reads it.
    sources: BTreeMap<Digest, String>,
}

impl Planned {
    fn new(request: &v1::SubmitRequest) -> Result<Self, Status> {
        let (work, plan) = parse_submission(request)?;
        let weight = work.weight() + plan.tasks.iter().map(TaskSpec::weight).sum::<u64>();
        Ok(Self { work, run: plan.digest(), weight, sources: sources(&plan), plan })
    }
}

fn parse_submission(request: &v1::SubmitRequest) -> Result<(Work, Plan), Status> {
    let refused = |field, problem: &dyn ToString| of_invalid(&invalid(field, problem.to_string()));
    if !request.commands_json.is_empty() {
        let field = "commands_json";
        let commands: Commands =
            serde_json::from_str(&request.commands_json).map_err(|error| refused(field, &error))?;
        let plan = command::plan(&commands).map_err(|error| refused(field, &error))?;
        return Ok((Work::Commands { commands: commands.into() }, plan));
    }
    let experiment: Experiment =
        serde_json::from_str(&request.experiment_json).map_err(|error| refused("experiment_json", &error))?;
    experiment.check().map_err(|error| refused("experiment_json", &error))?;
    let data: Data = serde_json::from_str(&request.data_json).map_err(|error| refused("data_json", &error))?;
    data.check().map_err(|error| refused("data_json", &error))?;
    let plan = plan::plan(&experiment, &data).map_err(|error| refused("data_json", &error))?;
    Ok((Work::Study { experiment: Box::new(experiment), data }, plan))
}

fn sources(plan: &Plan) -> BTreeMap<Digest, String> {
    let mut sources = BTreeMap::new();
    for task in &plan.tasks {
        for (name, input) in task.inputs.iter() {
            if let Source::Artifact(artifact) = input.from {
                sources.entry(artifact).or_insert_with(|| format!("{name} of {}", task.label()));
            }
        }
    }
    sources
}

fn worker(knowledge: &Knowledge, id: &WorkerId, worker: &Worker) -> v1::Worker {
    let session = knowledge.sessions.get(id);
    let silence = session.map_or(Duration::ZERO, |session| session.silence(Instant::now()));
    v1::Worker {
        id: id.to_string(),
        name: worker.name.clone(),
        connected: session.is_some_and(|session| session.is_connected()),
        slots: worker.offer.slots,
        running: knowledge.scheduler.leases_of(id).map(|(task, lease)| running(knowledge, task, lease)).collect(),
        gpus: worker.offer.gpus.iter().cloned().map(v1::Gpu::from).collect(),
        memory_mib: worker.offer.memory_mib,
        labels: worker.offer.labels.clone().into_iter().collect(),
        draining: worker.draining,
        quarantined: worker.quarantined.clone().unwrap_or_default(),
        silent_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
    }
}

#[tonic::async_trait]
impl ExperimentService for Experiments {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let seat = Seat::of(&request);
        let caller = Caller::of(&request);
        let by = caller.identity();
        let is_limited = matches!(caller, Caller::Joined { role: Role::Submitter, .. });
        let request = request.into_inner();
        let priority = request.priority;
        // What is given up by its caller is planned to its end, and counts until then.
        let planning = tokio::task::spawn_blocking(move || (Planned::new(&request), seat));
        let (planned, seat) = planning.await.map_err(internal)?;
        let Planned { work, run, plan, weight, sources } = planned?;
        if let Some(submitter) = by.clone().filter(|_| is_limited) {
            self.check_kept(submitter, run, priority, weight).await?;
        }
        // What is found now must not be collected before the journal names it.
        let hold = self.blobs.hold().await;
        for (artifact, name) in sources {
            if let Some(missing) = self.blobs.first_missing_of(artifact).await? {
                let problem = format!("file {} of {name} is not stored; upload the data first", missing.short());
                return Err(status(Code::FailedPrecondition, MISSING_BLOB, problem));
            }
        }
        let driver = self.driver.clone();
        // Comes to its end also if the caller goes away.
        let submission = self.background.spawn(async move {
            let _held = (hold, seat);
            for part in SchedulerRequest::submission(work, plan, priority, by) {
                driver.request(part).await?.map_err(|reject| of_reject(&reject))?;
            }
            Ok::<_, Status>(())
        });
        submission.await.map_err(internal)??;
        let status = self.status_of(run).await?;
        Ok(Response::new(v1::SubmitResponse { run_id: run.to_string(), status: Some(status) }))
    }

    async fn get_run(&self, request: Request<v1::GetRunRequest>) -> Result<Response<v1::GetRunResponse>, Status> {
        let run = self.find(request.into_inner().run_id).await?;
        Ok(Response::new(v1::GetRunResponse { status: Some(self.status_of(run).await?) }))
    }

    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<v1::WatchRunResponse, Status>> + Send>>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let seat = Seat::of(&request);
        let v1::WatchRunRequest { run_id, mut from_change, status_only } = request.into_inner();
        let run = self.find(run_id).await?;
        let (driver, closed) = (self.driver.clone(), self.background.closed());
        let mut changed = driver.changed();
        let (sender, receiver) = mpsc::channel(1);
        self.background.spawn(async move {
            let _seat = seat;
            let mut closed = pin!(closed);
            let mut last = None;
            loop {
                changed.mark_unchanged();
                let (answer, complete) = match look(&driver, run, from_change, status_only).await {
                    Ok((answer, complete)) => (Ok(answer), complete),
                    Err(status) => (Err(status), true),
                };
                from_change = answer.as_ref().map_or(from_change, |answer| answer.next_change);
                let over = match &answer {
                    Ok(v1::WatchRunResponse { status: Some(status), .. }) => status.state().is_over(),
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
                // People cannot read faster; that it is over they may know at once.
                let rested = tokio::time::Instant::now() + WATCH_PAUSE;
                let (mut is_news, mut looks) = (false, 0..LOOKS);
                loop {
                    tokio::select! {
                        more = changed.changed() => {
                            if more.is_err() {
                                return;
                            }
                            is_news = true;
                            let is_rested = tokio::time::Instant::now() >= rested;
                            if is_rested || looks.next().is_some() && is_over(&driver, run).await {
                                break;
                            }
                        }
                        () = tokio::time::sleep_until(rested), if is_news => break,
                        () = sender.closed() => return,
                        () = &mut closed => {
                            // A client that has gone away needs no goodbye.
                            let _ = sender.send(Err(Status::unavailable("the coordinator is shutting down"))).await;
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let v1::CancelRunRequest { run_id, task_keys } = request.into_inner();
        if task_keys.len() > KEYS {
            let problem =
                format!("names {} tasks, at most {KEYS} are taken; name them in several calls", task_keys.len());
            return Err(of_invalid(&invalid("task_keys", problem)));
        }
        let run = self.find(run_id).await?;
        let find = |knowledge: &Knowledge, key: &String| Ok(find::task(knowledge, key)?.spec.key);
        let named = move |knowledge: &Knowledge| -> Result<Vec<Digest>, Status> {
            task_keys.iter().map(|key| find(knowledge, key)).collect()
        };
        let tasks = self.driver.read(named).await??;
        let request =
            if tasks.is_empty() { SchedulerRequest::Cancel { run } } else { SchedulerRequest::Prune { run, tasks } };
        self.decide(request).await?;
        Ok(Response::new(v1::CancelRunResponse { status: Some(self.status_of(run).await?) }))
    }

    async fn pause_run(&self, request: Request<v1::PauseRunRequest>) -> Result<Response<v1::PauseRunResponse>, Status> {
        let run = self.find(request.into_inner().run_id).await?;
        self.decide(SchedulerRequest::Pause { run }).await?;
        Ok(Response::new(v1::PauseRunResponse { status: Some(self.status_of(run).await?) }))
    }

    async fn resume_run(
        &self,
        request: Request<v1::ResumeRunRequest>,
    ) -> Result<Response<v1::ResumeRunResponse>, Status> {
        let run = self.find(request.into_inner().run_id).await?;
        self.decide(SchedulerRequest::Resume { run }).await?;
        Ok(Response::new(v1::ResumeRunResponse { status: Some(self.status_of(run).await?) }))
    }

    async fn list_runs(&self, _: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let read = |knowledge: &Knowledge| {
            let runs = knowledge.scheduler.runs().rev().take(RUNS);
            runs.map(|run| Listed::of(knowledge, run)).collect::<Vec<_>>()
        };
        let listed = self.driver.read(read).await?;
        let runs = tokio::task::spawn_blocking(move || tell_apart(listed)).await;
        Ok(Response::new(v1::ListRunsResponse { runs: runs.map_err(internal)? }))
    }

    async fn list_workers(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let read = |knowledge: &Knowledge| {
            knowledge.scheduler.workers().map(|(id, known)| worker(knowledge, id, known)).collect()
        };
        Ok(Response::new(v1::ListWorkersResponse { workers: self.driver.read(read).await? }))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let text = request.into_inner().worker;
        let worker = self.driver.read(move |knowledge| find::worker(knowledge, &text)).await??;
        self.decide(SchedulerRequest::Drain { worker }).await?;
        Ok(Response::new(v1::DrainWorkerResponse {}))
    }

    async fn readmit_worker(
        &self,
        request: Request<v1::ReadmitWorkerRequest>,
    ) -> Result<Response<v1::ReadmitWorkerResponse>, Status> {
        let text = request.into_inner().worker;
        let worker = self.driver.read(move |knowledge| find::worker(knowledge, &text)).await??;
        self.decide(SchedulerRequest::Readmit { worker }).await?;
        Ok(Response::new(v1::ReadmitWorkerResponse {}))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let v1::ListTasksRequest { run_id, state, from } = request.into_inner();
        let run = self.find(run_id).await?;
        Ok(Response::new(tasks::list(&self.driver, run, state, from).await?))
    }

    async fn explain_task(
        &self,
        request: Request<v1::ExplainTaskRequest>,
    ) -> Result<Response<v1::ExplainTaskResponse>, Status> {
        Ok(Response::new(tasks::explain(&self.driver, request.into_inner().task_key).await?))
    }

    async fn recompute_tasks(
        &self,
        request: Request<v1::RecomputeTasksRequest>,
    ) -> Result<Response<v1::RecomputeTasksResponse>, Status> {
        Ok(Response::new(recompute::recompute(&self.driver, &self.blobs, request.into_inner()).await?))
    }

    type ReadLogStream = ReceiverStream<Result<v1::ReadLogResponse, Status>>;

    async fn read_log(&self, request: Request<v1::ReadLogRequest>) -> Result<Response<Self::ReadLogStream>, Status> {
        let (driver, logs) = (self.driver.clone(), self.logs.clone());
        let seat = Seat::of(&request);
        Ok(Response::new(tasks::read_log(driver, logs, &self.background, seat, request.into_inner()).await?))
    }
}
