//! What every journal does. `check` is the whole of it.

use std::collections::BTreeMap;

use coordinator::history::{self, Attempt, Change, Tail};
use coordinator::journal::snapshot::Snapshot;
use coordinator::journal::{self, Journal};
use domain::runner::scheduler::Scheduler;
use domain::runner::task::State;
use rusqlite::types::ValueRef;

use super::{events, open};
use crate::harness::story::Story;

#[test]
fn a_file_does_what_every_journal_does() {
    let folders: Vec<_> = (0..6).map(|_| tempfile::tempdir().unwrap()).collect();
    let dump = |number: usize| {
        let path = folders[number].path().join("journal.sqlite");
        let connection = rusqlite::Connection::open(path).unwrap();
        move |query: &str| {
            let mut statement = connection.prepare(query).unwrap();
            let columns = statement.column_count();
            let text = |value: ValueRef<'_>| match value {
                ValueRef::Text(text) => String::from_utf8(text.to_owned()).unwrap(),
                ValueRef::Integer(number) => number.to_string(),
                _ => String::new(),
            };
            let read = |row: &rusqlite::Row<'_>| (0..columns).map(|column| row.get_ref(column).map(text)).collect();
            statement.query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
        }
    };
    check(&|number| Box::new(open(folders[number].path())), &|number, query| dump(number)(query));
}

type Rows = Vec<Vec<String>>;

/// Checks a kind of journal. `open` opens the one of a number, which is empty at
/// first; `dump` gives the answer to a query.
pub(super) fn check(open: &dyn Fn(usize) -> Box<dyn Journal>, dump: &dyn Fn(usize, &str) -> Rows) {
    events_come_back_in_order_after_reopening(&|| open(0));
    the_last_two_snapshots_are_kept_and_the_newest_readable_is_used(&|| open(1));
    numbers_and_changes_are_those_of_before_a_restart(&|| open(2));
    tables_are_what_the_events_say(&|| open(3), &|| open(4), &|number, query| dump(number, query));
    readers_see_what_is_committed_and_nothing_else(&|| open(5));
}

type Open<'a> = &'a dyn Fn() -> Box<dyn Journal>;

fn events_come_back_in_order_after_reopening(open: Open<'_>) {
    let mut story = Story::new(1);
    assert_eq!(open().last(), 0);
    for _ in 0..3 {
        let mut journal = open();
        (0..20).for_each(|_| story.append(journal.as_mut()));
        journal.append(1, &[], &[]).unwrap();
        assert_eq!(journal.last(), story.events.len() as u64);
    }
    let mut journal = open();
    assert_eq!(journal.last(), story.events.len() as u64);
    for after in 0..=story.events.len() {
        assert_eq!(events(journal.as_mut(), after as u64), story.events[after..]);
    }
}

fn the_last_two_snapshots_are_kept_and_the_newest_readable_is_used(open: Open<'_>) {
    let mut story = Story::new(2);
    let mut journal = open();
    let restored = |journal: &mut dyn Journal| {
        journal::replay::restore(journal, |bytes| {
            String::from_utf8(bytes.to_owned()).map_err(|error| error.to_string())
        })
        .unwrap()
    };
    assert_eq!(restored(journal.as_mut()), (String::new(), 0));
    let mut numbers = vec![];
    for _ in 0..3 {
        story.append(journal.as_mut());
        let number = journal.last();
        numbers.push(number);
        let state = number.to_string().repeat(1000);
        journal.save_snapshot(&Snapshot::pack(number, state.as_bytes()).unwrap()).unwrap();
    }
    drop(journal);
    let mut journal = open();
    assert_eq!(journal.snapshots().unwrap(), [numbers[2], numbers[1]]);
    assert_eq!(restored(journal.as_mut()), (numbers[2].to_string().repeat(1000), numbers[2]));

    // One that was altered, then one that its reader does not understand.
    let mut damaged = journal.snapshot(numbers[2]).unwrap();
    damaged.packed[10] ^= 1;
    journal.save_snapshot(&damaged).unwrap();
    assert_eq!(restored(journal.as_mut()).1, numbers[1]);
    journal.save_snapshot(&Snapshot::pack(numbers[2], b"\xff").unwrap()).unwrap();
    assert_eq!(restored(journal.as_mut()).1, numbers[1]);
    damaged.number = numbers[1];
    journal.save_snapshot(&damaged).unwrap();
    assert_eq!(restored(journal.as_mut()), (String::new(), 0));
    assert_eq!(events(journal.as_mut(), 0), story.events);
}

fn numbers_and_changes_are_those_of_before_a_restart(open: Open<'_>) {
    let mut story = Story::new(3);
    let mut journal = open();
    let mut tail = Tail::new(0, vec![]);
    let mut replayed = Scheduler::default();
    for _ in 0..200 {
        let before = story.events.len();
        let (at_ms, events, rows) = story.batch();
        journal.append(at_ms, &events, &rows).unwrap();
        for (number, (_, event)) in (before as u64 + 1..).zip(&story.events[before..]) {
            let rows = history::rows(number, at_ms, event, &replayed);
            tail.note(number, &rows, &replayed);
            replayed.apply(event);
        }
    }
    let end = tail.next();
    assert_eq!(end, journal.last() + 1);
    let mut tables = journal.tables().unwrap();
    for run in Story::runs() {
        let told = tail.since(0, |task| replayed.runs_of(task).any(|other| other.id == run));
        assert!(told.len() > 100);
        let mut stored = vec![];
        let mut from = 0;
        while from < end {
            stored.extend(tables.changes(run, from, from + 37).unwrap());
            from += 37;
        }
        let sorted = |mut changes: Vec<Change>| {
            // Those of one event have no order.
            changes.sort_by_key(|change| (change.number, change.task));
            changes
        };
        assert_eq!(sorted(stored), sorted(told));
    }
    let open_attempts: Vec<u64> = tables.open_attempts().unwrap().iter().map(|attempt| attempt.token.0).collect();
    let leases: Vec<u64> = replayed.leases().map(|(_, lease)| lease.token.0).collect();
    assert_eq!(open_attempts, leases);
    // A tail that begins here knows what is under way.
    let mut later = Tail::new(end - 1, tables.open_attempts().unwrap());
    while later.since(0, |_| true).iter().all(|change| change.state == "running") {
        let before = story.events.len();
        story.batch();
        for (number, (at_ms, event)) in (before as u64 + 1..).zip(&story.events[before..]) {
            let rows = history::rows(number, *at_ms, event, &replayed);
            tail.note(number, &rows, &replayed);
            later.note(number, &rows, &replayed);
            replayed.apply(event);
        }
    }
    assert_eq!(later.since(0, |_| true), tail.since(end, |_| true));
}

/// Everything in the tables, in words that do not depend on how rows are numbered.
const TABLES: [&str; 4] = [
    "SELECT run, submitted_ms, scale, cancelled_ms FROM runs ORDER BY run",
    "SELECT task, stage, subject, state, code, message, artifact, attempts, failures, losses, ended_ms FROM tasks \
     ORDER BY task",
    "SELECT r.run, t.task FROM run_tasks l JOIN runs r ON r.number = l.run JOIN tasks t ON t.number = l.task \
     ORDER BY r.run, t.task",
    "SELECT a.token, t.task, a.attempt, a.worker, a.granted, a.granted_ms, a.ended, a.ended_ms, a.outcome, a.code, \
     a.message FROM attempts a JOIN tasks t ON t.number = a.task ORDER BY a.token",
];

fn tables_are_what_the_events_say(open: Open<'_>, open_empty: Open<'_>, dump: &dyn Fn(usize, &str) -> Rows) {
    let mut story = Story::new(4);
    let mut journal = open();
    (0..300).for_each(|_| story.append(journal.as_mut()));
    let mut rebuilt = open_empty();
    let mut scheduler = Scheduler::default();
    for (number, (at_ms, event)) in (1..).zip(&story.events) {
        let rows = history::rows(number, *at_ms, event, &scheduler);
        rebuilt.append(*at_ms, std::slice::from_ref(event), &rows).unwrap();
        scheduler.apply(event);
    }
    for query in TABLES {
        let rows = dump(3, query);
        assert!(!rows.is_empty());
        assert_eq!(rows, dump(4, query), "{query}");
    }
    // And they are what the scheduler holds.
    let mut tables = journal.tables().unwrap();
    let mut finished = vec![];
    for key in Story::tasks() {
        let task = scheduler.task(key).unwrap();
        let attempts = tables.attempts(key).unwrap();
        assert_eq!(attempts.len() as u32, task.attempts);
        let state = &dump(3, &format!("SELECT state, artifact FROM tasks WHERE task = '{key}'"))[0];
        let (word, artifact) = match &task.state {
            State::Waiting { .. } | State::Ready | State::Leased(_) => ("open", None),
            State::Committed { artifact, .. } => ("succeeded", Some(artifact.to_string())),
            State::Failed(_) => ("failed", None),
            State::Cancelled => ("cancelled", None),
            State::Pruned => ("pruned", None),
        };
        assert_eq!(*state, [word.to_owned(), artifact.unwrap_or_default()]);
        let under_way = attempts.iter().filter(|attempt| attempt.end.is_none()).count();
        assert_eq!(under_way, usize::from(matches!(task.state, State::Leased(_))));
        finished.extend(attempts.into_iter().filter(|attempt| {
            attempt.attempt == 1 && attempt.end.as_ref().is_some_and(|end| end.outcome == "succeeded")
        }));
    }
    finished.sort_by_key(|attempt| std::cmp::Reverse(attempt.token));
    for run in Story::runs() {
        let of_run = finished.iter().filter(|attempt| scheduler.runs_of(attempt.task).any(|other| other.id == run));
        let of_run: Vec<Attempt> = of_run.cloned().collect();
        assert!(of_run.len() > 3 && of_run.len() < finished.len(), "{}", of_run.len());
        assert_eq!(tables.finished(run, 10_000).unwrap(), of_run);
        let mut of_stage: BTreeMap<String, u32> = BTreeMap::new();
        let newest = of_run.into_iter().filter(|attempt| {
            let number = of_stage.entry(attempt.label.split(' ').next().unwrap().to_owned()).or_default();
            *number += 1;
            *number <= 2
        });
        let newest: Vec<Attempt> = newest.collect();
        assert!(newest.len() > 2, "several stages");
        assert_eq!(tables.finished(run, 2).unwrap(), newest);
    }
    let progress = dump(3, "SELECT SUM(tasks), SUM(succeeded + failed + cancelled + open) FROM progress");
    assert_eq!(progress[0][0], progress[0][1]);
}

fn readers_see_what_is_committed_and_nothing_else(open: Open<'_>) {
    let mut story = Story::new(5);
    let mut journal = open();
    let mut tables = journal.tables().unwrap();
    assert_eq!(tables.open_attempts().unwrap(), []);
    while story.scheduler.leases().next().is_none() {
        story.append(journal.as_mut());
    }
    assert_eq!(tables.open_attempts().unwrap().len(), story.scheduler.leases().count());
}
