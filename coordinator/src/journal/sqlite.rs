//! A journal in one file, for one coordinator.
//!
//! One connection writes. A batch is one transaction and is on disk when
//! [`Journal::append`] returns (write-ahead log, full sync), and so is the
//! [`Mark`] that names it.

use std::io;
use std::path::{Path, PathBuf};

use domain::id::{RunId, TaskKey};
use domain::runner::event::Event;
use domain::runner::scheduler::Scheduler;
use domain::runner::task::FencingToken;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Params, Transaction, params};

use super::batch::{Batch, Replay};
use super::mark::{Mark, MarkFile, Places, Refusal};
use super::snapshot::Snapshot;
use super::{Error, FORM, Journal, SNAPSHOTS, Tables, beside, sql, sqlite_rows};
use crate::history::{self, Attempt, Change, End, Row};

/// The SQL that creates the tables.
const SCHEMA: &str = include_str!("sqlite.sql");

/// Page cache in KiB: the index of task keys is read at random positions.
const CACHE_KIB: i64 = 16 * 1024;

/// Pages in the write-ahead log before a checkpoint folds them into the file (4 MiB). Pages
/// that change often are then copied less often, and a damaged log loses little.
const CHECKPOINT_PAGES: i64 = 1024;

/// Events of an older form that become one batch of the current form.
const MIGRATION_BATCH: usize = 256;

/// A journal in an open SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    connection: Connection,
    path: PathBuf,
    last: u64,
    /// None if the file is opened to read what can be read, whatever its mark says.
    mark: Option<MarkFile>,
    /// Whether the journal itself says that it has a mark beside it.
    says_marked: bool,
    /// Whether the log is folded into the file on closing.
    folds: bool,
}

impl Sqlite {
    /// Opens the journal at `path`, or creates an empty one. A journal of an older form is
    /// migrated. A journal without a mark gets one.
    ///
    /// # Errors
    /// If the file cannot be opened, is damaged, lacks acknowledged events or is of another
    /// version. The file is then left as it is.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let refused = |refusal| Error::Refused { place: path.display().to_string(), refusal };
        if recovered_file(path).exists() {
            return Err(refused(Refusal::Recovering));
        }
        let mark = MarkFile::open(&mark_file(path))?;
        let newest = mark.as_ref().map(|mark| mark.places.newest().ok_or_else(|| refused(Refusal::Unreadable)));
        let marked = newest.transpose()?.map_or(0, |mark| mark.number);
        // SQLite would make an empty one, and throw its log away.
        if marked > 0 && std::fs::metadata(path).map_or(true, |file| file.len() == 0) {
            return Err(refused(Refusal::Shorter { last: 0, marked }));
        }
        let mut journal = Self::connect(path)?;
        let form = journal.form()?;
        if marked > 0 && form != FORM {
            return Err(refused(Refusal::Form));
        }
        journal.prepare(form)?;
        let (last, says_marked) = (journal.newest()?, journal.says_marked()?);
        (journal.last, journal.says_marked) = (last.number, says_marked);
        journal.mark = Some(match mark {
            Some(mut mark) => {
                journal.check(&mark.places)?;
                if mark.places.is_torn() {
                    tracing::warn!(
                        event = last.number,
                        "the journal's mark was torn, as when power is cut; it is mended"
                    );
                }
                mark.follow(last)?;
                mark
            }
            None if says_marked => return Err(refused(Refusal::Missing)),
            None => MarkFile::create(&mark_file(path), last)?,
        });
        Ok(journal)
    }

    /// Opens an existing journal without its mark, whatever the mark says.
    ///
    /// # Errors
    /// If the file cannot be opened, is damaged or is of another version.
    pub(super) fn open_unmarked(path: &Path) -> Result<Self, Error> {
        let mut journal = Self::connect(path)?;
        journal.prepare(journal.form()?)?;
        journal.last = journal.newest()?.number;
        Ok(journal)
    }

    /// Opens an existing file for reading, whatever version the file claims.
    ///
    /// # Errors
    /// If the file cannot be opened, or holds no events that can be read.
    pub(super) fn open_as_found(path: &Path) -> Result<Self, Error> {
        let mut journal = Self::connect(path)?;
        // A file that is shorter than it says is read as far as it goes.
        let lenient = journal.connection.pragma_update(None, "writable_schema", true);
        lenient.map_err(|error| journal.read_error(error))?;
        let old = "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'events'";
        let old: u32 =
            journal.connection.query_row(old, [], |row| row.get(0)).map_err(|error| journal.read_error(error))?;
        if old == 1 {
            journal.prepare(1)?;
        }
        // What is damaged may be the end.
        journal.last = journal.newest().map_or(0, |mark| mark.number);
        Ok(journal)
    }

    /// Folds the log into the file and closes the journal; the file is on disk when this
    /// returns.
    ///
    /// # Errors
    /// If the log cannot be folded or the file not be synced.
    pub(super) fn close(mut self) -> Result<(), Error> {
        self.folds()?;
        let fold = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match fold.map_err(|error| self.write_error(error))? {
            0 => Ok(()),
            _ => Err(Error::Write { place: self.place(), cause: "another program uses it".into() }),
        }
    }

    fn connect(path: &Path) -> Result<Self, Error> {
        let read = |error| read_error(path, None, error);
        let connection = Connection::open(path).map_err(read)?;
        // Closing would write to the file, which is to be left alone if it is damaged.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(read)?;
        // Otherwise statements that concern a partial index are compiled anew for each row.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(read)?;
        Ok(Self { connection, path: path.to_owned(), last: 0, mark: None, says_marked: false, folds: false })
    }

    /// From now on the log is folded into the file on closing. Until then, a file that turns
    /// out to be damaged is left as it is.
    fn folds(&mut self) -> Result<(), Error> {
        if self.folds {
            return Ok(());
        }
        let closing = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        closing.map_err(|error| self.read_error(error))?;
        self.folds = true;
        Ok(())
    }

    /// The form number stored in the file; 0 if the file is empty.
    fn form(&self) -> Result<i64, Error> {
        let look = || -> rusqlite::Result<(i64, i64)> {
            let form = self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            let things = self.connection.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
            Ok((form, things))
        };
        match look().map_err(|error| self.read_error(error))? {
            (0, things) if things > 0 => Err(self.damaged("it has tables, but not those of a journal".to_owned())),
            (form, _) => Ok(form),
        }
    }

    fn prepare(&mut self, form: i64) -> Result<(), Error> {
        if !(0..=FORM).contains(&form) {
            return Err(Error::Version { place: self.place(), found: form });
        }
        let prepare = |connection: &Connection| {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
        };
        prepare(&self.connection).map_err(|error| self.read_error(error))?;
        match form {
            0 => {
                let schema = format!("BEGIN; {SCHEMA} PRAGMA user_version = {FORM}; COMMIT;");
                self.connection.execute_batch(&schema).map_err(|error| self.write_error(error))
            }
            1 => self.migrate(),
            _ => Ok(()),
        }
    }

    /// The mark that fits the last stored batch.
    pub(super) fn newest(&self) -> Result<Mark, Error> {
        Ok(self.batch_before(i64::MAX)?.unwrap_or_else(Mark::none))
    }

    /// The mark of the last batch that begins with event `number` or before.
    fn batch_before(&self, number: i64) -> Result<Option<Mark>, Error> {
        let newest = "SELECT last, digest FROM batches WHERE first <= ?1 ORDER BY first DESC LIMIT 1";
        let mark = |row: &rusqlite::Row<'_>| Ok(Mark::new(row.get(0)?, &row.get::<_, Vec<u8>>(1)?));
        self.connection.query_row(newest, [number], mark).optional().map_err(|error| self.read_error(error))
    }

    /// Checks the journal against its mark.
    pub(super) fn check(&self, places: &Places) -> Result<(), Error> {
        let marked = places.newest().and_then(|mark| i64::try_from(mark.number).ok());
        let there = marked.map_or(Ok(None), |number| self.batch_before(number))?;
        let refused = |refusal| Error::Refused { place: self.place(), refusal };
        places.check(self.last, there).map_err(refused)
    }

    /// Whether SQLite's own check finds the file intact.
    pub(super) fn is_sound(&self) -> bool {
        let check = "PRAGMA quick_check(1)";
        self.connection.query_row(check, [], |row| row.get::<_, String>(0)).is_ok_and(|found| found == "ok")
    }

    /// Marks this journal as a copy that needs no mark where it lies.
    pub(super) fn forget_mark(&self) -> Result<(), Error> {
        self.connection.execute_batch("DROP TABLE IF EXISTS mark").map_err(|error| self.write_error(error))
    }

    /// Whether the journal has had a mark at this path, so that the mark must not be missing. A
    /// copy elsewhere gets a mark of its own.
    fn says_marked(&self) -> Result<bool, Error> {
        let look = || {
            let known = "SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = 'mark'";
            if self.connection.query_row(known, [], |row| row.get::<_, u32>(0))? == 0 {
                return Ok(false);
            }
            let place: Option<String> =
                self.connection.query_row("SELECT place FROM mark", [], |row| row.get(0)).optional()?;
            Ok(place == Some(mark_place(&self.path)))
        };
        look().map_err(|error| self.read_error(error))
    }

    /// Migrates from form 1, which had a table with one event per row and no tables for
    /// queries.
    fn migrate(&mut self) -> Result<(), Error> {
        let old = self.old_events()?;
        tracing::info!(events = old.len(), "bringing the journal {} up to date", self.path.display());
        let written = (|| {
            let transaction = self.connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            let mut scheduler = Scheduler::default();
            let mut number = 0;
            let same_time = |a: &(i64, Event), b: &(i64, Event)| a.0 == b.0;
            for batch in old.chunk_by(same_time).flat_map(|events| events.chunks(MIGRATION_BATCH)) {
                let (first, at_ms) = (number + 1, batch[0].0);
                let mut rows = Vec::new();
                for (_, event) in batch {
                    number += 1;
                    rows.extend(history::rows(number, at_ms, event, &scheduler));
                    scheduler.apply(event);
                }
                let events: Vec<Event> = batch.iter().map(|(_, event)| event.clone()).collect();
                write(&transaction, &Batch::pack(first, at_ms, &events), &rows)?;
            }
            transaction.execute_batch(&format!("DROP TABLE events; PRAGMA user_version = {FORM};"))?;
            transaction.commit()
        })();
        written.map_err(|error| self.write_error(error))
    }

    fn old_events(&self) -> Result<Vec<(i64, Event)>, Error> {
        let stored = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let stored: Vec<(u64, i64, String)> =
            query(&self.connection, "SELECT number, at_ms, event FROM events ORDER BY number", [], stored)
                .map_err(|error| self.read_error(error))?;
        let parse = |(expected, (number, at_ms, text)): (u64, (u64, i64, String))| {
            if number != expected {
                return Err(self.damaged(format!("event {expected} is missing")));
            }
            let event_error = |problem| Error::Event { place: self.place(), first: number, last: number, problem };
            serde_json::from_str(&text).map(|event| (at_ms, event)).map_err(|error| event_error(error.to_string()))
        };
        (1..).zip(stored).map(parse).collect()
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn damaged(&self, problem: String) -> Error {
        Error::Damaged { place: self.place(), problem }
    }

    fn read_error(&self, error: rusqlite::Error) -> Error {
        read_error(&self.path, Some(&self.connection), error)
    }

    fn write_error(&self, error: rusqlite::Error) -> Error {
        if is_damage(&error) {
            self.read_error(error)
        } else {
            Error::Write { place: self.place(), cause: error.into() }
        }
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        if !self.folds {
            return;
        }
        // What is copied after a proper end is one whole file. A crash is no
        // different from before: the log beside the file has the rest.
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::debug!(%error, "the journal's log stays beside it");
        }
    }
}

impl Journal for Sqlite {
    fn last(&self) -> u64 {
        self.last
    }

    fn snapshots(&mut self) -> Result<Vec<u64>, Error> {
        let numbers = "SELECT number FROM snapshots ORDER BY number DESC";
        query(&self.connection, numbers, [], |row| row.get(0)).map_err(|error| self.read_error(error))
    }

    fn snapshot(&mut self, number: u64) -> Result<Snapshot, Error> {
        let stored = "SELECT packed, digest FROM snapshots WHERE number = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok(Snapshot { number, packed: row.get(0)?, digest: row.get(1)? });
        self.connection.query_row(stored, [number], read).map_err(|error| self.read_error(error))
    }

    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let written = (|| {
            let transaction = self.connection.transaction()?;
            let Snapshot { number, packed, digest } = snapshot;
            transaction
                .execute("INSERT OR REPLACE INTO snapshots VALUES (?1, ?2, ?3)", params![number, packed, digest])?;
            let older = "DELETE FROM snapshots WHERE number NOT IN (SELECT number FROM snapshots ORDER BY number DESC LIMIT ?1)";
            transaction.execute(older, [SNAPSHOTS])?;
            transaction.commit()
        })();
        written.map_err(|error| self.write_error(error))
    }

    fn replay(&mut self, after: u64, apply: &mut dyn FnMut(u64, i64, Event)) -> Result<(), Error> {
        let place = self.place();
        let read_error = |error| self.read_error(error);
        let mut replay = Replay::new(&place, after, apply);
        let stored = "SELECT first, last, at_ms, events, digest FROM batches WHERE last > ?1 ORDER BY first";
        let mut statement = self.connection.prepare(stored).map_err(read_error)?;
        let mut rows = statement.query([after]).map_err(read_error)?;
        while let Some(row) = rows.next().map_err(read_error)? {
            replay.take(&batch(row).map_err(read_error)?)?;
        }
        replay.end(self.last)?;
        drop(rows);
        drop(statement);
        if self.mark.is_some() {
            self.folds()?;
        }
        Ok(())
    }

    fn append(&mut self, at_ms: i64, events: &[Event], rows: &[Row]) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let batch = Batch::pack(self.last + 1, at_ms, events);
        let says_so_now = self.mark.is_some() && !self.says_marked;
        let written = (|| {
            let transaction = self.connection.transaction()?;
            if says_so_now {
                say_marked(&transaction, &self.path)?;
            }
            write(&transaction, &batch, rows)?;
            transaction.commit()
        })();
        written.map_err(|error| self.write_error(error))?;
        (self.last, self.says_marked) = (batch.last, self.says_marked || says_so_now);
        match &mut self.mark {
            Some(mark) => mark.note(Mark::new(batch.last, &batch.digest))?,
            None => return Ok(()),
        }
        self.folds()
    }

    fn tables(&self) -> Result<Box<dyn Tables>, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|error| self.read_error(error))?;
        Ok(Box::new(SqliteTables { connection, path: self.path.clone() }))
    }
}

/// A read-only connection for queries.
#[derive(Debug)]
struct SqliteTables {
    connection: Connection,
    path: PathBuf,
}

impl SqliteTables {
    fn ask(&self, condition: &str, params: impl Params) -> Result<Vec<Attempt>, Error> {
        let found = query(&self.connection, &format!("{}{condition}", sql::ATTEMPTS), params, attempt);
        found.map_err(|error| read_error(&self.path, Some(&self.connection), error))
    }
}

impl Tables for SqliteTables {
    fn changes(&mut self, run: RunId, from: u64, to: u64) -> Result<Vec<Change>, Error> {
        let attempts = self.ask(sql::OF_RUN, params![from, to, run.to_string()])?;
        Ok(history::changes(&attempts, from, to))
    }

    fn attempts(&mut self, task: TaskKey) -> Result<Vec<Attempt>, Error> {
        self.ask(sql::OF_TASK, [task.to_string()])
    }

    fn open_attempts(&mut self) -> Result<Vec<Attempt>, Error> {
        self.ask(sql::OPEN, [])
    }

    fn finished(&mut self, run: RunId, most: u32) -> Result<Vec<Attempt>, Error> {
        self.ask(sql::FINISHED, params![run.to_string(), most])
    }
}

fn query<T>(
    connection: &Connection,
    question: &str,
    params: impl Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(question)?.query_map(params, read)?.collect()
}

fn batch(row: &rusqlite::Row<'_>) -> rusqlite::Result<Batch> {
    Ok(Batch { first: row.get(0)?, last: row.get(1)?, at_ms: row.get(2)?, events: row.get(3)?, digest: row.get(4)? })
}

fn attempt(row: &rusqlite::Row<'_>) -> rusqlite::Result<Attempt> {
    let task: String = row.get(1)?;
    let task = task
        .parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error)))?;
    let (stage, subject): (String, String) = (row.get(2)?, row.get(3)?);
    let end = match (row.get(8)?, row.get(9)?, row.get(10)?) {
        (Some(number), Some(at_ms), Some(outcome)) => {
            Some(End { number, at_ms, outcome, code: row.get(11)?, message: row.get(12)? })
        }
        _ => None,
    };
    Ok(Attempt {
        token: FencingToken(row.get(0)?),
        task,
        label: format!("{stage} {subject}").trim_end().to_owned(),
        attempt: row.get(4)?,
        worker: row.get(5)?,
        granted: row.get(6)?,
        granted_ms: row.get(7)?,
        end,
    })
}

/// Path of a journal's mark file.
pub(super) fn mark_file(journal: &Path) -> PathBuf {
    beside(journal, "-mark")
}

/// Path at which a journal is assembled that will replace a damaged one.
pub(super) fn recovered_file(journal: &Path) -> PathBuf {
    beside(journal, "-recovered")
}

/// Removes an SQLite database with its log.
pub(super) fn remove_database(path: &Path) -> io::Result<()> {
    remove_logs(path).and_then(|()| remove(path))
}

/// Removes the log of an SQLite database.
pub(super) fn remove_logs(path: &Path) -> io::Result<()> {
    ["-wal", "-shm"].iter().try_for_each(|ending| remove(&beside(path, ending)))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The text by which a journal names the location of its mark.
fn mark_place(journal: &Path) -> String {
    let path = std::fs::canonicalize(journal).unwrap_or_else(|_| journal.to_owned());
    path.display().to_string()
}

/// Records in the journal that its mark exists.
fn say_marked(transaction: &Transaction<'_>, journal: &Path) -> rusqlite::Result<()> {
    transaction.execute_batch("CREATE TABLE IF NOT EXISTS mark (place TEXT NOT NULL) STRICT; DELETE FROM mark")?;
    transaction.execute("INSERT INTO mark VALUES (?1)", [mark_place(journal)]).map(drop)
}

/// Writes a batch and its rows in the given transaction.
fn write(transaction: &Transaction<'_>, batch: &Batch, rows: &[Row]) -> rusqlite::Result<()> {
    let Batch { first, last, at_ms, events, digest } = batch;
    let insert = "INSERT INTO batches VALUES (?1, ?2, ?3, ?4, ?5)";
    transaction.prepare_cached(insert)?.execute(params![first, last, at_ms, events, digest])?;
    rows.iter().try_for_each(|row| sqlite_rows::write(transaction, row))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows, Utf8Error,
    };
    // A file that ends in the middle of a page.
    if error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ) {
        return true;
    }
    match error {
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..) => true,
        QueryReturnedNoRows => true,
        error => matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::TooBig
                    | ErrorCode::TypeMismatch
                    | ErrorCode::Unknown
            )
        ),
    }
}

/// The error of a failed read; if the file looks damaged, SQLite's check says what is wrong.
fn read_error(path: &Path, connection: Option<&Connection>, error: rusqlite::Error) -> Error {
    let place = path.display().to_string();
    if !is_damage(&error) {
        return Error::Read { place, cause: error.into() };
    }
    let check =
        |connection: &Connection| connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let found = connection.and_then(|connection| check(connection).ok()).filter(|found| found != "ok");
    let problem = found.map_or_else(|| error.to_string(), |found| format!("{error}: {found}"));
    Error::Damaged { place, problem }
}
