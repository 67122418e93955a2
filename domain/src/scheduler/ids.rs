//! Keys of tasks to their places.

#![expect(
    clippy::disallowed_types,
    reason = "looked up, never iterated; a million keys in a tree cost three times as much"
)]

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::RangeInclusive;

use crate::digest::Digest;
use crate::plan::TaskSpec;

/// Where each task is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ids {
    places: HashMap<Digest, u32, BuildHasherDefault<First8>>,
    /// By the beginning of the key, for those who type no more than that.
    order: BTreeSet<(u64, u32)>,
    /// By the beginning of a digest of stage and subject, for what was asked for before.
    labels: BTreeSet<(u64, u32)>,
}

impl Ids {
    pub(super) fn get(&self, key: &Digest) -> Option<u32> {
        self.places.get(key).copied()
    }

    /// Where tasks are whose keys may lie in a range: all that do are among them.
    pub(super) fn near(&self, keys: RangeInclusive<Digest>) -> impl Iterator<Item = u32> {
        let places = (head(keys.start()), u32::MIN)..=(head(keys.end()), u32::MAX);
        self.order.range(places).map(|(_, id)| *id)
    }

    /// Tasks before one, newest first, that are probably of its stage and subject.
    pub(super) fn like(&self, spec: &TaskSpec, id: u32) -> impl Iterator<Item = u32> {
        let label = label(spec);
        self.labels.range((label, u32::MIN)..(label, id)).rev().map(|(_, id)| *id)
    }

    pub(super) fn insert(&mut self, spec: &TaskSpec, id: u32) {
        self.places.insert(spec.key, id);
        self.order.insert((head(&spec.key), id));
        self.labels.insert((label(spec), id));
    }

    /// A task is about something else from now on, with the same key.
    pub(super) fn relabel(&mut self, before: &TaskSpec, after: &TaskSpec, id: u32) {
        self.labels.remove(&(label(before), id));
        self.labels.insert((label(after), id));
    }
}

fn label(spec: &TaskSpec) -> u64 {
    head(&Digest::of(format!("{}\0{}", spec.stage.kind().name(), spec.subject).as_bytes()))
}

/// Orders digests as they are ordered, but for those that begin alike.
fn head(digest: &Digest) -> u64 {
    digest.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// A digest is as good a hash as any: its first bytes will do.
#[derive(Clone, Copy, Debug, Default)]
struct First8(u64);

impl Hasher for First8 {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    // The length that stands before the bytes of an array says nothing.
    fn write_usize(&mut self, _: usize) {}
}
