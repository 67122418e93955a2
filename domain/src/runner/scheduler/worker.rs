//! Workers: their offers and their leases.

use std::collections::{BTreeSet, VecDeque};

use super::Id;
use super::queue::Classes;
use crate::id::TaskKey;
use crate::resources::{Free, GpuPart, Offer, Resources};
use crate::runner::task::FencingToken;

/// Most results that a worker is remembered to have.
const REMEMBERED_MAX: usize = 256;

/// A worker that has joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Display name, not necessarily unique.
    pub name: String,
    pub offer: Offer,
    /// Whether the worker gets no more work; it may finish what it runs.
    pub draining: bool,
    /// Why the worker gets no more work: it seems to be what makes tasks fail. None if not
    /// quarantined.
    pub quarantined: Option<String>,
    /// Fencing tokens of the worker's leases.
    pub(super) leases: BTreeSet<FencingToken>,
    /// Number of the worker's last call that was answered with leases.
    pub(super) last_call: u64,
    /// Tasks that failed fast on the worker since its last success.
    pub(super) fast_failures: BTreeSet<TaskKey>,
    /// Tasks whose results the worker made or fetched, oldest first.
    pub(super) has: VecDeque<Id>,
    /// The unused part of the worker's offer.
    pub(super) free: Free,
    /// For each class of demands, whether the worker could run its tasks if idle.
    pub(super) could_run: Vec<bool>,
}

impl Worker {
    pub(super) fn new(name: String, offer: Offer, classes: &Classes) -> Self {
        let mut worker = Self {
            name,
            free: Free::of(&offer),
            offer,
            draining: false,
            quarantined: None,
            leases: BTreeSet::new(),
            last_call: 0,
            fast_failures: BTreeSet::new(),
            has: VecDeque::new(),
            could_run: vec![],
        };
        worker.learn(classes);
        worker
    }

    /// Whether the worker may get work.
    pub fn takes_work(&self) -> bool {
        !self.draining && self.quarantined.is_none()
    }

    /// Whether the call has not been answered with leases yet.
    pub fn is_new(&self, call: u64) -> bool {
        call > self.last_call
    }

    /// Number of the worker's leases.
    pub fn leased(&self) -> usize {
        self.leases.len()
    }

    /// Takes over everything but the offer from an earlier registration of the worker.
    pub(super) fn take_over(&mut self, known: Worker) {
        let offer = std::mem::take(&mut self.offer);
        let (name, free, could_run) = (std::mem::take(&mut self.name), self.free.clone(), self.could_run.clone());
        *self = Worker { name, offer, free, could_run, ..known };
    }

    /// Checks the classes of demands that are new to the worker.
    pub(super) fn learn(&mut self, classes: &Classes) {
        for class in self.could_run.len()..classes.len() {
            self.could_run.push(classes.could_run(class, &self.offer));
        }
    }

    pub(super) fn begin(
        &mut self,
        token: FencingToken,
        call: u64,
        resources: &Resources,
        gpus: &[GpuPart],
        needs: &[Id],
    ) {
        self.leases.insert(token);
        self.last_call = call;
        self.free.take(resources, gpus);
        for need in needs {
            self.remember(*need);
        }
    }

    /// Notes that the worker has the result of a task.
    pub(super) fn remember(&mut self, id: Id) {
        if !self.has.contains(&id) {
            self.has.push_back(id);
        }
        if self.has.len() > REMEMBERED_MAX {
            self.has.pop_front();
        }
    }
}
