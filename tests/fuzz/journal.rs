//! What is read back from disk: events, states, and the file that holds both.

use std::path::Path;

use coordinator::journal::snapshot::Snapshot;
use coordinator::journal::{Journal, Sqlite};
use domain::runner::event::Event;
use domain::runner::registry::Registry;
use domain::runner::scheduler::Scheduler;
use domain::runner::scheduler::snapshot::Snapshot as State;
use serde_json::Value;

use super::MEMORY;
use crate::mutate::Target;

/// A journal that the released program has left.
const RELEASED: &[u8] = include_bytes!("../journal/released.sqlite");

/// What can be read of a journal.
fn read(path: &Path) -> Result<Vec<Event>, coordinator::journal::Error> {
    let mut journal = Sqlite::open(path)?;
    let mut events = vec![];
    journal.replay(0, &mut |_, _, event| events.push(event))?;
    for number in journal.snapshots()? {
        let _ = journal.snapshot(number)?.unpack();
    }
    Ok(events)
}

/// The events of the released journal, the tasks of a plan cut to a few.
fn events() -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    std::fs::write(&path, RELEASED).unwrap();
    let short = |event: &Event| {
        let mut event = serde_json::to_value(event).unwrap();
        if let Some(Value::Array(tasks)) = event.get_mut("tasks") {
            tasks.truncate(2);
        }
        event
    };
    read(&path).unwrap().iter().map(short).collect()
}

#[test]
fn any_event_is_refused_or_itself() {
    let corpus: Vec<Vec<u8>> = events().iter().map(|event| serde_json::to_vec(event).unwrap()).collect();
    let words = ["run_submitted", "lease_granted", "task_committed", "registry", "worker_joined"];
    let execute = |bytes: &[u8]| match serde_json::from_slice::<Event>(bytes) {
        Ok(event) => {
            let json = serde_json::to_vec(&event).unwrap();
            assert_eq!(serde_json::from_slice::<Event>(&json).unwrap(), event);
            "an event".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let words = words.map(str::to_owned).to_vec();
    Target { name: "event", executions: 3_000, memory: MEMORY, corpus, words }.run(execute);
}

#[test]
fn any_state_is_refused_or_itself() {
    let mut scheduler = Scheduler::default();
    let mut registry = Registry::default();
    for event in events() {
        match serde_json::from_value(event).unwrap() {
            Event::Registry(event) => registry.apply(&event),
            event => scheduler.apply(&event),
        }
    }
    let corpus = vec![
        serde_json::to_vec(&(State::from(&scheduler), &registry)).unwrap(),
        serde_json::to_vec(&(State::from(&Scheduler::default()), Registry::default())).unwrap(),
    ];
    let execute = |bytes: &[u8]| match serde_json::from_slice::<(State, Registry)>(bytes) {
        Ok((state, registry)) => {
            let _ = serde_json::to_vec(&registry).unwrap();
            match Scheduler::try_from(state) {
                Ok(scheduler) => {
                    let json = serde_json::to_vec(&State::from(&scheduler)).unwrap();
                    let again = serde_json::from_slice::<State>(&json).unwrap();
                    assert_eq!(Scheduler::try_from(again).unwrap(), scheduler);
                    "a state".to_owned()
                }
                Err(error) => error.to_string(),
            }
        }
        Err(error) => error.to_string(),
    };
    Target { name: "state", executions: 2_000, memory: MEMORY, corpus, words: vec![] }.run(execute);
}

#[test]
fn any_snapshot_is_refused_or_unpacked() {
    let whole = Snapshot::pack(7, br#"{"tasks": []}"#).unwrap();
    let corpus = vec![[&whole.digest[..], &whole.packed].concat()];
    let execute = |bytes: &[u8]| {
        let (digest, packed) = bytes.split_at(bytes.len().min(32));
        let snapshot = Snapshot { number: 7, packed: packed.to_vec(), digest: digest.to_vec() };
        match snapshot.unpack() {
            Ok(state) => {
                assert_eq!(state, br#"{"tasks": []}"#);
                "whole".to_owned()
            }
            Err(error) => error.to_string(),
        }
    };
    Target { name: "snapshot", executions: 5_000, memory: MEMORY, corpus, words: vec![] }.run(execute);
}

#[test]
fn any_file_is_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let whole = {
        let path = folder.path().join("whole.sqlite");
        let mut journal = Sqlite::open(&path).unwrap();
        for event in events().into_iter().take(40) {
            journal.append(1, &[serde_json::from_value(event).unwrap()], &[]).unwrap();
        }
        drop(journal);
        std::fs::read(&path).unwrap()
    };
    let path = folder.path().join("journal.sqlite");
    let execute = |bytes: &[u8]| {
        for rest in ["journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"] {
            let _ = std::fs::remove_file(folder.path().join(rest));
        }
        std::fs::write(&path, bytes).unwrap();
        match read(&path) {
            Ok(events) => format!("{} events", events.len()),
            Err(error) => error.to_string(),
        }
    };
    Target { name: "journal", executions: 100, memory: MEMORY, corpus: vec![whole], words: vec![] }.run(execute);
}
