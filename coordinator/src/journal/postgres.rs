//! A journal in PostgreSQL, shared by several coordinators of which one leads.
//!
//! Every append names the leader's term and is refused, in the same transaction, once another
//! coordinator leads. When the connection breaks, the number of the batch tells whether the
//! batch was committed.
//!
//! Nothing here may be called from asynchronous code: every call waits for the network.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use domain::id::{RunId, TaskKey};
use domain::runner::event::Event;
use domain::runner::task::FencingToken;
use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, Config, IsolationLevel, NoTls, Statement, Transaction};

use super::batch::{Batch, Replay};
use super::mark::{Mark, MarkFile, Refusal};
use super::postgres_rows::Writer;
use super::snapshot::Snapshot;
use super::sql::{self, count, number};
use super::{Error, FORM, Journal, SNAPSHOTS, Tables};
use crate::history::{self, Attempt, Change, End, Row};

/// The SQL that creates the tables.
const SCHEMA: &str = include_str!("postgres.sql");

/// Key of the advisory lock under which the tables are created.
const SCHEMA_LOCK: i64 = 0x6c69_7468_6f67_656e;

/// Number of batches read at once.
const PAGE: i64 = 256;

/// Pause between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(100);

/// Default time that a leader leads without a sign of life. It need not be several times as long
/// as a failover of the database, as nobody else can write meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The address of a journal in PostgreSQL, and how long to wait for the database.
#[derive(Clone)]
pub struct Server {
    config: Box<Config>,
    /// How long a leader leads without a sign of life, and how long a broken connection is
    /// retried.
    pub(super) patience: Duration,
    /// The file in which this coordinator notes how far the journal has come.
    mark: Option<PathBuf>,
}

impl Server {
    /// The journal at `postgres://user@host:port/database`.
    ///
    /// # Errors
    /// If the address cannot be parsed or asks for unsupported options. The messages quote
    /// nothing of the address, which may hold a password, even where none belongs.
    pub fn new(url: &str, patience: Duration) -> Result<Self, Error> {
        let unclear = "it cannot be read; in a password, write @ as %40, : as %3A and / as %2F";
        let mut config: Config = url.parse().map_err(|_| Error::Address(unclear.to_owned()))?;
        if config.get_hosts().iter().any(is_part_of_a_password) {
            return Err(Error::Address(unclear.to_owned()));
        }
        if config.get_ssl_mode() == SslMode::Require {
            let problem = "connections to the database are not encrypted by this program; use a Unix socket, a tunnel or \
                 a network that you trust, and leave sslmode=require out";
            return Err(Error::Address(problem.to_owned()));
        }
        config.application_name("lithogen").connect_timeout(patience).tcp_user_timeout(patience);
        Ok(Self { config: Box::new(config), patience, mark: None })
    }

    /// The same server with a mark file of this coordinator, so that an old copy of the journal
    /// is not served.
    #[must_use]
    pub fn marked_in(self, mark: PathBuf) -> Self {
        Self { mark: Some(mark), ..self }
    }

    pub(super) fn connect(&self) -> Result<Client, Error> {
        let mut client = self.config.connect(NoTls).map_err(|error| self.read_error(&error))?;
        // A coordinator that freezes within a transaction must not hold up its successor.
        let patience = self.patience.as_millis();
        let settings = format!(
            "SET idle_in_transaction_session_timeout = {patience}; SET lock_timeout = {patience};
             SELECT set_config('synchronous_commit', 'on', FALSE)
             WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        );
        client.batch_execute(&settings).map_err(|error| self.read_error(&error))?;
        Ok(client)
    }

    /// Creates the tables if there are none.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let mut client = self.connect()?;
        let found = (|| {
            let mut transaction = client.transaction()?;
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK])?;
            let known: bool = transaction.query_one("SELECT to_regclass('journal') IS NOT NULL", &[])?.try_get(0)?;
            if known {
                return transaction.query_one("SELECT form FROM journal", &[])?.try_get(0);
            }
            transaction.batch_execute(SCHEMA)?;
            transaction.execute("INSERT INTO journal (form) VALUES ($1)", &[&FORM])?;
            transaction.commit()?;
            Ok(FORM)
        })();
        match found.map_err(|error| self.read_error(&error))? {
            FORM => Ok(()),
            found => Err(Error::Version { place: self.place(), found }),
        }
    }

    /// The mark that fits the last stored batch.
    pub(super) fn newest(&self) -> Result<Mark, Error> {
        Ok(self.batch_before(i64::MAX)?.unwrap_or_else(Mark::none))
    }

    /// Whether a coordinator with this mark file may serve the journal. The mark may be far
    /// behind, as other coordinators may have led since.
    pub(super) fn check(&self, mark: Option<&MarkFile>) -> Result<Result<(), Refusal>, Error> {
        let Some(mark) = mark else { return Ok(Ok(())) };
        let there = match mark.places.newest() {
            Some(mark) => self.batch_before(number(mark.number))?,
            None => None,
        };
        Ok(mark.places.check(self.newest()?.number, there))
    }

    /// The mark of the last batch that begins with event `first` or before.
    fn batch_before(&self, first: i64) -> Result<Option<Mark>, Error> {
        let newest = "SELECT last, digest FROM batches WHERE first <= $1 ORDER BY first DESC LIMIT 1";
        let found = self.connect()?.query_opt(newest, &[&first]);
        let mark = |row: postgres::Row| Ok(Mark::new(count(row.try_get(0)?), row.try_get(1)?));
        found.and_then(|row| row.map(mark).transpose()).map_err(|error| self.read_error(&error))
    }

    /// The address of the journal without the password.
    pub(super) fn place(&self) -> String {
        let hosts: Vec<String> = self
            .config
            .get_hosts()
            .iter()
            .map(|host| match host {
                postgres::config::Host::Tcp(name) => name.clone(),
                postgres::config::Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        format!("postgres://{}/{}", hosts.join(","), self.config.get_dbname().unwrap_or_default())
    }

    pub(super) fn read_error(&self, error: &postgres::Error) -> Error {
        Error::Read { place: self.place(), cause: cause(error).into() }
    }

    fn write_error(&self, error: &postgres::Error) -> Error {
        Error::Write { place: self.place(), cause: cause(error).into() }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

/// An open journal in PostgreSQL.
pub struct Postgres {
    server: Server,
    term: i64,
    connection: Option<Connection>,
    last: u64,
    mark: Option<MarkFile>,
}

/// A connection for writing.
struct Connection {
    client: Client,
    fence: Statement,
    insert: Statement,
    writer: Writer,
}

/// Why an attempt to append has failed.
enum Failure {
    /// Another coordinator leads.
    Fenced,
    /// The database reports an error or does not answer.
    Database(postgres::Error),
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl Postgres {
    /// Opens the journal for writing under a term. The tables have to exist.
    ///
    /// # Errors
    /// If the database cannot be reached.
    pub(super) fn open(server: &Server, term: i64) -> Result<Self, Error> {
        let mut mark = server.mark.as_deref().map(MarkFile::open).transpose()?.flatten();
        let refused = |refusal| Error::Refused { place: server.place(), refusal };
        server.check(mark.as_ref())?.map_err(refused)?;
        let last = server.newest()?;
        match (&mut mark, &server.mark) {
            (Some(mark), _) => mark.follow(last)?,
            (None, Some(path)) => mark = Some(MarkFile::create(path, last)?),
            (None, None) => {}
        }
        Ok(Self { server: server.clone(), term, connection: None, last: last.number, mark })
    }

    fn connection(&mut self) -> Result<&mut Connection, Error> {
        let connection = match self.connection.take().filter(|connection| !connection.client.is_closed()) {
            Some(connection) => connection,
            None => Connection::new(self.server.connect()?).map_err(|error| self.server.read_error(&error))?,
        };
        Ok(self.connection.insert(connection))
    }

    fn client(&mut self) -> Result<&mut Client, Error> {
        Ok(&mut self.connection()?.client)
    }

    fn query(&mut self, question: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<postgres::Row>, Error> {
        let server = self.server.clone();
        self.client()?.query(question, params).map_err(|error| server.read_error(&error))
    }

    /// Appends a batch unless the database already holds it, which a broken connection leaves
    /// open.
    fn store(&mut self, batch: &Batch, rows: &[Row]) -> Result<(), Error> {
        let (term, deadline) = (self.term, Instant::now() + self.server.patience);
        loop {
            let tried = self.connection().map(|connection| connection.append(term, batch, rows));
            let problem = match tried {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Failure::Fenced)) => None,
                Ok(Err(Failure::Database(error))) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => None,
                Ok(Err(Failure::Database(error))) if is_lost(&error) => Some(self.server.write_error(&error)),
                Ok(Err(Failure::Database(error))) => return Err(self.server.write_error(&error)),
                Err(error) => Some(error),
            };
            match self.is_stored(batch) {
                Ok(true) => return Ok(()),
                Ok(false) if problem.is_none() => return Err(Error::NotLeader { place: self.server.place() }),
                Ok(false) | Err(_) => {}
            }
            match problem {
                Some(problem) if Instant::now() >= deadline => return Err(problem),
                _ => std::thread::sleep(RECONNECT),
            }
            // What is left of it may be in the middle of anything.
            self.connection = None;
        }
    }

    fn is_stored(&mut self, batch: &Batch) -> Result<bool, Error> {
        let stored = "SELECT 1 FROM batches WHERE first = $1 AND digest = $2";
        Ok(!self.query(stored, &[&number(batch.first), &batch.digest])?.is_empty())
    }
}

impl Connection {
    fn new(mut client: Client) -> Result<Self, postgres::Error> {
        let fence = client.prepare("SELECT 1 FROM leader WHERE term = $1 FOR SHARE")?;
        let insert = client.prepare("INSERT INTO batches VALUES ($1, $2, $3, $4, $5)")?;
        let writer = Writer::prepare(&mut client)?;
        Ok(Self { client, fence, insert, writer })
    }

    fn append(&mut self, term: i64, batch: &Batch, rows: &[Row]) -> Result<(), Failure> {
        let mut transaction = self.client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start()?;
        fence(&mut transaction, &self.fence, term)?;
        let Batch { first, last, at_ms, events, digest } = batch;
        transaction.execute(&self.insert, &[&number(*first), &number(*last), at_ms, events, digest])?;
        self.writer.write(&mut transaction, rows)?;
        Ok(transaction.commit()?)
    }
}

/// Fails unless `term` is the current one, and keeps `term` current until the transaction ends.
fn fence<S: postgres::ToStatement>(transaction: &mut Transaction<'_>, fence: &S, term: i64) -> Result<(), Failure> {
    match transaction.query_opt(fence, &[&term])? {
        Some(_) => Ok(()),
        None => Err(Failure::Fenced),
    }
}

impl Journal for Postgres {
    fn last(&self) -> u64 {
        self.last
    }

    fn snapshots(&mut self) -> Result<Vec<u64>, Error> {
        let found = self.query("SELECT number FROM snapshots ORDER BY number DESC", &[])?;
        let numbers: Result<Vec<i64>, _> = found.iter().map(|row| row.try_get(0)).collect();
        Ok(numbers.map_err(|error| self.server.read_error(&error))?.into_iter().map(count).collect())
    }

    fn snapshot(&mut self, at: u64) -> Result<Snapshot, Error> {
        let found = self.query("SELECT packed, digest FROM snapshots WHERE number = $1", &[&number(at)])?;
        let missing = || Error::Damaged { place: self.server.place(), problem: format!("snapshot {at} is missing") };
        let row = found.first().ok_or_else(missing)?;
        let read = || Ok(Snapshot { number: at, packed: row.try_get(0)?, digest: row.try_get(1)? });
        read().map_err(|error| self.server.read_error(&error))
    }

    fn save_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let (server, term) = (self.server.clone(), self.term);
        let Snapshot { number: at, packed, digest } = snapshot;
        let connection = self.connection()?;
        let written = (|| {
            let mut transaction = connection.client.transaction()?;
            fence(&mut transaction, &connection.fence, term)?;
            let insert = "INSERT INTO snapshots VALUES ($1, $2, $3)
                          ON CONFLICT (number) DO UPDATE SET packed = excluded.packed, digest = excluded.digest";
            transaction.execute(insert, &[&number(*at), packed, digest])?;
            let older = "DELETE FROM snapshots
                         WHERE number NOT IN (SELECT number FROM snapshots ORDER BY number DESC LIMIT $1)";
            transaction.execute(older, &[&i64::from(SNAPSHOTS)])?;
            Ok(transaction.commit()?)
        })();
        written.map_err(|failure| match failure {
            Failure::Fenced => Error::NotLeader { place: server.place() },
            Failure::Database(error) => server.write_error(&error),
        })
    }

    fn replay(&mut self, after: u64, apply: &mut dyn FnMut(u64, i64, Event)) -> Result<(), Error> {
        let place = self.server.place();
        let mut replay = Replay::new(&place, after, apply);
        let mut from = number(after);
        loop {
            let stored =
                "SELECT first, last, at_ms, events, digest FROM batches WHERE last > $1 ORDER BY last LIMIT $2";
            let page = self.query(stored, &[&from, &PAGE])?;
            for row in &page {
                let batch = batch(row).map_err(|error| self.server.read_error(&error))?;
                from = number(batch.last);
                replay.take(&batch)?;
            }
            if page.is_empty() {
                return replay.end(self.last);
            }
        }
    }

    fn append(&mut self, at_ms: i64, events: &[Event], rows: &[Row]) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let batch = Batch::pack(self.last + 1, at_ms, events);
        self.store(&batch, rows)?;
        self.last = batch.last;
        match &mut self.mark {
            Some(mark) => mark.note(Mark::new(batch.last, &batch.digest)),
            None => Ok(()),
        }
    }

    fn tables(&self) -> Result<Box<dyn Tables>, Error> {
        let mut link = Link::new(&self.server);
        link.client()?;
        Ok(Box::new(PostgresTables(link)))
    }
}

/// A connection that is made on demand, and may be dropped on any thread.
pub(super) struct Link {
    server: Server,
    client: Option<Client>,
}

impl Link {
    pub(super) fn new(server: &Server) -> Self {
        Self { server: server.clone(), client: None }
    }

    /// The connection, renewed if it is broken.
    pub(super) fn client(&mut self) -> Result<&mut Client, Error> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.server.connect()?,
        };
        Ok(self.client.insert(client))
    }

    pub(super) fn read_error(&self, error: &postgres::Error) -> Error {
        self.server.read_error(error)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Closing waits, which asynchronous code must not.
        let client = self.client.take();
        std::thread::spawn(move || drop(client));
    }
}

/// A read-only connection for queries.
struct PostgresTables(Link);

impl PostgresTables {
    fn ask(&mut self, condition: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Attempt>, Error> {
        let found = self.0.client()?.query(&format!("{}{condition}", sql::ATTEMPTS), params);
        let attempts = found.and_then(|rows| rows.iter().map(attempt).collect());
        attempts.map_err(|error| self.0.read_error(&error))
    }
}

impl Tables for PostgresTables {
    fn changes(&mut self, run: RunId, from: u64, to: u64) -> Result<Vec<Change>, Error> {
        let attempts = self.ask(sql::OF_RUN, &[&number(from), &number(to), &run.to_string()])?;
        Ok(history::changes(&attempts, from, to))
    }

    fn attempts(&mut self, task: TaskKey) -> Result<Vec<Attempt>, Error> {
        self.ask(sql::OF_TASK, &[&task.to_string()])
    }

    fn open_attempts(&mut self) -> Result<Vec<Attempt>, Error> {
        self.ask(sql::OPEN, &[])
    }

    fn finished(&mut self, run: RunId, most: u32) -> Result<Vec<Attempt>, Error> {
        self.ask(sql::FINISHED, &[&run.to_string(), &i64::from(most)])
    }
}

fn batch(row: &postgres::Row) -> Result<Batch, postgres::Error> {
    let (first, last) = (count(row.try_get(0)?), count(row.try_get(1)?));
    Ok(Batch { first, last, at_ms: row.try_get(2)?, events: row.try_get(3)?, digest: row.try_get(4)? })
}

fn attempt(row: &postgres::Row) -> Result<Attempt, postgres::Error> {
    let (stage, subject): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    let end = match (row.try_get(8)?, row.try_get(9)?, row.try_get(10)?) {
        (Some(number), Some(at_ms), Some(outcome)) => {
            Some(End { number: count(number), at_ms, outcome, code: row.try_get(11)?, message: row.try_get(12)? })
        }
        _ => None,
    };
    Ok(Attempt {
        token: FencingToken(count(row.try_get(0)?)),
        task: row.try_get::<_, KeyText>(1)?.0,
        label: format!("{stage} {subject}").trim_end().to_owned(),
        attempt: u32::try_from(row.try_get::<_, i64>(4)?).unwrap_or(u32::MAX),
        worker: row.try_get(5)?,
        granted: count(row.try_get(6)?),
        granted_ms: row.try_get(7)?,
        end,
    })
}

/// The key of a task, stored in a text column.
struct KeyText(TaskKey);

impl<'a> postgres::types::FromSql<'a> for KeyText {
    fn from_sql(kind: &postgres::types::Type, raw: &'a [u8]) -> Result<Self, super::Cause> {
        Ok(Self(<&str>::from_sql(kind, raw)?.parse()?))
    }

    fn accepts(kind: &postgres::types::Type) -> bool {
        <&str as postgres::types::FromSql>::accepts(kind)
    }
}

/// Whether a host is the end of a password that holds an unescaped `@`: no host name contains
/// these characters.
fn is_part_of_a_password(host: &postgres::config::Host) -> bool {
    matches!(host, postgres::config::Host::Tcp(name) if name.contains(['@', ':']) && name.parse::<std::net::Ipv6Addr>().is_err())
}

/// Whether the error is due to the connection, so that a new connection may help.
fn is_lost(error: &postgres::Error) -> bool {
    let shutting_down = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    let timed_out = [SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, SqlState::LOCK_NOT_AVAILABLE];
    match error.code() {
        None => true,
        Some(code) => shutting_down.contains(code) || timed_out.contains(code),
    }
}

/// The error's cause with what the database reports.
fn cause(error: &postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => said.message().to_owned(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
