//! Who is there, what it has, what it holds.

use std::collections::{BTreeSet, VecDeque};

use super::Id;
use super::queue::Classes;
use crate::digest::Digest;
use crate::resources::{Free, GpuPart, Offer, Resources};
use crate::task::FencingToken;

/// Results that a worker is remembered to have.
const REMEMBERED_MAX: usize = 256;

/// A worker as long as it is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// For people.
    pub name: String,
    /// What it has.
    pub offer: Offer,
    /// It gets no more work; what it runs it may end.
    pub draining: bool,
    /// Why it gets no more work: it seems to be what makes tasks fail.
    pub quarantined: Option<String>,
    /// Its leases.
    pub(super) leases: BTreeSet<FencingToken>,
    /// The call that was answered with leases last.
    pub(super) last_request: u64,
    /// Tasks that failed fast on it since it last succeeded.
    pub(super) fast_failures: BTreeSet<Digest>,
    /// Tasks whose results it made or fetched, oldest first.
    pub(super) has: VecDeque<Id>,
    /// What it has left.
    pub(super) free: Free,
    /// Whether it could run tasks of each class if it were idle.
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
            last_request: 0,
            fast_failures: BTreeSet::new(),
            has: VecDeque::new(),
            could_run: vec![],
        };
        worker.learn(classes);
        worker
    }

    /// Whether it may get work.
    pub fn takes_work(&self) -> bool {
        !self.draining && self.quarantined.is_none()
    }

    /// Whether no leases have come of a call yet.
    pub fn is_new(&self, request: u64) -> bool {
        request > self.last_request
    }

    /// Number of its leases.
    pub fn leased(&self) -> usize {
        self.leases.len()
    }

    /// It said hello before: all but its offer stays.
    pub(super) fn take_over(&mut self, known: Worker) {
        let offer = std::mem::take(&mut self.offer);
        let (name, free, could_run) = (std::mem::take(&mut self.name), self.free.clone(), self.could_run.clone());
        *self = Worker { name, offer, free, could_run, ..known };
    }

    /// Looks at classes that it has not seen yet.
    pub(super) fn learn(&mut self, classes: &Classes) {
        for class in self.could_run.len()..classes.len() {
            self.could_run.push(classes.could_run(class, &self.offer));
        }
    }

    pub(super) fn begin(
        &mut self,
        token: FencingToken,
        request: u64,
        resources: &Resources,
        gpus: &[GpuPart],
        needs: &[Id],
    ) {
        self.leases.insert(token);
        self.last_request = request;
        self.free.take(resources, gpus);
        for need in needs {
            self.remember(*need);
        }
    }

    /// It has the result of that task.
    pub(super) fn remember(&mut self, id: Id) {
        if !self.has.contains(&id) {
            self.has.push_back(id);
        }
        if self.has.len() > REMEMBERED_MAX {
            self.has.pop_front();
        }
    }
}
