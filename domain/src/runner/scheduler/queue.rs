//! Ready tasks, in the order in which they are handed out.
//!
//! Tasks with the same demands on workers form a class, so that a worker's call looks at as
//! many heads of queues as there are classes, not at every task.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::run::RunIndex;
use super::{Id, Scheduler, Worker};
use crate::resources::{Free, GpuPart, Offer, Resources};
use crate::runner::task::WorkerId;
use crate::study::plan::TaskSpec;
use crate::study::stage::StageKind;

/// Most tasks with equally long chains from which the one is chosen whose inputs the worker
/// has.
const CHOICE_MAX: usize = 16;

/// The classes of demands that tasks make on workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Classes {
    known: Vec<Class>,
    numbers: BTreeMap<Class, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    stage: StageKind,
    version: u32,
    resources: Arc<Resources>,
}

impl Classes {
    pub(super) fn of(&mut self, spec: &TaskSpec) -> u32 {
        let class = Class { stage: spec.stage.kind(), version: spec.version, resources: spec.resources.clone() };
        if let Some(number) = self.numbers.get(&class) {
            return *number;
        }
        let number = self.known.len() as u32;
        self.known.push(class.clone());
        self.numbers.insert(class, number);
        number
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn could_run(&self, class: usize, offer: &Offer) -> bool {
        let Class { stage, version, resources } = &self.known[class];
        offer.could_run(stage.name(), *version, resources).is_ok()
    }
}

/// Ready tasks that an active run needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Queues {
    /// Queues by run and class: longest chain first, then in the order of submission.
    queues: BTreeMap<(RunIndex, u32), BTreeSet<Place>>,
    /// The queue position of each task.
    places: BTreeMap<Id, (RunIndex, u32, u64)>,
}

type Place = (Reverse<u64>, Id);

impl Queues {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Any task that is handed out on behalf of a run.
    pub(super) fn first_of(&self, run: RunIndex) -> Option<Id> {
        let (_, queue) = self.queues.range((run, u32::MIN)..=(run, u32::MAX)).next()?;
        queue.first().map(|(_, id)| *id)
    }

    /// Moves a task to the queue of a run, or removes it from its queue.
    pub(super) fn put(&mut self, id: Id, run: Option<RunIndex>, class: u32, chain_mflop: u64) {
        let wanted = run.map(|run| (run, class, chain_mflop));
        let before = match wanted {
            Some(place) => self.places.insert(id, place),
            None if self.places.is_empty() => None,
            None => self.places.remove(&id),
        };
        if before == wanted {
            return;
        }
        if let Some((run, class, chain)) = before
            && let Some(queue) = self.queues.get_mut(&(run, class))
        {
            queue.remove(&(Reverse(chain), id));
            if queue.is_empty() {
                self.queues.remove(&(run, class));
            }
        }
        if let Some((run, class, chain)) = wanted {
            self.queues.entry((run, class)).or_default().insert((Reverse(chain), id));
        }
    }
}

/// Picks tasks for one worker, one after the other, before any of them is granted.
pub(super) struct Picking<'a> {
    scheduler: &'a Scheduler,
    name: &'a WorkerId,
    worker: &'a Worker,
    free: Free,
    picked: BTreeSet<Id>,
    /// Number of tasks picked on behalf of each run.
    shares: BTreeMap<RunIndex, usize>,
    /// The first task of each queue that the worker could take one from, the best on top.
    /// Picking a task can only move other tasks of its run further back.
    heads: BinaryHeap<Reverse<Head>>,
}

/// A candidate for the next task. Candidates are ordered by the run's priority, then by the
/// fewest tasks of the run under way, then by the longest chain behind the task.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    priority: Reverse<i32>,
    under_way: usize,
    place: Place,
    run: RunIndex,
    class: u32,
}

impl<'a> Picking<'a> {
    pub(super) fn new(scheduler: &'a Scheduler, name: &'a WorkerId, worker: &'a Worker) -> Self {
        let (free, picked, shares) = (worker.free.clone(), BTreeSet::new(), BTreeMap::new());
        let mut picking = Self { scheduler, name, worker, free, picked, shares, heads: BinaryHeap::new() };
        if picking.free.has_slot() {
            let queues = scheduler.queues.queues.keys().filter(|(_, class)| worker.could_run[*class as usize]);
            picking.heads = queues.filter_map(|(run, class)| picking.head(*run, *class)).map(Reverse).collect();
        }
        picking
    }

    /// The first task of a queue with its current order.
    fn head(&self, run: RunIndex, class: u32) -> Option<Head> {
        let place = self.choose(self.scheduler.queues.queues.get(&(run, class))?, class)?;
        let known = &self.scheduler.runs[run as usize];
        let under_way = known.counts.leased + self.shares.get(&run).copied().unwrap_or(0);
        Some(Head { priority: Reverse(known.priority), under_way, place, run, class })
    }

    /// Picks the next task and its parts of GPUs: among the first tasks, the one whose inputs
    /// the worker has.
    ///
    /// A task that lacks nothing but slots keeps the tasks behind it waiting; otherwise narrow
    /// tasks would keep it waiting for ever. A task that lacks a GPU does not: tasks that need
    /// no GPU go on beside it.
    pub(super) fn next(&mut self) -> Option<(Id, Vec<GpuPart>)> {
        if !self.free.has_slot() {
            return None;
        }
        loop {
            let Reverse(top) = self.heads.pop()?;
            let Some(head) = self.head(top.run, top.class) else { continue };
            if head > top {
                self.heads.push(Reverse(head));
                continue;
            }
            let wanted = &self.scheduler.classes.known[head.class as usize].resources;
            match self.free.allot(&self.worker.offer, wanted) {
                None if self.free.lacks_slots(wanted) => {
                    self.heads.push(Reverse(head));
                    return None;
                }
                None => {}
                Some(parts) => {
                    let (_, id) = head.place;
                    self.free.take(wanted, &parts);
                    self.picked.insert(id);
                    *self.shares.entry(head.run).or_default() += 1;
                    self.heads.push(Reverse(head));
                    return Some((id, parts));
                }
            }
        }
    }

    fn choose(&self, queue: &BTreeSet<Place>, class: u32) -> Option<Place> {
        let mut heads = queue.iter().filter(|(_, id)| !self.picked.contains(id) && !self.avoids(*id, class));
        let first = *heads.next()?;
        let mut best = (self.has(first.1), first);
        for place in heads.take(CHOICE_MAX - 1).take_while(|place| place.0 == first.0) {
            let has = self.has(place.1);
            if has > best.0 {
                best = (has, *place);
            }
        }
        Some(best.1)
    }

    /// Number of the task's inputs that the worker has already.
    fn has(&self, id: Id) -> usize {
        let entry = &self.scheduler.tasks[id as usize];
        let inputs = entry.needs.iter().filter(|need| self.worker.has.contains(need)).count();
        let checkpoint = entry.task.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.worker == *self.name);
        inputs + usize::from(checkpoint)
    }

    /// Whether the task failed on this worker and could be tried on another.
    fn avoids(&self, id: Id, class: u32) -> bool {
        let failed_on = &self.scheduler.tasks[id as usize].task.failed_on;
        failed_on.contains(self.name)
            && self.scheduler.workers.iter().any(|(name, worker)| {
                worker.takes_work() && worker.could_run[class as usize] && !failed_on.contains(name)
            })
    }
}
