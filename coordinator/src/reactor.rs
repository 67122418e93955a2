//! The coordinator's state machine without thread, clock and disk: messages in, events and owed
//! answers out. [`Reactor::turn`] holds the rules of one turn. Both the driver and the
//! simulation run it.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::id::TaskKey;
use domain::resources::Offer;
use domain::runner::event::Event;
use domain::runner::registry::{self, Registry};
use domain::runner::scheduler::{Phase, Reject, Request, Scheduler};
use domain::runner::task::{FencingToken, Grant, GrantedInput, Lease, Released, Task, WorkerId};
use domain::study::plan::{Input, Source};
use domain::study::stage::Progress;
use tokio::sync::oneshot;

use crate::config::Patience;
use crate::history::{self, Row, Tail};
use crate::sessions::{Sessions, ToWorker};
use crate::telemetry::{Happened, Meter};
use crate::traces::Traces;

/// Time between two checks for silent workers.
pub const SWEEP: Duration = Duration::from_millis(200);

/// Everything that the coordinator knows.
#[derive(Debug)]
pub struct Knowledge {
    /// Tasks, runs, workers and leases.
    pub scheduler: Scheduler,
    /// Join tokens and identities.
    pub registry: Registry,
    /// The workers' connections.
    pub sessions: Sessions,
    /// The newest changes.
    pub tail: Tail,
}

/// One moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For timeouts: a monotonic clock, which nobody can set.
    pub instant: Instant,
    /// For people: milliseconds since 1970.
    pub ms: i64,
}

/// A read-only query that the driver runs against [`Knowledge`].
pub type Read = Box<dyn FnOnce(&Knowledge) + Send>;

/// A message to the reactor.
pub enum Message {
    /// Requests to decide one after the other, in one write.
    Requests(Vec<Request>, oneshot::Sender<Vec<Result<(), Reject>>>),
    /// A request about tokens or identities.
    Registry(registry::Request, oneshot::Sender<Result<(), registry::Reject>>),
    /// Asks for work for a worker; answered once there is some, or at the time `until`.
    Acquire {
        worker: WorkerId,
        /// Number of the call among the worker's calls.
        call: u64,
        /// Most leases to grant.
        max: u32,
        /// When to answer that there is no work.
        until: Instant,
        /// Receives the leases.
        reply: oneshot::Sender<Result<Vec<Grant>, Reject>>,
    },
    /// A query.
    Read(Read),
    /// A worker has connected.
    Open {
        worker: WorkerId,
        /// Display name, not necessarily unique.
        name: String,
        /// What the worker offers.
        offer: Offer,
        /// The channel of messages to the worker.
        commands: ToWorker,
        /// Receives the connection's number.
        reply: oneshot::Sender<u64>,
    },
    /// A worker's heartbeat: the attempts that the worker runs.
    Beat(WorkerId, Vec<(TaskKey, FencingToken, Progress)>),
    /// A worker's connection has ended.
    Close(WorkerId, u64),
    /// The coordinator is to end.
    End,
}

/// The outcome of one turn, which shares one write: the events go to disk, then
/// [`Reactor::answer`] gives the answers.
pub struct Turn {
    /// Number of the first event.
    first: u64,
    pub events: Vec<Event>,
    /// Changes of the tables that follow from the events.
    pub rows: Vec<Row>,
    /// What the metrics count once the events are on disk.
    pub happened: Vec<Happened>,
    /// Whether the coordinator was told to end after this turn.
    pub ends: bool,
    /// Answers that are given only after the events are on disk.
    owed: Vec<Read>,
    /// Whether something changed that watchers see and that is not in the journal.
    is_news: bool,
}

impl Turn {
    /// An empty turn whose events follow event number `last`.
    fn after(last: u64) -> Self {
        let (events, rows, happened, owed) = (vec![], vec![], vec![], vec![]);
        Self { first: last + 1, events, rows, happened, ends: false, owed, is_news: false }
    }
}

/// A waiting call for work.
struct Parked {
    worker: WorkerId,
    call: u64,
    max: u32,
    until: Instant,
    reply: oneshot::Sender<Result<Vec<Grant>, Reject>>,
}

/// The state machine with its connections.
pub struct Reactor {
    patience: Patience,
    knowledge: Knowledge,
    meter: Meter,
    traces: Traces,
    /// Waiting calls for work, oldest first.
    parked: VecDeque<Parked>,
    next_sweep: Instant,
    /// When the next turn has to take place without a message.
    due: Instant,
}

impl Reactor {
    /// Starts from the state of a journal or a snapshot. Workers from before are expected to
    /// reconnect.
    pub fn new(patience: Patience, mut knowledge: Knowledge, now: Now) -> Self {
        for (worker, _) in knowledge.scheduler.workers() {
            knowledge.sessions.expect(worker.clone(), now.instant);
        }
        let next_sweep = now.instant + SWEEP;
        let (parked, meter, traces) = (VecDeque::new(), Meter::default(), Traces::default());
        Self { patience, knowledge, meter, traces, parked, next_sweep, due: next_sweep }
    }

    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// When the next turn has to take place, unless a message comes before.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Takes one turn: handles the messages in their order, takes leases back from
    /// workers that are gone, and hands out work to waiting calls. The caller writes the
    /// events, which follow event number `last`, and then calls [`Reactor::answer`].
    pub fn turn(&mut self, now: Now, last: u64, messages: impl IntoIterator<Item = Message>) -> Turn {
        let late = now.instant.saturating_duration_since(self.due);
        if late > SWEEP {
            // The coordinator was stopped or held up, and heard no worker meanwhile.
            self.knowledge.sessions.forgive(late);
        }
        let mut turn = Turn::after(last);
        for message in messages {
            self.take(now, message, &mut turn);
        }
        if now.instant >= self.due {
            self.sweep(now, &mut turn);
            self.next_sweep = now.instant + SWEEP;
        }
        self.settle(now, &mut turn);
        self.due = self.next_deadline(now).map_or(self.next_sweep, |deadline| deadline.min(self.next_sweep));
        turn
    }

    /// Gives the answers of a turn whose events are on disk. Returns whether the turn changed
    /// something that watchers see.
    pub fn answer(&self, turn: Turn) -> bool {
        for owed in turn.owed {
            owed(&self.knowledge);
        }
        turn.is_news || !turn.events.is_empty()
    }

    /// Handles one message.
    fn take(&mut self, now: Now, message: Message, turn: &mut Turn) {
        match message {
            Message::Requests(requests, reply) => {
                let decided = requests.into_iter().map(|request| self.request(now, request, turn)).collect();
                // A caller that has gone away needs no reply.
                turn.owed.push(Box::new(move |_| drop(reply.send(decided))));
            }
            Message::Registry(request, reply) => {
                let decided = self.knowledge.registry.decide(now.ms, request).map(|events| {
                    for event in events.into_iter().map(Event::Registry) {
                        self.note(now, event, turn);
                    }
                });
                // A caller that has gone away needs no reply.
                turn.owed.push(Box::new(move |_| drop(reply.send(decided))));
            }
            Message::Acquire { worker, call, max, until, reply } => {
                // A worker waits in one place.
                self.parked.retain(|parked| parked.worker != worker);
                self.acquire(now, Parked { worker, call, max, until, reply }, turn);
            }
            Message::Read(read) => turn.owed.push(read),
            Message::Open { worker, name, offer, commands, reply } => {
                self.decide(now, Request::Join { worker: worker.clone(), name, offer }, turn);
                let number = self.knowledge.sessions.open(worker.clone(), commands, now.instant);
                turn.is_news = true;
                turn.owed.push(Box::new(move |knowledge| {
                    // A caller that has gone away needs no reply.
                    let _ = reply.send(number);
                    if knowledge.scheduler.worker(&worker).is_ok_and(|known| known.draining)
                        && let Some(session) = knowledge.sessions.get(&worker)
                    {
                        session.drain();
                    }
                }));
            }
            Message::Beat(worker, attempts) => self.beat(now, &worker, attempts, turn),
            Message::Close(worker, number) => {
                self.knowledge.sessions.close(&worker, number, now.instant);
                turn.is_news = true;
            }
            Message::End => turn.ends = true,
        }
    }

    /// Hands out available work to the waiting calls, oldest call first.
    fn settle(&mut self, now: Now, turn: &mut Turn) {
        for parked in std::mem::take(&mut self.parked) {
            if parked.reply.is_closed() {
                continue;
            }
            if !self.knowledge.scheduler.has_work() && now.instant < parked.until {
                self.parked.push_back(parked);
                continue;
            }
            self.acquire(now, parked, turn);
        }
    }

    /// Takes leases back from workers that are gone.
    fn sweep(&mut self, now: Now, turn: &mut Turn) {
        let mut gone = vec![];
        let mut lost = vec![];
        for (worker, session) in self.knowledge.sessions.iter() {
            if session.silence(now.instant) > self.patience.lease_ttl {
                gone.push(worker.clone());
            } else if session.is_broken() {
                let is_over = |lease: &Lease| session.silence(now.instant) > self.patience_with(lease, now);
                let over = self.knowledge.scheduler.leases_of(worker).filter(|(_, lease)| is_over(lease));
                lost.extend(over.map(|(task, lease)| (task.spec.key, lease.token)));
            } else {
                let forgotten = session.forgotten(self.patience.lease_ttl, now.instant);
                let leases = forgotten.filter_map(|token| self.knowledge.scheduler.lease(token));
                lost.extend(leases.map(|(task, lease)| (task.spec.key, lease.token)));
            }
        }
        // A journal of before workers were noted names some that nobody expects.
        for (task, lease) in self.knowledge.scheduler.leases() {
            if self.knowledge.scheduler.worker(&lease.worker).is_err() {
                lost.push((task.spec.key, lease.token));
            }
        }
        for (task, token) in lost {
            self.decide(now, Request::Release { task, token, why: Released::Lost }, turn);
        }
        for worker in gone {
            tracing::warn!(%worker, "worker is gone");
            self.decide(now, Request::Leave { worker: worker.clone() }, turn);
            self.knowledge.sessions.remove(&worker);
            turn.is_news = true;
        }
    }

    /// The latest time at which [`Reactor::sweep`] has something to do because of a broken
    /// connection.
    fn next_deadline(&self, now: Now) -> Option<Instant> {
        let broken = self.knowledge.sessions.iter().filter(|(_, session)| session.is_broken());
        let waits = broken.flat_map(|(worker, session)| {
            self.knowledge.scheduler.leases_of(worker).map(|(_, lease)| {
                let left = self.patience_with(lease, now).saturating_sub(session.silence(now.instant));
                now.instant + left + Duration::from_millis(1)
            })
        });
        waits.min()
    }

    /// How long a worker whose connection broke may stay away before others get its task. A
    /// killed process closes its connections, and so does a restarting router: the longer the
    /// worker has worked on the task, the longer the wait.
    fn patience_with(&self, lease: &Lease, now: Now) -> Duration {
        let worked_ms = u64::try_from(now.ms - lease.granted_ms).unwrap_or(0);
        let worth = Duration::from_millis(worked_ms / self.patience.worth_waiting);
        worth.clamp(self.patience.reattach.min(self.patience.lease_ttl), self.patience.lease_ttl)
    }

    fn acquire(&mut self, now: Now, parked: Parked, turn: &mut Turn) {
        let request = Request::Acquire { worker: parked.worker.clone(), call: parked.call, max: parked.max };
        let decided = self.request(now, request, turn);
        let grants = decided.map(|()| self.grants(&parked.worker, parked.call));
        // One that leases came of before, which are over, waits for nothing.
        let is_open = self.knowledge.scheduler.worker(&parked.worker).is_ok_and(|worker| worker.is_new(parked.call));
        match grants {
            Ok(grants) if grants.is_empty() && is_open && now.instant < parked.until => self.parked.push_back(parked),
            // A caller that has gone away asks again.
            answer => turn.owed.push(Box::new(move |_| drop(parked.reply.send(answer)))),
        }
    }

    /// The leases granted to a call, with the artifacts of their inputs.
    fn grants(&mut self, worker: &WorkerId, call: u64) -> Vec<Grant> {
        let (scheduler, traces) = (&self.knowledge.scheduler, &mut self.traces);
        let artifact = |source: Source| match source {
            Source::Artifact(artifact) => Some(artifact),
            Source::Task(key) => scheduler.task(key).ok()?.artifact(),
        };
        let input = |(name, input): (&str, &Input)| {
            Some(GrantedInput { name: name.to_owned(), artifact: artifact(input.from)?, only: input.only.clone() })
        };
        let grant = |(task, lease): (&Task, &Lease)| {
            let mut runs = scheduler.runs_of(task.spec.key);
            let run = runs.find(|run| run.phase == Phase::Active).map(|run| run.id);
            Some(Grant {
                task: task.spec.key,
                token: lease.token,
                attempt: lease.attempt,
                subject: task.spec.subject.clone(),
                stage: task.spec.stage.clone(),
                version: task.spec.version,
                slots: task.spec.resources.slots,
                memory_mib: task.spec.resources.memory_mib,
                seed: task.spec.seed,
                inputs: task.spec.inputs.iter().map(input).collect::<Option<_>>()?,
                gpus: lease.gpus.clone(),
                checkpoint: task.checkpoint.as_ref().map(|checkpoint| checkpoint.artifact),
                run,
                traceparent: traces.lease(task, lease, run),
            })
        };
        scheduler.leases_for(worker, call).filter_map(grant).collect()
    }

    /// Notes what a worker runs, and stops attempts whose leases are over.
    fn beat(&mut self, now: Now, worker: &WorkerId, attempts: Vec<(TaskKey, FencingToken, Progress)>, turn: &mut Turn) {
        let Knowledge { scheduler, sessions, .. } = &mut self.knowledge;
        if let Some(session) = sessions.get(worker) {
            for (task, token, _) in &attempts {
                match scheduler.lease(*token) {
                    Some((known, lease)) if known.spec.key == *task && lease.worker == *worker => {
                        if !scheduler.is_awaited(*token) {
                            session.preempt(*task, *token);
                        }
                    }
                    _ => session.stop(*task, *token),
                }
            }
        }
        let held: Vec<FencingToken> = scheduler.leases_of(worker).map(|(_, lease)| lease.token).collect();
        let progress = attempts.into_iter().map(|(_, token, progress)| (token, progress)).collect();
        turn.is_news |= sessions.beat(worker, &held, progress, now.instant);
    }

    /// Decides a request, applies its events, and tells workers whose attempts have ended.
    fn request(&mut self, now: Now, request: Request, turn: &mut Turn) -> Result<(), Reject> {
        let drained = match &request {
            Request::Drain { worker } => Some(worker.clone()),
            _ => None,
        };
        let decided = self.knowledge.scheduler.decide(now.ms, request)?;
        let cancels = |event: &Event| {
            matches!(
                event,
                Event::RunCancelled { .. }
                    | Event::RunPaused { .. }
                    | Event::TasksPruned { .. }
                    | Event::ResultsInvalidated { .. }
            )
        };
        let before: Vec<(WorkerId, TaskKey, FencingToken)> = if decided.iter().any(cancels) {
            let leases = self.knowledge.scheduler.leases();
            leases.map(|(task, lease)| (lease.worker.clone(), task.spec.key, lease.token)).collect()
        } else {
            vec![]
        };
        for event in decided {
            self.note(now, event, turn);
        }
        for (worker, task, token) in before {
            let Some(session) = self.knowledge.sessions.get(&worker) else { continue };
            if self.knowledge.scheduler.lease(token).is_none() {
                session.stop(task, token);
            } else if !self.knowledge.scheduler.is_awaited(token) {
                session.preempt(task, token);
            }
        }
        if let Some(worker) = drained
            && let Some(session) = self.knowledge.sessions.get(&worker)
        {
            session.drain();
        }
        Ok(())
    }

    /// Adds an event to the turn and applies it.
    fn note(&mut self, now: Now, event: Event, turn: &mut Turn) {
        let Knowledge { scheduler, registry, tail, .. } = &mut self.knowledge;
        let number = turn.first + turn.events.len() as u64;
        let rows = history::rows(number, now.ms, &event, scheduler);
        tail.note(number, &rows, scheduler);
        turn.happened.extend(self.meter.before(&event, &rows, scheduler, now.ms));
        if let Event::Registry(event) = &event {
            registry.apply(event);
        }
        scheduler.apply(&event);
        self.meter.after(&event, scheduler, now.ms);
        self.traces.follow(&rows);
        turn.rows.extend(rows);
        turn.events.push(event);
    }

    /// Decides a request that the reactor itself makes; see [`Reactor::request`].
    fn decide(&mut self, now: Now, request: Request, turn: &mut Turn) {
        if let Err(reject) = self.request(now, request, turn) {
            tracing::error!(%reject, "a request of the coordinator's own was refused");
        }
    }
}
