//! Inputs by digest, kept for the next attempt.
//!
//! The folder is bounded: what was not used for longest goes first. It also
//! keeps what the worker's own attempts made, as that is often the input of the
//! next. It outlives the worker; as nothing in it is synced, a file of an earlier
//! process is hashed again before it is used for the first time.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::artifact::{Entry, Manifest};
use domain::digest::Digest;
use domain::id::ArtifactId;
use proto::path_error::io_error;
use proto::transfer::{Error, Transfer};
use tokio::fs;

/// A folder of files named by their digests, all of which can be fetched again.
#[derive(Debug)]
pub(crate) struct Store {
    inputs: PathBuf,
    attempts: PathBuf,
    /// The most bytes that are kept.
    limit: u64,
    kept: Mutex<Kept>,
    /// Locks by which a file is fetched once at a time.
    turns: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// The files that lie in the folder, in the order of their use.
#[derive(Debug, Default)]
struct Kept {
    files: BTreeMap<Digest, File>,
    /// Digests by their last use, the least recent one first.
    order: BTreeMap<u64, Digest>,
    bytes: u64,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct File {
    size: u64,
    last_use: u64,
    /// Whether this process knows that the file is what its name says.
    checked: bool,
}

impl Kept {
    fn put(&mut self, digest: Digest, size: u64, checked: bool) {
        self.forget(digest);
        self.uses += 1;
        self.files.insert(digest, File { size, last_use: self.uses, checked });
        self.order.insert(self.uses, digest);
        self.bytes += size;
    }

    fn forget(&mut self, digest: Digest) {
        if let Some(file) = self.files.remove(&digest) {
            self.order.remove(&file.last_use);
            self.bytes -= file.size;
        }
    }

    /// Forgets the least recently used files beyond the limit, and returns them.
    fn shrink(&mut self, limit: u64) -> Vec<Digest> {
        let mut gone = Vec::new();
        while self.bytes > limit
            && let Some(digest) = self.order.values().next().copied()
        {
            self.forget(digest);
            gone.push(digest);
        }
        gone
    }
}

impl Store {
    /// Opens the store of a worker's state folder, of `limit` bytes.
    pub(crate) fn open(state: &Path, limit: u64) -> io::Result<Self> {
        let (inputs, attempts) = (state.join("inputs"), state.join("attempts"));
        if attempts.exists() {
            std::fs::remove_dir_all(&attempts)?;
        }
        for folder in [&inputs, &attempts] {
            std::fs::create_dir_all(folder)?;
        }
        let mut found = Vec::new();
        for item in std::fs::read_dir(&inputs)? {
            let item = item?;
            let meta = item.metadata()?;
            match item.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()) {
                Some(digest) => found.push((meta.modified()?, digest, meta.len())),
                // Half a file of an earlier process.
                None => std::fs::remove_file(item.path())?,
            }
        }
        found.sort_unstable();
        let mut kept = Kept::default();
        for (_, digest, size) in found {
            kept.put(digest, size, false);
        }
        let store = Self { inputs, attempts, limit, kept: Mutex::new(kept), turns: Mutex::default() };
        store.shrink();
        Ok(store)
    }

    /// A fresh folder for an attempt.
    pub(crate) fn attempt(&self, name: &str) -> PathBuf {
        self.attempts.join(name)
    }

    /// Puts an artifact's files, or those at the paths given, below `root`.
    pub(crate) async fn materialise(
        &self,
        transfer: &Transfer,
        artifact: ArtifactId,
        only: &[String],
        root: &Path,
    ) -> Result<(), Error> {
        let manifest = self.manifest(transfer, artifact).await?;
        fs::create_dir_all(root).await.map_err(io_error("create", root))?;
        for entry in manifest.entries().iter().filter(|entry| only.is_empty() || only.contains(&entry.path)) {
            let path = root.join(&entry.path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).await.map_err(io_error("create", folder))?;
            }
            self.place(transfer, entry.digest, &path).await?;
        }
        Ok(())
    }

    /// Keeps an attempt's outputs, which the coordinator has checked just now.
    pub(crate) fn keep(&self, root: &Path, manifest: &Manifest) {
        let keep = |entry: &Entry| -> io::Result<()> {
            let kept = self.path(entry.digest);
            if !kept.exists() {
                let path = root.join(&entry.path);
                protect(&path)?;
                std::fs::hard_link(&path, &kept)?;
            }
            self.lock().put(entry.digest, entry.size, true);
            Ok(())
        };
        for entry in manifest.entries() {
            if let Err(error) = keep(entry) {
                // It can be fetched if it is needed.
                tracing::debug!(%error, path = entry.path, "an output is not kept");
            }
        }
        self.shrink();
    }

    /// Whether all files of an artifact are kept: then the coordinator had them once.
    pub(crate) fn has_all(&self, manifest: &Manifest) -> bool {
        let kept = self.lock();
        manifest.entries().iter().all(|entry| kept.files.contains_key(&entry.digest))
    }

    /// Bytes of the files that are kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    async fn manifest(&self, transfer: &Transfer, artifact: ArtifactId) -> Result<Manifest, Error> {
        let path = self.attempts.join(format!("manifest-{artifact}-{}", number()));
        self.place(transfer, artifact.0, &path).await?;
        let bytes = fs::read(&path).await.map_err(io_error("read", &path))?;
        fs::remove_file(&path).await.map_err(io_error("remove", &path))?;
        Manifest::from_bytes(&bytes).map_err(|error| Error::NotAManifest { artifact, problem: error.to_string() })
    }

    /// Puts a file at `path`, fetching it if it is not kept.
    async fn place(&self, transfer: &Transfer, digest: Digest, path: &Path) -> Result<(), Error> {
        let turn = self.turns().entry(digest).or_default().clone();
        let placed = {
            let _turn = turn.lock().await;
            self.place_in_turn(transfer, digest, path).await
        };
        drop(turn);
        self.turns().retain(|_, turn| Arc::strong_count(turn) > 1);
        self.shrink();
        placed
    }

    async fn place_in_turn(&self, transfer: &Transfer, digest: Digest, path: &Path) -> Result<(), Error> {
        let kept = self.path(digest);
        // One that another attempt's files have just displaced is fetched again.
        if self.is_kept(digest).await && link(&kept, path).await.is_ok() {
            return Ok(());
        }
        transfer.get_file(digest, &kept).await?;
        protect(&kept).map_err(io_error("protect", &kept))?;
        let size = fs::metadata(&kept).await.map_err(io_error("read", &kept))?.len();
        link(&kept, path).await.map_err(io_error("write", path))?;
        self.lock().put(digest, size, true);
        Ok(())
    }

    /// Whether a file is kept and is what its name says; notes that the file is used.
    async fn is_kept(&self, digest: Digest) -> bool {
        let Some(file) = self.lock().files.get(&digest).copied() else { return false };
        let path = self.path(digest);
        let whole = file.checked || {
            let hash = move || -> io::Result<Digest> {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(std::fs::File::open(path)?)?;
                Ok(hasher.finalize().into())
            };
            tokio::task::spawn_blocking(hash).await.is_ok_and(|hashed| hashed.is_ok_and(|found| found == digest))
        };
        if whole {
            self.lock().put(digest, file.size, true);
        } else {
            self.lock().forget(digest);
        }
        whole
    }

    /// Removes the least recently used files beyond the limit.
    fn shrink(&self) {
        // Under the lock, so that what is put back meanwhile is not removed.
        let mut kept = self.lock();
        for digest in kept.shrink(self.limit) {
            // What cannot be removed now is counted again at the next start.
            let _ = std::fs::remove_file(self.path(digest));
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.inputs.join(digest.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whole after any panic: no call leaves it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turns(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// Gives a file a second name; copies it where the disk has no hard links.
async fn link(kept: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(kept, path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => fs::copy(kept, path).await.map(drop),
        linked => linked,
    }
}

/// Makes a file read-only: an attempt must not change what others read as well.
fn protect(path: &Path) -> io::Result<()> {
    let mut permissions = std::fs::metadata(path)?.permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(path, permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(folder: &Path, name: &str, text: &str) -> Manifest {
        let root = folder.join(name);
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("a"), text).unwrap();
        proto::transfer::scan(&root).unwrap()
    }

    fn names(folder: &Path) -> usize {
        std::fs::read_dir(folder.join("inputs")).unwrap().count()
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut kept = Kept::default();
        let [a, b, c] = [b"a", b"b", b"c"].map(|text| Digest::of(text));
        kept.put(a, 10, true);
        kept.put(b, 10, true);
        kept.put(a, 10, true);
        kept.put(c, 10, true);
        assert_eq!(kept.bytes, 30);
        assert_eq!(kept.shrink(20), [b]);
        assert_eq!(kept.shrink(5), [a, c]);
        assert_eq!((kept.bytes, kept.order.len()), (0, 0));
    }

    #[tokio::test]
    async fn outputs_are_kept_within_the_limit_and_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let first = output(state, "first", "12345");
        let second = output(state, "second", "67890");
        let store = Store::open(state, 8).unwrap();
        store.keep(&state.join("first"), &first);
        store.keep(&state.join("second"), &second);
        assert_eq!(names(state), 1, "both are more than the limit");
        drop(store);
        let store = Store::open(state, 8).unwrap();
        assert!(!store.is_kept(first.entries()[0].digest).await);
        assert!(store.is_kept(second.entries()[0].digest).await);
    }

    #[tokio::test]
    async fn a_file_that_was_spoilt_while_no_worker_ran_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let made = output(state, "made", "12345");
        let digest = made.entries()[0].digest;
        Store::open(state, 100).unwrap().keep(&state.join("made"), &made);
        let kept = state.join("inputs").join(digest.to_string());
        std::fs::remove_file(&kept).unwrap();
        std::fs::write(&kept, "1234").unwrap();
        std::fs::write(state.join("inputs/half.partial"), "12").unwrap();
        let store = Store::open(state, 100).unwrap();
        assert!(!store.is_kept(digest).await);
        assert_eq!(names(state), 1, "half a file goes");
    }
}
