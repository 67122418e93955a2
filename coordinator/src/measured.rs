//! How long the tasks of studies took, for estimates of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::id::RunId;
use domain::runner::scheduler::Run;
use domain::runner::work::Work;
use domain::study::plan::rates::Measurement;
use domain::study::plan::{self, cost};

use crate::history::Attempt;
use crate::reactor::Knowledge;

/// Most runs that are looked through for studies: those submitted last.
const RUNS: usize = 1000;

/// Most studies whose tasks are told of.
const STUDIES: usize = 4;

/// Most tasks of a study that is planned again.
const PLANNED: usize = 20_000;

/// Most tasks of each stage of one study that are told of.
pub(crate) const TASKS: u32 = 100;

/// What there is to be told of.
pub(crate) struct Question {
    studies: Vec<(RunId, Arc<Work>)>,
    /// Names of the workers that are connected.
    workers: BTreeSet<String>,
    /// Slots of those of them that get work.
    pub(crate) slots: u32,
}

impl Question {
    pub(crate) fn of(knowledge: &Knowledge) -> Self {
        let scheduler = &knowledge.scheduler;
        let is_told = |run: &&Run| {
            let has_finished = run.counts.committed > 0 && run.counts.total <= PLANNED;
            has_finished && matches!(*run.work, Work::Study { .. })
        };
        let studies = scheduler.runs().rev().take(RUNS).filter(is_told).take(STUDIES);
        let studies = studies.map(|run| (run.id, run.work.clone())).collect();
        let is_connected = |id| knowledge.sessions.get(id).is_some_and(|session| session.is_connected());
        let connected = || scheduler.workers().filter(|(id, _)| is_connected(id)).map(|(_, worker)| worker);
        let working = connected().filter(|worker| !worker.draining && worker.quarantined.is_none());
        Self {
            studies,
            workers: connected().map(|worker| worker.name.clone()).collect(),
            slots: working.fold(0, |slots: u32, worker| slots.saturating_add(worker.offer.slots)),
        }
    }

    /// The runs whose attempts the answer needs, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = RunId> {
        self.studies.iter().map(|(run, _)| *run)
    }

    /// What the attempts of each run say: those of the workers that are connected, or all if
    /// these have none.
    pub(crate) fn answer(&self, finished: &[Vec<Attempt>]) -> Vec<Measurement> {
        let mut measured = BTreeMap::new();
        for ((_, work), attempts) in self.studies.iter().zip(finished) {
            let Work::Study { experiment, data } = &**work else { continue };
            // What an older version planned may be no study any more.
            let Ok(plan) = plan::plan(experiment, data) else { continue };
            let flops = plan.tasks.iter().zip(cost::flops(&plan));
            let flops: BTreeMap<_, _> = flops.map(|(task, flop)| (task.key, (task.stage.kind(), flop))).collect();
            for attempt in attempts {
                let (Some(&(stage, flop)), Some(end)) = (flops.get(&attempt.task), &attempt.end) else { continue };
                let seconds = (end.at_ms - attempt.granted_ms).max(0) as f64 / 1e3;
                // Studies share tasks.
                measured.insert(attempt.token, (&attempt.worker, Measurement { stage, flop, seconds }));
            }
        }
        let of = |is_told: &dyn Fn(&String) -> bool| -> Vec<Measurement> {
            measured.values().filter(|(worker, _)| is_told(worker)).map(|(_, measured)| *measured).collect()
        };
        let here = of(&|worker| self.workers.contains(worker));
        if here.is_empty() { of(&|_| true) } else { here }
    }
}
