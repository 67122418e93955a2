//! The scheduler's whole state as data, which bounds the time of a restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::run::{Phase, Run, RunIndex};
use super::worker::Worker;
use super::{Ended, Id, Scheduler};
use crate::id::{RunId, TaskKey};
use crate::resources::Offer;
use crate::runner::registry::IdentityId;
use crate::runner::task::{FencingToken, Task, WorkerId};
use crate::runner::work::Work;

/// A scheduler without data that follow from the rest. A stored format, but one that can be
/// thrown away: the events say the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    tasks: Vec<(Task, Vec<RunIndex>)>,
    runs: Vec<RunData>,
    run_order: Vec<RunIndex>,
    workers: Vec<(WorkerId, WorkerData)>,
    last_token: u64,
    #[serde(default)]
    ended: VecDeque<Ended>,
    #[serde(default)]
    kept: BTreeMap<IdentityId, u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct RunData {
    id: RunId,
    work: Arc<Work>,
    phase: Phase,
    priority: i32,
    cached: usize,
    tasks: Vec<Id>,
    #[serde(default)]
    missing: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<IdentityId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct WorkerData {
    name: String,
    offer: Offer,
    draining: bool,
    quarantined: Option<String>,
    leases: BTreeSet<FencingToken>,
    #[serde(rename = "last_request")]
    last_call: u64,
    fast_failures: BTreeSet<TaskKey>,
    has: VecDeque<Id>,
}

/// A snapshot that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot names a {0} that it does not have")]
pub struct InvalidSnapshot(&'static str);

impl From<&Scheduler> for Snapshot {
    fn from(scheduler: &Scheduler) -> Self {
        let run = |run: &Run| RunData {
            id: run.id,
            work: run.work.clone(),
            phase: run.phase,
            priority: run.priority,
            cached: run.cached,
            tasks: run.tasks.clone(),
            missing: run.counts.missing,
            by: run.by.clone(),
        };
        let worker = |(id, worker): (&WorkerId, &Worker)| {
            let data = WorkerData {
                name: worker.name.clone(),
                offer: worker.offer.clone(),
                draining: worker.draining,
                quarantined: worker.quarantined.clone(),
                leases: worker.leases.clone(),
                last_call: worker.last_call,
                fast_failures: worker.fast_failures.clone(),
                has: worker.has.clone(),
            };
            (id.clone(), data)
        };
        Self {
            tasks: scheduler.tasks.iter().map(|entry| (entry.task.clone(), entry.runs.clone())).collect(),
            runs: scheduler.runs.iter().map(run).collect(),
            run_order: scheduler.run_order.clone(),
            workers: scheduler.workers.iter().map(worker).collect(),
            last_token: scheduler.last_token,
            ended: scheduler.ended.clone(),
            kept: scheduler.kept.clone(),
        }
    }
}

impl TryFrom<Snapshot> for Scheduler {
    type Error = InvalidSnapshot;

    fn try_from(snapshot: Snapshot) -> Result<Self, InvalidSnapshot> {
        let known = |id: &Id| (*id as usize) < snapshot.tasks.len();
        let (last_token, kept) = (snapshot.last_token, snapshot.kept);
        let mut scheduler = Scheduler { last_token, kept, ..Scheduler::default() };
        let mut missing = vec![];
        for data in snapshot.runs {
            if !data.tasks.iter().all(known) {
                return Err(InvalidSnapshot("task"));
            }
            let mut run = Run::new(data.id, data.work);
            (run.phase, run.priority, run.cached, run.tasks) = (data.phase, data.priority, data.cached, data.tasks);
            run.by = data.by;
            missing.push(data.missing);
            scheduler.run_ids.insert(run.id, scheduler.runs.len() as RunIndex);
            scheduler.runs.push(run);
        }
        let run_known = |run: &RunIndex| (*run as usize) < scheduler.runs.len();
        if !snapshot.run_order.iter().chain(snapshot.tasks.iter().flat_map(|(_, runs)| runs)).all(run_known) {
            return Err(InvalidSnapshot("run"));
        }
        scheduler.run_order = snapshot.run_order;
        if !snapshot.ended.iter().all(|ended| known(&ended.task)) {
            return Err(InvalidSnapshot("task"));
        }
        scheduler.ended = snapshot.ended;
        for (mut task, runs) in snapshot.tasks {
            if let Some(before) = scheduler.tasks.last() {
                Arc::make_mut(&mut task.spec).share(&before.task.spec);
            }
            let id = scheduler.add(&task.spec);
            for run in &runs {
                scheduler.runs[*run as usize].count(id, &task);
            }
            if let Some(lease) = task.lease() {
                scheduler.leases.insert(lease.token, id);
            }
            scheduler.recount(id, &task.state);
            let entry = &mut scheduler.tasks[id as usize];
            (entry.task, entry.runs) = (task, runs);
            scheduler.requeue(id);
        }
        for (run, missing) in scheduler.runs.iter_mut().zip(missing) {
            run.announce(run.tasks.len().saturating_add(missing));
        }
        for (id, data) in snapshot.workers {
            let mut worker = Worker::new(data.name, data.offer, &scheduler.classes);
            (worker.draining, worker.quarantined) = (data.draining, data.quarantined);
            (worker.last_call, worker.fast_failures, worker.has) = (data.last_call, data.fast_failures, data.has);
            for token in &data.leases {
                let (task, lease) = scheduler.lease(*token).ok_or(InvalidSnapshot("lease"))?;
                worker.free.take(&task.spec.resources, &lease.gpus);
            }
            worker.leases = data.leases;
            scheduler.workers.insert(id, worker);
        }
        Ok(scheduler)
    }
}

impl Scheduler {
    /// Asserts all invariants. For tests and simulations.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn check(&self) {
        use crate::runner::task::State;
        let is_committed = |id: &Id| matches!(self.tasks[*id as usize].task.state, State::Committed { .. });
        for (id, entry) in self.tasks.iter().enumerate() {
            let task = &entry.task;
            let unmet = entry.needs.iter().filter(|need| !is_committed(need)).count();
            match &task.state {
                State::Waiting { unmet: counted } => assert!(unmet > 0 && unmet == *counted, "unmet inputs miscounted"),
                State::Ready => assert_eq!(unmet, 0, "work without inputs"),
                State::Leased(lease) => {
                    assert_eq!(unmet, 0, "work without inputs");
                    assert_eq!(self.leases.get(&lease.token), Some(&(id as Id)), "a lease that nobody finds");
                    assert!(task.last_ended.is_none_or(|ended| ended < lease.token), "fences must grow");
                    assert!(lease.token.0 <= self.last_token);
                    let worker = self.workers.get(&lease.worker).expect("a lease of a worker that is not there");
                    assert!(worker.leases.contains(&lease.token), "a lease that its worker does not have");
                }
                State::Committed { token, .. } => {
                    assert!(token.0 <= self.last_token);
                    assert!(task.checkpoint.is_none(), "a checkpoint that nobody needs");
                }
                State::Failed(_) | State::Cancelled | State::Pruned => {}
            }
            if task.is_open() {
                assert!(self.is_wanted(id as Id), "work that nobody wants");
            }
        }
        for id in self.leases.values() {
            assert!(self.tasks[*id as usize].task.lease().is_some(), "a lease without its task");
        }
        for worker in self.workers.values() {
            for token in &worker.leases {
                assert!(self.leases.contains_key(token), "a worker with a lease that is over");
            }
        }
        let rebuilt = Scheduler::try_from(Snapshot::from(self)).expect("a snapshot fits itself");
        assert_eq!(rebuilt, *self, "the indexes follow from the rest");
    }
}
