//! The heart: which events follow from a request, and what they change.
//!
//! [`Scheduler::decide`] changes nothing; [`Scheduler::apply`] cannot fail and
//! never looks at a clock. The coordinator decides, journals, applies, and only
//! then replies; after a restart it applies the journal and is where it was.
//!
//! What is promised: execution at least once, results exactly once. A task has
//! one committed result, given under the newest lease ever granted for it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`request`] | what somebody wants, and why it is refused |
//! | [`run`] | one submission and how its tasks stand |
//! | [`worker`] | who is there, what it has, what it holds |
//! | [`queue`] | what can be had, in the order in which it goes |
//! | [`snapshot`] | all of it as data |
//! | [`explain`] | why a task is not running |

pub mod explain;
mod ids;
mod queue;
pub mod request;
pub mod run;
pub mod snapshot;
pub mod worker;

pub use request::{Reject, Request};
pub use run::{Counts, Phase, Run};
pub use worker::Worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::digest::Digest;
use crate::event::Event;
use crate::plan::{TaskSpec, Work};
use crate::stage::{Failure, FailureCode};
use crate::task::{Attempt, Checkpoint, FencingToken, Lease, Released, State, Task, WorkerId};
use ids::Ids;
use queue::{Classes, Queues};
use run::RunId;

/// Attempts that may fail by the task's own fault before it is given up.
pub const FAILURES_MAX: u32 = 3;

/// Workers that may vanish under a task, without it getting further, before it is
/// held to be what kills them.
pub const LOSSES_MAX: u32 = 5;

/// Different tasks that a worker may fail fast, one after the other, before it is
/// held to be what makes them fail.
pub const FAST_FAILURES_MAX: usize = 3;

/// A failure within this time of the grant is fast.
pub const FAST_MS: i64 = 30_000;

/// Tasks in one event of a submission.
const TASKS_PER_EVENT: usize = 1000;

/// Place of a task in [`Scheduler::tasks`]; tasks are never removed.
type Id = u32;

/// Every task, run, worker and lease.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scheduler {
    tasks: Vec<Entry>,
    ids: Ids,
    runs: Vec<Run>,
    run_ids: BTreeMap<Digest, RunId>,
    /// In the order of their last submission.
    run_order: Vec<RunId>,
    workers: BTreeMap<WorkerId, Worker>,
    leases: BTreeMap<FencingToken, Id>,
    classes: Classes,
    queues: Queues,
    last_token: u64,
}

/// A task with what follows from others.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    task: Task,
    /// What a worker has to have for it.
    class: u32,
    needs: Box<[Id]>,
    dependents: Vec<Id>,
    /// The runs that it is part of, cancelled ones included.
    runs: Vec<RunId>,
}

impl Scheduler {
    /// The events that follow from a request; none if it repeats an earlier one.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn decide(&self, now_ms: i64, request: Request) -> Result<Vec<Event>, Reject> {
        match request {
            Request::Submit { work, run, tasks, priority } => self.submit(work, run, tasks, priority),
            Request::Cancel { run } => Ok(match self.run(run)? {
                known if known.phase == Phase::Cancelled || known.counts.is_complete() => vec![],
                _ => vec![Event::RunCancelled { run }],
            }),
            Request::Pause { run } => Ok(match self.run(run)?.phase {
                Phase::Active => vec![Event::RunPaused { run }],
                Phase::Paused | Phase::Cancelled => vec![],
            }),
            Request::Resume { run } => Ok(match self.run(run)?.phase {
                Phase::Paused => vec![Event::RunResumed { run }],
                Phase::Active | Phase::Cancelled => vec![],
            }),
            Request::Prune { run, tasks } => {
                let open = self.prunable(run, &tasks)?;
                Ok(if open.is_empty() { vec![] } else { vec![Event::TasksPruned { run, tasks: open }] })
            }
            Request::Join { worker, name, offer } => match self.workers.get(&worker) {
                Some(known) if known.offer == offer && known.name == name => Ok(vec![]),
                _ => Ok(vec![Event::WorkerJoined { worker, name, offer }]),
            },
            Request::Leave { worker } => {
                let Some(known) = self.workers.get(&worker) else { return Ok(vec![]) };
                let lost = known.leases.iter().filter_map(|token| {
                    let task = &self.tasks[*self.leases.get(token)? as usize].task;
                    Some(self.lost(task, *token, &worker))
                });
                let mut events: Vec<Event> = lost.collect();
                events.push(Event::WorkerLeft { worker });
                Ok(events)
            }
            Request::Drain { worker } => Ok(match self.worker(&worker)?.draining {
                true => vec![],
                false => vec![Event::WorkerDraining { worker }],
            }),
            Request::Readmit { worker } => Ok(match self.worker(&worker)?.takes_work() {
                true => vec![],
                false => vec![Event::WorkerReadmitted { worker }],
            }),
            Request::Acquire { worker, request, max } => {
                let known = self.worker(&worker)?;
                let is_new = known.is_new(request) && known.takes_work();
                Ok(if is_new { self.grants(now_ms, &worker, known, request, max) } else { vec![] })
            }
            Request::Checkpoint { task: key, token, artifact, step } => {
                let task = self.task(key)?;
                match &task.state {
                    State::Leased(lease) if lease.token == token => Ok(match &task.checkpoint {
                        Some(known) if known.artifact == artifact => vec![],
                        _ => vec![Event::CheckpointSaved { task: key, token, artifact, step }],
                    }),
                    _ => Err(Reject::Fenced { task: key, token }),
                }
            }
            Request::Commit { task: key, token, artifact } => match &self.task(key)?.state {
                State::Leased(lease) if lease.token == token => {
                    Ok(vec![Event::TaskCommitted { task: key, token, artifact }])
                }
                State::Committed { token: winner, .. } if *winner == token => Ok(vec![]), // the commit that won, again
                State::Waiting { .. }
                | State::Ready
                | State::Leased(_)
                | State::Committed { .. }
                | State::Failed(_)
                | State::Cancelled
                | State::Pruned => Err(Reject::Fenced { task: key, token }),
            },
            Request::Fail { task: key, token, failure } => {
                let task = self.task(key)?;
                Ok(match self.ending(task, token)? {
                    None => vec![],
                    Some(lease) => self.failed(now_ms, task, lease, failure),
                })
            }
            Request::Release { task: key, token, why } => {
                let task = self.task(key)?;
                Ok(match self.ending(task, token)? {
                    None => vec![],
                    Some(lease) if why == Released::Lost => vec![self.lost(task, token, &lease.worker)],
                    Some(_) => vec![Event::LeaseReleased { task: key, token, why }],
                })
            }
        }
    }

    /// Lets an event happen.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::RunSubmitted { run, work, tasks, priority } => {
                let id = self.begin_run(*run, work, *priority);
                self.add_tasks(id, tasks);
            }
            Event::TasksAdded { run, tasks } => {
                if let Some(id) = self.run_ids.get(run) {
                    self.add_tasks(*id, tasks);
                }
            }
            Event::LeaseGranted { task, worker, token, attempt, request, at_ms, gpus } => {
                let Some(id) = self.ids.get(task) else { return };
                self.last_token = self.last_token.max(token.0);
                self.tasks[id as usize].task.attempts = attempt.0;
                if let Some(worker) = self.workers.get_mut(worker) {
                    let entry = &self.tasks[id as usize];
                    worker.begin(*token, *request, &entry.task.spec.resources, gpus, &entry.needs);
                }
                let lease = Lease {
                    worker: worker.clone(),
                    token: *token,
                    attempt: *attempt,
                    request: *request,
                    granted_ms: *at_ms,
                    gpus: gpus.clone(),
                };
                self.set_state(id, State::Leased(Box::new(lease)));
            }
            Event::CheckpointSaved { task, artifact, step, .. } => {
                let Some(id) = self.ids.get(task) else { return };
                let task = &mut self.tasks[id as usize].task;
                if let State::Leased(lease) = &task.state {
                    let worker = lease.worker.clone();
                    task.checkpoint = Some(Box::new(Checkpoint { artifact: *artifact, step: *step, worker }));
                    // It gets further: it is not what kills its workers.
                    task.losses = 0;
                }
            }
            Event::TaskCommitted { task, token, artifact } => {
                let Some(id) = self.ids.get(task) else { return };
                if let Some(worker) = self.end_lease(id, *token) {
                    worker.fast_failures.clear();
                    worker.remember(id);
                }
                let entry = &mut self.tasks[id as usize];
                entry.task.checkpoint = None;
                entry.task.failed_on = vec![];
                self.set_state(id, State::Committed { token: *token, artifact: *artifact });
                let dependents = std::mem::take(&mut self.tasks[id as usize].dependents);
                for dependent in &dependents {
                    self.met(*dependent);
                }
                self.tasks[id as usize].dependents = dependents;
            }
            Event::AttemptFailed { task, token, failure, last, suspect } => {
                let Some(id) = self.ids.get(task) else { return };
                let worker = self.tasks[id as usize].task.lease().map(|lease| lease.worker.clone());
                if let Some(worker) = self.end_lease(id, *token)
                    && *suspect
                {
                    worker.fast_failures.insert(*task);
                }
                let task = &mut self.tasks[id as usize].task;
                task.failures += 1;
                task.failed_on.extend(worker.filter(|worker| !task.failed_on.contains(worker)));
                let next = if *last { State::Failed(Box::new(failure.clone())) } else { self.open_state(id) };
                self.set_state(id, next);
            }
            Event::LeaseReleased { task, token, why } => {
                let Some(id) = self.ids.get(task) else { return };
                self.end_lease(id, *token);
                if *why == Released::Lost {
                    self.tasks[id as usize].task.losses += 1;
                }
                let next = self.open_state(id);
                self.set_state(id, next);
            }
            Event::RunCancelled { run } => {
                let Some(run) = self.run_ids.get(run).copied() else { return };
                self.runs[run as usize].phase = Phase::Cancelled;
                for id in self.runs[run as usize].tasks.clone() {
                    if !self.is_wanted(id) {
                        self.close(id, State::Cancelled);
                    } else {
                        self.requeue(id);
                    }
                }
            }
            Event::RunPaused { run } => self.set_phase(*run, Phase::Paused),
            Event::RunResumed { run } => self.set_phase(*run, Phase::Active),
            Event::TasksPruned { tasks, .. } => {
                for id in tasks.iter().filter_map(|task| self.ids.get(task)).collect::<Vec<_>>() {
                    self.close(id, State::Pruned);
                }
            }
            Event::WorkerJoined { worker, name, offer } => {
                let mut joined = Worker::new(name.clone(), offer.clone(), &self.classes);
                if let Some(known) = self.workers.remove(worker) {
                    joined.take_over(known);
                    for token in joined.leases.clone() {
                        if let Some(task) = self.leases.get(&token).map(|id| &self.tasks[*id as usize].task)
                            && let Some(lease) = task.lease()
                        {
                            joined.free.take(&task.spec.resources, &lease.gpus);
                        }
                    }
                }
                self.workers.insert(worker.clone(), joined);
            }
            Event::WorkerLeft { worker } => drop(self.workers.remove(worker)),
            Event::WorkerDraining { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.draining = true;
                }
            }
            Event::WorkerQuarantined { worker, why } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.quarantined = Some(why.clone());
                }
            }
            Event::WorkerReadmitted { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    (worker.draining, worker.quarantined) = (false, None);
                    worker.fast_failures.clear();
                }
            }
            Event::Registry(_) => {}
        }
    }

    /// A task by its key.
    ///
    /// # Errors
    /// [`Reject::UnknownTask`].
    pub fn task(&self, key: Digest) -> Result<&Task, Reject> {
        self.ids.get(&key).map(|id| &self.tasks[id as usize].task).ok_or(Reject::UnknownTask(key))
    }

    /// All tasks, oldest first.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.tasks.iter().map(|entry| &entry.task)
    }

    /// A run by its digest.
    ///
    /// # Errors
    /// [`Reject::UnknownRun`].
    pub fn run(&self, run: Digest) -> Result<&Run, Reject> {
        self.run_ids.get(&run).map(|id| &self.runs[*id as usize]).ok_or(Reject::UnknownRun(run))
    }

    /// All runs, oldest submission first.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.run_order.iter().map(|run| &self.runs[*run as usize])
    }

    /// The tasks of a run, each after all that it needs.
    pub fn tasks_of<'a>(&'a self, run: &'a Run) -> impl Iterator<Item = &'a Task> {
        run.tasks.iter().map(|id| &self.tasks[*id as usize].task)
    }

    /// The runs that a task is part of, cancelled ones included.
    pub fn runs_of(&self, key: Digest) -> impl Iterator<Item = &Run> {
        let entry = self.ids.get(&key).map(|id| &self.tasks[id as usize]);
        entry.into_iter().flat_map(|entry| entry.runs.iter().map(|run| &self.runs[*run as usize]))
    }

    /// A worker.
    ///
    /// # Errors
    /// [`Reject::UnknownWorker`].
    pub fn worker(&self, worker: &WorkerId) -> Result<&Worker, Reject> {
        self.workers.get(worker).ok_or_else(|| Reject::UnknownWorker(worker.clone()))
    }

    /// All workers.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter()
    }

    /// The leases that a worker's call was answered with, if it still holds them.
    pub fn leases_for<'a>(&'a self, worker: &'a WorkerId, request: u64) -> impl Iterator<Item = (&'a Task, &'a Lease)> {
        self.leases_of(worker).filter(move |(_, lease)| lease.request == request)
    }

    /// All leases of a worker, oldest first.
    pub fn leases_of<'a>(&'a self, worker: &'a WorkerId) -> impl Iterator<Item = (&'a Task, &'a Lease)> {
        let tokens = self.workers.get(worker).into_iter().flat_map(|worker| &worker.leases);
        tokens.filter_map(|token| self.lease(*token))
    }

    /// All leases, oldest first.
    pub fn leases(&self) -> impl Iterator<Item = (&Task, &Lease)> {
        self.leases.keys().filter_map(|token| self.lease(*token))
    }

    /// A current lease.
    pub fn lease(&self, token: FencingToken) -> Option<(&Task, &Lease)> {
        let task = &self.tasks[*self.leases.get(&token)? as usize].task;
        Some((task, task.lease()?))
    }

    /// Whether somebody waits for the task of a lease; if not, its worker had
    /// better hand it back.
    pub fn is_awaited(&self, token: FencingToken) -> bool {
        self.leases.get(&token).is_some_and(|id| self.active_run(*id).is_some())
    }

    /// Whether any task can be had.
    pub fn has_work(&self) -> bool {
        !self.queues.is_empty()
    }

    fn submit(&self, work: Work, run: Digest, tasks: Vec<TaskSpec>, priority: i32) -> Result<Vec<Event>, Reject> {
        check_plan(&tasks)?;
        let goes_on = |known: &&Run| {
            known.phase == Phase::Active
                && known.priority == priority
                && known.counts.failed + known.counts.cancelled + known.counts.pruned == 0
        };
        if self.run(run).ok().as_ref().is_some_and(goes_on) {
            return Ok(vec![]);
        }
        let mut tasks = tasks.into_iter().map(Arc::new);
        let mut chunk = || tasks.by_ref().take(TASKS_PER_EVENT).collect::<Vec<_>>();
        let mut events = vec![Event::RunSubmitted { run, work, tasks: chunk(), priority }];
        loop {
            let tasks = chunk();
            if tasks.is_empty() {
                return Ok(events);
            }
            events.push(Event::TasksAdded { run, tasks });
        }
    }

    /// Those of the tasks that can be dropped: open, and wanted by no other run.
    fn prunable(&self, run: Digest, tasks: &[Digest]) -> Result<Vec<Digest>, Reject> {
        let run = *self.run_ids.get(&run).ok_or(Reject::UnknownRun(run))?;
        let mut open = vec![];
        for key in tasks {
            let id = self.ids.get(key).ok_or(Reject::UnknownTask(*key))?;
            let entry = &self.tasks[id as usize];
            let elsewhere = |other: &RunId| *other != run && self.runs[*other as usize].phase != Phase::Cancelled;
            if entry.task.is_open() && entry.runs.contains(&run) && !entry.runs.iter().any(elsewhere) {
                open.push(*key);
            }
        }
        Ok(open)
    }

    fn grants(&self, now_ms: i64, worker: &WorkerId, known: &Worker, request: u64, max: u32) -> Vec<Event> {
        let mut picking = queue::Picking::new(self, worker, known);
        (1..=u64::from(max))
            .map_while(|number| {
                let (id, gpus) = picking.next()?;
                let task = &self.tasks[id as usize].task;
                Some(Event::LeaseGranted {
                    task: task.spec.key,
                    worker: worker.clone(),
                    token: FencingToken(self.last_token + number),
                    attempt: Attempt(task.attempts + 1),
                    request,
                    at_ms: now_ms,
                    gpus,
                })
            })
            .collect()
    }

    fn failed(&self, now_ms: i64, task: &Task, lease: &Lease, failure: Failure) -> Vec<Event> {
        let last = is_final(failure.code) || task.failures + 1 >= FAILURES_MAX;
        let suspect = may_be_the_workers(failure.code) && now_ms - lease.granted_ms < FAST_MS;
        let key = task.spec.key;
        let message = failure.message.clone();
        let mut events = vec![Event::AttemptFailed { task: key, token: lease.token, failure, last, suspect }];
        if let Some(worker) = self.workers.get(&lease.worker)
            && suspect
            && worker.takes_work()
            && worker.fast_failures.len() + usize::from(!worker.fast_failures.contains(&key)) >= FAST_FAILURES_MAX
            && self.workers.iter().any(|(other, known)| *other != lease.worker && known.takes_work())
        {
            let why =
                format!("{FAST_FAILURES_MAX} different tasks failed on it within seconds, the last with: {message}");
            events.push(Event::WorkerQuarantined { worker: lease.worker.clone(), why });
        }
        events
    }

    fn lost(&self, task: &Task, token: FencingToken, worker: &WorkerId) -> Event {
        if task.losses + 1 < LOSSES_MAX {
            return Event::LeaseReleased { task: task.spec.key, token, why: Released::Lost };
        }
        let message = format!(
            "{LOSSES_MAX} workers vanished while running it, the last was {worker}; it is held to be what kills them: \
             look at its log and its memory, then submit it again"
        );
        let failure = Failure::new(FailureCode::Quarantined, message);
        Event::AttemptFailed { task: task.spec.key, token, failure, last: true, suspect: false }
    }

    /// The lease that ends now; `None` if it has ended with this already.
    fn ending<'a>(&self, task: &'a Task, token: FencingToken) -> Result<Option<&'a Lease>, Reject> {
        match task.lease() {
            Some(lease) if lease.token == token => Ok(Some(lease)),
            _ if task.last_ended == Some(token) => Ok(None),
            _ => Err(Reject::Fenced { task: task.spec.key, token }),
        }
    }

    fn begin_run(&mut self, run: Digest, work: &Work, priority: i32) -> RunId {
        let id = *self.run_ids.entry(run).or_insert(self.runs.len() as RunId);
        if id as usize == self.runs.len() {
            self.runs.push(Run::new(run, work.clone()));
        }
        self.run_order.retain(|known| *known != id);
        self.run_order.push(id);
        let known = &mut self.runs[id as usize];
        (known.phase, known.priority, known.cached) = (Phase::Active, priority, 0);
        for task in known.tasks.clone() {
            self.requeue(task);
        }
        id
    }

    /// Adds tasks to a run, and gives those that ended without a result a new chance.
    fn add_tasks(&mut self, run: RunId, specs: &[Arc<TaskSpec>]) {
        for spec in specs {
            let id = self.ids.get(&spec.key).unwrap_or_else(|| self.add(spec));
            if !self.tasks[id as usize].runs.contains(&run) {
                self.tasks[id as usize].runs.push(run);
                let known = &mut self.runs[run as usize];
                known.tasks.push(id);
                known.counts.add(&self.tasks[id as usize].task.state);
            }
            match self.tasks[id as usize].task.state {
                State::Committed { .. } => self.runs[run as usize].cached += 1,
                State::Failed(_) | State::Cancelled | State::Pruned => {
                    let task = &mut self.tasks[id as usize].task;
                    (task.failures, task.losses) = (0, 0);
                    task.failed_on = vec![];
                    let next = self.open_state(id);
                    self.set_state(id, next);
                }
                State::Waiting { .. } | State::Ready | State::Leased(_) => self.requeue(id),
            }
        }
    }

    fn add(&mut self, spec: &Arc<TaskSpec>) -> Id {
        let id = self.tasks.len() as Id;
        let class = self.classes.of(spec);
        for worker in self.workers.values_mut() {
            worker.learn(&self.classes);
        }
        let needs: Box<[Id]> = spec.needs().filter_map(|need| self.ids.get(&need)).collect();
        for need in &needs {
            self.tasks[*need as usize].dependents.push(id);
        }
        let task = Task {
            spec: spec.clone(),
            state: State::Cancelled,
            attempts: 0,
            failures: 0,
            losses: 0,
            last_ended: None,
            checkpoint: None,
            failed_on: vec![],
        };
        self.tasks.push(Entry { task, class, needs, dependents: vec![], runs: vec![] });
        self.ids.insert(spec.key, id);
        id
    }

    /// The state of a task that is not leased and has no result.
    fn open_state(&self, id: Id) -> State {
        let entry = &self.tasks[id as usize];
        if !self.is_wanted(id) {
            return State::Cancelled;
        }
        let is_met = |need: &&Id| matches!(self.tasks[**need as usize].task.state, State::Committed { .. });
        match entry.needs.len() - entry.needs.iter().filter(is_met).count() {
            0 => State::Ready,
            unmet => State::Waiting { unmet },
        }
    }

    /// One more input of a task exists.
    fn met(&mut self, id: Id) {
        match self.tasks[id as usize].task.state {
            State::Waiting { unmet: 0 | 1 } => self.set_state(id, State::Ready),
            State::Waiting { unmet } => self.set_state(id, State::Waiting { unmet: unmet - 1 }),
            _ => {}
        }
    }

    /// Ends an open task.
    fn close(&mut self, id: Id, state: State) {
        let task = &self.tasks[id as usize].task;
        if !task.is_open() {
            return;
        }
        if let Some(token) = task.lease().map(|lease| lease.token) {
            self.end_lease(id, token);
        }
        self.set_state(id, state);
    }

    fn set_phase(&mut self, run: Digest, phase: Phase) {
        let Some(run) = self.run_ids.get(&run).copied() else { return };
        self.runs[run as usize].phase = phase;
        for id in self.runs[run as usize].tasks.clone() {
            self.requeue(id);
        }
    }

    /// Whether a run that is not cancelled needs it.
    fn is_wanted(&self, id: Id) -> bool {
        self.tasks[id as usize].runs.iter().any(|run| self.runs[*run as usize].phase != Phase::Cancelled)
    }

    /// The run on whose account a task is handed out.
    fn active_run(&self, id: Id) -> Option<RunId> {
        let active = self.tasks[id as usize].runs.iter().copied();
        let active = active.filter(|run| self.runs[*run as usize].phase == Phase::Active);
        active.min_by_key(|run| (std::cmp::Reverse(self.runs[*run as usize].priority), *run))
    }

    /// Ends the current lease of a task; its worker, if that is still there.
    fn end_lease(&mut self, id: Id, token: FencingToken) -> Option<&mut Worker> {
        self.leases.remove(&token);
        let task = &mut self.tasks[id as usize].task;
        task.last_ended = Some(token);
        let lease = task.lease()?;
        let worker = self.workers.get_mut(&lease.worker)?;
        if worker.leases.remove(&token) {
            worker.free.give(&task.spec.resources, &lease.gpus);
        }
        Some(worker)
    }

    /// The one place that changes a state, so that the indexes follow.
    fn set_state(&mut self, id: Id, state: State) {
        let entry = &mut self.tasks[id as usize];
        for run in &entry.runs {
            let counts = &mut self.runs[*run as usize].counts;
            counts.remove(&entry.task.state);
            counts.add(&state);
        }
        if let State::Leased(lease) = &state {
            self.leases.insert(lease.token, id);
        }
        entry.task.state = state;
        self.requeue(id);
    }

    /// Puts a task in the queue where it belongs, if any.
    fn requeue(&mut self, id: Id) {
        let entry = &self.tasks[id as usize];
        let run = if entry.task.state == State::Ready { self.active_run(id) } else { None };
        self.queues.put(id, run, entry.class, entry.task.spec.chain_mflop);
    }
}

/// Whether trying again can only give the same.
fn is_final(code: FailureCode) -> bool {
    match code {
        FailureCode::InvalidInput
        | FailureCode::NotANumber
        | FailureCode::OutOfMemory
        | FailureCode::Exited
        | FailureCode::Quarantined
        | FailureCode::Internal => true,
        FailureCode::Storage | FailureCode::Crashed | FailureCode::Preempted => false,
    }
}

/// Whether the machine rather than the task may be at fault.
fn may_be_the_workers(code: FailureCode) -> bool {
    matches!(code, FailureCode::Storage | FailureCode::Crashed)
}

fn check_plan(tasks: &[TaskSpec]) -> Result<(), Reject> {
    let mut seen = BTreeSet::new();
    for task in tasks {
        let reject = |problem| Err(Reject::InvalidPlan { task: task.key, problem });
        if !task.key_is_right() {
            return reject("its key is not the digest of its content");
        }
        if !task.needs().all(|need| seen.contains(&need)) {
            return reject("it needs a task that does not come before it");
        }
        if !seen.insert(task.key) {
            return reject("it stands twice");
        }
        if task.resources.check().is_err() {
            return reject("no worker could ever have what it asks for");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
