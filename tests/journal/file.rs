//! What is particular to a file: old forms, and what disks do to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coordinator::journal::{Error, Journal, Sqlite};
use domain::runner::task::State;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{events, open};
use crate::harness::story::Story;

/// A folder, and the path of the journal in it.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    (folder, path)
}

/// All that can be read of the journal in a folder.
fn read(path: &Path) -> Result<Vec<(i64, domain::runner::event::Event)>, Error> {
    let mut journal = Sqlite::open(path)?;
    let mut events = vec![];
    journal.replay(0, &mut |_, at_ms, event| events.push((at_ms, event)))?;
    Ok(events)
}

#[test]
fn a_journal_of_the_first_form_is_brought_up_to_date() {
    let mut story = Story::new(11);
    let (_folder, path) = folder();
    let (_other, same) = folder();
    {
        let old = Connection::open(&path).unwrap();
        let form = "BEGIN;
             CREATE TABLE events (number INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, event TEXT NOT NULL) STRICT;
             PRAGMA user_version = 1;
             COMMIT;";
        old.execute_batch(form).unwrap();
        let mut journal = Sqlite::open(&same).unwrap();
        (0..100).for_each(|_| story.append(&mut journal));
        for (at_ms, event) in &story.events {
            let text = serde_json::to_string(event).unwrap();
            old.execute("INSERT INTO events (at_ms, event) VALUES (?1, ?2)", (at_ms, text)).unwrap();
        }
    }
    for _ in 0..2 {
        assert_eq!(read(&path).unwrap(), story.events);
    }
    let attempts = |path: &Path| {
        let mut tables = Sqlite::open(path).unwrap().tables().unwrap();
        Story::tasks().flat_map(|task| tables.attempts(task).unwrap()).collect::<Vec<_>>()
    };
    assert!(!attempts(&path).is_empty());
    assert_eq!(attempts(&path), attempts(&same));
    story.append(&mut Sqlite::open(&path).unwrap());
    assert_eq!(read(&path).unwrap(), story.events);
}

/// `released.sqlite` was left by the program of 2026-11-26 after `reproduce --scale smoke`
/// with plain diffusion models and a Swin2SR of its own, so that it holds every stage.
#[test]
fn a_journal_of_the_released_program_opens_with_all_its_tasks() {
    let (_folder, path) = folder();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/journal/released.sqlite"), &path).unwrap();
    let mut scheduler = domain::runner::scheduler::Scheduler::default();
    let events = read(&path).unwrap();
    events.iter().for_each(|(_, event)| scheduler.apply(event));
    scheduler.check();
    let (stages, committed) = scheduler.tasks().fold((BTreeMap::new(), 0), |(mut stages, committed), task| {
        *stages.entry(task.spec.stage.kind().name()).or_insert(0) += 1;
        (stages, committed + usize::from(matches!(task.state, State::Committed { .. })))
    });
    assert_eq!((stages.len(), committed), (15, 130), "{stages:?}");
    assert_eq!((stages["pad"], stages["evaluate.heatmap"], stages["evaluate.sifid"]), (12, 4, 14));
}

#[test]
fn a_file_that_is_no_journal_is_refused_and_left_as_it_is() {
    let (_folder, path) = folder();
    let text = "not a database, but long enough to look at".repeat(50);
    std::fs::write(&path, &text).unwrap();
    assert!(matches!(Sqlite::open(&path), Err(Error::Damaged { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let (_folder, path) = folder();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Sqlite::open(&path), Err(Error::Version { found: 99, .. })));
    let (_folder, path) = folder();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    let error = Sqlite::open(&path).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let (folder, _) = self::folder();
    assert!(matches!(Sqlite::open(&folder.path().join("none/journal.sqlite")), Err(Error::Read { .. })));
}

#[test]
fn a_torn_write_ahead_log_leaves_whole_batches() {
    let (folder, path) = folder();
    let mut story = Story::new(12);
    let mut ends = vec![0];
    let mut journal = open(folder.path());
    for _ in 0..12 {
        story.append(&mut journal);
        ends.push(story.events.len());
    }
    // As the disk is after a crash: the log has not been folded into the file.
    let (file, log) = (std::fs::read(&path).unwrap(), std::fs::read(path.with_extension("sqlite-wal")).unwrap());
    let mut seen = 0;
    for length in (0..log.len()).step_by(512).chain([log.len()]) {
        let (_torn, path) = self::folder();
        std::fs::write(&path, &file).unwrap();
        std::fs::write(path.with_extension("sqlite-wal"), &log[..length]).unwrap();
        let read = read(&path).unwrap();
        assert!(ends.contains(&read.len()), "{} events are no whole batches", read.len());
        assert_eq!(read, story.events[..read.len()]);
        assert!(read.len() >= seen, "a longer log holds less");
        seen = read.len();
        // The tables are of the same batches.
        let granted = Connection::open(&path)
            .and_then(|file| file.query_row("SELECT COUNT(*) FROM attempts", [], |row| row.get::<_, usize>(0)));
        let leases =
            read.iter().filter(|(_, event)| matches!(event, domain::runner::event::Event::LeaseGranted { .. })).count();
        assert!(granted.is_ok_and(|granted| granted == leases) || read.is_empty());
    }
    assert_eq!(seen, story.events.len());
}

#[test]
fn a_damaged_file_is_an_error_and_never_other_events() {
    let (folder, path) = folder();
    let mut story = Story::new(13);
    {
        let mut journal = open(folder.path());
        (0..60).for_each(|_| story.append(&mut journal));
    }
    let whole = std::fs::read(&path).unwrap();
    let (mut refused, mut unharmed) = (0, 0);
    let mut try_with = |bytes: &[u8]| {
        let (_folder, path) = self::folder();
        std::fs::write(&path, bytes).unwrap();
        match read(&path) {
            // The bytes were of something else, or of nothing.
            Ok(read) => {
                assert_eq!(read, story.events[..read.len()], "other events than were written");
                unharmed += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                refused += 1;
                assert!(std::fs::read(&path).unwrap() == bytes, "a refused file was changed: {error}");
            }
        }
    };
    for length in (0..whole.len()).step_by(4096 * 3 + 512) {
        try_with(&whole[..length]);
    }
    let mut numbers = Story::new(14);
    for _ in 0..400 {
        let mut bytes = whole.clone();
        let place = numbers.below(bytes.len() as u64) as usize;
        bytes[place] ^= 1 << numbers.below(8);
        try_with(&bytes);
    }
    // Every byte of the header.
    for place in 0..100 {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x55;
        try_with(&bytes);
    }
    assert!(refused > 100 && unharmed > 10, "{refused} refused, {unharmed} unharmed");
}

#[test]
fn events_that_are_missing_or_altered_are_named() {
    let (folder, path) = folder();
    let mut story = Story::new(15);
    {
        let mut journal = open(folder.path());
        (0..10).for_each(|_| story.append(&mut journal));
    }
    let after = |meddle: &str| {
        let (_copy, copy) = self::folder();
        std::fs::copy(&path, &copy).unwrap();
        assert_eq!(Connection::open(&copy).unwrap().execute(meddle, []).unwrap(), 1, "{meddle}");
        read(&copy).unwrap_err().to_string()
    };
    let third = "(SELECT first FROM batches ORDER BY first LIMIT 1 OFFSET 2)";
    for (meddle, words) in [
        (format!("DELETE FROM batches WHERE first = {third}"), "is followed by event"),
        ("DELETE FROM batches WHERE first = 1".to_owned(), "event 0 is followed by event"),
        (format!("UPDATE batches SET events = replace(events, '1', '2') WHERE first = {third}"), "checksum"),
        (format!("UPDATE batches SET at_ms = at_ms + 1 WHERE first = {third}"), "checksum"),
        (format!("UPDATE batches SET last = -1 WHERE first = {third}"), "damaged"),
    ] {
        let error = after(&meddle);
        assert!(error.contains(words) && error.contains("left as it is"), "{meddle}: {error}");
    }
}

#[test]
fn a_write_that_fails_is_an_error_and_what_was_appended_stays() {
    let (folder, path) = folder();
    let mut story = Story::new(16);
    let mut journal = open(folder.path());
    story.append(&mut journal);
    let kept = story.events.len();
    // Another writer, who must not be there; full disks have a test with the program.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (at_ms, late, rows) = story.batch();
    let error = journal.append(at_ms, &late, &rows).unwrap_err().to_string();
    assert!(error.contains("cannot be written") && error.contains("nothing committed is lost"), "{error}");
    drop((other, journal));
    let mut journal = open(folder.path());
    assert_eq!(events(&mut journal, 0), story.events[..kept]);
    journal.append(at_ms, &late, &rows).unwrap();
    assert_eq!(events(&mut journal, 0), story.events);
}
