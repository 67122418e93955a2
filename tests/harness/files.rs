//! Files to be sent and fetched.

use domain::id::ArtifactId;
use std::path::Path;

use proto::transfer::{self, Transfer};
use tempfile::TempDir;

/// Bytes that no compressor makes smaller.
pub(crate) fn noise(seed: u8, length: u64) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

/// A folder with these files.
pub(crate) fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// Sends the files of a folder, and their list.
pub(crate) async fn push(transfer: &Transfer, folder: &Path) -> ArtifactId {
    transfer.push(folder, &transfer::scan(folder).unwrap()).await.unwrap()
}
