//! Events in SQLite: the truth from which everything else follows.
//!
//! One connection, one writer. A batch of events is one transaction and is on
//! disk when [`Journal::append`] returns (write-ahead log, full sync).

use std::path::Path;

use domain::event::Event;
use rusqlite::{Connection, params};

/// Version of the table's form.
const SCHEMA_VERSION: i64 = 1;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened or read: a damaged file, no permission.
    #[error(
        "the journal cannot be read: {0}; it was left as it is: restore it from a copy, or move it away to start anew"
    )]
    Read(#[from] rusqlite::Error),
    /// It cannot be written: a full disk.
    #[error("the journal cannot be written: {0}; nothing committed is lost: make room and start again")]
    Write(rusqlite::Error),
    /// An event of the journal cannot be read.
    #[error("event {number} of the journal cannot be read: {problem}; was it written by another version?")]
    Event {
        /// Its number.
        number: i64,
        /// Why.
        problem: String,
    },
    /// Written by another version of the program.
    #[error("the journal has form {found}, this program reads form {SCHEMA_VERSION}; use the version that wrote it")]
    Version {
        /// The form found.
        found: i64,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    connection: Connection,
}

impl Journal {
    /// Opens the journal at `path`, or makes an empty one.
    ///
    /// # Errors
    /// If the file cannot be opened or is of another version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match found {
            0 => {
                connection.execute_batch(&format!(
                    "BEGIN;
                     CREATE TABLE events (
                         number INTEGER PRIMARY KEY,
                         at_ms INTEGER NOT NULL, -- since 1970, when it was decided
                         event TEXT NOT NULL     -- domain::event::Event as JSON
                     ) STRICT;
                     PRAGMA user_version = {SCHEMA_VERSION};
                     COMMIT;"
                ))?;
            }
            SCHEMA_VERSION => {}
            found => return Err(Error::Version { found }),
        }
        Ok(Self { connection })
    }

    /// Hands all events to `apply`, oldest first.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn replay(&self, mut apply: impl FnMut(i64, &Event)) -> Result<(), Error> {
        let mut statement = self.connection.prepare("SELECT number, at_ms, event FROM events ORDER BY number")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (number, at_ms, text): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let event =
                serde_json::from_str(&text).map_err(|error| Error::Event { number, problem: error.to_string() })?;
            apply(at_ms, &event);
        }
        Ok(())
    }

    /// Appends events in one transaction; all or none are on disk afterwards.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn append(&mut self, at_ms: i64, events: &[Event]) -> Result<(), Error> {
        let transaction = self.connection.transaction().map_err(Error::Write)?;
        {
            let insert = transaction.prepare_cached("INSERT INTO events (at_ms, event) VALUES (?1, ?2)");
            let mut insert = insert.map_err(Error::Write)?;
            for event in events {
                let text = serde_json::to_string(event).expect("events serialise to JSON");
                insert.execute(params![at_ms, text]).map_err(Error::Write)?;
            }
        }
        transaction.commit().map_err(Error::Write)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::digest::Digest;

    use super::*;

    #[test]
    fn events_come_back_in_order_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sqlite");
        let events: Vec<Event> = (0..3u8).map(|number| Event::RunCancelled { run: Digest::of(&[number]) }).collect();
        {
            let mut journal = Journal::open(&path).unwrap();
            journal.append(1, &events[..2]).unwrap();
            journal.append(2, &events[2..]).unwrap();
        }
        let mut seen = vec![];
        Journal::open(&path).unwrap().replay(|at_ms, event| seen.push((at_ms, event.clone()))).unwrap();
        assert_eq!(seen, [(1, events[0].clone()), (1, events[1].clone()), (2, events[2].clone())]);
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sqlite");
        std::fs::write(&path, "not a database, but long enough to look at".repeat(50)).unwrap();
        assert!(matches!(Journal::open(&path), Err(Error::Read(_))));
        let other = folder.path().join("other.sqlite");
        Connection::open(&other).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Journal::open(&other), Err(Error::Version { found: 99 })));
    }
}
