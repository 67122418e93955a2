//! Examples of what is shown of a small cluster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use domain::digest::Digest;
use domain::id::{ArtifactId, RunId, TaskKey};
use domain::resources::Offer;
use domain::runner::command::{self, CommandSpec, Commands};
use domain::runner::registry::{IdentityId, Registry};
use domain::runner::scheduler::{Counts, Request, Scheduler};
use domain::runner::task::{FencingToken, WorkerId};
use domain::runner::work::Work;
use domain::study::experiment::Scale;
use domain::study::overrides;
use domain::study::plan::{self, Data, Plan, RawClass};
use domain::study::stage::{Failure, FailureCode, Progress, StageKind};
use tokio::sync::mpsc;

use super::*;
use crate::history::Tail;
use crate::reactor::Knowledge;
use crate::sessions::Sessions;

/// A cluster whose requests are decided and applied at once.
struct Desk {
    knowledge: Knowledge,
    began: Instant,
}

impl Desk {
    fn new() -> Self {
        let knowledge = Knowledge {
            scheduler: Scheduler::default(),
            registry: Registry::default(),
            sessions: Sessions::default(),
            tail: Tail::new(0, vec![]),
        };
        Self { knowledge, began: Instant::now() }
    }

    fn decide(&mut self, request: Request) {
        for event in self.knowledge.scheduler.decide(0, request).unwrap() {
            self.knowledge.scheduler.apply(&event);
        }
    }

    fn submit(&mut self, (work, plan): (Work, Plan)) -> RunId {
        let (run, by) = (plan.id(), Some(IdentityId("somebody-1".to_owned())));
        Request::submission(work, plan, 7, by).for_each(|part| self.decide(part));
        run
    }

    /// A worker with that many slots, which is not connected.
    fn join(&mut self, slots: u32) -> WorkerId {
        let worker = WorkerId("hand-1-2".to_owned());
        let stages = StageKind::ALL.iter().map(|kind| kind.offered()).collect();
        let labels = BTreeMap::from([("room".to_owned(), "4".to_owned())]);
        let offer = Offer { stages, slots, memory_mib: 1 << 20, labels, ..Offer::default() };
        self.decide(Request::Join { worker: worker.clone(), name: "hand".to_owned(), offer });
        worker
    }

    /// What call number `call` of the worker is granted.
    fn acquire(&mut self, worker: &WorkerId, call: u64) -> Vec<(TaskKey, FencingToken)> {
        self.decide(Request::Acquire { worker: worker.clone(), call, max: 256 });
        let leases = self.knowledge.scheduler.leases_for(worker, call);
        leases.map(|(task, lease)| (task.spec.key, lease.token)).collect()
    }

    fn commit(&mut self, (task, token): (TaskKey, FencingToken)) {
        self.decide(Request::Commit { task, token, artifact: result_of(task) });
    }

    fn fail(&mut self, (task, token): (TaskKey, FencingToken)) {
        let failure = Failure::new(FailureCode::InvalidInput, "no picture");
        self.decide(Request::Fail { task, token, failure });
    }

    fn view(&self, run: RunId) -> RunView {
        RunView::of(&self.knowledge, self.knowledge.scheduler.run(run).unwrap())
    }

    fn page(&self, run: RunId, state: &str, from: usize) -> TaskPage {
        TaskPage::of(&self.knowledge, self.knowledge.scheduler.run(run).unwrap(), state, from)
    }
}

fn result_of(task: TaskKey) -> ArtifactId {
    ArtifactId(Digest::of(task.to_string().as_bytes()))
}

/// Some commands, of which none needs another.
fn commands(count: u64) -> (Work, Plan) {
    let argv = vec!["true".to_owned()];
    let spec = CommandSpec { name: "one".to_owned(), argv, array: Some([1, count]), ..CommandSpec::default() };
    let commands = Commands { id: String::new(), command: vec![spec] };
    let plan = command::plan(&commands).unwrap();
    (Work::Commands { commands: commands.into() }, plan)
}

fn study(set: &str) -> (Work, Plan) {
    let experiment = overrides::resolve(Scale::Smoke, None, &["tl.folds=1".to_owned(), set.to_owned()]).unwrap();
    let raw = |place| RawClass::new(place, ArtifactId(Digest::of(b"pictures")), 1);
    let data = Data { classes: Data::folders().map(raw).collect(), ..Data::default() };
    let plan = plan::plan(&experiment, &data).unwrap();
    (Work::Study { experiment: Box::new(experiment), data }, plan)
}

#[test]
fn a_run_shows_what_is_under_way_and_what_has_failed() {
    let mut desk = Desk::new();
    let run = desk.submit(commands(4));
    let worker = desk.join(3);
    let leases = desk.acquire(&worker, 1);
    desk.commit(leases[0]);
    desk.fail(leases[1]);
    let progress = Progress { done: 3, total: 9, note: "loss 0.5".to_owned(), ..Progress::default() };
    let (to_worker, _heard) = mpsc::channel(1);
    desk.knowledge.sessions.open(worker.clone(), to_worker, desk.began);
    let beat = BTreeMap::from([(leases[2].1, progress.clone())]);
    desk.knowledge.sessions.beat(&worker, &[leases[2].1], beat, desk.began);

    let view = desk.view(run);
    let counts = Counts { total: 4, ready: 1, leased: 1, committed: 1, failed: 1, ..Counts::default() };
    assert_eq!((view.id, view.state, view.title.as_str()), (run, RunState::Running, "one"));
    assert_eq!((view.counts, &view.stages), (counts, &BTreeMap::from([(StageKind::Command, counts)])));
    assert_eq!((view.priority, view.by), (7, Some(IdentityId("somebody-1".to_owned()))));
    assert_eq!((view.cached, view.workers, view.results, view.report), (0, 1, None, None));
    let spec = |index: usize| desk.knowledge.scheduler.task(leases[index].0).unwrap().spec.clone();
    let attempt = AttemptView { spec: spec(2), worker: "hand".to_owned(), attempt: 1, progress: Some(progress) };
    assert_eq!(view.attempts, [attempt]);
    let failure = Failure::new(FailureCode::InvalidInput, "no picture");
    assert_eq!(view.failures, [FailureView { spec: spec(1), failure, attempts: 1 }]);
}

#[test]
fn a_run_is_what_was_said_of_it_or_what_became_of_its_tasks() {
    let mut desk = Desk::new();
    let run = desk.submit(commands(2));
    let state = |desk: &Desk, run| desk.view(run).state;
    assert_eq!(state(&desk, run), RunState::Running);
    desk.decide(Request::Pause { run });
    assert_eq!(state(&desk, run), RunState::Paused);
    desk.decide(Request::Cancel { run });
    assert_eq!(state(&desk, run), RunState::Cancelled);
    let run = desk.submit(commands(2));
    let worker = desk.join(2);
    let leases = desk.acquire(&worker, 1);
    desk.commit(leases[0]);
    desk.fail(leases[1]);
    assert_eq!(state(&desk, run), RunState::Failed);
    desk.submit(commands(2));
    let leases = desk.acquire(&worker, 2);
    desk.commit(leases[0]);
    assert_eq!((state(&desk, run), desk.view(run).cached), (RunState::Succeeded, 1));
}

#[test]
fn studies_of_one_title_are_told_apart_and_commands_are_left_alone() {
    let mut desk = Desk::new();
    desk.submit(study("seed=4"));
    desk.submit(commands(1));
    desk.submit(study("seed=5"));
    let views = tell_apart(ListedRun::all(&desk.knowledge));
    let told: Vec<(&str, &[String])> =
        views.iter().map(|view| (view.title.as_str(), view.differences.as_slice())).collect();
    assert_eq!(told, [("smoke", &["seed=5".to_owned()][..]), ("one", &[]), ("smoke", &["seed=4".to_owned()])]);
}

#[test]
fn a_study_has_results_and_a_report_once_its_last_tasks_made_them() {
    let mut desk = Desk::new();
    let (work, plan) = study("seed=4");
    let [.., aggregate, report] = &plan.tasks[..] else { panic!("a study has more tasks") };
    let (aggregate, report) = (aggregate.key, report.key);
    let run = desk.submit((work, plan));
    let worker = desk.join(256);
    let made = |desk: &Desk| (desk.view(run).results, desk.view(run).report);
    for call in 1.. {
        let leases = desk.acquire(&worker, call);
        if leases.is_empty() {
            break;
        }
        if leases[0].0 == report {
            assert_eq!(made(&desk), (Some(result_of(aggregate)), None));
        } else {
            assert_eq!(made(&desk), (None, None));
        }
        leases.into_iter().for_each(|lease| desk.commit(lease));
    }
    assert_eq!(made(&desk), (Some(result_of(aggregate)), Some(result_of(report))));
    assert_eq!(desk.view(run).state, RunState::Succeeded);
}

#[test]
fn tasks_are_listed_by_state_and_page_by_page() {
    let mut desk = Desk::new();
    let run = desk.submit(commands(5000));
    let worker = desk.join(2);
    let leases = desk.acquire(&worker, 1);
    desk.commit(leases[0]);
    let task = |index: usize| desk.knowledge.scheduler.task(leases[index].0).unwrap();
    let done = TaskView {
        spec: task(0).spec.clone(),
        state: "succeeded",
        attempts: 1,
        worker: None,
        artifact: Some(result_of(leases[0].0)),
    };
    assert_eq!(desk.page(run, "succeeded", 0), TaskPage { tasks: vec![done], next: Some(4096) });
    let running = desk.page(run, "running", 0).tasks;
    assert_eq!(running, [TaskView::of(&desk.knowledge, task(1))]);
    assert_eq!((running[0].worker.as_deref(), running[0].artifact), (Some("hand"), None));
    let last = desk.page(run, "", 4096);
    assert_eq!((last.tasks.len(), last.next), (904, None));
    assert_eq!(desk.page(run, "stones", 0).tasks, []);
    assert_eq!(desk.page(run, "", usize::MAX), TaskPage { tasks: vec![], next: None });
}

#[test]
fn an_explanation_says_why() {
    let mut desk = Desk::new();
    desk.submit(commands(1));
    let worker = desk.join(1);
    let lease = desk.acquire(&worker, 1)[0];
    desk.fail(lease);
    let explanation = Explanation::of(&desk.knowledge, desk.knowledge.scheduler.task(lease.0).unwrap()).unwrap();
    assert_eq!((explanation.task.state, explanation.task.attempts), ("failed", 1));
    assert!(explanation.reasons.iter().any(|reason| reason.contains("no picture")), "{:?}", explanation.reasons);
    assert_eq!(explanation.comparison.lines(), Vec::<String>::new());
}

#[test]
fn a_worker_shows_what_it_has_what_it_runs_and_how_long_it_was_silent() {
    let mut desk = Desk::new();
    desk.submit(commands(1));
    let worker = desk.join(2);
    desk.acquire(&worker, 1);
    let later = desk.began + Duration::from_secs(3);
    let view = |desk: &Desk| {
        let [view] = &WorkerView::all(&desk.knowledge, later)[..] else { panic!("one worker") };
        view.clone()
    };
    let away = view(&desk);
    assert_eq!((away.id, away.name.as_str(), away.is_connected), (worker.clone(), "hand", false));
    assert_eq!((away.slots, away.memory_mib, away.labels["room"].as_str()), (2, 1 << 20, "4"));
    assert_eq!((away.attempts.len(), away.is_draining, away.quarantined), (1, false, None));
    let (to_worker, _heard) = mpsc::channel(1);
    desk.knowledge.sessions.open(worker.clone(), to_worker, desk.began);
    desk.decide(Request::Drain { worker });
    let draining = view(&desk);
    assert_eq!((draining.is_connected, draining.is_draining), (true, true));
    assert_eq!(draining.silence, Duration::from_secs(3));
}
