//! How much each identity may have under way at once. What is more waits, or is
//! refused, and keeps nobody else from theirs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::registry::IdentityId;
use proto::status::{BUSY, status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use crate::access::{Caller, Load};
use crate::config::Limits;

/// What callers on this machine may have under way, who are administrators.
const UNLIMITED: usize = Semaphore::MAX_PERMITS;

/// Seats of one caller.
#[derive(Debug)]
struct Seats {
    calls: Arc<Semaphore>,
    large: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    transfers: Arc<Semaphore>,
}

impl Seats {
    fn new(calls: usize, large: usize, streams: usize, transfers: usize) -> Self {
        let seats = |count| Arc::new(Semaphore::new(count));
        Self { calls: seats(calls), large: seats(large), streams: seats(streams), transfers: seats(transfers) }
    }
}

/// Seats of all callers.
#[derive(Clone, Debug)]
pub(crate) struct Hall {
    limits: Limits,
    local: Arc<Seats>,
    /// Identities are in the journal for ever, so these are no more than those.
    joined: Arc<Mutex<BTreeMap<IdentityId, Arc<Seats>>>>,
}

/// Held as long as a call is under way.
pub(crate) type Held = Option<OwnedSemaphorePermit>;

impl Hall {
    /// As many as the limits say.
    pub(crate) fn new(limits: Limits) -> Self {
        let local = Seats::new(UNLIMITED, UNLIMITED, UNLIMITED, limits.local_transfers);
        Self { limits, local: Arc::new(local), joined: Arc::default() }
    }

    /// Waits for a seat; for a stream that may last, there has to be one.
    ///
    /// # Errors
    /// If the caller has too many streams open.
    pub(crate) async fn take(&self, caller: &Caller, load: Load) -> Result<Held, Status> {
        let seats = match caller {
            Caller::Local => self.local.clone(),
            Caller::Joined { identity, .. } => self.of(identity),
            // Their connections are few and short.
            _ => return Ok(None),
        };
        let seats = match load {
            Load::Small | Load::Medium => &seats.calls,
            Load::Large => &seats.large,
            Load::Upload | Load::Download => &seats.transfers,
            Load::Waiting | Load::Stream => {
                let seat = seats.streams.clone().try_acquire_owned();
                return seat.map(Some).map_err(|_| self.too_many(caller));
            }
        };
        seats.clone().acquire_owned().await.map(Some).map_err(|closed| Status::internal(closed.to_string()))
    }

    fn of(&self, identity: &IdentityId) -> Arc<Seats> {
        let Limits { calls_of_one, large_of_one, streams_of_one, transfers_of_one, .. } = self.limits;
        // No call leaves the map half changed.
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Seats::new(calls_of_one, large_of_one, streams_of_one, transfers_of_one));
        joined.entry(identity.clone()).or_insert_with(fresh).clone()
    }

    fn too_many(&self, caller: &Caller) -> Status {
        let most = self.limits.streams_of_one;
        let problem = format!("{caller} has {most} sessions, watches and logs open, which is the most; end one first");
        status(Code::ResourceExhausted, BUSY, problem)
    }
}

#[cfg(test)]
mod tests {
    use domain::registry::Role;
    use futures_util::FutureExt;

    use super::*;

    fn joined(name: &str) -> Caller {
        Caller::Joined { identity: IdentityId(name.to_owned()), role: Role::Viewer }
    }

    /// What of so many calls gets a seat at once.
    fn take(hall: &Hall, caller: &Caller, load: Load, count: usize) -> Vec<Held> {
        (0..count).filter_map(|_| hall.take(caller, load).now_or_never()).filter_map(Result::ok).collect()
    }

    #[test]
    fn each_identity_has_its_own_seats_and_this_machine_has_others() {
        let hall = Hall::new(Limits::default());
        for (load, most, local) in
            [(Load::Small, 16, 200), (Load::Large, 4, 200), (Load::Download, 32, 128), (Load::Stream, 32, 200)]
        {
            let first = take(&hall, &joined("a"), load, 200);
            let second = take(&hall, &joined("b"), load, 200);
            let here = take(&hall, &Caller::Local, load, 200);
            assert_eq!((first.len(), second.len(), here.len()), (most, most, local), "{load:?}");
            drop(first);
            assert_eq!(take(&hall, &joined("a"), load, 1).len(), 1, "{load:?}");
        }
    }

    #[test]
    fn one_stream_too_many_is_refused_and_one_call_too_many_waits() {
        let hall = Hall::new(Limits { streams_of_one: 1, calls_of_one: 1, ..Limits::default() });
        let _held = [Load::Waiting, Load::Small].map(|load| take(&hall, &joined("a"), load, 1));
        let refused = hall.take(&joined("a"), Load::Stream).now_or_never().unwrap().unwrap_err();
        assert!(refused.message().starts_with("a has 1 sessions, watches and logs open"), "{refused}");
        assert!(hall.take(&joined("a"), Load::Medium).now_or_never().is_none());
    }
}
