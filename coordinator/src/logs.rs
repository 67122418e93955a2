//! What attempts said, a file for each: `logs/<task>/<token>.log`.
//!
//! For people, not for decisions: a log is not synced, and losing its end in a
//! power cut loses nothing else.

use std::cmp::Reverse;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use domain::digest::Digest;
use domain::task::FencingToken;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Bytes kept of one attempt: the beginning.
pub const LOG_MAX: u64 = 16 * 1024 * 1024;

/// Bytes kept of all attempts: the newest logs.
pub const LOGS_MAX: u64 = 4 << 30;

/// How often there are looked for more than that.
const TRIM_EVERY: Duration = Duration::from_secs(3600);

/// Stands at the end of a log that is not whole.
const CUT: &[u8] = b"\n[the log ends here: no more than 16 MiB of an attempt are kept]\n";

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

    /// Adds bytes at their place; returns how many have been taken in all. Bytes
    /// that are there already change nothing; a gap is refused by the number
    /// returned. What is past [`LOG_MAX`] counts as taken and is not kept.
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
        let end = offset + bytes.len() as u64;
        if size > LOG_MAX {
            return Ok(end);
        }
        let Some(fresh) = size.checked_sub(offset).and_then(|known| bytes.get(usize::try_from(known).ok()?..)) else {
            return Ok(size);
        };
        let room = usize::try_from(LOG_MAX - size).unwrap_or(usize::MAX);
        match fresh.get(..room) {
            Some(kept) if kept.len() < fresh.len() => file.write_all(&[kept, CUT].concat()),
            _ => file.write_all(fresh),
        }
        .map_err(failed("write"))?;
        Ok(end)
    }

    /// Removes the logs that were written to longest ago until `keep` bytes are left.
    ///
    /// # Errors
    /// If the folder cannot be read or a file not be removed.
    pub fn trim(&self, keep: u64) -> Result<(), Error> {
        let mut logs = self.list()?;
        logs.sort_by_key(|(path, written, _)| (Reverse(*written), path.clone()));
        let mut bytes = 0;
        for (path, _, size) in logs {
            bytes += size;
            if bytes > keep {
                std::fs::remove_file(&path).map_err(error("remove", &path))?;
                // It goes with the last log in it.
                let _ = path.parent().map(std::fs::remove_dir);
            }
        }
        Ok(())
    }

    /// All logs, when each was written to last, and their bytes.
    fn list(&self) -> Result<Vec<(PathBuf, SystemTime, u64)>, Error> {
        let mut logs = vec![];
        for task in entries(&self.root)? {
            for log in entries(&task)? {
                // Removed meanwhile by hand, perhaps.
                let Ok(data) = std::fs::metadata(&log) else { continue };
                logs.push((log, data.modified().unwrap_or(SystemTime::UNIX_EPOCH), data.len()));
            }
        }
        Ok(logs)
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

/// What a folder holds; nothing if it is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(error("list", folder))?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(source) => Err(error("list", folder)(source)),
    }
}

/// Removes the oldest logs now and then until told to stop; what goes wrong is logged.
pub async fn keep_trimmed(logs: Logs, closing: CancellationToken) {
    let mut every = tokio::time::interval(TRIM_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = closing.cancelled() => return,
        }
        let logs = logs.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || logs.trim(LOGS_MAX)).await {
            tracing::warn!(%error, "old logs stay");
        }
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
    fn what_is_past_the_limit_is_taken_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().to_owned());
        let (task, token) = (Digest::of(b"task"), FencingToken(7));
        let piece = vec![b'x'; 1 << 20];
        for offset in (0..LOG_MAX + (2 << 20)).step_by(1 << 20) {
            assert_eq!(logs.append(task, token, offset, &piece).unwrap(), offset + (1 << 20));
        }
        let end = logs.read(task, token, LOG_MAX - 1, 1 << 20).unwrap();
        assert_eq!(end, [b"x", CUT].concat());
    }

    #[test]
    fn the_newest_logs_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path().join("logs"));
        logs.trim(0).unwrap();
        let tasks = [b"a", b"b", b"c"].map(|name| Digest::of(name));
        for (age, task) in tasks.into_iter().enumerate() {
            logs.append(task, FencingToken(1), 0, b"four").unwrap();
            let file = File::open(logs.path(task, FencingToken(1))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(100 - age as u64)).unwrap();
        }
        logs.trim(9).unwrap();
        let kept = tasks.map(|task| logs.read(task, FencingToken(1), 0, 9).unwrap().len());
        assert_eq!(kept, [4, 4, 0]);
    }

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
