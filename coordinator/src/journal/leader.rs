//! Election of one leader among several coordinators: a row of the database with a deadline by
//! the database's clock.
//!
//! Each leader has a term of its own, and every write names the term. A leader that was frozen
//! and wakes up finds that its term is over; nothing that it does before it notices reaches the
//! journal.

use std::future::Future;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::postgres::{Link, Postgres, Server};
use super::{Error, Journal};

/// Renewals within the time that a lead lasts.
const SIGNS: u32 = 3;

/// How a candidacy ended.
pub enum Candidacy {
    /// This coordinator leads.
    Leads(Lead),
    /// Another coordinator leads.
    Stands {
        /// Address at which the leader serves.
        leader: String,
    },
}

/// A coordinator that tries to become the leader.
pub struct Candidate {
    link: Link,
    server: Server,
    address: String,
}

impl Candidate {
    /// A candidate that would serve at `address`.
    ///
    /// # Errors
    /// If the database cannot be reached or holds another form of journal.
    pub fn new(server: &Server, address: &str) -> Result<Self, Error> {
        server.prepare()?;
        Ok(Self { link: Link::new(server), server: server.clone(), address: address.to_owned() })
    }

    /// Tries once to become the leader.
    ///
    /// # Errors
    /// If the database cannot be reached.
    pub fn stand(&mut self) -> Result<Candidacy, Error> {
        let server = &self.server;
        let asked = Instant::now();
        let take = "INSERT INTO leader (term, address, expires)
                    VALUES (1, $1, clock_timestamp() + $2::BIGINT * INTERVAL '1 millisecond')
                    ON CONFLICT (one) DO UPDATE
                    SET term = leader.term + 1, address = excluded.address, expires = excluded.expires
                    WHERE leader.expires < clock_timestamp() RETURNING term";
        let client = self.link.client()?;
        let tried = (|| match client.query_opt(take, &[&self.address, &millis(server.patience)])? {
            Some(row) => Ok(Ok(row.try_get(0)?)),
            None => {
                let found = client.query_opt("SELECT address FROM leader", &[])?;
                Ok(Err(found.map_or(Ok(String::new()), |row| row.try_get(0))?))
            }
        })();
        match tried.map_err(|error| server.read_error(&error))? {
            Ok(term) => Ok(Candidacy::Leads(Lead::begin(server, term, asked)?)),
            Err(leader) => Ok(Candidacy::Stands { leader }),
        }
    }
}

/// The right to write to the journal, while this coordinator leads.
pub struct Lead {
    server: Server,
    term: i64,
    until: watch::Receiver<Option<Instant>>,
    stop: mpsc::Sender<()>,
    renews: JoinHandle<()>,
}

impl Lead {
    fn begin(server: &Server, term: i64, asked: Instant) -> Result<Self, Error> {
        let (tell, until) = watch::channel(Some(asked + server.patience));
        let (stop, stopped) = mpsc::channel();
        let renewal = Renewal { link: Link::new(server), patience: server.patience, term, tell };
        let renews = std::thread::Builder::new().name("leader".to_owned()).spawn(move || renewal.run(&stopped));
        let renews = renews.map_err(|error| Error::Read { place: server.place(), cause: error.into() })?;
        Ok(Self { server: server.clone(), term, until, stop, renews })
    }

    /// Opens the journal for writing as long as this lead lasts. The returned function waits
    /// for the database.
    pub fn opener(&self) -> impl FnOnce() -> Result<Box<dyn Journal>, Error> + Send + 'static {
        let (server, term) = (self.server.clone(), self.term);
        move || Ok(Box::new(Postgres::open(&server, term)?))
    }

    /// Resolves when the lead may be over: another coordinator leads, or may do so soon as the
    /// database has not answered in time.
    pub fn lost(&self) -> impl Future<Output = Error> + Send + 'static {
        let (mut until, place) = (self.until.clone(), self.server.place());
        async move {
            loop {
                let deadline = *until.borrow_and_update();
                let Some(deadline) = deadline else { break };
                // The sender goes when its thread ends: then, too, nobody renews.
                if !matches!(tokio::time::timeout_at(deadline, until.changed()).await, Ok(Ok(()))) {
                    break;
                }
            }
            Error::NotLeader { place }
        }
    }

    /// Gives the lead back. Waits for the database; a lead that is dropped instead is given
    /// back a little later.
    pub fn release(self) {
        drop(self.stop);
        // If it panicked, the lead ends by itself.
        let _ = self.renews.join();
    }
}

/// Renews a lead, on a connection of its own.
struct Renewal {
    link: Link,
    patience: Duration,
    term: i64,
    tell: watch::Sender<Option<Instant>>,
}

impl Renewal {
    fn run(mut self, stopped: &mpsc::Receiver<()>) {
        while stopped.recv_timeout(self.patience / SIGNS) == Err(RecvTimeoutError::Timeout) {
            let asked = Instant::now();
            match self.renew(millis(self.patience)) {
                Ok(true) => {
                    self.tell.send_replace(Some(asked + self.patience));
                }
                Ok(false) => {
                    tracing::error!("another coordinator leads");
                    self.tell.send_replace(None);
                    return;
                }
                Err(error) => tracing::warn!(%error, "cannot tell that this coordinator leads"),
            }
        }
        if let Err(error) = self.renew(-1) {
            tracing::warn!(%error, "cannot give the lead back; it ends by itself");
        }
    }

    /// Extends the term's deadline by `millis`; returns whether this coordinator leads.
    fn renew(&mut self, millis: i64) -> Result<bool, Error> {
        let renew = "UPDATE leader SET expires = clock_timestamp() + $2::BIGINT * INTERVAL '1 millisecond'
                     WHERE term = $1";
        let renewed = self.link.client()?.execute(renew, &[&self.term, &millis]);
        renewed.map(|rows| rows == 1).map_err(|error| self.link.read_error(&error))
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
