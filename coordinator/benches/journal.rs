//! What the journal costs: the CPU time of a task's grant and commit with their
//! rows, and what the disk says to each batch.
//!
//! `cargo bench -p coordinator --bench journal [-- FOLDER]`; the folder decides
//! which disk is measured.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use coordinator::history::{self, Row};
use coordinator::journal::{Journal, Sqlite};
use domain::digest::Digest;
use domain::runner::event::Event;
use domain::runner::scheduler::Scheduler;
use domain::study::stage::Stage;
use serde_json::{Value, json};

/// Tasks in all.
const TASKS: u64 = 100_000;

/// Events that share a transaction.
const BATCH: usize = 256;

/// Writes of one page that are synced, to learn what a disk takes.
const SYNCS: usize = 200;

fn main() {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = tempfile::tempdir_in(argument.unwrap_or_else(|| ".".to_owned())).unwrap();
    disk(folder.path());
    let path = folder.path().join("journal.sqlite");
    let mut journal = Sqlite::open(&path).unwrap();
    let mut scheduler = Scheduler::default();

    let submitted = vec![run()];
    let began = Instant::now();
    let rows = history::rows(1, 0, &submitted[0], &scheduler);
    journal.append(0, &submitted, &rows).unwrap();
    scheduler.apply(&submitted[0]);
    println!("one run of {TASKS} tasks: {:.2} s", began.elapsed().as_secs_f64());

    let events: Vec<Event> = (1..=TASKS).flat_map(|number| [grant(number), commit(number)]).collect();
    let began = Instant::now();
    let mut batches = Vec::new();
    let mut number = 1;
    let (mut rows_cpu, mut append_cpu) = (Duration::ZERO, Duration::ZERO);
    for batch in events.chunks(BATCH) {
        let mut rows: Vec<Row> = Vec::with_capacity(2 * batch.len());
        let before = cpu_time();
        for event in batch {
            number += 1;
            rows.extend(history::rows(number, number as i64, event, &scheduler));
        }
        rows_cpu += cpu_time() - before;
        batch.iter().for_each(|event| scheduler.apply(event));
        let (before, waited) = (cpu_time(), Instant::now());
        journal.append(number as i64, batch, &rows).unwrap();
        append_cpu += cpu_time() - before;
        batches.push(waited.elapsed());
    }
    let elapsed = began.elapsed();
    let per_task = |time: Duration| time.as_secs_f64() * 1e6 / TASKS as f64;
    println!("grant and commit of {TASKS} tasks, {BATCH} events a batch:");
    println!("  rows     {:.2} µs CPU a task", per_task(rows_cpu));
    println!("  append   {:.2} µs CPU a task", per_task(append_cpu));
    println!("  through  {:.0} tasks/s, durable", TASKS as f64 / elapsed.as_secs_f64());
    println!("  a batch  {}", median_and_99th(batches));

    drop(journal);
    println!("  a task   {} bytes in the file", std::fs::metadata(&path).unwrap().len() / TASKS);
    let began = Instant::now();
    let mut journal = Sqlite::open(&path).unwrap();
    let mut count = 0u64;
    journal.replay(0, &mut |_, _, _| count += 1).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    println!("reading {count} events: {seconds:.2} s, {:.0} events/s", count as f64 / seconds);
}

/// What an append cannot be quicker than.
fn disk(folder: &Path) {
    let mut file = File::create(folder.join("synced")).unwrap();
    let sync = |_| {
        let began = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        began.elapsed()
    };
    println!("fdatasync of 4 KiB: {}", median_and_99th((0..SYNCS).map(sync).collect()));
}

fn median_and_99th(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("{:.2} ms median, {:.2} ms 99th percentile", at(50), at(99))
}

/// CPU time of the one thread that there is.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn key(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

/// Made as it is read, so that fields with defaults need not be named.
fn event(value: Value) -> Event {
    serde_json::from_value(value).unwrap()
}

fn run() -> Event {
    let task = |number| {
        json!({ "key": key(number), "subject": format!("SUR/IVa {number}"), "stage": Stage::Report, "version": 1,
            "inputs": {}, "seed": 1 })
    };
    let tasks: Vec<Value> = (1..=TASKS).map(task).collect();
    event(
        json!({ "event": "run_submitted", "run": key(0), "experiment": domain::study::experiment::Experiment::default(),
        "data": { "classes": [], "stand_in": null }, "tasks": tasks }),
    )
}

fn grant(number: u64) -> Event {
    event(json!({ "event": "lease_granted", "task": key(number), "worker": "bench-1-4711-0123456789abcdef",
        "token": number, "attempt": 1, "request": number }))
}

fn commit(number: u64) -> Event {
    event(json!({ "event": "task_committed", "task": key(number), "token": number, "artifact": key(number + TASKS) }))
}
