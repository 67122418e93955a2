//! Limits on connections whose caller is not known.
//!
//! There is a number of places in all, and a share for each network. When all are taken, a new
//! connection gets the place of the one that has had a place for longest: slow callers cannot
//! keep quick ones out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Bits of an IPv6 address that its owner cannot choose.
const OWNED: u128 = !0 << 64;

/// Where a connection comes from: an IPv4 address, or the 2^64 IPv6 addresses of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & OWNED).into(),
            address => address,
        })
    }
}

/// The places, in the order in which they were taken.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    most: usize,
    most_of_one: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    places: BTreeMap<u64, (Network, CancellationToken)>,
}

impl Crowd {
    /// A crowd of at most `most` places, and at most `most_of_one` for one network.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, taken: Arc::default() }
    }

    /// Takes a place. If none is free, the oldest place is taken over: of the same network if
    /// that has its share, otherwise of the network with the most places.
    pub(crate) fn enter(&self, network: Network) -> Place {
        let mut taken = self.lock();
        let mut counts: BTreeMap<Network, usize> = BTreeMap::new();
        for (network, _) in taken.places.values() {
            *counts.entry(*network).or_default() += 1;
        }
        let crowded = match counts.get(&network) {
            Some(count) if *count >= self.most_of_one => Some(network),
            _ if taken.places.len() >= self.most => {
                counts.into_iter().max_by_key(|(_, count)| *count).map(|(one, _)| one)
            }
            _ => None,
        };
        let oldest = taken.places.iter().find(|(_, (one, _))| Some(*one) == crowded).map(|(number, _)| *number);
        if let Some((_, lost)) = oldest.and_then(|number| taken.places.remove(&number)) {
            lost.cancel();
        }
        let (number, lost) = (taken.next, CancellationToken::new());
        taken.next += 1;
        taken.places.insert(number, (network, lost.clone()));
        drop(taken);
        Place { crowd: self.clone(), number, lost }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // No call leaves the map half changed.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, which is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    crowd: Crowd,
    number: u64,
    lost: CancellationToken,
}

impl Place {
    /// Resolves when another connection has taken the place over.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().places.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn lost(places: &[Place]) -> Vec<bool> {
        places.iter().map(|place| place.lost.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_of_a_network_makes_room_for_its_newest() {
        let crowd = Crowd::new(10, 2);
        let places = ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1"].map(|text| crowd.enter(network(text)));
        assert_eq!(lost(&places), [true, false, false, false]);
    }

    #[test]
    fn a_full_crowd_loses_the_oldest_of_the_network_that_has_most() {
        let crowd = Crowd::new(3, 3);
        let places = ["192.0.2.2", "192.0.2.1", "192.0.2.1", "192.0.2.3"].map(|text| crowd.enter(network(text)));
        assert_eq!(lost(&places), [false, true, false, false]);
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let crowd = Crowd::new(1, 1);
        drop(crowd.enter(network("192.0.2.1")));
        assert!(crowd.lock().places.is_empty());
        let place = crowd.enter(network("192.0.2.1"));
        assert_eq!(lost(&[place]), [false]);
    }

    #[test]
    fn an_owner_of_many_addresses_has_one_network() {
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
