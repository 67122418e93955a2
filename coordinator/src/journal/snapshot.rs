//! A packed state on disk, so that a start does not have to read every event.

use std::io;

/// Compression level: good enough for JSON, and faster than a disk.
const LEVEL: i32 = 1;

/// A compressed state with a checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of the last event that the state includes.
    pub number: u64,
    /// The compressed state.
    pub packed: Vec<u8>,
    /// blake3 of the number and the compressed state.
    pub digest: Vec<u8>,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stored bytes do not match their checksum.
    #[error("the snapshot after event {0} is damaged: its checksum does not match")]
    Checksum(u64),
    /// The state cannot be compressed or decompressed.
    #[error("the snapshot after event {number} cannot be packed or unpacked: {source}")]
    Packing {
        /// Number of the last event that the state includes.
        number: u64,
        source: io::Error,
    },
}

impl Snapshot {
    /// Compresses the state after event `number`. This takes time: call it where nobody waits.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn pack(number: u64, state: &[u8]) -> Result<Self, Error> {
        let packed = zstd::encode_all(state, LEVEL).map_err(|source| Error::Packing { number, source })?;
        let digest = digest(number, &packed);
        Ok(Self { number, packed, digest })
    }

    /// The decompressed state.
    ///
    /// # Errors
    /// If the snapshot is damaged.
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
