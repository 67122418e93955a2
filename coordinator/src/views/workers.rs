//! How workers stand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domain::resources::Gpu;
use domain::runner::task::WorkerId;

use super::tasks::AttemptView;
use crate::reactor::Knowledge;

/// How a worker stands, which is connected or whose leases still run.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    pub id: WorkerId,
    /// Display name, not necessarily unique.
    pub name: String,
    pub is_connected: bool,
    /// Whether it was told to end what it runs and to leave.
    pub is_draining: bool,
    /// Why it gets no work; none if it does.
    pub quarantined: Option<String>,
    /// Time since it was heard last, or since its connection broke.
    pub silence: Duration,
    /// Number of attempts of one slot each that it runs at once.
    pub slots: u32,
    pub gpus: Vec<Gpu>,
    /// Main memory for attempts in MiB; 0 if unlimited.
    pub memory_mib: u64,
    pub labels: BTreeMap<String, String>,
    /// What it runs.
    pub attempts: Vec<AttemptView>,
}

impl WorkerView {
    /// How all workers stand at a time.
    pub fn all(knowledge: &Knowledge, now: Instant) -> Vec<Self> {
        let workers = knowledge.scheduler.workers().map(|(id, worker)| {
            let session = knowledge.sessions.get(id);
            let leases = knowledge.scheduler.leases_of(id);
            Self {
                id: id.clone(),
                name: worker.name.clone(),
                is_connected: session.is_some_and(|session| session.is_connected()),
                is_draining: worker.draining,
                quarantined: worker.quarantined.clone(),
                silence: session.map_or(Duration::ZERO, |session| session.silence(now)),
                slots: worker.offer.slots,
                gpus: worker.offer.gpus.clone(),
                memory_mib: worker.offer.memory_mib,
                labels: worker.offer.labels.clone(),
                attempts: leases.map(|(task, lease)| AttemptView::of(knowledge, task, lease)).collect(),
            }
        });
        workers.collect()
    }
}
