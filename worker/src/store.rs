//! Inputs by digest, kept for the next attempt.

use std::io;
use std::path::{Path, PathBuf};

use domain::digest::Digest;
use proto::transfer::{Error, Transfer};
use tokio::fs;

/// A folder of files named by their digests. Everything in it can be fetched
/// again; it is emptied when a worker starts.
#[derive(Debug)]
pub(crate) struct Store {
    inputs: PathBuf,
    attempts: PathBuf,
}

impl Store {
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let (inputs, attempts) = (state.join("inputs"), state.join("attempts"));
        for folder in [&inputs, &attempts] {
            if folder.exists() {
                std::fs::remove_dir_all(folder)?;
            }
            std::fs::create_dir_all(folder)?;
        }
        Ok(Self { inputs, attempts })
    }

    /// A fresh folder for an attempt.
    pub(crate) fn attempt(&self, name: &str) -> PathBuf {
        self.attempts.join(name)
    }

    /// Puts an artifact's files, or those at the paths given, below `root`.
    pub(crate) async fn materialise(
        &self,
        transfer: &Transfer,
        artifact: Digest,
        only: &[String],
        root: &Path,
    ) -> Result<(), Error> {
        let manifest = transfer.manifest(artifact).await?;
        fs::create_dir_all(root).await.map_err(|source| self.io("create", root, source))?;
        for entry in manifest.entries().iter().filter(|entry| only.is_empty() || only.contains(&entry.path)) {
            let kept = self.inputs.join(entry.digest.to_string());
            if !fs::try_exists(&kept).await.unwrap_or(false) {
                self.fetch(transfer, entry.digest, &kept).await?;
            }
            let path = root.join(&entry.path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).await.map_err(|source| self.io("create", folder, source))?;
            }
            // The same bytes under a second name; a copy where the disk cannot do that.
            if fs::hard_link(&kept, &path).await.is_err() {
                fs::copy(&kept, &path).await.map_err(|source| self.io("write", &path, source))?;
            }
        }
        Ok(())
    }

    /// Two attempts may want the same file at once: each fetches under a name of
    /// its own, and the second to finish replaces equal bytes.
    async fn fetch(&self, transfer: &Transfer, digest: Digest, kept: &Path) -> Result<(), Error> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let own = self.inputs.join(format!("{digest}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        transfer.get_file(digest, &own).await?;
        let read_only = async {
            let mut permissions = fs::metadata(&own).await?.permissions();
            permissions.set_readonly(true);
            fs::set_permissions(&own, permissions).await?;
            fs::rename(&own, kept).await
        };
        read_only.await.map_err(|source| self.io("keep", kept, source))
    }

    fn io(&self, what: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { what, path: path.to_owned(), source }
    }
}
