//! One seed's world: what happens, when, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use coordinator::config::Patience;
use coordinator::history::Tail;
use coordinator::journal::mark::Refusal;
use coordinator::reactor::{self, Knowledge, Now, Reactor};
use coordinator::sessions::{self, Sessions};
use domain::digest::Digest;
use domain::id::{ArtifactId, TaskKey};
use domain::resources::Offer;
use domain::runner::command::{self, CommandSpec, Commands};
use domain::runner::event::Event;
use domain::runner::registry::Registry;
use domain::runner::scheduler::{Phase, Reject, Request, Scheduler};
use domain::runner::task::{FencingToken, Grant, Released, WorkerId};
use domain::runner::work::Work;
use domain::study::plan::Plan;
use domain::study::stage::{Failure, FailureCode, Progress};
use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::invariants::Invariants;
use super::worker::{End, Worker};
use crate::harness::dice::Dice;

/// Steps of a world with faults.
const TROUBLED: u64 = 250;

/// Most steps until everything has to be done once the faults have stopped.
const HEALING: u64 = 4_000;

/// Milliseconds of one step.
const STEP_MS: u64 = 20;

/// Events that are taken to be lost if the mark cannot tell; more than a world has.
const LOST_AT_MOST: u64 = 1_000_000;

/// Workers at most.
const WORKERS: usize = 3;

const PATIENCE: Patience = Patience {
    heartbeat: Duration::from_millis(100),
    lease_ttl: Duration::from_millis(400),
    reattach: Duration::from_millis(60),
    worth_waiting: 2,
};

/// The patience of a coordinator that never takes a lease back.
const ENDLESS: Patience =
    Patience { lease_ttl: Duration::from_secs(86_400), reattach: Duration::from_secs(86_400), ..PATIENCE };

/// Something on its way to the coordinator.
#[derive(Clone)]
enum Message {
    Open(WorkerId),
    Beat(WorkerId, Vec<(TaskKey, FencingToken, Progress)>),
    Close(WorkerId, u64),
    Acquire(WorkerId, u64),
    End(WorkerId, TaskKey, FencingToken, End),
    Checkpoint(TaskKey, FencingToken, u64),
    Submit(usize),
    /// The second part of a submission.
    AddTasks(usize),
    Pause(usize),
    Resume(usize),
    Drain(WorkerId),
}

/// What was decided of requests, once it is.
type Decided = oneshot::Receiver<Vec<Result<(), Reject>>>;

/// Something that the coordinator owes an answer to.
enum Owed {
    Number(WorkerId, oneshot::Receiver<u64>, mpsc::Receiver<Result<sessions::Message, tonic::Status>>),
    Grants(WorkerId, u64, oneshot::Receiver<Result<Vec<Grant>, Reject>>),
    End(WorkerId, FencingToken, Decided),
    Nothing(Decided),
}

/// Something wrong on purpose, that the invariants have to find.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// The coordinator takes results under any lease.
    TakesOldLeases,
    /// The journal loses what was answered.
    LosesBatches,
    /// A worker names results whose files it did not store.
    NamesMissingFiles,
    /// The coordinator leaves leases to workers that are gone.
    KeepsLostLeases,
    /// The coordinator serves whatever the disk has left of the journal.
    ServesShorter,
    /// What was lost with the disk is granted again.
    ForgetsLostGrants,
}

pub(super) struct World {
    fault: Option<Fault>,
    /// Whether all that must hold is looked at after each step, not only what is
    /// journaled: thorough and slow.
    thorough: bool,
    dice: Dice,
    troubled: bool,
    start: Instant,
    /// Milliseconds since the beginning.
    clock: u64,
    /// What people have done to the wall clock.
    skew: i64,
    reactor: Option<Reactor>,
    /// What was written to the disk.
    journal: Vec<Event>,
    disk: Disk,
    /// Events that somebody was told of.
    acknowledged: u64,
    invariants: Invariants,
    /// Files that are stored.
    stored: BTreeSet<ArtifactId>,
    /// On their way, by the time at which they arrive.
    network: BTreeMap<(u64, u64), Message>,
    sent: u64,
    owed: Vec<Owed>,
    workers: Vec<Worker>,
    born: u64,
    plans: Vec<Plan>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let plans = (0..2).map(|number| plan(number, 2 + dice.below(4))).collect();
        Self {
            fault: None,
            thorough: seed.is_multiple_of(8),
            dice,
            troubled: true,
            start: Instant::now(),
            clock: 0,
            skew: 0,
            reactor: None,
            journal: vec![],
            disk: Disk::new(),
            acknowledged: 0,
            invariants: Invariants::default(),
            stored: BTreeSet::new(),
            network: BTreeMap::new(),
            sent: 0,
            owed: vec![],
            workers: vec![],
            born: 0,
            plans,
        }
    }

    /// A world in which something is wrong.
    pub(super) fn with(fault: Fault, seed: u64) -> Self {
        Self { fault: Some(fault), ..Self::new(seed) }
    }

    /// Lives through its troubles and has to end well.
    pub(super) fn live(mut self) {
        self.restart();
        self.send(Message::Submit(0));
        for _ in 0..TROUBLED {
            self.trouble();
            self.step();
        }
        self.troubled = false;
        self.skew = 0;
        for run in 0..self.plans.len() {
            // What was given up or cancelled gets another chance, what was paused goes on.
            self.send(Message::Submit(run));
            self.send(Message::Resume(run));
        }
        for step in 0.. {
            assert!(step < HEALING, "not everything came to its end: {}", self.report());
            if self.reactor.is_none() {
                self.restart();
            }
            self.step();
            if self.is_done() {
                break;
            }
            if step % 200 == 199 {
                (0..self.plans.len()).for_each(|run| self.send(Message::Submit(run)));
            }
        }
        let tasks: BTreeSet<TaskKey> =
            self.plans.iter().flat_map(|plan| plan.tasks.iter().map(|task| task.key)).collect();
        assert_eq!(self.invariants.commits, tasks.len(), "one result for each task");
        let scheduler = &self.reactor.as_ref().unwrap().knowledge().scheduler;
        scheduler.check();
        let mut replayed = Scheduler::default();
        self.journal.iter().for_each(|event| replayed.apply(event));
        assert!(replayed == *scheduler, "the journal says what is");
    }

    fn is_done(&self) -> bool {
        let Some(reactor) = &self.reactor else { return false };
        let scheduler = &reactor.knowledge().scheduler;
        let is_complete = |plan: &Plan| scheduler.run(plan.id()).is_ok_and(|run| run.counts.is_complete());
        self.plans.iter().all(is_complete)
    }

    fn report(&self) -> String {
        let Some(reactor) = &self.reactor else { return "there is no coordinator".to_owned() };
        let scheduler = &reactor.knowledge().scheduler;
        let runs = scheduler.runs().map(|run| format!("{:?} {:?}", run.phase, run.counts));
        let workers = scheduler.workers().map(|(id, worker)| format!("{id} {} leases", worker.leased()));
        runs.chain(workers).collect::<Vec<_>>().join("; ")
    }

    fn now(&self) -> Now {
        let elapsed = Duration::from_millis(self.clock);
        Now { instant: self.start + elapsed, ms: 1_000_000 + self.clock as i64 + self.skew }
    }

    /// Something goes wrong, or somebody changes their mind.
    fn trouble(&mut self) {
        if self.dice.one_in(40) {
            self.crash(false);
        }
        if self.reactor.is_none() && self.dice.one_in(3) {
            self.restart();
        }
        if self.dice.one_in(30) {
            self.skew = self.dice.below(2_000_000) as i64 - 1_000_000;
        }
        if !self.workers.is_empty() && self.dice.one_in(25) {
            let gone = self.dice.below(self.workers.len() as u64) as usize;
            self.vanish(gone);
        }
        if !self.workers.is_empty() && self.dice.one_in(25) {
            let frozen = self.dice.below(self.workers.len() as u64) as usize;
            self.workers[frozen].frozen_until = self.clock + self.dice.below(1_500);
        }
        if !self.workers.is_empty() && self.dice.one_in(30) {
            let cut = self.dice.below(self.workers.len() as u64) as usize;
            self.disconnect(cut);
        }
        let run = self.dice.below(2) as usize;
        match self.dice.below(60) {
            0..=2 => self.send(Message::Submit(run)),
            3 => self.send(Message::Pause(run)),
            4 | 5 => self.send(Message::Resume(run)),
            6 if !self.workers.is_empty() => {
                let worker = self.workers[self.dice.below(self.workers.len() as u64) as usize].id.clone();
                self.send(Message::Drain(worker));
            }
            _ => {}
        }
    }

    /// A moment passes.
    fn step(&mut self) {
        self.clock += STEP_MS;
        while self.workers.len() < WORKERS && (!self.troubled || self.dice.one_in(4)) {
            self.born += 1;
            self.workers.push(Worker::new(format!("worker-{}", self.born)));
        }
        for place in 0..self.workers.len() {
            self.work(place);
        }
        // A worker that is drained leaves once it has nothing left, and another comes.
        for place in (0..self.workers.len()).rev() {
            let id = &self.workers[place].id;
            let drained = self.reactor.as_ref().is_some_and(|reactor| {
                reactor
                    .knowledge()
                    .scheduler
                    .worker(id)
                    .is_ok_and(|known| known.draining || known.quarantined.is_some())
            });
            if drained && self.workers[place].attempts.is_empty() {
                self.vanish(place);
            }
        }
        self.turn();
        self.collect();
    }

    /// What a worker does in a moment.
    fn work(&mut self, place: usize) {
        if self.workers[place].frozen_until > self.clock {
            return;
        }
        self.workers[place].listen();
        let id = self.workers[place].id.clone();
        let Some(_) = self.workers[place].connection else {
            if self.reactor.is_some() && !self.is_on_its_way(&id) {
                self.send(Message::Open(id));
            }
            return;
        };
        let dice = &mut self.dice;
        let troubled = self.troubled;
        let mut messages = vec![];
        for (token, attempt) in &mut self.workers[place].attempts {
            if attempt.end.is_none() {
                attempt.left = attempt.left.saturating_sub(1);
                attempt.done += 1;
                if attempt.left == 0 {
                    let crashed = troubled && dice.one_in(12);
                    attempt.end = Some(if crashed { End::Crashed } else { End::Succeeded });
                } else if dice.one_in(6) {
                    messages.push(Message::Checkpoint(attempt.task, *token, attempt.done));
                }
            }
            if let Some(end) = attempt.end
                && dice.one_in(3)
            {
                messages.push(Message::End(id.clone(), attempt.task, *token, end));
            }
        }
        if self.clock.is_multiple_of(100) {
            let progress = |done| Progress { done, ..Progress::default() };
            let beat = self.workers[place].attempts.iter();
            let beat = beat.map(|(token, attempt)| (attempt.task, *token, progress(attempt.done))).collect();
            messages.push(Message::Beat(id.clone(), beat));
        }
        // A call whose answer was lost is repeated.
        if !self.workers[place].asking || self.dice.one_in(40) {
            self.workers[place].asking = true;
            messages.push(Message::Acquire(id, self.workers[place].call));
        }
        messages.into_iter().for_each(|message| self.send(message));
    }

    fn is_on_its_way(&self, worker: &WorkerId) -> bool {
        let is_open = |message: &Message| matches!(message, Message::Open(id) if id == worker);
        let is_owed = |owed: &Owed| matches!(owed, Owed::Number(id, ..) if id == worker);
        self.network.values().any(is_open) || self.owed.iter().any(is_owed)
    }

    /// Puts a message on the network, which may lose, repeat and delay it. What a
    /// connection carries keeps its order: it is never late.
    fn send(&mut self, message: Message) {
        let in_order = matches!(message, Message::Open(_) | Message::Beat(..) | Message::Close(..));
        let copies = match self.dice.below(10) {
            _ if !self.troubled || in_order => 1,
            0 => 0,
            1 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if self.troubled && !in_order { self.dice.below(300) } else { 0 };
            self.sent += 1;
            self.network.insert((self.clock + delay, self.sent), message.clone());
        }
    }

    /// The coordinator takes what has arrived, in one turn.
    fn turn(&mut self) {
        let later = self.network.split_off(&(self.clock + 1, 0));
        let arrived = std::mem::replace(&mut self.network, later);
        let now = self.now();
        let Some(mut reactor) = self.reactor.take() else { return };
        let mut forged = vec![];
        let mut messages = vec![];
        for message in arrived.into_values() {
            if self.fault == Some(Fault::TakesOldLeases)
                && let Message::End(_, task, token, End::Succeeded) = message
                && reactor.knowledge().scheduler.lease(token).is_none()
            {
                self.stored.insert(result_of(task));
                forged.push(Event::TaskCommitted { task, token, artifact: result_of(task) });
            }
            messages.push(self.for_reactor(message, now));
        }
        let mut turn = reactor.turn(now, self.journal.len() as u64, messages);
        turn.events.splice(0..0, forged);
        if self.troubled && self.dice.one_in(150) {
            // It crashes before its write: nothing of the turn has happened.
            drop((turn, reactor));
            return self.crash(true);
        }
        for event in &turn.events {
            self.invariants.journaled(event, &self.stored);
        }
        let told = self.journal.len() + turn.events.len();
        if !turn.events.is_empty() && (self.fault != Some(Fault::LosesBatches) || !self.dice.one_in(20)) {
            self.disk.append(turn.events.len());
            self.journal.extend(turn.events.iter().cloned());
            if self.troubled && self.dice.one_in(150) {
                // It crashes while it writes the mark: all of it has happened and nobody knows.
                let torn = self.dice.below(200) as usize;
                self.disk.note(Some(torn));
                drop((turn, reactor));
                return self.crash(true);
            }
            self.disk.note(None);
        }
        if self.troubled && self.dice.one_in(150) {
            // It crashes after its writes, and nobody knows either.
            drop((turn, reactor));
            return self.crash(true);
        }
        self.acknowledged = told as u64;
        self.invariants.told();
        if self.dice.one_in(30) {
            self.disk.fold();
        }
        reactor.answer(turn);
        if self.thorough {
            reactor.knowledge().scheduler.check();
        }
        self.reactor = Some(reactor);
    }

    fn for_reactor(&mut self, message: Message, now: Now) -> reactor::Message {
        let request = |request, world: &mut Self, owed: fn(Decided) -> Owed| {
            let (reply, answer) = oneshot::channel();
            world.owed.push(owed(answer));
            reactor::Message::Requests(vec![request], reply)
        };
        match message {
            Message::Open(worker) => {
                let ((reply, answer), (commands, heard)) = (oneshot::channel(), mpsc::channel(64));
                self.owed.push(Owed::Number(worker.clone(), answer, heard));
                let offer = Offer { stages: BTreeSet::from([("command".to_owned(), 1)]), slots: 2, ..Offer::default() };
                reactor::Message::Open { name: worker.to_string(), worker, offer, commands, reply }
            }
            Message::Beat(worker, attempts) => reactor::Message::Beat(worker, attempts),
            Message::Close(worker, number) => reactor::Message::Close(worker, number),
            Message::Acquire(worker, number) => {
                let (reply, answer) = oneshot::channel();
                self.owed.push(Owed::Grants(worker.clone(), number, answer));
                let until = now.instant + Duration::from_millis(500);
                reactor::Message::Acquire { worker, call: number, max: 4, until, reply }
            }
            Message::End(worker, task, token, end) => {
                let (reply, answer) = oneshot::channel();
                self.owed.push(Owed::End(worker, token, answer));
                let artifact = result_of(task);
                let request = match end {
                    End::Succeeded => {
                        // Files come before the result that names them.
                        if self.fault != Some(Fault::NamesMissingFiles) {
                            self.stored.insert(artifact);
                        }
                        Request::Commit { task, token, artifact }
                    }
                    End::Crashed => {
                        let failure = Failure::new(FailureCode::Crashed, "it fell over");
                        Request::Fail { task, token, failure }
                    }
                    End::HandedBack => Request::Release { task, token, why: Released::Preempted },
                };
                reactor::Message::Requests(vec![request], reply)
            }
            Message::Checkpoint(task, token, step) => {
                let artifact = ArtifactId(Digest::of(&[task.0.as_bytes().as_slice(), &step.to_le_bytes()].concat()));
                self.stored.insert(artifact);
                request(Request::Checkpoint { task, token, artifact, step }, self, Owed::Nothing)
            }
            Message::Submit(run) => {
                self.send(Message::AddTasks(run));
                let plan = &self.plans[run];
                let (first, rest) = plan.tasks.split_at(plan.tasks.len() / 2);
                let (run, tasks, more, by) = (plan.id(), first.to_vec(), rest.len(), None);
                let work = Work::Commands { commands: Commands::default().into() };
                request(Request::Submit { work, run, tasks, more, priority: 0, by }, self, Owed::Nothing)
            }
            Message::AddTasks(run) => {
                let plan = &self.plans[run];
                let tasks = plan.tasks[plan.tasks.len() / 2..].to_vec();
                request(Request::AddTasks { run: plan.id(), tasks, by: None }, self, Owed::Nothing)
            }
            Message::Pause(run) => request(Request::Pause { run: self.plans[run].id() }, self, Owed::Nothing),
            Message::Resume(run) => request(Request::Resume { run: self.plans[run].id() }, self, Owed::Nothing),
            Message::Drain(worker) => request(Request::Drain { worker }, self, Owed::Nothing),
        }
    }

    /// Answers find their way back, or are lost.
    fn collect(&mut self) {
        let mut waiting = vec![];
        for owed in std::mem::take(&mut self.owed) {
            let lost = self.troubled && self.dice.one_in(12);
            match owed {
                Owed::Number(id, mut answer, commands) => match answer.try_recv() {
                    Ok(number) => {
                        if let Some(worker) = self.worker(&id) {
                            (worker.connection, worker.commands, worker.asking) = (Some(number), Some(commands), false);
                        }
                    }
                    Err(oneshot::error::TryRecvError::Empty) => waiting.push(Owed::Number(id, answer, commands)),
                    Err(oneshot::error::TryRecvError::Closed) => {}
                },
                Owed::Grants(id, call, mut answer) => match answer.try_recv() {
                    Ok(answer) => {
                        if let Some(worker) = self.worker(&id) {
                            match answer {
                                Ok(grants) if !lost => worker.granted(call, grants, steps),
                                Ok(_) => {}
                                // It has to say hello again.
                                Err(_) => (worker.connection, worker.asking) = (None, false),
                            }
                        }
                    }
                    Err(oneshot::error::TryRecvError::Empty) => waiting.push(Owed::Grants(id, call, answer)),
                    Err(oneshot::error::TryRecvError::Closed) => {
                        if let Some(worker) = self.worker(&id) {
                            worker.asking = false;
                        }
                    }
                },
                Owed::End(id, token, mut answer) => match answer.try_recv() {
                    // Accepted or fenced: either way it is over.
                    Ok(_) if !lost => {
                        if let Some(worker) = self.worker(&id) {
                            worker.attempts.remove(&token);
                        }
                    }
                    Err(oneshot::error::TryRecvError::Empty) => waiting.push(Owed::End(id, token, answer)),
                    Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {}
                },
                Owed::Nothing(mut answer) => {
                    if matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                        waiting.push(Owed::Nothing(answer));
                    }
                }
            }
        }
        self.owed.extend(waiting);
    }

    fn worker(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.id == *id)
    }

    /// A process is gone, and its connections with it.
    fn vanish(&mut self, place: usize) {
        self.disconnect(place);
        self.workers.remove(place);
    }

    fn disconnect(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        worker.commands = None;
        if let Some(number) = worker.connection.take() {
            let id = worker.id.clone();
            self.send(Message::Close(id, number));
        }
    }

    /// The coordinator is gone; what was on its way to it is lost.
    fn crash(&mut self, was_taken: bool) {
        if self.reactor.take().is_none() && !was_taken {
            return;
        }
        self.owed.clear();
        self.network.retain(|_, message| matches!(message, Message::Submit(_)));
        for worker in &mut self.workers {
            (worker.connection, worker.commands, worker.asking) = (None, None, false);
        }
        if self.troubled && self.dice.one_in(6) {
            self.disk.damage(&mut self.dice);
        }
    }

    /// Reads what the disk has left. If that is not served, somebody has to say that it
    /// is to be.
    fn read(&mut self) {
        let (was_harmed, opened) = (self.disk.harmed, self.disk.open());
        self.journal.truncate(self.disk.last() as usize);
        if let Err(refusal) = opened
            && self.fault != Some(Fault::ServesShorter)
        {
            assert!(was_harmed, "a journal that has everything is refused: {refusal}");
            let events = match refusal {
                Refusal::Shorter { last, marked } => marked - last,
                _ => LOST_AT_MOST,
            };
            if self.fault != Some(Fault::ForgetsLostGrants) {
                self.disk.append(1);
                self.journal.push(Event::HistoryLost { events });
            }
            self.disk.recover();
            self.acknowledged = self.disk.last();
        }
        if was_harmed {
            self.invariants.begin_again(&self.journal, &self.stored);
        }
        assert!(self.disk.last() >= self.acknowledged, "a history shorter than what was acknowledged is served");
    }

    fn restart(&mut self) {
        self.read();
        let mut scheduler = Scheduler::default();
        self.journal.iter().for_each(|event| scheduler.apply(event));
        scheduler.check();
        assert!(scheduler.runs().all(|run| run.phase != Phase::Cancelled));
        let tail = Tail::new(self.journal.len() as u64, vec![]);
        let knowledge = Knowledge { scheduler, registry: Registry::default(), sessions: Sessions::default(), tail };
        let patience = if self.fault == Some(Fault::KeepsLostLeases) { ENDLESS } else { PATIENCE };
        self.reactor = Some(Reactor::new(patience, knowledge, self.now()));
    }
}

/// Two arrays, the second reading the first, and a last task that reads all.
fn plan(number: usize, width: u64) -> Plan {
    let spec = |name: &str, array: Option<[u64; 2]>, input: Option<&str>| CommandSpec {
        name: name.to_owned(),
        argv: vec!["true".to_owned()],
        array,
        inputs: input.map(|input| ("in".to_owned(), input.to_owned())).into_iter().collect(),
        ..CommandSpec::default()
    };
    let array = Some([1, width]);
    // The first array is the same in all plans: runs share its tasks.
    let second = format!("second-{number}");
    let last = spec("last", None, Some(&format!("task:{second}")));
    let command = vec![spec("first", array, None), spec(&second, array, Some("task:first")), last];
    command::plan(&Commands { id: String::new(), command }).unwrap()
}

/// How long a task takes.
fn steps(grant: &Grant) -> u64 {
    1 + u64::from(grant.task.0.as_bytes()[0]) % 12
}

fn result_of(task: TaskKey) -> ArtifactId {
    ArtifactId(Digest::of(&[task.0.as_bytes().as_slice(), b"result"].concat()))
}
