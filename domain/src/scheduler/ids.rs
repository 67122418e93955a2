//! Keys of tasks to their places.

#![expect(
    clippy::disallowed_types,
    reason = "looked up, never iterated; a million keys in a tree cost three times as much"
)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::digest::Digest;

/// Where each task is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ids(HashMap<Digest, u32, BuildHasherDefault<First8>>);

impl Ids {
    pub(super) fn get(&self, key: &Digest) -> Option<u32> {
        self.0.get(key).copied()
    }

    pub(super) fn insert(&mut self, key: Digest, id: u32) {
        self.0.insert(key, id);
    }
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
