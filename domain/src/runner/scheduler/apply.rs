//! The changes of the state by events.

use std::sync::Arc;

use super::run::RunIndex;
use super::worker::Worker;
use super::{ENDED_MAX, Ended, Entry, Id, Phase, Run, Scheduler};
use crate::id::{RunId, TaskKey};
use crate::runner::event::Event;
use crate::runner::registry::IdentityId;
use crate::runner::task::{Checkpoint, FencingToken, Lease, Released, State, Task};
use crate::runner::work::Work;
use crate::study::plan::TaskSpec;
use crate::study::stage::Failure;
use crate::text::cut;

impl Scheduler {
    /// Applies an event.
    #[expect(clippy::too_many_lines, reason = "a table of arms, each of which fits the eye")]
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::RunSubmitted { run, work, tasks, more, priority, by } => {
                let id = self.begin_run(*run, work, *priority, by.as_ref());
                self.runs[id as usize].announce(tasks.len().saturating_add(*more as usize));
                self.keep(by.as_ref(), work.weight(), tasks);
                self.add_tasks(id, tasks);
            }
            Event::RunSubmittedAgain { run } => {
                if let Some(id) = self.run_ids.get(run).copied() {
                    self.put_last(id);
                    let known = &mut self.runs[id as usize];
                    known.cached = known.counts.committed;
                }
            }
            Event::TasksAdded { run, tasks, by } => {
                self.keep(by.as_ref(), 0, tasks);
                if let Some(id) = self.run_ids.get(run) {
                    self.add_tasks(*id, tasks);
                }
            }
            Event::LeaseGranted { task, worker, token, attempt, call, at_ms, gpus } => {
                let Some(id) = self.ids.get(task) else { return };
                self.last_token = self.last_token.max(token.0);
                self.tasks[id as usize].task.attempts = attempt.0;
                if let Some(worker) = self.workers.get_mut(worker) {
                    let entry = &self.tasks[id as usize];
                    worker.begin(*token, *call, &entry.task.spec.resources, gpus, &entry.needs);
                }
                let lease = Lease {
                    worker: worker.clone(),
                    token: *token,
                    attempt: *attempt,
                    call: *call,
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
                entry.task.had = None;
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
            Event::ResultsInvalidated { tasks } => {
                self.invalidate(tasks);
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
            Event::WorkerLeft { worker } => {
                self.workers.remove(worker);
            }
            Event::WorkerDraining { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.draining = true;
                }
            }
            Event::WorkerQuarantined { worker, why } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    // Older versions quoted failures in full.
                    worker.quarantined = Some(cut(why, Failure::MESSAGE_MAX));
                }
            }
            Event::WorkerReadmitted { worker } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    (worker.draining, worker.quarantined) = (false, None);
                    worker.fast_failures.clear();
                }
            }
            // Each of them may have granted one lease.
            Event::HistoryLost { events } => self.last_token = self.last_token.saturating_add(*events),
            Event::Registry(_) => {}
        }
    }

    fn begin_run(&mut self, run: RunId, work: &Work, priority: i32, by: Option<&IdentityId>) -> RunIndex {
        let id = *self.run_ids.entry(run).or_insert(self.runs.len() as RunIndex);
        if id as usize == self.runs.len() {
            self.runs.push(Run { by: by.cloned(), ..Run::new(run, Arc::new(work.clone())) });
        }
        self.put_last(id);
        let known = &mut self.runs[id as usize];
        (known.phase, known.priority, known.cached) = (Phase::Active, priority, known.counts.committed);
        for task in known.tasks.clone() {
            self.requeue(task);
        }
        id
    }

    /// Adds to the weight of what an identity has submitted.
    fn keep(&mut self, by: Option<&IdentityId>, work: u64, tasks: &[Arc<TaskSpec>]) {
        if let Some(by) = by {
            let weight = work + tasks.iter().map(|spec| spec.weight()).sum::<u64>();
            *self.kept.entry(by.clone()).or_default() += weight;
        }
    }

    /// Makes a run the one that was submitted last.
    fn put_last(&mut self, run: RunIndex) {
        self.run_order.retain(|known| *known != run);
        self.run_order.push(run);
    }

    /// Adds tasks to a run, and gives those that ended without a result a new chance. Their
    /// specs are replaced by the new ones, since how a task is computed is not part of its key.
    fn add_tasks(&mut self, run: RunIndex, specs: &[Arc<TaskSpec>]) {
        let mut before = self.tasks.last().map(|entry| entry.task.spec.clone());
        for spec in specs {
            // A journal has arguments for each task of an array.
            let mut spec = spec.clone();
            if let Some(before) = before.as_ref().filter(|before| spec.repeats(before)) {
                Arc::make_mut(&mut spec).share(before);
            }
            let spec = &*before.insert(spec);
            let id = self.ids.get(&spec.key).unwrap_or_else(|| self.add(spec));
            if !self.tasks[id as usize].runs.contains(&run) {
                self.tasks[id as usize].runs.push(run);
                let known = &mut self.runs[run as usize];
                known.tasks.push(id);
                known.count(id, &self.tasks[id as usize].task);
                known.cached += usize::from(self.tasks[id as usize].task.artifact().is_some());
            }
            match self.tasks[id as usize].task.state {
                State::Committed { .. } => {}
                State::Failed(_) | State::Cancelled | State::Pruned => {
                    let class = self.classes.of(spec);
                    for worker in self.workers.values_mut() {
                        worker.learn(&self.classes);
                    }
                    self.ids.relabel(&self.tasks[id as usize].task.spec, spec, id);
                    (self.tasks[id as usize].class, self.tasks[id as usize].task.spec) = (class, spec.clone());
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

    pub(super) fn add(&mut self, spec: &Arc<TaskSpec>) -> Id {
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
            had: None,
        };
        self.ids.insert(spec, id);
        self.stages.entry(spec.stage.kind()).or_default().add(&task.state);
        self.tasks.push(Entry { task, class, needs, dependents: vec![], runs: vec![] });
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

    /// Takes results back. Tasks that read one of them wait for it again, including leased
    /// ones.
    fn invalidate(&mut self, tasks: &[TaskKey]) {
        let mut taken_back = vec![];
        for id in tasks.iter().filter_map(|task| self.ids.get(task)) {
            let task = &mut self.tasks[id as usize].task;
            if let Some(artifact) = task.artifact() {
                task.had = Some(artifact);
                (task.failures, task.losses) = (0, 0);
                taken_back.push(id);
            }
        }
        for id in &taken_back {
            // None of them is an input of another any more.
            self.set_state(*id, State::Cancelled);
        }
        for id in taken_back {
            let next = self.open_state(id);
            self.set_state(id, next);
            for dependent in self.tasks[id as usize].dependents.clone() {
                let task = &self.tasks[dependent as usize].task;
                if !task.is_open() {
                    continue;
                }
                if let Some(token) = task.lease().map(|lease| lease.token) {
                    self.end_lease(dependent, token);
                }
                let next = self.open_state(dependent);
                self.set_state(dependent, next);
            }
        }
    }

    /// Notes that one more input of a task exists.
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

    fn set_phase(&mut self, run: RunId, phase: Phase) {
        let Some(run) = self.run_ids.get(&run).copied() else { return };
        self.runs[run as usize].phase = phase;
        for id in self.runs[run as usize].tasks.clone() {
            self.requeue(id);
        }
    }

    /// Ends the current lease of a task; returns its worker, if that is still there.
    fn end_lease(&mut self, id: Id, token: FencingToken) -> Option<&mut Worker> {
        self.leases.remove(&token);
        let task = &mut self.tasks[id as usize].task;
        task.last_ended = Some(token);
        let lease = task.lease()?;
        self.ended.push_back(Ended { token, task: id, worker: lease.worker.clone() });
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
        let worker = self.workers.get_mut(&lease.worker)?;
        if worker.leases.remove(&token) {
            worker.free.give(&task.spec.resources, &lease.gpus);
        }
        Some(worker)
    }

    /// Changes the state of a task. No other place does, so that the indexes follow every
    /// change.
    fn set_state(&mut self, id: Id, state: State) {
        self.recount(id, &state);
        let entry = &mut self.tasks[id as usize];
        for run in &entry.runs {
            self.runs[*run as usize].recount(id, &entry.task, &state);
        }
        if let State::Leased(lease) = &state {
            self.leases.insert(lease.token, id);
        }
        entry.task.state = state;
        self.requeue(id);
    }

    /// Updates the counts of the task's stage for a change of state.
    pub(super) fn recount(&mut self, id: Id, next: &State) {
        let task = &self.tasks[id as usize].task;
        self.stages.entry(task.spec.stage.kind()).or_default().change(&task.state, next);
    }

    /// Moves a task to the queue where it belongs, if any.
    pub(super) fn requeue(&mut self, id: Id) {
        let entry = &self.tasks[id as usize];
        let run = if entry.task.state == State::Ready { self.active_run(id) } else { None };
        self.queues.put(id, run, entry.class, entry.task.spec.chain_mflop);
    }
}
