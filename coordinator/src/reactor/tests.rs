//! Examples of single turns: the events that follow, the messages that workers get, and that
//! nothing else is sent.

use domain::digest::Digest;
use domain::id::{RunId, TaskKey};
use domain::runner::command::{self, CommandSpec};
use domain::runner::work::Work;
use domain::study::plan::Plan;
use domain::study::stage::StageKind;
use tokio::sync::mpsc;
use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::sessions;

const PATIENCE: Patience = Patience {
    heartbeat: Duration::from_secs(2),
    lease_ttl: Duration::from_secs(10),
    reattach: Duration::from_secs(1),
    worth_waiting: 200,
};

type Heard = mpsc::Receiver<Result<sessions::Message, tonic::Status>>;

type Answer<T> = oneshot::Receiver<T>;

/// A reactor with a manual clock whose turns count as written.
struct Desk {
    reactor: Reactor,
    now: Now,
    /// All events so far.
    journal: Vec<Event>,
}

impl Desk {
    fn new() -> Self {
        let now = Now { instant: Instant::now(), ms: 1_000_000 };
        let knowledge = Knowledge {
            scheduler: Scheduler::default(),
            registry: Registry::default(),
            sessions: Sessions::default(),
            tail: Tail::new(0, vec![]),
        };
        Self { reactor: Reactor::new(PATIENCE, knowledge, now), now, journal: vec![] }
    }

    /// Takes one turn and returns it without answers, as if its events were being
    /// written.
    fn turn(&mut self, messages: Vec<Message>) -> Turn {
        let turn = self.reactor.turn(self.now, self.journal.len() as u64, messages);
        self.journal.extend(turn.events.iter().cloned());
        self.reactor.knowledge().scheduler.check();
        turn
    }

    /// Takes one turn with all its answers. Returns its events.
    fn take(&mut self, messages: Vec<Message>) -> Vec<Event> {
        let turn = self.turn(messages);
        let events = turn.events.clone();
        self.reactor.answer(turn);
        events
    }

    /// Advances the clock, with a turn whenever one is due.
    fn pass(&mut self, time: Duration) -> Vec<Event> {
        let end = self.now.instant + time;
        let mut events = vec![];
        while self.reactor.due() <= end {
            self.set(self.reactor.due());
            events.extend(self.take(vec![]));
        }
        self.set(end);
        events
    }

    /// Sets the clock without a turn.
    fn set(&mut self, instant: Instant) {
        let passed = instant.saturating_duration_since(self.now.instant);
        self.now = Now { instant, ms: self.now.ms + passed.as_millis() as i64 };
    }

    /// Connects a worker of one slot. Returns the connection's number and the worker's
    /// messages.
    fn open(&mut self, worker: &str) -> (u64, Heard) {
        let ((commands, heard), (reply, mut number)) = (mpsc::channel(8), oneshot::channel());
        let stages = [StageKind::Command.offered()].into_iter().collect();
        let offer = Offer { stages, slots: 1, ..Offer::default() };
        self.take(vec![Message::Open { worker: id(worker), name: worker.to_owned(), offer, commands, reply }]);
        (number.try_recv().unwrap(), heard)
    }

    /// A call for work that waits for a minute.
    fn acquire(&self, worker: &str) -> (Message, Answer<Result<Vec<Grant>, Reject>>) {
        let (reply, answer) = oneshot::channel();
        let until = self.now.instant + Duration::from_secs(60);
        (Message::Acquire { worker: id(worker), call: 1, max: 1, until, reply }, answer)
    }

    fn token(&self, task: TaskKey) -> FencingToken {
        let task = self.reactor.knowledge().scheduler.task(task).unwrap();
        task.lease().unwrap().token
    }
}

fn id(worker: &str) -> WorkerId {
    WorkerId(worker.to_owned())
}

fn plan(tasks: u64) -> Plan {
    let argv = vec!["true".to_owned()];
    let spec = CommandSpec { name: "one".to_owned(), argv, array: Some([1, tasks]), ..CommandSpec::default() };
    command::plan(&command::Commands { id: String::new(), command: vec![spec] }).unwrap()
}

fn request(request: Request) -> (Message, Answer<Vec<Result<(), Reject>>>) {
    let (reply, answer) = oneshot::channel();
    (Message::Requests(vec![request], reply), answer)
}

fn submit(plan: &Plan) -> Message {
    let work = Work::Commands { commands: command::Commands::default().into() };
    let (run, tasks) = (plan.id(), plan.tasks.clone());
    request(Request::Submit { work, run, tasks, more: 0, priority: 0, by: None }).0
}

/// All messages to a worker that were not taken yet.
fn heard(heard: &mut Heard) -> Vec<sessions::Message> {
    std::iter::from_fn(|| heard.try_recv().ok()).map(Result::unwrap).collect()
}

fn names(events: &[Event]) -> Vec<&'static str> {
    let name = |event: &Event| match event {
        Event::RunSubmitted { .. } => "submitted",
        Event::LeaseGranted { .. } => "granted",
        Event::LeaseReleased { .. } => "released",
        Event::WorkerLeft { .. } => "left",
        Event::RunCancelled { .. } => "cancelled",
        Event::TaskCommitted { .. } => "committed",
        Event::WorkerDraining { .. } => "draining",
        other => panic!("{other:?}"),
    };
    events.iter().map(name).collect()
}

#[test]
fn work_that_comes_is_handed_out_in_the_same_turn_and_told_once_it_is_written() {
    let mut desk = Desk::new();
    let (plan, (_, mut ears)) = (plan(2), desk.open("a"));
    let (call, mut grants) = desk.acquire("a");
    assert_eq!(desk.take(vec![call]), []);
    assert!(matches!(grants.try_recv(), Err(TryRecvError::Empty)), "it waits");
    let turn = desk.turn(vec![submit(&plan)]);
    assert_eq!(names(&turn.events), ["submitted", "granted"]);
    assert!(matches!(grants.try_recv(), Err(TryRecvError::Empty)), "nobody learns what is not on disk");
    assert!(desk.reactor.answer(turn), "watchers have something to look at");
    let tasks: Vec<TaskKey> = grants.try_recv().unwrap().unwrap().iter().map(|grant| grant.task).collect();
    assert_eq!(tasks, [plan.tasks[0].key]);
    assert_eq!(heard(&mut ears), []);
    let idle = desk.turn(vec![]);
    assert!(idle.events.is_empty() && !desk.reactor.answer(idle), "and nothing follows");
}

#[test]
fn a_turn_that_is_not_written_answers_nobody() {
    let mut desk = Desk::new();
    let (message, mut answer) = request(Request::Cancel { run: RunId(Digest::of(b"none")) });
    drop(desk.turn(vec![message]));
    assert!(matches!(answer.try_recv(), Err(TryRecvError::Closed)));
}

#[test]
fn a_cancelled_run_is_told_to_the_worker_that_runs_it_and_to_no_other() {
    let mut desk = Desk::new();
    let plan = plan(1);
    let ((_, mut busy), (_, mut idle)) = (desk.open("a"), desk.open("b"));
    let (call, _grants) = desk.acquire("a");
    desk.take(vec![submit(&plan), call]);
    let (task, token) = (plan.tasks[0].key, desk.token(plan.tasks[0].key));
    let (message, mut answer) = request(Request::Cancel { run: plan.id() });
    assert_eq!(names(&desk.take(vec![message])), ["cancelled"]);
    assert_eq!(answer.try_recv().unwrap(), [Ok(())]);
    assert_eq!(heard(&mut busy), [sessions::Message::Stop { task, token }]);
    assert_eq!(heard(&mut idle), []);
}

#[test]
fn a_worker_that_is_drained_hears_of_it_once() {
    let mut desk = Desk::new();
    let ((_, mut drained), (_, mut other)) = (desk.open("a"), desk.open("b"));
    let message = request(Request::Drain { worker: id("a") }).0;
    assert_eq!(names(&desk.take(vec![message])), ["draining"]);
    assert_eq!(heard(&mut drained), [sessions::Message::Drain]);
    assert_eq!(heard(&mut other), []);
}

#[test]
fn a_beat_under_a_lease_that_is_over_is_told_to_stop() {
    let mut desk = Desk::new();
    let (plan, (_, mut ears)) = (plan(1), desk.open("a"));
    let (call, _grants) = desk.acquire("a");
    desk.take(vec![submit(&plan), call]);
    let (task, token) = (plan.tasks[0].key, desk.token(plan.tasks[0].key));
    let progress = Progress { total: 1, ..Progress::default() };
    let beat = |token| Message::Beat(id("a"), vec![(task, token, progress.clone())]);
    assert_eq!(desk.take(vec![beat(token)]), []);
    assert_eq!(heard(&mut ears), []);
    let old = FencingToken(token.0 + 1);
    assert_eq!(desk.take(vec![beat(old)]), []);
    assert_eq!(heard(&mut ears), [sessions::Message::Stop { task, token: old }]);
}

#[test]
fn what_a_silent_worker_held_goes_to_a_call_that_waits_in_the_same_turn() {
    let mut desk = Desk::new();
    let (plan, (_, mut silent)) = (plan(1), desk.open("a"));
    let (call, _grants) = desk.acquire("a");
    desk.take(vec![submit(&plan), call]);
    assert_eq!(desk.pass(PATIENCE.lease_ttl), []);
    let (_, mut ears) = desk.open("b");
    let (call, mut grants) = desk.acquire("b");
    assert_eq!(desk.take(vec![call]), []);
    assert_eq!(names(&desk.pass(SWEEP)), ["released", "left", "granted"]);
    assert_eq!(grants.try_recv().unwrap().unwrap().len(), 1);
    assert_eq!((heard(&mut silent), heard(&mut ears)), (vec![], vec![]));
    assert!(silent.is_closed(), "the reactor has let go of it");
}

#[test]
fn time_in_which_the_coordinator_stood_still_counts_against_no_worker() {
    let mut desk = Desk::new();
    let (plan, _link) = (plan(1), desk.open("a"));
    let (call, _grants) = desk.acquire("a");
    desk.take(vec![submit(&plan), call]);
    desk.set(desk.now.instant + 10 * PATIENCE.lease_ttl);
    assert_eq!(desk.take(vec![]), []);
    assert_eq!(names(&desk.pass(PATIENCE.lease_ttl + SWEEP)), ["released", "left"], "and the time after it does");
}

#[test]
fn a_turn_is_due_when_the_patience_with_a_broken_connection_ends() {
    let mut desk = Desk::new();
    let (plan, (number, _ears)) = (plan(1), desk.open("a"));
    let (call, _grants) = desk.acquire("a");
    desk.take(vec![submit(&plan), call]);
    assert_eq!(desk.take(vec![Message::Close(id("a"), number)]), []);
    assert_eq!(desk.pass(PATIENCE.reattach), []);
    assert_eq!(names(&desk.pass(Duration::from_millis(1))), ["released"]);
}

#[test]
fn what_was_asked_before_the_end_is_decided_and_answered() {
    let mut desk = Desk::new();
    let plan = plan(1);
    let turn = desk.turn(vec![submit(&plan), Message::End]);
    assert!(turn.ends);
    assert_eq!(names(&turn.events), ["submitted"]);
}
