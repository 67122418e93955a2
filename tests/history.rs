//! The journal's history: never another one, and never a shorter one than anybody
//! was told of.

mod recovery;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coordinator::history::{Attempt, Change, Row};
use coordinator::journal::mark::Refusal;
use coordinator::journal::postgres::Server;
use coordinator::journal::snapshot::Snapshot;
use coordinator::journal::{Error, Journal, Sqlite, Tables, backup, recover};
use coordinator::{Config, driver};
use domain::id::{RunId, TaskKey};
use domain::runner::event::Event;
use domain::runner::registry::{Request, Role};
use tempfile::TempDir;

use crate::harness::PATIENCE;
use crate::harness::postgres::{Database, leading};
use crate::harness::program::{Running, lithogen, run, run_in};
use crate::harness::story::Story;

/// A journal's files by the endings of their names, as they are at one moment.
#[derive(Clone, PartialEq)]
struct Files(BTreeMap<&'static str, Vec<u8>>);

impl Files {
    fn of(path: &Path) -> Self {
        let read = |ending: &'static str| Some((ending, std::fs::read(beside(path, ending)).ok()?));
        Self(["", "-wal", "-mark"].into_iter().filter_map(read).collect())
    }

    /// Puts them into a folder of their own.
    fn place(&self) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sqlite");
        self.0.iter().for_each(|(ending, bytes)| std::fs::write(beside(&path, ending), bytes).unwrap());
        (folder, path)
    }

    fn with(&self, ending: &'static str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut files = self.clone();
        change(files.0.get_mut(ending).unwrap());
        files
    }

    fn without(&self, ending: &str) -> Self {
        let mut files = self.clone();
        files.0.remove(ending).unwrap();
        files
    }

    /// With the files of these endings as they are in others.
    fn mixed(&self, others: &Self, endings: &[&'static str]) -> Self {
        let mut files = self.clone();
        for ending in endings {
            match others.0.get(ending) {
                Some(bytes) => drop(files.0.insert(ending, bytes.clone())),
                None => drop(files.0.remove(ending)),
            }
        }
        files
    }

    fn read(&self) -> Result<History, Error> {
        read(&self.place().1)
    }
}

type History = Vec<(i64, Event)>;

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

fn read(path: &Path) -> Result<History, Error> {
    let mut journal = Sqlite::open(path)?;
    let mut events = vec![];
    journal.replay(0, &mut |_, at_ms, event| events.push((at_ms, event)))?;
    Ok(events)
}

/// Batches that are in the file, with both runs of a story.
const FOLDED: usize = 10;

/// An open journal whose log is not folded into its file.
struct Live {
    story: Story,
    journal: Sqlite,
    path: PathBuf,
    _folder: TempDir,
}

impl Live {
    /// With some batches in its file, and so many more in the log alone.
    fn new(seed: u64, batches: usize) -> Self {
        let mut live = Self::empty(seed);
        (0..FOLDED).for_each(|_| live.append());
        live.fold();
        (0..batches).for_each(|_| live.append());
        live
    }

    fn empty(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sqlite");
        let journal = Sqlite::open(&path).unwrap();
        Self { story: Story::new(seed), journal, path, _folder: folder }
    }

    fn fold(&self) {
        let other = rusqlite::Connection::open(&self.path).unwrap();
        let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
        assert_eq!(other.query_row(fold, [], |row| row.get::<_, u32>(0)).unwrap(), 0);
    }

    /// The files as they would be after a kill.
    fn files(&self) -> Files {
        Files::of(&self.path)
    }

    fn append(&mut self) {
        self.story.append(&mut self.journal);
    }
}

/// Fails unless all events are there, or the journal is refused in words that lead on.
#[track_caller]
fn all_or_refused(read: Result<History, Error>, all: &History, what: &str) -> bool {
    match read {
        Ok(read) => {
            assert!(read == *all, "{what}: {} of {} events", read.len(), all.len());
            true
        }
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("journal.sqlite") && error.contains("lithogen journal recover"), "{what}: {error}");
            false
        }
    }
}

#[test]
fn damage_anywhere_in_the_log_leaves_all_events_or_a_refusal() {
    let live = Live::new(31, 12);
    let (files, all) = (live.files(), &live.story.events);
    let length = files.0["-wal"].len();
    assert!(length > 50_000 && files.read().unwrap() == *all);
    let mut numbers = Story::new(32);
    let mut refused = 0;
    for _ in 0..100 {
        let (place, bit) = (numbers.below(length as u64) as usize, numbers.below(8));
        let damages: [(&str, Files); 4] = [
            ("a flipped bit", files.with("-wal", |log| log[place] ^= 1 << bit)),
            ("an end", files.with("-wal", |log| log.truncate(place))),
            ("zeros", files.with("-wal", |log| log[place & !511..].iter_mut().take(512).for_each(|byte| *byte = 0))),
            ("other bytes", files.with("-wal", |log| log[place..].iter_mut().take(37).for_each(|byte| *byte ^= 0xa7))),
        ];
        for (what, damaged) in damages {
            let whole = all_or_refused(damaged.read(), all, &format!("{what} at byte {place} of the log"));
            refused += usize::from(!whole);
        }
    }
    assert!(refused > 350, "{refused} of 400 refused"); // what is cut at its end harms nothing
    let removed = files.without("-wal").read().unwrap_err();
    assert!(matches!(removed, Error::Refused { refusal: Refusal::Shorter { .. }, .. }), "{removed}");
}

#[test]
fn damage_anywhere_in_the_file_leaves_all_events_or_a_refusal() {
    let mut live = Live::new(33, 60);
    drop(live.journal);
    let files = Files::of(&live.path);
    live.journal = Sqlite::open(&live.path).unwrap();
    let (all, length) = (&live.story.events, files.0[""].len());
    assert!(!files.0.contains_key("-wal") && files.read().unwrap() == *all);
    let mut numbers = Story::new(34);
    let header = (0..100).map(|place| (place, 0x41));
    let anywhere = (0..200).map(|_| (numbers.below(length as u64) as usize, 1 << numbers.below(8)));
    let mut refused = 0;
    for (place, bits) in header.chain(anywhere.collect::<Vec<_>>()) {
        let flipped = files.with("", |file| file[place] ^= bits);
        refused += usize::from(!all_or_refused(flipped.read(), all, &format!("byte {place} of the file")));
    }
    for length in (0..length).step_by(4096 * 5 + 512) {
        let cut = files.with("", |file| file.truncate(length));
        assert!(!all_or_refused(cut.read(), all, &format!("cut at {length}")));
    }
    assert!(refused > 100, "{refused} refused");
}

#[test]
fn a_damaged_index_of_the_log_harms_nothing() {
    let live = Live::new(35, 20);
    let (_folder, path) = live.files().place();
    std::fs::write(beside(&path, "-shm"), vec![0x5a; 32 * 1024]).unwrap();
    assert!(read(&path).unwrap() == live.story.events);
}

/// Every state that a kill or a power cut can leave: the log is written up to some
/// place, then the mark, and each only after what came before it is on disk.
#[test]
fn a_cut_at_any_moment_of_a_write_never_makes_a_good_journal_refused() {
    let mut live = Live::new(36, 0);
    let mut cuts = 0;
    for round in 0..24 {
        if round == 12 {
            live.fold(); // the log begins anew
        }
        let (before, kept) = (live.files(), live.story.events.clone());
        live.append();
        let (after, all) = (live.files(), &live.story.events);
        if round % 8 != 0 {
            continue;
        }
        let (old, new) = (&before.0["-wal"], &after.0["-wal"]);
        assert!(new.starts_with(old));
        for cut in (old.len()..=new.len()).step_by(1028) {
            let read = before.with("-wal", |log| *log = new[..cut].to_vec()).read().unwrap();
            assert!(read == kept || read == *all, "{} events", read.len());
            cuts += 1;
        }
        let (old, new) = (&before.0["-mark"], &after.0["-mark"]);
        for cut in (0..new.len()).filter(|place| old[*place] != new[*place]) {
            let torn = [&new[..cut], &old[cut..]].concat();
            let (_folder, path) = after.with("-mark", |mark| *mark = torn).place();
            // Mended, so that a second start has nothing to say.
            for _ in 0..2 {
                assert!(read(&path).unwrap() == *all);
            }
            assert!(Files::of(&path).0["-mark"].len() == new.len());
            cuts += 1;
        }
        assert!(before.mixed(&after, &["", "-wal"]).read().unwrap() == *all, "cut between the events and the mark");
    }
    assert!(cuts > 100, "{cuts} cuts");
}

#[test]
fn a_journal_without_events_or_mark_opens_after_a_cut_at_its_beginning() {
    let mut live = Live::empty(37);
    let files = live.files();
    assert_eq!(files.read().unwrap(), []);
    assert_eq!(files.without("-mark").read().unwrap(), []);
    live.append();
    let after = live.files();
    assert!(after.mixed(&files, &["-mark"]).read().unwrap() == live.story.events);
    // What the first start leaves that was cut before it had made a file.
    assert_eq!(files.without("").without("-wal").read().unwrap(), []);
}

#[test]
fn an_older_copy_of_the_file_beside_the_mark_is_refused_and_left_as_it_is() {
    let mut live = Live::new(38, 10);
    let (_folder, copy) = live.files().place();
    backup::file(&copy, &beside(&copy, "-old")).unwrap();
    let old = std::fs::read(beside(&copy, "-old")).unwrap();
    let kept = live.story.events.len() as u64;
    live.append();
    let marked = live.story.events.len() as u64;
    let mut restored = live.files().with("", |file| *file = old.clone());
    restored.0.remove("-wal");
    let (_folder, path) = restored.place();
    for _ in 0..2 {
        let error = read(&path).unwrap_err();
        assert!(
            matches!(error, Error::Refused { refusal: Refusal::Shorter { last, marked: m }, .. } if (last, m) == (kept, marked)),
            "{error}"
        );
        assert!(Files::of(&path).0[""] == old);
    }
    // An empty file is no new journal either, nor is none.
    for file in [restored.with("", Vec::clear), restored.without("")] {
        let (_folder, path) = file.place();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, Error::Refused { refusal: Refusal::Shorter { last: 0, .. }, .. }), "{error}");
        assert!(Files::of(&path) == file, "something was made in its place");
    }
}

#[test]
fn the_mark_of_another_journal_is_refused() {
    let (live, other) = (Live::new(39, 12), Live::new(40, 6));
    assert!(live.story.events.len() > other.story.events.len());
    let error = live.files().mixed(&other.files(), &["-mark"]).read().unwrap_err();
    assert!(matches!(error, Error::Refused { refusal: Refusal::Differs { .. }, .. }), "{error}");
}

#[test]
fn a_mark_that_goes_missing_is_missed_where_it_was_and_made_anew_for_a_copy() {
    let mut live = Live::new(41, 5);
    std::fs::remove_file(beside(&live.path, "-mark")).unwrap();
    let error = read(&live.path).unwrap_err();
    assert!(matches!(error, Error::Refused { refusal: Refusal::Missing, .. }), "{error}");
    let (_folder, copy) = live.files().place();
    assert!(read(&copy).unwrap() == live.story.events);
    assert!(beside(&copy, "-mark").exists());
    live.append();
}

#[test]
fn a_mark_that_cannot_be_read_is_refused_and_recovering_loses_nothing() {
    let live = Live::new(42, 8);
    let last = live.story.events.len() as u64;
    for bytes in [vec![], vec![0; 8192], b"what?".repeat(2000)] {
        let (_folder, path) = live.files().with("-mark", |mark| *mark = bytes).place();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, Error::Refused { refusal: Refusal::Unreadable, .. }), "{error}");
        let recovered = recover::file(&path, false).unwrap();
        assert_eq!((recovered.kept, recovered.known), (last, None));
        let events = read(&path).unwrap();
        assert!(events[..last as usize] == live.story.events);
        assert_eq!(recover::file(&path, false).unwrap().problem, None);
    }
}

#[test]
fn a_journal_of_the_released_program_gets_its_mark_when_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/journal/released.sqlite"), &path).unwrap();
    let events = read(&path).unwrap();
    assert!(beside(&path, "-mark").exists());
    let mut journal = Sqlite::open(&path).unwrap();
    assert_eq!(journal.last(), events.len() as u64);
    journal.append(1, &[Event::HistoryLost { events: 1 }], &[]).unwrap();
    let files = Files::of(&path);
    let error = files.without("-wal").read().unwrap_err();
    assert!(matches!(error, Error::Refused { refusal: Refusal::Shorter { .. }, .. }), "{error}");
    assert_eq!(files.read().unwrap().len(), events.len() + 1);
}

#[test]
fn a_coordinator_that_is_killed_again_and_again_always_starts() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    for round in 0..12 {
        let mut coordinator = Running::start_in(state, "coordinator --listen 127.0.0.1:0");
        coordinator.hear("ends it, workers wait for it");
        for number in 0..=round % 3 {
            let name = format!("echo {round} {number}");
            run(["exec", "--state", state.to_str().unwrap(), "--", "sh", "-c", &name]).is_done();
        }
        coordinator.kill();
    }
    let listed = run_in(state, "status --json").json();
    assert_eq!(listed["runs"].as_array().unwrap().len(), 24);
}

/// A journal with a fault of the program.
struct Faulty;

impl Journal for Faulty {
    fn last(&self) -> u64 {
        0
    }

    fn snapshots(&mut self) -> Result<Vec<u64>, Error> {
        Ok(vec![])
    }

    fn snapshot(&mut self, _: u64) -> Result<Snapshot, Error> {
        unreachable!("there is none")
    }

    fn save_snapshot(&mut self, _: &Snapshot) -> Result<(), Error> {
        Ok(())
    }

    fn replay(&mut self, _: u64, _: &mut dyn FnMut(u64, i64, Event)) -> Result<(), Error> {
        Ok(())
    }

    fn append(&mut self, _: i64, _: &[Event], _: &[Row]) -> Result<(), Error> {
        panic!("a fault, on purpose")
    }

    fn tables(&self) -> Result<Box<dyn Tables>, Error> {
        Ok(Box::new(Faulty))
    }
}

impl Tables for Faulty {
    fn changes(&mut self, _: RunId, _: u64, _: u64) -> Result<Vec<Change>, Error> {
        Ok(vec![])
    }

    fn attempts(&mut self, _: TaskKey) -> Result<Vec<Attempt>, Error> {
        Ok(vec![])
    }

    fn open_attempts(&mut self) -> Result<Vec<Attempt>, Error> {
        Ok(vec![])
    }

    fn finished(&mut self, _: RunId, _: u32) -> Result<Vec<Attempt>, Error> {
        Ok(vec![])
    }
}

#[tokio::test]
async fn a_driver_that_panics_ends_with_an_error_and_answers_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (handle, mut end) = driver::start(&Config::new(folder.path()), Box::new(Faulty)).unwrap();
    let create = Request::CreateToken {
        token: domain::digest::Digest::of(b""),
        role: Role::Viewer,
        uses: 1,
        expires_ms: i64::MAX,
        labels: BTreeMap::new(),
    };
    assert!(handle.registry(create).await.is_err());
    let error = end.wait().await.unwrap_err();
    assert!(matches!(error, driver::Error::Panicked), "{error}");
    assert!(error.to_string().contains("panicked"));
}

#[test]
fn no_error_names_the_password_of_a_journal() {
    let folder = tempfile::tempdir().unwrap();
    for url in [
        "postgres://user:hush-hush@127.0.0.1:1/lithogen",
        "postgres://user:hush-hush@host:notaport/x",
        "postgres://user:a@hush-hush@127.0.0.1/x",
        "postgres://user@host/x?hush-hush=1",
        "postgres://user:hush-hush/x",
        "postgres://user:hush-hush@host/x?sslmode=require",
        "user=me password=a hush-hush",
        "user=me password=a hush-hush=b",
        "postgres://user:%hush-hush@/x?port=a",
    ] {
        let state = folder.path().to_str().unwrap();
        for command in [["coordinator", "--listen", "127.0.0.1:0"], ["journal", "recover", "--dry-run"]] {
            let words = command.iter().copied().chain(["--state", state, "--journal", url, "-v", "-v"]);
            let ended = run(words);
            assert!(matches!(ended.code, Some(1 | 2)), "{ended}");
            assert!(ended.err.contains("error: "), "{ended}");
            assert!(!format!("{ended}").contains("hush"), "{url}: {ended}");
        }
    }
    let help = lithogen(["coordinator", "--help"])
        .env("LITHOGEN_JOURNAL", "postgres://user:hush-hush@127.0.0.1/x")
        .output()
        .unwrap();
    assert!(help.status.success() && !String::from_utf8(help.stdout).unwrap().contains("hush"));
}

/// What a coordinator remembers of a database, and what the database has after an old
/// copy was put in place.
#[test]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
fn an_old_copy_of_a_database_is_refused_by_who_knows_of_later_events() {
    let database = Database::start();
    let url = database.new_url();
    let folder = tempfile::tempdir().unwrap();
    let mark_of = |name: &str| folder.path().join(name);
    let open = |mark: &Path| {
        let lead = leading(&Server::new(&url, PATIENCE).unwrap().marked_in(mark.to_owned()));
        let journal = lead.opener()();
        (lead, journal)
    };
    let mut story = Story::new(51);
    let ends: Vec<u64> = ["behind", "leader"]
        .map(|name| {
            let (lead, journal) = open(&mark_of(name));
            let mut journal = journal.unwrap();
            (0..5).for_each(|_| story.append(journal.as_mut()));
            let last = journal.last();
            drop(journal);
            lead.release();
            last
        })
        .to_vec();
    let restored = ends[0] as i64;
    let name = url.rsplit('/').next().unwrap();
    database.connect(name).execute("DELETE FROM batches WHERE first > $1", &[&restored]).unwrap();

    let (lead, refused) = open(&mark_of("leader"));
    lead.release();
    let refused = refused.map(|_| ()).unwrap_err();
    assert!(
        matches!(refused, Error::Refused { refusal: Refusal::Shorter { last, marked }, .. } if [last, marked] == *ends),
        "{refused}"
    );
    assert!(refused.to_string().contains("lithogen journal recover"), "{refused}");
    for served in ["behind", "new"] {
        let (lead, journal) = open(&mark_of(served));
        assert_eq!(journal.unwrap().last(), ends[0], "{served}");
        lead.release();
    }
    let server = Server::new(&url, PATIENCE).unwrap();
    let dry = recover::postgres(&server, &mark_of("leader"), true).unwrap();
    assert_eq!((dry.kept, dry.known, dry.aside), (ends[0], Some(ends[1]), None));
    let done = recover::postgres(&server, &mark_of("leader"), false).unwrap();
    assert_eq!((done.kept, done.known), (ends[0], Some(ends[1])));
    let (lead, journal) = open(&mark_of("leader"));
    let mut journal = journal.unwrap();
    let mut events = vec![];
    journal.replay(0, &mut |_, at_ms, event| events.push((at_ms, event))).unwrap();
    assert_eq!(events.pop().unwrap().1, Event::HistoryLost { events: ends[1] - ends[0] });
    assert!(events == story.events[..ends[0] as usize]);
    drop(journal);
    lead.release();
    assert_eq!(recover::postgres(&server, &mark_of("leader"), false).unwrap().problem, None);
}
