//! What attempts said, a file for each: `logs/<task>/<token>.log`.
//!
//! For people, not for decisions: a log is not synced, and losing its end in a
//! power cut loses nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use domain::digest::Digest;
use domain::task::FencingToken;
use tonic::Status;

/// Bytes kept of one attempt: the beginning.
pub const LOG_MAX: u64 = 16 * 1024 * 1024;

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the log {}: {source}", path.display())]
pub struct Error {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The logs of all attempts.
#[derive(Clone, Debug)]
pub struct Logs {
    root: PathBuf,
}

impl Logs {
    /// The logs in that folder.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Adds bytes at their place; returns how many there are now. Bytes that are
    /// there already change nothing; a gap is refused by the number returned.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&self, task: Digest, token: FencingToken, offset: u64, bytes: &[u8]) -> Result<u64, Error> {
        let path = self.path(task, token);
        let failed = |what| error(what, &path);
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(failed("create"))?;
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open"))?;
        let size = file.metadata().map_err(failed("open"))?.len();
        let fresh = size.checked_sub(offset).and_then(|known| bytes.get(usize::try_from(known).ok()?..));
        let room = usize::try_from(LOG_MAX.saturating_sub(size)).unwrap_or(usize::MAX);
        match fresh {
            // The attempt goes on to speak; nobody writes it down.
            Some(fresh) if fresh.len() > room => {
                if room > 0 {
                    file.write_all(&fresh[..room]).map_err(failed("write"))?;
                }
                Ok(offset + bytes.len() as u64)
            }
            Some(fresh) => {
                file.write_all(fresh).map_err(failed("write"))?;
                Ok(size + fresh.len() as u64)
            }
            None => Ok(size),
        }
    }

    /// Up to `max` bytes from a place on; none if there are no more, or no log.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, task: Digest, token: FencingToken, offset: u64, max: u64) -> Result<Vec<u8>, Error> {
        let path = self.path(task, token);
        let failed = |what| error(what, &path);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(source) => return Err(failed("open")(source)),
        };
        file.seek(SeekFrom::Start(offset)).map_err(failed("read"))?;
        let mut bytes = vec![];
        file.take(max).read_to_end(&mut bytes).map_err(failed("read"))?;
        Ok(bytes)
    }

    fn path(&self, task: Digest, token: FencingToken) -> PathBuf {
        self.root.join(task.to_string()).join(format!("{token}.log"))
    }
}

fn error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { what, path, source }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        proto::status::status(tonic::Code::Internal, "STORAGE", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_may_come_twice_and_gaps_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().to_owned());
        let (task, token) = (Digest::of(b"task"), FencingToken(7));
        assert_eq!(logs.read(task, token, 0, 9).unwrap(), b"");
        assert_eq!(logs.append(task, token, 0, b"one\n").unwrap(), 4);
        assert_eq!(logs.append(task, token, 0, b"one\ntwo\n").unwrap(), 8);
        assert_eq!(logs.append(task, token, 0, b"one\n").unwrap(), 8);
        assert_eq!(logs.append(task, token, 100, b"gap").unwrap(), 8);
        assert_eq!(logs.read(task, token, 4, 100).unwrap(), b"two\n");
        assert_eq!(logs.read(task, token, 0, 3).unwrap(), b"one");
    }
}
