//! The heart: which events follow from a request, and what they change.
//!
//! [`Scheduler::decide`] changes nothing; [`Scheduler::apply`] cannot fail and
//! never looks at a clock. The coordinator decides, journals, applies, and only
//! then replies; after a restart it applies the journal and is where it was.
//!
//! What is promised: execution at least once, results exactly once. A task has
//! one committed result, given under the newest lease ever granted for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::event::Event;
use crate::experiment::Experiment;
use crate::plan::{Data, TaskSpec};
use crate::stage::{Failure, FailureCode};
use crate::task::{Attempt, FencingToken, Lease, Released, State, Task, WorkerId};

/// Attempts that may fail by the task's own fault before it is given up.
pub const FAILURES_MAX: u32 = 3;

/// Workers that may vanish under a task before it is held to be what kills them.
pub const LOSSES_MAX: u32 = 5;

/// What somebody wants.
#[derive(Clone, Debug)]
pub enum Request {
    /// A study. Asking again for the same one gives failed tasks a new chance.
    Submit {
        /// The spec it was planned from.
        experiment: Box<Experiment>,
        /// The data it was planned for.
        data: Data,
        /// Digest of the plan.
        run: Digest,
        /// Its tasks.
        tasks: Vec<TaskSpec>,
    },
    /// Work for a worker.
    Acquire {
        /// Who.
        worker: WorkerId,
        /// Numbers the worker's calls: a repeated call has the same number.
        request: u64,
        /// Stages that the worker can run, by name and version.
        stages: BTreeSet<(String, u32)>,
    },
    /// The result of an attempt, its files already stored.
    Commit {
        /// The task's key.
        task: Digest,
        /// Of the lease.
        token: FencingToken,
        /// The result.
        artifact: Digest,
    },
    /// The failure of an attempt.
    Fail {
        /// The task's key.
        task: Digest,
        /// Of the lease.
        token: FencingToken,
        /// Why.
        failure: Failure,
    },
    /// A lease that its worker gives back or has lost.
    Release {
        /// The task's key.
        task: Digest,
        /// Of the lease.
        token: FencingToken,
        /// Why.
        why: Released,
    },
    /// A run that nobody wants any more.
    Cancel {
        /// The run.
        run: Digest,
    },
}

/// Why a request is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// No such task.
    #[error("unknown task {}", .0.short())]
    UnknownTask(Digest),
    /// No such run.
    #[error("unknown run {}", .0.short())]
    UnknownRun(Digest),
    /// The lease is over: somebody else has the task, or it is done.
    #[error("lease {token} of task {} is over", task.short())]
    Fenced {
        /// The task's key.
        task: Digest,
        /// The lease.
        token: FencingToken,
    },
    /// A submitted task does not fit its key or the tasks before it.
    #[error("task {} of the plan is not consistent: {problem}", task.short())]
    InvalidPlan {
        /// The task's key.
        task: Digest,
        /// What is wrong.
        problem: &'static str,
    },
}

/// One submission of an experiment.
#[derive(Clone, Debug)]
pub struct Run {
    /// The spec it was planned from.
    pub experiment: Experiment,
    /// The data it was planned for.
    pub data: Data,
    /// Keys of its tasks, each after all that it needs.
    pub tasks: Vec<Digest>,
    /// Tasks whose result existed when it was last submitted.
    pub cached: usize,
    /// Whether it was called off.
    pub cancelled: bool,
}

/// How many tasks of a run are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub total: usize,
    /// Inputs missing.
    pub waiting: usize,
    /// To be had.
    pub ready: usize,
    /// Under way.
    pub leased: usize,
    /// Done.
    pub committed: usize,
    /// Given up.
    pub failed: usize,
    /// Called off.
    pub cancelled: usize,
}

impl Counts {
    /// Whether nothing of the run can go on by itself.
    pub fn is_over(&self) -> bool {
        self.ready == 0 && self.leased == 0
    }

    /// Whether everything is done.
    pub fn is_complete(&self) -> bool {
        self.committed == self.total
    }
}

/// Every task, run and lease.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    tasks: BTreeMap<Digest, Task>,
    dependents: BTreeMap<Digest, Vec<Digest>>,
    ready: BTreeSet<(u64, Digest)>,
    runs: BTreeMap<Digest, Run>,
    /// In the order of their last submission.
    run_order: Vec<Digest>,
    leases: BTreeMap<FencingToken, Digest>,
    last_token: u64,
    last_rank: u64,
}

impl Scheduler {
    /// The events that follow from a request; none if it repeats an earlier one.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn decide(&self, request: Request) -> Result<Vec<Event>, Reject> {
        match request {
            Request::Submit { experiment, data, run, tasks } => {
                check_plan(&tasks)?;
                let known = self.runs.get(&run);
                let needs_no_new_chance = |known: &Run| {
                    let counts = self.counts(known);
                    !known.cancelled && counts.failed + counts.cancelled == 0
                };
                if known.is_some_and(needs_no_new_chance) {
                    return Ok(vec![]);
                }
                Ok(vec![Event::RunSubmitted { run, experiment, data, tasks }])
            }
            Request::Acquire { worker, request, stages } => {
                if self.leases_of(&worker).any(|(_, lease)| lease.request == request) {
                    return Ok(vec![]);
                }
                Ok(self.grant(worker, request, &stages).into_iter().collect())
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
                | State::Cancelled => Err(Reject::Fenced { task: key, token }),
            },
            Request::Fail { task: key, token, failure } => {
                let task = self.task(key)?;
                Ok(match self.ending(task, token)? {
                    Ending::Again => vec![],
                    Ending::Now => {
                        let last = is_final(failure.code) || task.failures + 1 >= FAILURES_MAX;
                        vec![Event::AttemptFailed { task: key, token, failure, last }]
                    }
                })
            }
            Request::Release { task: key, token, why } => {
                let task = self.task(key)?;
                Ok(match self.ending(task, token)? {
                    Ending::Again => vec![],
                    Ending::Now if why == Released::Lost && task.losses + 1 >= LOSSES_MAX => {
                        let message =
                            format!("{LOSSES_MAX} workers vanished while running it; it is held to be what kills them");
                        let failure = Failure::new(FailureCode::Crashed, message);
                        vec![Event::AttemptFailed { task: key, token, failure, last: true }]
                    }
                    Ending::Now => vec![Event::LeaseReleased { task: key, token, why }],
                })
            }
            Request::Cancel { run } => match self.runs.get(&run) {
                None => Err(Reject::UnknownRun(run)),
                Some(known) if known.cancelled || self.counts(known).is_complete() => Ok(vec![]),
                Some(_) => Ok(vec![Event::RunCancelled { run }]),
            },
        }
    }

    /// Lets an event happen.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::RunSubmitted { run, experiment, data, tasks } => {
                for spec in tasks {
                    self.want(spec);
                }
                let keys: Vec<Digest> = tasks.iter().map(|spec| spec.key).collect();
                let committed = |key: &&Digest| matches!(self.tasks[*key].state, State::Committed { .. });
                let cached = keys.iter().filter(committed).count();
                let experiment = experiment.as_ref().clone();
                self.run_order.retain(|known| known != run);
                self.run_order.push(*run);
                self.runs.insert(*run, Run { experiment, data: data.clone(), tasks: keys, cached, cancelled: false });
            }
            Event::LeaseGranted { task, worker, token, attempt, request } => {
                self.last_token = self.last_token.max(token.0);
                let lease = Lease { worker: worker.clone(), token: *token, attempt: *attempt, request: *request };
                if let Some(task) = self.tasks.get_mut(task) {
                    task.attempts = attempt.0;
                }
                self.set_state(*task, State::Leased(lease));
            }
            Event::TaskCommitted { task, token, artifact } => {
                self.end_lease(*task, *token);
                self.set_state(*task, State::Committed { token: *token, artifact: *artifact });
                for dependent in self.dependents.get(task).cloned().unwrap_or_default() {
                    self.refresh(dependent);
                }
            }
            Event::AttemptFailed { task, token, failure, last } => {
                self.end_lease(*task, *token);
                if let Some(task) = self.tasks.get_mut(task) {
                    task.failures += 1;
                }
                self.set_state(*task, if *last { State::Failed(failure.clone()) } else { State::Ready });
            }
            Event::LeaseReleased { task, token, why } => {
                self.end_lease(*task, *token);
                if let Some(task) = self.tasks.get_mut(task)
                    && *why == Released::Lost
                {
                    task.losses += 1;
                }
                let next = if self.is_wanted(*task) { State::Ready } else { State::Cancelled };
                self.set_state(*task, next);
            }
            Event::RunCancelled { run } => {
                let Some(run) = self.runs.get_mut(run) else { return };
                run.cancelled = true;
                for key in run.tasks.clone() {
                    let open =
                        matches!(self.tasks[&key].state, State::Waiting { .. } | State::Ready | State::Leased(_));
                    if open && !self.is_wanted(key) {
                        if let State::Leased(Lease { token, .. }) = self.tasks[&key].state {
                            self.end_lease(key, token);
                        }
                        self.set_state(key, State::Cancelled);
                    }
                }
            }
        }
    }

    /// A task by its key.
    ///
    /// # Errors
    /// [`Reject::UnknownTask`].
    pub fn task(&self, key: Digest) -> Result<&Task, Reject> {
        self.tasks.get(&key).ok_or(Reject::UnknownTask(key))
    }

    /// A run by its digest.
    ///
    /// # Errors
    /// [`Reject::UnknownRun`].
    pub fn run(&self, run: Digest) -> Result<&Run, Reject> {
        self.runs.get(&run).ok_or(Reject::UnknownRun(run))
    }

    /// All runs, oldest submission first.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = (Digest, &Run)> {
        self.run_order.iter().map(|run| (*run, &self.runs[run]))
    }

    /// The lease that a worker's call was answered with, if it still holds it.
    pub fn lease_for(&self, worker: &WorkerId, request: u64) -> Option<(&Task, &Lease)> {
        self.leases().find(|(_, lease)| lease.worker == *worker && lease.request == request)
    }

    /// All leases of a worker.
    pub fn leases_of<'a>(&'a self, worker: &'a WorkerId) -> impl Iterator<Item = (&'a Task, &'a Lease)> {
        self.leases().filter(move |(_, lease)| lease.worker == *worker)
    }

    /// All leases, oldest first.
    pub fn leases(&self) -> impl Iterator<Item = (&Task, &Lease)> {
        self.leases.values().filter_map(|key| match &self.tasks[key] {
            task @ Task { state: State::Leased(lease), .. } => Some((task, lease)),
            _ => None,
        })
    }

    /// Whether any task can be had.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How the tasks of a run stand.
    pub fn counts(&self, run: &Run) -> Counts {
        let mut counts = Counts { total: run.tasks.len(), ..Counts::default() };
        for key in &run.tasks {
            match self.tasks[key].state {
                State::Waiting { .. } => counts.waiting += 1,
                State::Ready => counts.ready += 1,
                State::Leased(_) => counts.leased += 1,
                State::Committed { .. } => counts.committed += 1,
                State::Failed(_) => counts.failed += 1,
                State::Cancelled => counts.cancelled += 1,
            }
        }
        counts
    }

    /// Asserts what must always hold. For tests and simulations.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn check(&self) {
        for (key, task) in &self.tasks {
            let unmet = task.spec.needs().filter(|need| !self.is_committed(*need)).count();
            match &task.state {
                State::Waiting { unmet: counted } => assert!(unmet > 0 && unmet == *counted, "unmet inputs miscounted"),
                State::Ready | State::Leased(_) => assert_eq!(unmet, 0, "work without inputs"),
                State::Committed { token, .. } => assert!(token.0 <= self.last_token),
                State::Failed(_) | State::Cancelled => {}
            }
            assert_eq!(self.ready.contains(&(task.rank, *key)), task.state == State::Ready);
            if let State::Leased(lease) = &task.state {
                assert_eq!(self.leases.get(&lease.token), Some(key), "a lease that nobody finds");
                assert!(task.last_ended.is_none_or(|ended| ended < lease.token), "fences must grow");
            }
        }
        for key in self.leases.values() {
            assert!(matches!(self.tasks[key].state, State::Leased(_)), "a lease without its task");
        }
    }

    fn is_committed(&self, key: Digest) -> bool {
        matches!(self.tasks.get(&key), Some(Task { state: State::Committed { .. }, .. }))
    }

    fn is_wanted(&self, key: Digest) -> bool {
        self.runs.values().any(|run| !run.cancelled && run.tasks.contains(&key))
    }

    fn grant(&self, worker: WorkerId, request: u64, stages: &BTreeSet<(String, u32)>) -> Option<Event> {
        let can_run = |key: &Digest| {
            let spec = &self.tasks[key].spec;
            stages.contains(&(spec.stage.name().to_owned(), spec.version))
        };
        let task = self.ready.iter().map(|(_, key)| *key).find(can_run)?;
        let attempt = Attempt(self.tasks[&task].attempts + 1);
        let token = FencingToken(self.last_token + 1);
        Some(Event::LeaseGranted { task, worker, token, attempt, request })
    }

    fn ending(&self, task: &Task, token: FencingToken) -> Result<Ending, Reject> {
        match &task.state {
            State::Leased(lease) if lease.token == token => Ok(Ending::Now),
            _ if task.last_ended == Some(token) => Ok(Ending::Again),
            _ => Err(Reject::Fenced { task: task.spec.key, token }),
        }
    }

    /// Adds a task, or gives one that ended without a result a new chance.
    fn want(&mut self, spec: &TaskSpec) {
        if !self.tasks.contains_key(&spec.key) {
            self.last_rank += 1;
            for need in spec.needs() {
                self.dependents.entry(need).or_default().push(spec.key);
            }
            let task = Task {
                spec: spec.clone(),
                rank: self.last_rank,
                state: State::Cancelled,
                attempts: 0,
                failures: 0,
                losses: 0,
                last_ended: None,
            };
            self.tasks.insert(spec.key, task);
        }
        if let Some(task) = self.tasks.get_mut(&spec.key)
            && matches!(task.state, State::Failed(_) | State::Cancelled)
        {
            (task.failures, task.losses) = (0, 0);
            self.set_state(spec.key, State::Waiting { unmet: 0 });
            self.refresh(spec.key);
        }
    }

    /// Counts the missing inputs of a waiting task anew.
    fn refresh(&mut self, key: Digest) {
        let Some(Task { state: State::Waiting { .. }, spec, .. }) = self.tasks.get(&key) else { return };
        let unmet = spec.needs().filter(|need| !self.is_committed(*need)).count();
        self.set_state(key, if unmet == 0 { State::Ready } else { State::Waiting { unmet } });
    }

    fn end_lease(&mut self, key: Digest, token: FencingToken) {
        self.leases.remove(&token);
        if let Some(task) = self.tasks.get_mut(&key) {
            task.last_ended = Some(token);
        }
    }

    /// The one place that changes a state, so that the indexes follow.
    fn set_state(&mut self, key: Digest, state: State) {
        let Some(task) = self.tasks.get_mut(&key) else { return };
        self.ready.remove(&(task.rank, key));
        if state == State::Ready {
            self.ready.insert((task.rank, key));
        }
        if let State::Leased(lease) = &state {
            self.leases.insert(lease.token, key);
        }
        task.state = state;
    }
}

enum Ending {
    /// The lease is current and ends with this.
    Now,
    /// It has ended with this already.
    Again,
}

/// Whether trying again can only give the same.
fn is_final(code: FailureCode) -> bool {
    match code {
        FailureCode::InvalidInput | FailureCode::NotANumber | FailureCode::OutOfMemory | FailureCode::Internal => true,
        FailureCode::Storage | FailureCode::Crashed | FailureCode::Preempted => false,
    }
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
    }
    Ok(())
}

#[cfg(test)]
mod tests;
