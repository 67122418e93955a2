//! The gRPC service for runs: submission, status, watching, pausing, cancellation.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::time::Duration;

use domain::id::{ArtifactId, RunId, TaskKey};
use domain::runner::command::{self, Commands};
use domain::runner::registry::{IdentityId, Role};
use domain::runner::scheduler::Request as SchedulerRequest;
use domain::runner::work::Work;
use domain::study::experiment::Experiment;
use domain::study::plan::{self, Data, Plan, Source, TaskSpec};
use proto::convert::{InvalidField, invalid};
use proto::status::{Reason, of_reject, status};
use proto::v1;
use proto::v1::run_service_server::RunService;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access::Caller;
use crate::api::{find, internal};
use crate::background::Background;
use crate::blobs::Blobs;
use crate::config::Limits;
use crate::driver::Handle;
use crate::reactor::Knowledge;
use crate::seats::Seat;
use crate::views::{ListedRun, RunState, RunView, tell_apart};

/// Least time between two answers of one watch.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Number of checks whether a run is over between two answers of one watch: a busy cluster
/// writes more often than that.
const LOOKS: u32 = 16;

/// Most tasks that one call may prune.
const KEYS: usize = 10_000;

/// Number of events whose changes are read from the tables at once: the answer stays far below
/// the size limit of a message.
const PAGE: u64 = 8192;

#[derive(Debug)]
pub struct Runs {
    driver: Handle,
    blobs: Blobs,
    background: Background,
    /// Limit of [`Limits::kept_for_one`].
    kept_for_one: u64,
    /// Limit of [`Limits::open_runs_of_one`].
    open_runs_of_one: usize,
    deciding: tokio::sync::Mutex<()>,
}

impl Runs {
    /// A service that uses this driver and these stores.
    pub fn new(driver: Handle, blobs: Blobs, background: Background, limits: &Limits) -> Self {
        let Limits { kept_for_one, open_runs_of_one, .. } = *limits;
        Self { driver, blobs, background, kept_for_one, open_runs_of_one, deciding: tokio::sync::Mutex::default() }
    }

    async fn find(&self, text: String) -> Result<RunId, Status> {
        self.driver.read(move |knowledge| find::run(knowledge, &text)).await?
    }

    /// Has the driver decide a request that changes all tasks of a run. Such requests are
    /// decided one at a time, so that messages of workers come in between.
    async fn decide(&self, request: SchedulerRequest) -> Result<(), Status> {
        let _turn = self.deciding.lock().await;
        self.driver.request(request).await?.map_err(of_reject)
    }

    /// Checks that a submitter may hand in that much more. A submitter submits one run at a
    /// time.
    async fn check_kept(&self, submitter: IdentityId, run: RunId, priority: i32, weight: u64) -> Result<(), Status> {
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
                Err(status(Reason::OpenRuns, problem))
            }
            Some((kept, left, _)) if kept + left > most => {
                let problem = format!(
                    "{name} has handed in {kept} tasks and this run has {left}; at most {most} are kept for one \
                     submitter, and each KiB of a command or spec counts as one more: hand in less, or ask an \
                     administrator for a larger `coordinator --kept-for-one`"
                );
                Err(status(Reason::KeptForOne, problem))
            }
            _ => Ok(()),
        }
    }

    async fn status_of(&self, run: RunId) -> Result<v1::RunStatus, Status> {
        let read = move |knowledge: &Knowledge| knowledge.scheduler.run(run).map(|found| RunView::of(knowledge, found));
        self.driver.read(read).await?.map(v1::RunStatus::from).map_err(of_reject)
    }
}

/// Changes of a run's tasks from event number `from` on, and whether these are all. Changes
/// that are no longer in memory are read from the tables, page by page.
async fn look(
    driver: &Handle,
    run: RunId,
    from: u64,
    status_only: bool,
) -> Result<(v1::WatchRunResponse, bool), Status> {
    let from = if status_only { u64::MAX } else { from.max(1) };
    let read = move |knowledge: &Knowledge| {
        let (tail, found) = (&knowledge.tail, knowledge.scheduler.run(run)?);
        let changes = if from < tail.next() {
            tail.since(from, |task| knowledge.scheduler.runs_of(task).any(|other| other.id == run))
        } else {
            vec![]
        };
        Ok((RunView::of(knowledge, found), changes, tail.first(), tail.next()))
    };
    let read = driver.read(read).await?.map_err(of_reject);
    let (mut view, mut changes, first, mut next_change) = read?;
    let mut is_complete = true;
    if from < first {
        let to = first.min(from + PAGE);
        let mut older = driver.ask(move |tables| tables.changes(run, from, to)).await??;
        is_complete = to == first;
        if is_complete {
            older.append(&mut changes);
        } else {
            // For those who watch it is not over before they have seen how it ended.
            (view.state, next_change) = (RunState::Running, to);
        }
        changes = older;
    }
    let changes = changes.into_iter().map(v1::TaskChange::from).collect();
    Ok((v1::WatchRunResponse { status: Some(view.into()), changes, next_change }, is_complete))
}

/// Whether nothing more can happen to a run by itself.
async fn is_over(driver: &Handle, run: RunId) -> bool {
    let state = move |knowledge: &Knowledge| knowledge.scheduler.run(run).map(RunState::of);
    driver.read(state).await.is_ok_and(|state| state.is_ok_and(RunState::is_over))
}

/// A submission that was parsed and planned.
struct Planned {
    work: Work,
    run: RunId,
    plan: Plan,
    /// Weight of the submission in the limit on what is kept for its submitter.
    weight: u64,
    /// The artifacts that the plan starts from, each with the label of a task that reads it.
    sources: BTreeMap<ArtifactId, String>,
}

impl Planned {
    fn new(request: &v1::SubmitRequest) -> Result<Self, Status> {
        let (work, plan) = parse_submission(request)?;
        let weight = work.weight() + plan.tasks.iter().map(TaskSpec::weight).sum::<u64>();
        Ok(Self { work, run: plan.id(), weight, sources: sources(&plan), plan })
    }
}

fn parse_submission(request: &v1::SubmitRequest) -> Result<(Work, Plan), InvalidField> {
    if !request.commands_json.is_empty() {
        let field = "commands_json";
        let commands: Commands = serde_json::from_str(&request.commands_json).map_err(|error| invalid(field, error))?;
        let plan = command::plan(&commands).map_err(|error| invalid(field, error))?;
        return Ok((Work::Commands { commands: commands.into() }, plan));
    }
    let experiment: Experiment =
        serde_json::from_str(&request.experiment_json).map_err(|error| invalid("experiment_json", error))?;
    experiment.check().map_err(|error| invalid("experiment_json", error))?;
    let data: Data = serde_json::from_str(&request.data_json).map_err(|error| invalid("data_json", error))?;
    data.check().map_err(|error| invalid("data_json", error))?;
    let plan = plan::plan(&experiment, &data).map_err(|error| invalid("data_json", error))?;
    Ok((Work::Study { experiment: Box::new(experiment), data }, plan))
}

fn sources(plan: &Plan) -> BTreeMap<ArtifactId, String> {
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

#[tonic::async_trait]
impl RunService for Runs {
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
                return Err(status(Reason::MissingBlob, problem));
            }
        }
        let driver = self.driver.clone();
        // Comes to its end also if the caller goes away.
        let submission = self.background.spawn(async move {
            let _held = (hold, seat);
            for part in SchedulerRequest::submission(work, plan, priority, by) {
                driver.request(part).await?.map_err(of_reject)?;
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
            return Err(invalid("task_keys", problem).into());
        }
        let run = self.find(run_id).await?;
        let find = |knowledge: &Knowledge, key: &String| Ok(find::task(knowledge, key)?.spec.key);
        let named = move |knowledge: &Knowledge| -> Result<Vec<TaskKey>, Status> {
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
        let listed = self.driver.read(ListedRun::all).await?;
        let told = move || tell_apart(listed).into_iter().map(v1::RunStatus::from).collect();
        let runs = tokio::task::spawn_blocking(told).await.map_err(internal)?;
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }
}
