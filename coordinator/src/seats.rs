//! Limits on the calls of each kind that a caller may have under way at once. A call beyond the
//! limit waits or is refused, and takes no seat of other callers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::runner::registry::IdentityId;
use proto::status::{Reason, status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::access::{Caller, Load, Peer};
use crate::config::{Limits, Share, UNLIMITED};

/// The seats of all kinds of calls.
#[derive(Clone, Debug)]
pub(crate) struct Hall(Arc<Rows>);

#[derive(Debug)]
struct Rows {
    calls: Row,
    questions: Row,
    submissions: Row,
    lists: Row,
    watches: Row,
    streams: Row,
    transfers: Row,
}

/// The seats for one kind of calls.
#[derive(Debug)]
struct Row {
    /// Name of the kind, for messages.
    what: &'static str,
    share: Share,
    wait: Wait,
    /// Seats shared by all identities.
    all: Arc<Semaphore>,
    /// Seats of each identity. Identities stay in the journal for ever, so this map holds no
    /// more entries than the journal.
    joined: Mutex<BTreeMap<IdentityId, Arc<Semaphore>>>,
    /// Seats of callers by the Unix socket.
    socket: Local,
    /// Seats of callers on loopback in plaintext, who may be any users of this machine.
    loopback: Local,
}

/// Seats of callers on this machine, whom nothing tells apart.
#[derive(Debug)]
struct Local {
    /// Seats for requests that have not arrived in full: many, so that slow senders are in
    /// nobody's way.
    own: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

impl Local {
    fn new(most: usize) -> Self {
        let own = most.saturating_mul(SLOW).min(UNLIMITED);
        Self { own: Arc::new(Semaphore::new(own)), turn: Arc::new(Semaphore::new(most)) }
    }
}

/// Requests per turn that may be arriving at once, for callers on this machine.
const SLOW: usize = 16;

/// How long a call waits for a seat.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// The call is refused at once, as the calls under way may last.
    Never,
    AtMost(Duration),
    AsLongAsItTakes,
}

/// A seat, held by the answer of a call and by everything that is done for the call.
#[derive(Debug)]
pub(crate) struct Seat {
    _own: OwnedSemaphorePermit,
    /// A permit of the seats that all callers of a kind share.
    turn: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Seat {
    /// The seat of a request; none for calls that need no seat.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Option<Arc<Self>> {
        request.extensions().get().cloned()
    }

    /// Gives the shared permit back: from now on the call only waits until its answer is read.
    pub(crate) fn make_way(&self) {
        drop(self.turn.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Hall {
    /// As many seats as the limits say.
    pub(crate) fn new(limits: Limits) -> Self {
        let briefly = Wait::AtMost(limits.patience);
        Self(Arc::new(Rows {
            calls: Row::new("calls", limits.calls, Wait::AsLongAsItTakes),
            questions: Row::new("questions", limits.questions, briefly),
            submissions: Row::new("submissions", limits.submissions, briefly),
            lists: Row::new("calls with lists", limits.lists, Wait::AsLongAsItTakes),
            watches: Row::new("watches and logs", limits.watches, Wait::Never),
            streams: Row::new("sessions and calls for work", limits.streams, Wait::Never),
            transfers: Row::new("files", limits.transfers, Wait::AsLongAsItTakes),
        }))
    }

    /// Takes a seat of the caller's own as soon as one is free; none for callers that have not
    /// joined, whose connections are few and short.
    ///
    /// # Errors
    /// If all seats are taken and the call does not wait, or has waited long enough.
    pub(crate) async fn take(&self, peer: &Peer, load: Load) -> Result<Option<Arc<Seat>>, Status> {
        let row = self.row(load);
        let own = match &peer.caller {
            Caller::Local => row.local(peer).own.clone(),
            Caller::Joined { identity, .. } => row.of(identity),
            _ => return Ok(None),
        };
        let own = row.acquire(own, &peer.caller).await?;
        Ok(Some(Arc::new(Seat { _own: own, turn: Mutex::default() })))
    }

    /// Waits until a seat's call may go on among the calls of all identities, or of this
    /// machine.
    ///
    /// # Errors
    /// As [`Hall::take`].
    pub(crate) async fn turn(&self, seat: &Seat, peer: &Peer, load: Load) -> Result<(), Status> {
        let row = self.row(load);
        let turn = match &peer.caller {
            Caller::Local => &row.local(peer).turn,
            _ => &row.all,
        };
        let turn = row.acquire(turn.clone(), &peer.caller).await?;
        *seat.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
        Ok(())
    }

    fn row(&self, load: Load) -> &Row {
        let rows = &*self.0;
        match load {
            Load::Small | Load::Medium => &rows.calls,
            Load::Question => &rows.questions,
            Load::Submission => &rows.submissions,
            Load::Large => &rows.lists,
            Load::Watch => &rows.watches,
            Load::Waiting | Load::Stream => &rows.streams,
            Load::Upload | Load::Download => &rows.transfers,
        }
    }
}

impl Row {
    fn new(what: &'static str, share: Share, wait: Wait) -> Self {
        let (socket, loopback) = (Local::new(share.local), Local::new(share.local));
        let all = Arc::new(Semaphore::new(share.of_all));
        Self { what, share, wait, all, joined: Mutex::default(), socket, loopback }
    }

    fn local(&self, peer: &Peer) -> &Local {
        if peer.by_socket { &self.socket } else { &self.loopback }
    }

    fn of(&self, identity: &IdentityId) -> Arc<Semaphore> {
        // No call leaves the map half changed.
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(Semaphore::new(self.share.of_one));
        joined.entry(identity.clone()).or_insert_with(fresh).clone()
    }

    async fn acquire(&self, seats: Arc<Semaphore>, caller: &Caller) -> Result<OwnedSemaphorePermit, Status> {
        let acquired = match self.wait {
            Wait::Never => return seats.try_acquire_owned().map_err(|_| self.busy(caller)),
            Wait::AtMost(time) => tokio::time::timeout(time, seats.acquire_owned()).await,
            Wait::AsLongAsItTakes => Ok(seats.acquire_owned().await),
        };
        acquired.map_err(|_| self.busy(caller))?.map_err(|closed| Status::internal(closed.to_string()))
    }

    fn busy(&self, caller: &Caller) -> Status {
        let (what, Share { of_one, of_all, local }) = (self.what, self.share);
        let most = match caller {
            Caller::Local => format!("{local} {what} of this machine"),
            _ if of_all == UNLIMITED => format!("{of_one} {what} of one identity"),
            _ => format!("{of_one} {what} of one identity and {of_all} of all together"),
        };
        let problem = match self.wait {
            Wait::AtMost(time) => {
                let seconds = time.as_secs();
                format!("waited {seconds} s for others: at most {most} are under way at a time; try again later")
            }
            Wait::Never | Wait::AsLongAsItTakes => {
                format!("{caller} cannot open one more: at most {most} are open at a time; end one first")
            }
        };
        status(Reason::Busy, problem)
    }
}

#[cfg(test)]
mod tests {
    use domain::runner::registry::Role;
    use futures_util::FutureExt;
    use tokio::task::unconstrained;
    use tonic::Code;

    use super::*;

    fn peer(caller: Caller) -> Peer {
        Peer { caller, network: None, by_socket: false }
    }

    fn joined(name: &str) -> Peer {
        peer(Caller::Joined { identity: IdentityId(name.to_owned()), role: Role::Viewer })
    }

    fn socket() -> Peer {
        Peer { by_socket: true, ..peer(Caller::Local) }
    }

    async fn call(hall: &Hall, peer: &Peer, load: Load) -> Result<Arc<Seat>, Status> {
        let seat = hall.take(peer, load).await?.unwrap();
        hall.turn(&seat, peer, load).await.map(|()| seat)
    }

    /// Takes seats for `count` calls; returns those that were given.
    fn calls(hall: &Hall, peer: &Peer, load: Load, count: usize) -> Vec<Arc<Seat>> {
        let one = || unconstrained(call(hall, peer, load)).now_or_never()?.ok();
        (0..count).filter_map(|_| one()).collect()
    }

    #[tokio::test]
    async fn each_identity_has_its_own_seats_and_this_machine_has_others() {
        let hall = Hall::new(Limits::default());
        for (load, most, local) in [
            (Load::Small, 16, 200),
            (Load::Question, 8, 8),
            (Load::Submission, 1, 1),
            (Load::Large, 4, 200),
            (Load::Download, 32, 128),
            (Load::Watch, 32, 64),
            (Load::Stream, 32, 200),
        ] {
            let first = calls(&hall, &joined("a"), load, 200);
            let second = calls(&hall, &joined("b"), load, 200);
            let [here, owner] = [peer(Caller::Local), socket()].map(|here| calls(&hall, &here, load, 200).len());
            assert_eq!((first.len(), second.len(), here, owner), (most, most, local, local), "{load:?}");
            drop(first);
            assert_eq!(calls(&hall, &joined("a"), load, 1).len(), 1, "{load:?}");
        }
    }

    #[tokio::test]
    async fn all_identities_together_have_a_limit_that_this_machine_has_no_part_in() {
        let hall = Hall::new(Limits { transfers: Share { of_one: 2, of_all: 3, local: 2 }, ..Limits::default() });
        let (first, second) =
            (calls(&hall, &joined("a"), Load::Upload, 9), calls(&hall, &joined("b"), Load::Upload, 9));
        assert_eq!((first.len(), second.len(), calls(&hall, &peer(Caller::Local), Load::Upload, 9).len()), (2, 1, 2));
        // Answers that nobody reads occupy the seats of their callers only, and so do requests
        // that have not come to their end.
        first.iter().for_each(|seat| seat.make_way());
        let _slow = hall.take(&joined("d"), Load::Upload).await.unwrap();
        assert!(calls(&hall, &joined("a"), Load::Upload, 1).is_empty());
        assert_eq!(calls(&hall, &joined("c"), Load::Upload, 9).len(), 2);
    }

    #[tokio::test]
    async fn requests_that_come_slowly_are_in_the_way_of_their_own_caller_only() {
        let hall = Hall::new(Limits::default());
        for slow in [joined("a"), peer(Caller::Local)] {
            let mut arriving = vec![];
            for _ in 0..8 {
                arriving.push(hall.take(&slow, Load::Question).await.unwrap());
            }
            for other in [joined("b"), socket()] {
                assert_eq!(calls(&hall, &other, Load::Question, 200).len(), 8);
            }
        }
        // Nothing tells users of this machine apart, so there is room for more than one of them.
        assert_eq!(calls(&hall, &peer(Caller::Local), Load::Question, 200).len(), 8);
    }

    #[tokio::test]
    async fn one_stream_too_many_is_refused_at_once() {
        let hall = Hall::new(Limits { streams: Share { of_one: 1, of_all: 9, local: 9 }, ..Limits::default() });
        let _held = calls(&hall, &joined("a"), Load::Waiting, 1);
        let refused = hall.take(&joined("a"), Load::Stream).await.unwrap_err();
        let expected = "a cannot open one more: at most 1 sessions and calls for work of one identity and 9 of all \
                        together are open at a time; end one first";
        assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, expected));
    }

    #[tokio::test]
    async fn one_call_too_many_waits_and_one_question_too_many_not_for_ever() {
        let hall = Hall::new(Limits { patience: Duration::from_millis(50), ..Limits::default() });
        let held = [calls(&hall, &joined("a"), Load::Small, 16), calls(&hall, &joined("a"), Load::Question, 8)];
        assert!(hall.take(&joined("a"), Load::Medium).now_or_never().is_none());
        let refused = hall.take(&joined("a"), Load::Question).await.unwrap_err();
        assert!(refused.message().contains("at most 8 questions of one identity and 64 of all"), "{refused}");
        drop(held);
        call(&hall, &joined("a"), Load::Question).await.unwrap();
    }
}
