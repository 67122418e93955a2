//! What is particular to a database that several coordinators share.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coordinator::history::Row;
use coordinator::journal::leader::{Candidacy, Candidate};
use coordinator::journal::postgres::Server;
use coordinator::journal::snapshot::Snapshot;
use coordinator::journal::{Error, Journal};
use domain::runner::event::Event;
use postgres::SimpleQueryMessage;

use super::{conformance, events};
use crate::harness::postgres::{Database, lead};
use crate::harness::story::Story;
use crate::harness::{PATIENCE, eventually};

/// Far longer than any of these tests needs.
const LONG: Duration = Duration::from_secs(20);

/// Long enough for a busy machine, short enough to wait for.
const SHORT: Duration = Duration::from_millis(1500);

#[test]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
fn a_database_does_what_every_journal_does() {
    let database = Database::start();
    let urls: Vec<String> = (0..6).map(|_| database.new_url()).collect();
    let dump = |number: usize, query: &str| {
        let name = urls[number].rsplit('/').next().unwrap();
        let answer = database.connect(name).simple_query(query).unwrap();
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
            }
            _ => None,
        };
        answer.iter().filter_map(row).collect()
    };
    conformance::check(&|number| Box::new(Led::new(&urls[number])), &dump);
}

/// A journal that gives the lead back when it is closed, for the next to open.
struct Led {
    lead: Option<coordinator::journal::leader::Lead>,
    journal: Box<dyn Journal>,
}

impl Led {
    fn new(url: &str) -> Self {
        let (lead, journal) = lead(url, LONG);
        Self { lead: Some(lead), journal }
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        self.lead.take().unwrap().release();
    }
}

impl Journal for Led {
    fn last(&self) -> u64 {
        self.journal.last()
    }

    fn snapshots(&mut self) -> Result<Vec<u64>, Error> {
        self.journal.snapshots()
    }

    fn snapshot(&mut self, number: u64) -> Result<Snapshot, Error> {
        self.journal.snapshot(number)
    }

    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        self.journal.save_snapshot(snapshot)
    }

    fn replay(&mut self, after: u64, apply: &mut dyn FnMut(u64, i64, Event)) -> Result<(), Error> {
        self.journal.replay(after, apply)
    }

    fn append(&mut self, at_ms: i64, events: &[Event], rows: &[Row]) -> Result<(), Error> {
        self.journal.append(at_ms, events, rows)
    }

    fn tables(&self) -> Result<Box<dyn coordinator::journal::Tables>, Error> {
        self.journal.tables()
    }
}

#[test]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
fn broken_connections_lose_nothing_and_append_nothing_twice() {
    let mut database = Database::start();
    let url = database.new_url();
    let (_lead, mut journal) = lead(&url, LONG);
    let mut story = Story::new(7);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut meddler = database.connect("postgres");
            while !done.load(Ordering::Relaxed) {
                let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                           WHERE pid <> pg_backend_pid() AND application_name = 'lithogen'";
                meddler.execute(cut, &[]).unwrap();
                std::thread::sleep(Duration::from_millis(60)); // so that some attempts get through
            }
        });
        (0..30).for_each(|_| story.append(journal.as_mut()));
        done.store(true, Ordering::Relaxed);
    });
    database.crash();
    (0..10).for_each(|_| story.append(journal.as_mut()));
    assert_eq!(events(journal.as_mut(), 0), story.events);
}

#[test]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
fn an_old_leader_cannot_write() {
    let database = Database::start();
    let url = database.new_url();
    let mut story = Story::new(8);
    let (old_lead, mut old) = lead(&url, LONG);
    story.append(old.as_mut());
    let mut rival = Candidate::new(&Server::new(&url, LONG).unwrap(), "http://there").unwrap();
    let stands = rival.stand().unwrap();
    assert!(matches!(stands, Candidacy::Stands { leader } if leader == "http://here"));

    // As if it had been silent for too long.
    let name = url.rsplit('/').next().unwrap();
    database.connect(name).execute("UPDATE leader SET expires = 'epoch'", &[]).unwrap();
    let Candidacy::Leads(new_lead) = rival.stand().unwrap() else { panic!("the rival leads") };
    let mut new = new_lead.opener()().unwrap();
    assert_eq!(events(new.as_mut(), 0), story.events);
    let (at_ms, late, rows) = story.batch();
    assert!(matches!(old.append(at_ms, &late, &rows), Err(Error::NotLeader { .. })));
    let late_snapshot = Snapshot::pack(1, b"").unwrap();
    assert!(matches!(old.save_snapshot(&late_snapshot), Err(Error::NotLeader { .. })));
    new.append(at_ms, &late, &rows).unwrap();
    let (at_ms, later, rows) = story.batch();
    assert!(matches!(old.append(at_ms, &later, &rows), Err(Error::NotLeader { .. })));
    // It finds out by itself, too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lost = runtime.block_on(async { tokio::time::timeout(PATIENCE, old_lead.lost()).await });
    assert!(matches!(lost, Ok(Error::NotLeader { .. })));
    new.append(at_ms, &later, &rows).unwrap();
    assert_eq!(events(new.as_mut(), 0), story.events);
}

#[test]
#[cfg_attr(not(postgres), ignore = "needs LITHOGEN_TEST_POSTGRES: PostgreSQL's server programs")]
fn a_leader_frozen_while_it_writes_does_not_hold_up_its_successor() {
    let database = Database::start();
    let url = database.new_url();
    let (lead, _journal) = lead(&url, SHORT);
    lead.release();
    // What a frozen leader leaves: a transaction that holds its term.
    let frozen = Server::new(&url, SHORT).unwrap();
    let mut candidate = Candidate::new(&frozen, "http://frozen").unwrap();
    let leads = RefCell::new(None);
    eventually("it leads", PATIENCE, || {
        leads.replace(Some(candidate.stand().unwrap()));
        matches!(*leads.borrow(), Some(Candidacy::Leads(_)))
    });
    let name = url.rsplit('/').next().unwrap();
    let mut held = database.connect(name);
    let patience = SHORT.as_millis();
    held.batch_execute(&format!("SET idle_in_transaction_session_timeout = {patience}; BEGIN")).unwrap();
    held.execute("SELECT 1 FROM leader FOR SHARE", &[]).unwrap();
    database.connect(name).batch_execute("SELECT 1").unwrap();
    drop(leads);
    let mut rival = Candidate::new(&frozen, "http://there").unwrap();
    eventually("its successor leads", PATIENCE, || matches!(rival.stand(), Ok(Candidacy::Leads(_))));
}

#[test]
fn an_address_that_cannot_be_used_is_said() {
    let says = |url: &str, words: &str| {
        let error = Server::new(url, LONG).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    says("postgres://host:notaport/x", "postgres://user@host:5432/database");
    says("postgres://user@host/x?sslmode=require", "not encrypted");
    let server = Server::new("postgres://user:secret@127.0.0.1:1/x", LONG).unwrap();
    let error = Candidate::new(&server, "").map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("postgres://127.0.0.1/x cannot be read") && !error.contains("secret"), "{error}");
}
