//! The journal: events in a database, the truth from which everything else follows.
//!
//! | module | what it holds |
//! |---|---|
//! | [`sqlite`] | a journal in one file, for one coordinator |
//! | [`postgres`] | a journal in PostgreSQL, which several coordinators share |
//! | [`leader`] | which of several coordinators leads |
//! | [`mark`] | how far the journal had come, so that a shorter one is not served |
//! | [`recover`] | going on without what a damaged disk has lost |
//! | [`backup`] | a copy in one file, while the journal is in use or not |
//! | [`snapshot`] | a state on disk, so that a start need not read every event |
//! | [`replay`] | the state that follows from the newest snapshot and the events since |
//!
//! Events are numbered from 1 without gaps. The events of one [`Journal::append`] are stored
//! together, with a checksum, and in the same transaction as the rows of the
//! tables that people query, see [`history`](crate::history).

pub mod backup;
mod batch;
pub mod leader;
pub mod mark;
pub mod postgres;
mod postgres_rows;
pub mod recover;
pub mod replay;
pub mod snapshot;
mod sql;
pub mod sqlite;
mod sqlite_rows;

use std::path::{Path, PathBuf};

use domain::id::{RunId, TaskKey};
use domain::runner::event::Event;

use crate::history::{Attempt, Change, Row};
use mark::Refusal;
use snapshot::Snapshot;

pub use sqlite::Sqlite;

/// Version of the stored form.
const FORM: i64 = 2;

/// Number of snapshots that are kept: the older one is used if the newer is damaged.
const SNAPSHOTS: u32 = 2;

/// An error of the database.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal cannot be opened or read: no permission, no connection.
    #[error("the journal {place} cannot be read: {cause}")]
    Read {
        /// The journal's file, or its database without the password.
        place: String,
        cause: Cause,
    },
    /// The stored bytes are not what was written.
    #[error(
        "the journal {place} cannot be read: it is damaged: {problem}; it was left as it is: restore it from a copy, \
         or keep what can be read by `lithogen journal recover`, which says what is lost"
    )]
    Damaged {
        /// The journal's file, or its database without the password.
        place: String,
        problem: String,
    },
    /// The journal lacks acknowledged events, or cannot show that it does not.
    #[error(
        "the journal {place} is not served: {refusal}; it was left as it is: put back what is missing, or go on with what \
         is there by `lithogen journal recover`, which says what is lost"
    )]
    Refused {
        /// The journal's file, or its database without the password.
        place: String,
        refusal: Refusal,
    },
    /// The journal cannot be written, for instance as the disk is full.
    #[error("the journal cannot be written: {place}: {cause}; nothing committed is lost: make room and start again")]
    Write {
        /// The journal's file, or its database without the password.
        place: String,
        cause: Cause,
    },
    /// The journal cannot be copied.
    #[error("cannot copy the journal to {place}: {cause}")]
    Copy {
        /// Path of the copy.
        place: String,
        cause: Cause,
    },
    /// Events are intact, but this program cannot understand them.
    #[error(
        "events {first} to {last} of the journal {place} cannot be understood: {problem}; were they written by another \
         version?"
    )]
    Event {
        /// The journal's file, or its database without the password.
        place: String,
        /// Number of the first such event.
        first: u64,
        /// Number of the last such event.
        last: u64,
        problem: String,
    },
    /// Another coordinator leads: decisions of this one are not kept.
    #[error(
        "this coordinator leads no more: another one may write to the journal {place}; nothing committed is lost: start \
         this one again, and it stands by"
    )]
    NotLeader {
        /// The journal's file, or its database without the password.
        place: String,
    },
    /// Another coordinator leads, so that the journal cannot be repaired or replaced.
    #[error(
        "{leader} leads the journal {place}, or did until a moment ago: end all coordinators that use it, and try again"
    )]
    Led {
        /// The journal's file, or its database without the password.
        place: String,
        /// Address at which the leader serves.
        leader: String,
    },
    /// The address of a database cannot be parsed.
    #[error("cannot use this address of a journal: {0}; it looks like postgres://user@host:5432/database")]
    Address(String),
    /// The journal was written by another version of the program.
    #[error("the journal {place} has form {found}, this program reads form {FORM}; use the version that wrote it")]
    Version {
        /// The journal's file, or its database without the password.
        place: String,
        /// The form number found in the journal.
        found: i64,
    },
}

/// Where a journal is kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// In a file that this coordinator has for itself.
    File(PathBuf),
    /// In a database that several coordinators share.
    Postgres(postgres::Server),
}

/// An open journal; each has a single writer.
pub trait Journal: Send {
    /// Number of the last event; 0 if there is none.
    fn last(&self) -> u64;

    /// Numbers of the snapshots, newest first. A snapshot holds the state after the event of
    /// its number.
    ///
    /// # Errors
    /// If the snapshots cannot be listed.
    fn snapshots(&mut self) -> Result<Vec<u64>, Error>;

    /// Reads the snapshot of that number.
    ///
    /// # Errors
    /// If the snapshot cannot be read.
    fn snapshot(&mut self, number: u64) -> Result<Snapshot, Error>;

    /// Stores a snapshot and keeps the last two.
    ///
    /// # Errors
    /// If the snapshot cannot be written.
    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error>;

    /// Hands all events after a number to `apply`, oldest first, with their
    /// numbers and the milliseconds since 1970 when they were decided.
    ///
    /// # Errors
    /// If an event cannot be read. The events before it have been handed over.
    fn replay(&mut self, after: u64, apply: &mut dyn FnMut(u64, i64, Event)) -> Result<(), Error>;

    /// Appends events and writes the rows that follow from them, in one transaction: either all
    /// of them or none are on disk when this returns.
    ///
    /// # Errors
    /// If the transaction fails. The journal must not be used any more.
    fn append(&mut self, at_ms: i64, events: &[Event], rows: &[Row]) -> Result<(), Error>;

    /// Opens a separate connection to the tables, which neither waits for this one nor blocks
    /// it.
    ///
    /// # Errors
    /// If the operating system or the database refuses the connection.
    fn tables(&self) -> Result<Box<dyn Tables>, Error>;
}

/// The queries that people make.
pub trait Tables: Send {
    /// What happened to the tasks of a run, from event number `from` up to, not including,
    /// event number `to`.
    ///
    /// # Errors
    /// If the tables cannot be read.
    fn changes(&mut self, run: RunId, from: u64, to: u64) -> Result<Vec<Change>, Error>;

    /// The attempts of a task, oldest first.
    ///
    /// # Errors
    /// If the tables cannot be read.
    fn attempts(&mut self, task: TaskKey) -> Result<Vec<Attempt>, Error>;

    /// The attempts under way, oldest first.
    ///
    /// # Errors
    /// If the tables cannot be read.
    fn open_attempts(&mut self) -> Result<Vec<Attempt>, Error>;

    /// The newest first attempts that finished tasks of a run, at most that many of each stage.
    ///
    /// # Errors
    /// If the tables cannot be read.
    fn finished(&mut self, run: RunId, most: u32) -> Result<Vec<Attempt>, Error>;
}

/// The path whose file name is that of `path` followed by `ending`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}
