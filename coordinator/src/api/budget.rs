//! What callers may have under way at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::status::status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use crate::access::Caller;

/// Calls of one kind: so many at a time in all and of each caller. Some more of each
/// caller wait for a while.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    limits: Limits,
    all: Arc<Semaphore>,
    callers: Arc<Mutex<BTreeMap<String, Arc<Own>>>>,
}

/// See [`Budget`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// What they are, for people, for instance `submissions`.
    pub what: &'static str,
    /// Under way in all.
    pub all: usize,
    /// Under way of each caller.
    pub each: usize,
    /// Of each caller, beside those under way.
    pub waiting: usize,
    /// Longest wait.
    pub patience: Duration,
}

/// What one caller has.
#[derive(Debug)]
struct Own {
    /// Those under way and those that wait.
    known: Arc<Semaphore>,
    under_way: Arc<Semaphore>,
}

/// One call under way, as long as this lives.
#[derive(Debug)]
pub(super) struct Share {
    _known: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Budget {
    /// Of these limits.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, all: Arc::new(Semaphore::new(limits.all)), callers: Arc::default() }
    }

    /// Waits until the caller may have one more under way.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if too many of the caller's wait already, or it takes too long.
    pub(super) async fn share(&self, caller: &Caller) -> Result<Share, Status> {
        let Limits { what, all, each, waiting, patience } = self.limits;
        let busy = |problem: String| status(Code::ResourceExhausted, "BUSY", problem);
        let own = self.of(caller);
        let known = own.known.clone().try_acquire_owned();
        let known = known.map_err(|_| {
            busy(format!("{each} {what} of yours are under way and {waiting} wait; try again when some are answered"))
        })?;
        let both = async {
            let own = own.under_way.clone().acquire_owned().await?;
            Ok::<_, tokio::sync::AcquireError>((own, self.all.clone().acquire_owned().await?))
        };
        match tokio::time::timeout(patience, both).await {
            Ok(Ok((own, all))) => Ok(Share { _known: known, _own: own, _all: all }),
            Ok(Err(_)) | Err(_) => {
                let seconds = patience.as_secs();
                let at_most = format!("at most {each} {what} of one caller and {all} in all");
                Err(busy(format!("waited {seconds} s for others: {at_most} are under way at a time; try again later")))
            }
        }
    }

    fn of(&self, caller: &Caller) -> Arc<Own> {
        let name = match caller {
            Caller::Joined { identity, .. } => identity.to_string(),
            // All else that may call is on this machine.
            _ => String::new(),
        };
        // A map is whole after any panic.
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let has_none = |own: &Own| own.known.available_permits() == self.limits.each + self.limits.waiting;
        callers.retain(|_, own| Arc::strong_count(own) > 1 || !has_none(own));
        let fresh = || {
            let known = Arc::new(Semaphore::new(self.limits.each + self.limits.waiting));
            Arc::new(Own { known, under_way: Arc::new(Semaphore::new(self.limits.each)) })
        };
        callers.entry(name).or_insert_with(fresh).clone()
    }
}

#[cfg(test)]
mod tests {
    use domain::registry::{IdentityId, Role};

    use super::*;

    fn caller(name: &str) -> Caller {
        Caller::Joined { identity: IdentityId(name.to_owned()), role: Role::Submitter }
    }

    fn budget(all: usize) -> Budget {
        Budget::new(Limits { what: "calls", all, each: 2, waiting: 1, patience: Duration::from_millis(50) })
    }

    #[tokio::test]
    async fn what_one_caller_has_under_way_holds_up_no_other() {
        let budget = budget(8);
        let one = [budget.share(&caller("a")).await.unwrap(), budget.share(&caller("a")).await.unwrap()];
        let refused = budget.share(&caller("a")).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("at most 2 calls of one caller and 8 in all"), "{refused}");
        budget.share(&caller("b")).await.unwrap();
        drop(one);
        budget.share(&caller("a")).await.unwrap();
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused_at_once() {
        let budget = budget(8);
        let _one = [budget.share(&caller("a")).await.unwrap(), budget.share(&caller("a")).await.unwrap()];
        let third = tokio::spawn({
            let budget = budget.clone();
            async move { budget.share(&caller("a")).await }
        });
        tokio::task::yield_now().await;
        let refused = budget.share(&caller("a")).await.unwrap_err();
        assert!(refused.message().starts_with("2 calls of yours are under way and 1 wait"), "{refused}");
        assert!(third.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn all_callers_together_have_a_limit_and_none_is_remembered_for_ever() {
        let budget = budget(1);
        let one = budget.share(&caller("a")).await.unwrap();
        assert!(budget.share(&caller("b")).await.is_err());
        drop(one);
        budget.share(&caller("b")).await.unwrap();
        assert_eq!(budget.callers.lock().unwrap().len(), 1);
    }
}
