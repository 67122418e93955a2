//! How much the scheduler alone costs: decisions per second, memory of a large
//! graph, time to replay its journal. `cargo bench -p domain --bench scheduler`.

#![expect(clippy::disallowed_methods, reason = "measures time; what it measures has no clock")]

use std::sync::Arc;
use std::time::Instant;

use domain::digest::Digest;
use domain::id::{ArtifactId, TaskKey};
use domain::resources::Offer;
use domain::runner::command::{self, CommandSpec, Commands};
use domain::runner::event::Event;
use domain::runner::scheduler::snapshot::Snapshot;
use domain::runner::scheduler::{Request, Scheduler};
use domain::runner::task::WorkerId;
use domain::runner::work::Work;
use domain::study::stage::StageKind;

/// Workers that ask in turn.
const WORKERS: usize = 16;

/// What it has to reach at the least.
const WANTED_PER_SECOND: f64 = 500_000.0;

fn main() {
    for tasks in [10_000, 100_000, 1_000_000] {
        measure(tasks);
    }
    questions();
    many_runs();
}

/// What one call for work costs where there are many runs of one task each.
fn many_runs() {
    const RUNS: u64 = 10_000;
    let mut scheduler = Scheduler::default();
    for part in 0..RUNS {
        let spec = CommandSpec { name: "one".to_owned(), argv: vec!["true".to_owned()], ..CommandSpec::default() };
        let commands = Commands { id: format!("bench-{part}"), command: vec![spec] };
        let plan = command::plan(&commands).expect("a plan");
        for part in Request::submission(Work::Commands { commands: Arc::new(commands) }, plan, 0, None) {
            decide(&mut scheduler, part);
        }
    }
    let worker = WorkerId("worker".to_owned());
    let stages = [StageKind::Command.offered()].into_iter().collect();
    let offer = Offer { stages, slots: 1024, ..Offer::default() };
    decide(&mut scheduler, Request::Join { worker: worker.clone(), name: "worker".to_owned(), offer });
    for (call, max) in [(1, 1), (2, 256)] {
        let began = Instant::now();
        let granted = decide(&mut scheduler, Request::Acquire { worker: worker.clone(), call, max });
        println!(
            "{RUNS} runs of one task: a call for {max} of them was answered with {} in {:.1} ms",
            granted.len(),
            began.elapsed().as_secs_f64() * 1e3
        );
    }
}

/// What a question costs the one thread that has the state: 200 000 tasks in 100 runs.
fn questions() {
    const RUNS: u64 = 100;
    let mut scheduler = Scheduler::default();
    for part in 0..RUNS {
        let commands = graph(part, 2000);
        let plan = command::plan(&commands).expect("a plan");
        let work = Work::Commands { commands: Arc::new(commands) };
        for part in Request::submission(work, plan, 0, None) {
            decide(&mut scheduler, part);
        }
    }
    let keys: Vec<TaskKey> = scheduler.tasks().rev().take(1000).map(|task| task.spec.key).collect();
    let run = scheduler.runs().next().expect("a run");
    let each = |what: &str, question: &dyn Fn(TaskKey) -> usize| {
        let began = Instant::now();
        let said: usize = keys.iter().map(|key| question(*key)).sum();
        let micros = began.elapsed().as_secs_f64() * 1e6 / keys.len() as f64;
        println!("  {what}: {micros:.1} us ({said})");
    };
    println!("{} tasks in {RUNS} runs, each question on average:", scheduler.tasks().len());
    each("a key by its first digits", &|key| {
        let prefix = key.short().parse().expect("digits");
        scheduler.tasks_beginning(&prefix).take(2).count()
    });
    each("why a task stands where it stands", &|key| scheduler.reasons(key).map_or(0, |reasons| reasons.len()));
    each("what to compare it with", &|key| usize::from(scheduler.comparison(key).is_ok()));
    each("how a run stands", &|_| {
        scheduler.leases_in(run).count() + scheduler.failed_in(run).count() + scheduler.attention(run).len()
    });
    each("a page of 4096 tasks", &|_| {
        scheduler.tasks_from(run, 0).take(4096).map(|task| task.spec.clone()).collect::<Vec<_>>().len()
    });
}

/// Submissions of two arrays of the same length, the second reading the first element by
/// element.
fn graphs(tasks: u64) -> impl Iterator<Item = Commands> {
    (0..tasks.div_ceil(command::TASKS_MAX)).map(move |part| graph(part, tasks.min(command::TASKS_MAX)))
}

fn graph(part: u64, tasks: u64) -> Commands {
    let half = tasks / 2;
    let spec = |name: &str| CommandSpec {
        name: name.to_owned(),
        argv: vec!["true".to_owned()],
        array: Some([1, half]),
        ..CommandSpec::default()
    };
    let mut second = spec("second");
    second.inputs.insert("in".to_owned(), "task:first".to_owned());
    Commands { id: format!("bench-{part}"), command: vec![spec("first"), second] }
}

fn measure(tasks: u64) {
    let before = memory_mib();
    let mut scheduler = Scheduler::default();
    let mut journal = Journal::default();
    let mut submitted = 0.0;
    for commands in graphs(tasks) {
        let plan = command::plan(&commands).expect("a plan");
        let began = Instant::now();
        let work = Work::Commands { commands: Arc::new(commands) };
        for part in Request::submission(work, plan, 0, None) {
            act(&mut scheduler, &mut journal, part);
        }
        submitted += began.elapsed().as_secs_f64();
    }
    let stages = [StageKind::Command.offered()].into_iter().collect();
    let offer = Offer { stages, slots: 1, ..Offer::default() };
    let names: Vec<WorkerId> = (0..WORKERS).map(|number| WorkerId(format!("worker-{number}"))).collect();
    for worker in &names {
        let (worker, name) = (worker.clone(), worker.to_string());
        act(&mut scheduler, &mut journal, Request::Join { worker, name, offer: offer.clone() });
    }
    let artifact = ArtifactId(Digest::of(b"result"));
    let (mut decisions, mut call, mut deciding) = (0u64, 1, 0.0);
    loop {
        let mut granted = 0;
        for worker in &names {
            let began = Instant::now();
            let acquire = Request::Acquire { worker: worker.clone(), call, max: 1 };
            let events = decide(&mut scheduler, acquire);
            let lease = scheduler.leases_for(worker, call).next();
            let Some((task, token)) = lease.map(|(task, lease)| (task.spec.key, lease.token)) else { continue };
            let committed = decide(&mut scheduler, Request::Commit { task, token, artifact });
            deciding += began.elapsed().as_secs_f64();
            journal.write(&events);
            journal.write(&committed);
            (decisions, granted) = (decisions + 2, granted + 1);
        }
        call += 1;
        if granted == 0 {
            break;
        }
    }
    journal.flush();
    let per_second = decisions as f64 / deciding;
    let bytes: usize = journal.lines.iter().map(String::len).sum();
    println!(
        "{tasks} tasks: submitted in {submitted:.2} s; {per_second:.0} decisions/s, {:.2} of what is wanted; \
         {:.0} MiB beside the journal",
        per_second / WANTED_PER_SECOND,
        memory_mib() - before - bytes as f64 / f64::from(1 << 20)
    );
    let began = Instant::now();
    let mut replayed = Scheduler::default();
    for line in &journal.lines {
        let events: Vec<Event> = serde_json::from_str(line).expect("events");
        events.iter().for_each(|event| replayed.apply(event));
    }
    println!(
        "  journal of {} MiB replayed in {:.2} s; equal: {}",
        bytes >> 20,
        began.elapsed().as_secs_f64(),
        replayed == scheduler
    );
    drop(replayed);
    let began = Instant::now();
    let snapshot = serde_json::to_vec(&Snapshot::from(&scheduler)).expect("a snapshot");
    println!("  snapshot of {} MiB in {:.2} s", snapshot.len() >> 20, began.elapsed().as_secs_f64());
}

/// Events as the coordinator's journal holds them: several to a row.
#[derive(Default)]
struct Journal {
    lines: Vec<String>,
    waiting: Vec<Event>,
}

impl Journal {
    fn write(&mut self, events: &[Event]) {
        self.waiting.extend(events.iter().cloned());
        if self.waiting.len() >= 256 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.lines.push(serde_json::to_string(&self.waiting).expect("events"));
        self.waiting.clear();
    }
}

fn decide(scheduler: &mut Scheduler, request: Request) -> Vec<Event> {
    let events = scheduler.decide(0, request).expect("not refused");
    events.iter().for_each(|event| scheduler.apply(event));
    events
}

fn act(scheduler: &mut Scheduler, journal: &mut Journal, request: Request) {
    for event in decide(scheduler, request) {
        journal.lines.push(serde_json::to_string(&[event]).expect("events"));
    }
}

/// Memory of this process.
fn memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
