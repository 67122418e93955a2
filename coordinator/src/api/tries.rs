//! Rate limits on attempts to join.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::crowd::Network;

/// Most debt of one network: 400 attempts at once, or 20 that were refused.
const CREDIT: Duration = Duration::from_secs(100);

/// Debt that an attempt adds for its network; debt shrinks by the passing time.
const TRY: Duration = Duration::from_millis(250);

/// Debt that a refused attempt adds besides.
const REFUSED: Duration = Duration::from_secs(5);

/// Divisor of the debts for all networks together: 4000 attempts at once, or 200 that were
/// refused.
const SHARE: u32 = 10;

/// Most networks whose debts are remembered.
const NETWORKS: usize = 4096;

/// Debts for attempts to join. A cluster that starts with valid tokens owes little; whoever
/// guesses tokens soon has no credit left.
#[derive(Debug, Default)]
pub(crate) struct Tries(Mutex<Debts>);

#[derive(Debug, Default)]
struct Debts {
    /// When the debts of all networks together are paid off.
    all: Option<Instant>,
    each: BTreeMap<Network, Instant>,
}

impl Tries {
    /// Counts an attempt.
    ///
    /// # Errors
    /// The time to wait before the next attempt.
    pub(crate) fn begin(&self, network: Network, now: Instant) -> Result<(), Duration> {
        self.with(|debts| {
            let owed = |paid: Option<Instant>| paid.map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now));
            let owed = owed(debts.all).max(owed(debts.each.get(&network).copied()));
            if owed > CREDIT {
                return Err(owed - CREDIT);
            }
            debts.add(network, TRY, now);
            Ok(())
        })
    }

    /// Counts that an attempt was refused.
    pub(crate) fn refused(&self, network: Network, now: Instant) {
        self.with(|debts| debts.add(network, REFUSED, now));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Debts) -> T) -> T {
        // No change is left half done.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Debts {
    fn add(&mut self, network: Network, cost: Duration, now: Instant) {
        self.all = Some(self.all.map_or(now, |paid| paid.max(now)) + cost / SHARE);
        if self.each.len() >= NETWORKS {
            self.each.retain(|_, paid| *paid > now);
        }
        // Beyond that many, what all owe is the limit.
        if self.each.len() < NETWORKS || self.each.contains_key(&network) {
            let paid = self.each.entry(network).or_insert(now);
            *paid = now.max(*paid) + cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(number: u32) -> Network {
        IpAddr::V4(number.into()).into()
    }

    /// Number of attempts that are let in, one after the other at the same time.
    fn count(tries: &Tries, now: Instant, is_refused: bool, from: impl Fn(u32) -> Network) -> u32 {
        let one = |number: &u32| {
            let begun = tries.begin(from(*number), now).is_ok();
            if begun && is_refused {
                tries.refused(from(*number), now);
            }
            begun
        };
        (0..10_000).take_while(one).count() as u32
    }

    #[test]
    fn a_cluster_behind_one_address_may_join_at_once() {
        let tries = Tries::default();
        assert_eq!(count(&tries, Instant::now(), false, |_| network(1)), 401);
    }

    #[test]
    fn a_network_that_guesses_has_soon_spent_all_and_others_have_not() {
        let (tries, now) = (Tries::default(), Instant::now());
        assert_eq!(count(&tries, now, true, |_| network(1)), 20);
        let wait = tries.begin(network(1), now).unwrap_err();
        assert_eq!(wait, Duration::from_secs(5));
        assert!(tries.begin(network(2), now).is_ok());
        assert!(tries.begin(network(1), now + wait).is_ok());
    }

    #[test]
    fn many_networks_that_guess_have_no_more_than_all_may() {
        let (tries, now) = (Tries::default(), Instant::now());
        assert_eq!(count(&tries, now, true, network), 191);
        assert!(tries.begin(network(1), now).is_err());
    }

    #[test]
    fn no_more_networks_are_known_than_there_is_room_for() {
        let (tries, now) = (Tries::default(), Instant::now());
        for number in 0..2 * NETWORKS as u32 {
            tries.refused(network(number), now);
        }
        assert_eq!(tries.with(|debts| debts.each.len()), NETWORKS);
        let later = now + Duration::from_secs(3600);
        tries.refused(network(u32::MAX), later);
        assert_eq!(tries.with(|debts| debts.each.len()), 1);
    }
}
