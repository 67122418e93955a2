//! Journals that go on without what is lost, and copies that are put in place.

use std::os::unix::fs::PermissionsExt;

use domain::runner::command::{self, CommandSpec, Commands};
use domain::runner::scheduler::Scheduler;
use domain::runner::scheduler::snapshot;
use domain::runner::work::Work;

use super::*;

#[test]
fn recovering_keeps_what_can_be_read_and_says_what_is_lost() {
    let live = Live::new(43, 12);
    let (files, all) = (live.files(), &live.story.events);
    let middle = files.0["-wal"].len() / 2;
    let damaged = files.with("-wal", |log| log[middle] ^= 4);
    let (folder, path) = damaged.place();
    let state = folder.path();

    let dry = run_in(state, "journal recover --dry-run");
    dry.is_done();
    let refused = read(&path).unwrap_err();
    let Error::Refused { refusal: Refusal::Shorter { last, marked }, .. } = refused else { panic!("{refused}") };
    assert_eq!(marked, all.len() as u64);
    assert!(last > 10 && last < marked, "{last}");
    let said = format!("kept     events 1 to {last}\nlost     events {} to {marked}\n", last + 1);
    assert!(dry.out.contains(&said) && dry.out.contains("nothing was changed"), "{dry}");
    assert!(Files::of(&path) == damaged, "{dry}");

    let done = run_in(state, "journal recover");
    done.is_done();
    assert!(done.out.contains(&said), "{done}");
    let aside = done.out.lines().find_map(|line| line.strip_prefix("aside    ")).unwrap();
    let aside = Path::new(aside.split(" has ").next().unwrap());
    assert!(Files::of(&aside.join("journal.sqlite")) == damaged);
    let mut kept = read(&path).unwrap();
    let noted = kept.pop().unwrap().1;
    assert_eq!(noted, Event::HistoryLost { events: marked - last });
    assert!(kept == all[..last as usize]);
    // No lease of before, lost or not, has the number of one that comes.
    let mut scheduler = Scheduler::default();
    all.iter().for_each(|(_, event)| scheduler.apply(event));
    let before = serde_json::to_value(snapshot::Snapshot::from(&scheduler)).unwrap();
    let mut scheduler = Scheduler::default();
    kept.iter().map(|(_, event)| event).chain([&noted]).for_each(|event| scheduler.apply(event));
    let after = serde_json::to_value(snapshot::Snapshot::from(&scheduler)).unwrap();
    assert!(after["last_token"].as_u64() >= before["last_token"].as_u64());

    let again = run_in(state, "journal recover");
    again.is_done();
    assert!(again.out.contains("nothing is wrong"), "{again}");
    run_in(state, "status --json").is_done();
}

#[test]
fn recovering_a_damaged_file_keeps_all_before_the_damage_with_its_tables() {
    let live = Live::new(44, 14);
    let (files, all) = (live.files(), &live.story.events);
    let (_folder, path) = files.place();
    let third: i64 = {
        let connection = rusqlite::Connection::open(&path).unwrap();
        let third = "SELECT first FROM batches ORDER BY first LIMIT 1 OFFSET 20";
        let first = connection.query_row(third, [], |row| row.get(0)).unwrap();
        connection.execute("UPDATE batches SET events = replace(events, '1', '2') WHERE first = ?1", [first]).unwrap();
        first
    };
    let error = read(&path).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    let recovered = recover::file(&path, false).unwrap();
    assert_eq!((recovered.kept, recovered.known), (third as u64 - 1, Some(all.len() as u64)));
    let kept = read(&path).unwrap();
    assert!(kept[..third as usize - 1] == all[..third as usize - 1]);
    let granted = kept.iter().filter(|(_, event)| matches!(event, Event::LeaseGranted { .. })).count();
    let attempts = rusqlite::Connection::open(&path).unwrap();
    let attempts: usize = attempts.query_row("SELECT COUNT(*) FROM attempts", [], |row| row.get(0)).unwrap();
    assert_eq!(attempts, granted);
}

/// Whatever was damaged, one command lets the coordinator serve, and what it serves
/// is the beginning of what was.
#[test]
fn whatever_is_damaged_can_be_recovered_from() {
    let live = Live::new(45, 12);
    let (files, all) = (live.files(), &live.story.events);
    let mut numbers = Story::new(46);
    let mut kept_all = 0;
    for round in 0..40 {
        let ending = if round % 2 == 0 { "-wal" } else { "" };
        let place = numbers.below(files.0[ending].len() as u64) as usize;
        let bits = 1 << numbers.below(8);
        let (_folder, path) = files.with(ending, |bytes| bytes[place] ^= bits).place();
        let recovered = recover::file(&path, false).unwrap_or_else(|error| panic!("{place} of {ending}: {error}"));
        let kept = recovered.kept as usize;
        let events = read(&path).unwrap();
        assert!(events[..kept] == all[..kept], "{place} of {ending}");
        assert_eq!(events.len() > kept, kept < all.len());
        kept_all += usize::from(kept == all.len());
    }
    assert!(kept_all < 40);
}

#[test]
fn a_recovery_that_is_cut_short_goes_on_and_nothing_is_served_until_then() {
    let live = Live::new(47, 10);
    let damaged = live.files().with("-wal", |log| log.truncate(log.len() / 2));
    let (_folder, path) = damaged.place();
    let done = recover::file(&path, false).unwrap();
    assert!(done.kept > 0 && done.kept < live.story.events.len() as u64);
    let whole = Files::of(&path);
    // The journal that is kept is ready, and some of the old files are gone.
    for (gone, mark) in [(&[][..], false), (&["-wal"], false), (&["-wal"], true)] {
        let mut files = damaged.clone();
        gone.iter().for_each(|ending| drop(files.0.remove(ending)));
        if mark {
            files = files.mixed(&whole, &["-mark"]);
        }
        let (_folder, path) = files.place();
        std::fs::write(beside(&path, "-recovered"), &whole.0[""]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, Error::Refused { refusal: Refusal::Recovering, .. }), "{error}");
        assert!(recover::file(&path, false).unwrap().problem.is_some());
        assert!(Files::of(&path).0[""] == whole.0[""]);
        assert!(read(&path).unwrap()[..done.kept as usize] == live.story.events[..done.kept as usize]);
    }
    // And before it is ready, all is as it was.
    let (_folder, path) = damaged.place();
    std::fs::write(beside(&path, "-recovering"), b"half").unwrap();
    assert_eq!(recover::file(&path, false).unwrap().kept, done.kept);
}

#[test]
fn a_file_that_lost_its_end_keeps_what_is_before_that() {
    let mut live = Live::empty(51);
    (0..400).for_each(|_| live.append());
    live.fold();
    let (all, whole) = (live.story.events.len(), live.files().without("-wal"));
    let length = whole.0[""].len();
    for (cut, least) in [(1, 9), (2048, 9), (4090, 9), (4096, 9), (4097, 9), (5 * 4096, 8), (length / 2, 3)] {
        let (_folder, path) = whole.with("", |file| file.truncate(length - cut)).place();
        let kept = recover::file(&path, false).unwrap().kept as usize;
        assert!(kept >= all * least / 10, "without {cut} of {length} bytes {kept} of {all} events are kept");
        assert!(read(&path).unwrap()[..kept] == live.story.events[..kept]);
    }
}

#[test]
fn a_file_that_ends_in_the_middle_of_a_page_is_damaged_and_can_be_recovered() {
    let mut live = Live::new(50, 0);
    for number in 0..4 {
        // Long enough for pages that hold nothing but the middle of it.
        let spec = CommandSpec {
            name: "a".to_owned(),
            argv: vec!["true".to_owned()],
            array: Some([1, 400]),
            ..CommandSpec::default()
        };
        let commands = Commands { id: number.to_string(), command: vec![spec] };
        let plan = command::plan(&commands).unwrap();
        let (run, work) = (plan.id(), Work::Commands { commands: commands.into() });
        let tasks = plan.tasks.into_iter().map(Into::into).collect();
        let event = Event::RunSubmitted { run, work, tasks, more: 0, priority: 0, by: None };
        live.journal.append(0, &[event], &[]).unwrap();
    }
    live.fold();
    live.append();
    let (_folder, copy) = live.files().place();
    let all = read(&copy).unwrap();
    let length = live.files().0[""].len();
    for place in 1..120 {
        // No page has an odd size.
        let kept = (length * place / 120) | 1;
        let (_folder, path) = live.files().with("", |file| file.truncate(kept)).place();
        all_or_refused(read(&path), &all, &format!("{kept} bytes"));
        recover::file(&path, false).unwrap_or_else(|error| panic!("{kept} bytes: {error}"));
        read(&path).unwrap_or_else(|error| panic!("{kept} bytes: {error}"));
    }
}

#[test]
fn a_backup_is_one_file_of_all_events_and_needs_no_mark() {
    let mut live = Live::new(48, 10);
    let copy = beside(&live.path, "-copy");
    let count = live.story.events.len() as u64;
    assert_eq!(backup::file(&live.path, &copy).unwrap(), count);
    live.append(); // the journal is in use, and goes on
    let names = |folder: &Path| {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("copy")).collect::<Vec<_>>()
    };
    assert_eq!(names(live.path.parent().unwrap()), ["journal.sqlite-copy"]);
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600, "as secret as the journal");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    std::fs::copy(&copy, &path).unwrap();
    assert!(read(&path).unwrap() == live.story.events[..count as usize]);
    let error = backup::file(&live.path, &copy).unwrap_err().to_string();
    assert!(error.ends_with("-copy: there is such a file already"), "{error}");
    assert!(error.starts_with("cannot copy the journal to "), "{error}");
    // A journal that lacks something is not copied as if it did not.
    let (_folder, damaged) = live.files().with("-wal", |log| log.truncate(log.len() / 2)).place();
    assert!(matches!(backup::file(&damaged, &beside(&damaged, "-copy")), Err(Error::Refused { .. })));
    assert!(names(damaged.parent().unwrap()).is_empty());
}

#[test]
fn a_restored_backup_is_refused_until_somebody_says_that_it_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let (state, copy) = (folder.path().join("state"), folder.path().join("copy.sqlite"));
    let backup = format!("journal backup {}", copy.display());
    let serve = || {
        let mut coordinator = Running::start_in(&state, "coordinator --listen 127.0.0.1:0");
        coordinator.hear("ends it, workers wait for it");
        coordinator
    };
    let command = ["exec", "--state", state.to_str().unwrap(), "--", "true"];
    let mut coordinator = serve();
    run(command).is_done();
    run_in(&state, &backup).is_done();
    run(command).is_done();
    coordinator.kill();

    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(state.join(format!("journal.sqlite{ending}")));
    }
    std::fs::copy(&copy, state.join("journal.sqlite")).unwrap();
    let refused = run_in(&state, "coordinator --listen 127.0.0.1:0");
    refused.says(1, &["journal.sqlite is not served", "were acknowledged", "lithogen journal recover"]);
    let running = {
        let recovered = run_in(&state, "journal recover");
        recovered.is_done();
        assert!(recovered.out.contains("lost     events "), "{recovered}");
        serve()
    };
    run_in(&state, "journal recover").says(1, &["in use by another coordinator"]);
    running.signal("INT");
    running.end().is_done();
    run_in(&state, &backup).says(1, &["there is such a file already"]);
    let empty = folder.path().join("none");
    std::fs::create_dir(&empty).unwrap();
    run_in(&empty, "journal recover").says(1, &["there is no journal in"]);
    run_in(&empty, "status").says(1, &["there is no study in"]);
    // A journal that is gone, where there was one, is no folder without a study.
    std::fs::remove_file(state.join("journal.sqlite")).unwrap();
    run_in(&state, "status").says(1, &["is not served", "lithogen journal recover"]);
    run_in(&empty, &backup).says(1, &["there is no journal in"]);
}
