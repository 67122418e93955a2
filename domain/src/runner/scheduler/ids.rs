//! Indexes from keys and labels to the positions of tasks.

#![expect(
    clippy::disallowed_types,
    reason = "looked up, never iterated; a million keys in a tree cost three times as much"
)]

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::RangeInclusive;

use crate::digest::Digest;
use crate::id::TaskKey;
use crate::study::plan::TaskSpec;

/// The position of each task.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ids {
    places: HashMap<TaskKey, u32, BuildHasherDefault<First8>>,
    /// Positions by the first eight bytes of the key, for lookups by prefix.
    order: BTreeSet<(u64, u32)>,
    /// Positions by the first eight bytes of a digest of stage and subject, for finding earlier
    /// tasks with the same label.
    labels: BTreeSet<(u64, u32)>,
}

impl Ids {
    pub(super) fn get(&self, key: &TaskKey) -> Option<u32> {
        self.places.get(key).copied()
    }

    /// Positions of all tasks whose keys lie in a range; a few others may be among them.
    pub(super) fn near(&self, keys: RangeInclusive<TaskKey>) -> impl Iterator<Item = u32> {
        let places = (head(&keys.start().0), u32::MIN)..=(head(&keys.end().0), u32::MAX);
        self.order.range(places).map(|(_, id)| *id)
    }

    /// Earlier tasks, newest first, that probably have the same stage and subject as `spec`.
    pub(super) fn like(&self, spec: &TaskSpec, id: u32) -> impl Iterator<Item = u32> {
        let label = label(spec);
        self.labels.range((label, u32::MIN)..(label, id)).rev().map(|(_, id)| *id)
    }

    pub(super) fn insert(&mut self, spec: &TaskSpec, id: u32) {
        self.places.insert(spec.key, id);
        self.order.insert((head(&spec.key.0), id));
        self.labels.insert((label(spec), id));
    }

    /// Updates the index for a task whose subject changes while its key stays the same.
    pub(super) fn relabel(&mut self, before: &TaskSpec, after: &TaskSpec, id: u32) {
        self.labels.remove(&(label(before), id));
        self.labels.insert((label(after), id));
    }
}

fn label(spec: &TaskSpec) -> u64 {
    head(&Digest::of(format!("{}\0{}", spec.stage.kind().name(), spec.subject).as_bytes()))
}

/// A number that orders digests by their beginnings.
fn head(digest: &Digest) -> u64 {
    digest.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// A hasher that takes the first eight bytes of a digest, which is as good a hash as any.
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
