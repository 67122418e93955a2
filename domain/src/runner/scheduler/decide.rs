//! The events that follow from requests.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::queue::Picking;
use super::run::RunIndex;
use super::worker::Worker;
use super::{FAILURES_MAX, FAST_FAILURES_MAX, FAST_MS, Id, LOSSES_MAX, Phase, Reject, Request, Scheduler};
use crate::id::{RunId, TaskKey};
use crate::runner::event::Event;
use crate::runner::task::{Attempt, FencingToken, Lease, Released, State, Task, WorkerId};
use crate::study::plan::TaskSpec;
use crate::study::stage::{Failure, FailureCode};
use crate::text::cut;

/// Bytes of commands and input names after which a call for work gets no more leases: together
/// with the first lease, whatever its size, they fit one message.
const GRANT_BYTES: u64 = 1 << 20;

/// Most bytes of a failure's message where it is quoted.
const QUOTED: usize = 300;

impl Scheduler {
    /// The events that follow from a request; none if the request repeats an earlier one.
    ///
    /// # Errors
    /// Why the request is refused.
    #[expect(clippy::too_many_lines, reason = "a table of arms, each of which fits the eye")]
    pub fn decide(&self, now_ms: i64, request: Request) -> Result<Vec<Event>, Reject> {
        match request {
            Request::Submit { work, run, tasks, more, priority, by } => {
                self.check_plan(run, &tasks)?;
                if let Ok(known) = self.run(run)
                    && known.goes_on(priority)
                {
                    let is_last = self.runs().next_back().is_some_and(|last| last.id == run);
                    return Ok(if is_last { vec![] } else { vec![Event::RunSubmittedAgain { run }] });
                }
                let tasks = tasks.into_iter().map(Arc::new).collect();
                Ok(vec![Event::RunSubmitted { run, work, tasks, more: more as u64, priority, by }])
            }
            Request::AddTasks { run, tasks, by } => {
                if self.run(run)?.phase == Phase::Cancelled {
                    return Err(Reject::Cancelled(run));
                }
                self.check_plan(run, &tasks)?;
                let is_new =
                    |task: &TaskSpec| !self.has(run, task.key) || self.task(task.key).is_ok_and(Task::is_given_up);
                if !tasks.iter().any(is_new) {
                    return Ok(vec![]);
                }
                Ok(vec![Event::TasksAdded { run, tasks: tasks.into_iter().map(Arc::new).collect(), by }])
            }
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
            Request::Invalidate { tasks } => {
                let tasks = tasks.into_iter().map(|key| self.task(key)).collect::<Result<Vec<_>, _>>()?;
                Ok(invalidated(tasks))
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
            Request::Drain { worker } => {
                let is_draining = self.worker(&worker)?.draining;
                Ok(if is_draining { vec![] } else { vec![Event::WorkerDraining { worker }] })
            }
            Request::Readmit { worker } => {
                let takes_work = self.worker(&worker)?.takes_work();
                Ok(if takes_work { vec![] } else { vec![Event::WorkerReadmitted { worker }] })
            }
            Request::Acquire { worker, call, max } => {
                let known = self.worker(&worker)?;
                let is_new = known.is_new(call) && known.takes_work();
                Ok(if is_new { self.grants(now_ms, &worker, known, call, max) } else { vec![] })
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
                    let mut events = vec![Event::TaskCommitted { task: key, token, artifact }];
                    if self.task(key)?.had.is_some_and(|had| had != artifact) {
                        // What was made from the other result is not what its key says.
                        events.extend(invalidated(self.dependents_of(key)));
                    }
                    Ok(events)
                }
                // The commit that won, again. With other files it is another one, and too late.
                State::Committed { token: winner, artifact: known } if (*winner, *known) == (token, artifact) => {
                    Ok(vec![])
                }
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

    /// Whether a run has a task.
    fn has(&self, run: RunId, key: TaskKey) -> bool {
        let run = self.run_ids.get(&run);
        self.ids.get(&key).is_some_and(|id| run.is_some_and(|run| self.tasks[id as usize].runs.contains(run)))
    }

    /// Checks tasks that are added after the tasks that the run has.
    fn check_plan(&self, run: RunId, tasks: &[TaskSpec]) -> Result<(), Reject> {
        let mut seen = BTreeSet::new();
        for task in tasks {
            let reject = |problem| Err(Reject::InvalidPlan { task: task.key, problem });
            if !task.key_is_right() {
                return reject("its key is not the digest of its content");
            }
            if !task.needs().all(|need| seen.contains(&need) || self.has(run, need)) {
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

    /// The tasks that can be pruned among the given ones and those that need them: open ones
    /// that no other run wants.
    fn prunable(&self, run: RunId, tasks: &[TaskKey]) -> Result<Vec<TaskKey>, Reject> {
        let run = *self.run_ids.get(&run).ok_or(Reject::UnknownRun(run))?;
        let named = tasks.iter().map(|key| self.ids.get(key).ok_or(Reject::UnknownTask(*key)));
        let mut next = named.collect::<Result<VecDeque<Id>, _>>()?;
        let mut seen = BTreeSet::new();
        let mut open = vec![];
        let elsewhere = |other: &RunIndex| *other != run && self.runs[*other as usize].phase != Phase::Cancelled;
        while let Some(id) = next.pop_front() {
            let entry = &self.tasks[id as usize];
            if seen.insert(id) && entry.task.is_open() && entry.runs.contains(&run) && !entry.runs.iter().any(elsewhere)
            {
                open.push(entry.task.spec.key);
                next.extend(&entry.dependents);
            }
        }
        Ok(open)
    }

    fn grants(&self, now_ms: i64, worker: &WorkerId, known: &Worker, call: u64, max: u32) -> Vec<Event> {
        let mut picking = Picking::new(self, worker, known);
        let mut room = GRANT_BYTES;
        (1..=u64::from(max))
            .map_while(|number| {
                let (id, gpus) = (room > 0).then(|| picking.next())??;
                let task = &self.tasks[id as usize].task;
                room = room.saturating_sub(task.spec.told_bytes());
                Some(Event::LeaseGranted {
                    task: task.spec.key,
                    worker: worker.clone(),
                    token: FencingToken(self.last_token + number),
                    attempt: Attempt(task.attempts + 1),
                    call,
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
        let message = cut(&failure.message, QUOTED);
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

    /// The lease that ends now; `None` if that lease has already ended in this way.
    fn ending<'a>(&self, task: &'a Task, token: FencingToken) -> Result<Option<&'a Lease>, Reject> {
        match task.lease() {
            Some(lease) if lease.token == token => Ok(Some(lease)),
            _ if task.last_ended == Some(token) => Ok(None),
            _ => Err(Reject::Fenced { task: task.spec.key, token }),
        }
    }
}

/// The event that invalidates the results of these tasks; empty if there are no tasks.
fn invalidated<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Vec<Event> {
    let made = tasks.into_iter().filter(|task| task.artifact().is_some());
    let tasks: BTreeSet<TaskKey> = made.map(|task| task.spec.key).collect();
    if tasks.is_empty() { vec![] } else { vec![Event::ResultsInvalidated { tasks: tasks.into_iter().collect() }] }
}

/// Whether another attempt can only fail in the same way.
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
