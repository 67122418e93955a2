//! A state on disk, so that a start need not read every event.

use std::io;

/// Good enough for JSON, and faster than a disk.
const LEVEL: i32 = 1;

/// A packed state, with what tells whether it is still whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of the last event in it.
    pub number: u64,
    /// The state, compressed.
    pub packed: Vec<u8>,
    /// blake3 of number and packed state.
    pub digest: Vec<u8>,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is stored is not what was written.
    #[error("the snapshot after event {0} is damaged: its checksum does not match")]
    Checksum(u64),
    /// It cannot be packed or unpacked.
    #[error("the snapshot after event {number} cannot be packed or unpacked: {source}")]
    Packing {
        /// Number of the last event in it.
        number: u64,
        /// Why.
        source: io::Error,
    },
}

impl Snapshot {
    /// Packs the state after the event of that number. Takes time: call it where
    /// nobody waits.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn pack(number: u64, state: &[u8]) -> Result<Self, Error> {
        let packed = zstd::encode_all(state, LEVEL).map_err(|source| Error::Packing { number, source })?;
        let digest = digest(number, &packed);
        Ok(Self { number, packed, digest })
    }

    /// The state.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn unpack(&self) -> Result<Vec<u8>, Error> {
        if self.digest != digest(self.number, &self.packed) {
            return Err(Error::Checksum(self.number));
        }
        zstd::decode_all(self.packed.as_slice()).map_err(|source| Error::Packing { number: self.number, source })
    }
}

fn digest(number: u64, packed: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(packed);
    hasher.finalize().as_bytes().to_vec()
}
