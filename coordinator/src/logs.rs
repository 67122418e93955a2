//! The output of attempts, one file per attempt: `logs/<task>/<token>.log`.
//!
//! Logs are for people, not for decisions: a log is not synced, and losing its end in a power
//! cut loses nothing else. Bytes and files are counted as they arrive, so that the limits are
//! never exceeded, and logs leave room on the disk for more important data.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use domain::id::TaskKey;
use domain::runner::task::FencingToken;

use crate::room;

/// Bytes kept of one attempt's log: its beginning.
pub const LOG_MAX: u64 = 16 * 1024 * 1024;

/// Bytes kept of all logs: the newest.
pub const LOGS_MAX: u64 = 4 << 30;

/// Number of logs kept: the newest.
pub const LOG_FILES_MAX: usize = 50_000;

/// The end of a log that was cut at [`LOG_MAX`].
const CUT: &[u8] = b"\n[the log ends here: no more than 16 MiB of an attempt are kept]\n";

/// The end of a log for which the disk had no room.
const FULL: &[u8] = b"\n[the log ends here: the coordinator's disk is full]\n";

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
    kept: Arc<Mutex<Kept>>,
    free: room::Free,
}

/// The key of a log: task and fencing token.
type Name = (TaskKey, FencingToken);

/// The existing logs.
#[derive(Debug)]
struct Kept {
    /// For each log, the number of its last write and its length in bytes.
    logs: BTreeMap<Name, (u64, u64)>,
    /// Logs by the number of their last write.
    order: BTreeMap<u64, Name>,
    bytes: u64,
    writes: u64,
    bytes_max: u64,
    files_max: usize,
}

impl Kept {
    fn new() -> Self {
        let (logs, order) = (BTreeMap::new(), BTreeMap::new());
        Self { logs, order, bytes: 0, writes: 0, bytes_max: LOGS_MAX, files_max: LOG_FILES_MAX }
    }

    fn put(&mut self, name: Name, size: u64) {
        self.forget(name);
        self.writes += 1;
        self.logs.insert(name, (self.writes, size));
        self.order.insert(self.writes, name);
        self.bytes += size;
    }

    fn forget(&mut self, name: Name) {
        if let Some((written, size)) = self.logs.remove(&name) {
            self.order.remove(&written);
            self.bytes -= size;
        }
    }

    /// The log that was written to longest ago, if the limits are exceeded.
    fn too_much(&self) -> Option<Name> {
        let is_too_much = self.bytes > self.bytes_max || self.logs.len() > self.files_max;
        self.order.values().next().copied().filter(|_| is_too_much)
    }
}

impl Logs {
    /// Opens the logs in a folder. Blocks.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn open(root: PathBuf) -> Result<Self, Error> {
        let mut found = list(&root)?;
        found.sort_unstable();
        let mut kept = Kept::new();
        for (_, name, size) in found {
            kept.put(name, size);
        }
        let logs = Self { root, kept: Arc::new(Mutex::new(kept)), free: room::free };
        logs.trim(&mut logs.lock())?;
        Ok(logs)
    }

    /// Writes bytes at their offset; returns how many bytes of the log have been taken in all.
    /// Bytes that are there already change nothing; a gap is refused by the returned number.
    /// Bytes beyond [`LOG_MAX`], or that arrive when the disk is nearly full, count as taken
    /// and are not kept; a line at the log's end says so. The logs written to longest ago are
    /// removed if the limits are exceeded.
    ///
    /// # Errors
    /// If the file cannot be written, or an older one cannot be removed.
    pub fn append(&self, task: TaskKey, token: FencingToken, offset: u64, bytes: &[u8]) -> Result<u64, Error> {
        let path = self.path((task, token));
        let failed = |what| error(what, &path);
        // Held to the end: pieces of one log do not come between each other.
        let mut kept = self.lock();
        let folder = path.parent().unwrap_or(&self.root);
        std::fs::create_dir_all(folder).map_err(failed("create"))?;
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(failed("open"))?;
        let size = file.metadata().map_err(failed("open"))?.len();
        let end = offset.saturating_add(bytes.len() as u64);
        if is_cut(&mut file, size).map_err(failed("read"))? {
            return Ok(end);
        }
        let Some(fresh) = size.checked_sub(offset).and_then(|known| bytes.get(usize::try_from(known).ok()?..)) else {
            return Ok(size);
        };
        let free = (self.free)(folder).map_err(failed("ask for the room for"))?;
        let room = usize::try_from(LOG_MAX.saturating_sub(size)).unwrap_or(usize::MAX);
        let added = match fresh.get(..room) {
            _ if free < room::LOG_RESERVE.saturating_add(fresh.len() as u64) => FULL.to_vec(),
            Some(beginning) if beginning.len() < fresh.len() => [beginning, CUT].concat(),
            _ => fresh.to_vec(),
        };
        file.write_all(&added).map_err(failed("write"))?;
        kept.put((task, token), size + added.len() as u64);
        self.trim(&mut kept)?;
        Ok(end)
    }

    /// Removes the logs that were written to longest ago until the limits hold.
    fn trim(&self, kept: &mut Kept) -> Result<(), Error> {
        while let Some(oldest) = kept.too_much() {
            let path = self.path(oldest);
            match std::fs::remove_file(&path) {
                // Removed by hand, perhaps.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(error("remove", &path))?,
            }
            // It goes with the last log in it.
            let _ = path.parent().map(std::fs::remove_dir);
            kept.forget(oldest);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Whole after any panic: no call leaves it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads up to `max` bytes from an offset on; empty at the log's end, or if there is no
    /// log.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, task: TaskKey, token: FencingToken, offset: u64, max: u64) -> Result<Vec<u8>, Error> {
        let path = self.path((task, token));
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

    fn path(&self, (task, token): Name) -> PathBuf {
        self.root.join(task.to_string()).join(format!("{token}.log"))
    }
}

/// The entries of a folder; empty if the folder does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(error("list", folder))?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(vec![]),
        Err(source) => Err(error("list", folder)(source)),
    }
}

/// All logs in a folder: time of the last write, key, and length in bytes.
fn list(root: &Path) -> Result<Vec<(SystemTime, Name, u64)>, Error> {
    let mut logs = vec![];
    for task in entries(root)? {
        for log in entries(&task)? {
            // Removed meanwhile by hand, perhaps, or nothing of ours.
            let (Some(name), Ok(data)) = (name(&task, &log), std::fs::metadata(&log)) else { continue };
            logs.push((data.modified().unwrap_or(SystemTime::UNIX_EPOCH), name, data.len()));
        }
    }
    Ok(logs)
}

/// Parses the names of a log's folder and file.
fn name(task: &Path, log: &Path) -> Option<Name> {
    let token = log.file_name()?.to_str()?.strip_suffix(".log")?;
    Some((task.file_name()?.to_str()?.parse().ok()?, FencingToken(token.parse().ok()?)))
}

/// Whether a log ends with the line that says that it was cut.
fn is_cut(file: &mut File, size: u64) -> io::Result<bool> {
    let length = size.min(CUT.len().max(FULL.len()) as u64);
    file.seek(SeekFrom::Start(size - length))?;
    let mut end = vec![];
    file.take(length).read_to_end(&mut end)?;
    Ok(end.ends_with(CUT) || end.ends_with(FULL))
}

fn error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error { what, path, source }
}

#[cfg(test)]
mod tests {
    use domain::digest::Digest;

    use super::*;

    /// Opens the logs as after a restart, with other limits.
    fn open(folder: &Path, bytes_max: u64, files_max: usize) -> Logs {
        let logs = Logs::open(folder.join("logs")).unwrap();
        let mut kept = logs.lock();
        (kept.bytes_max, kept.files_max) = (bytes_max, files_max);
        logs.trim(&mut kept).unwrap();
        drop(kept);
        logs
    }

    fn lengths<const N: usize>(logs: &Logs, tasks: [TaskKey; N]) -> [usize; N] {
        tasks.map(|task| logs.read(task, FencingToken(1), 0, LOG_MAX * 2).unwrap().len())
    }

    #[test]
    fn what_is_past_the_limit_is_taken_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = open(folder.path(), LOGS_MAX, 9);
        let (task, token) = (TaskKey(Digest::of(b"task")), FencingToken(7));
        let piece = vec![b'x'; 1 << 20];
        for offset in (0..LOG_MAX + (2 << 20)).step_by(1 << 20) {
            assert_eq!(logs.append(task, token, offset, &piece).unwrap(), offset + (1 << 20));
        }
        let end = logs.read(task, token, LOG_MAX - 1, 1 << 20).unwrap();
        assert_eq!(end, [b"x", CUT].concat());
        assert_eq!(logs.append(task, token, u64::MAX, b"x").unwrap(), u64::MAX);
    }

    #[test]
    fn the_newest_logs_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let logs = open(folder.path(), LOGS_MAX, 9);
        let tasks = [b"a", b"b", b"c"].map(|name| TaskKey(Digest::of(name)));
        for (age, task) in tasks.into_iter().enumerate() {
            logs.append(task, FencingToken(1), 0, b"four").unwrap();
            let file = File::open(logs.path((task, FencingToken(1)))).unwrap();
            let written = std::time::Duration::from_secs(100 - age as u64);
            file.set_modified(SystemTime::UNIX_EPOCH + written).unwrap();
        }
        let logs = open(folder.path(), 9, 9);
        assert_eq!(lengths(&logs, tasks), [4, 4, 0]);
    }

    #[test]
    fn bytes_and_files_are_never_more_than_the_limits() {
        let folder = tempfile::tempdir().unwrap();
        let logs = open(folder.path(), 10, 3);
        let tasks = [b"a", b"b", b"c", b"d"].map(|name| TaskKey(Digest::of(name)));
        for task in tasks {
            logs.append(task, FencingToken(1), 0, b"1").unwrap();
        }
        assert_eq!(lengths(&logs, tasks), [0, 1, 1, 1], "three files");
        // The one that is written to is the newest.
        logs.append(tasks[1], FencingToken(1), 1, b"2345678").unwrap();
        assert_eq!(lengths(&logs, tasks), [0, 8, 1, 1]);
        logs.append(tasks[3], FencingToken(1), 1, b"23").unwrap();
        assert_eq!(lengths(&logs, tasks), [0, 0, 0, 3], "ten bytes");
        assert_eq!(logs.lock().bytes, 3);
        assert_eq!(std::fs::read_dir(folder.path().join("logs")).unwrap().count(), 1, "with its folder");
    }

    #[test]
    fn a_log_leaves_room_on_the_disk_and_says_that_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut logs = open(folder.path(), LOGS_MAX, 9);
        let (task, token) = (TaskKey(Digest::of(b"task")), FencingToken(1));
        logs.free = |_| Ok(room::LOG_RESERVE + 4);
        assert_eq!(logs.append(task, token, 0, b"four").unwrap(), 4);
        assert_eq!(logs.append(task, token, 4, b"and more").unwrap(), 12);
        // Also when there is room again, and after a restart.
        let logs = open(folder.path(), LOGS_MAX, 9);
        assert_eq!(logs.append(task, token, 12, b"more").unwrap(), 16);
        assert_eq!(logs.read(task, token, 0, LOG_MAX).unwrap(), [b"four", FULL].concat());
    }

    #[test]
    fn pieces_may_come_twice_and_gaps_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let logs = open(folder.path(), LOGS_MAX, 9);
        let (task, token) = (TaskKey(Digest::of(b"task")), FencingToken(7));
        assert_eq!(logs.read(task, token, 0, 9).unwrap(), b"");
        assert_eq!(logs.append(task, token, 0, b"one\n").unwrap(), 4);
        assert_eq!(logs.append(task, token, 0, b"one\ntwo\n").unwrap(), 8);
        assert_eq!(logs.append(task, token, 0, b"one\n").unwrap(), 8);
        assert_eq!(logs.append(task, token, 100, b"gap").unwrap(), 8);
        assert_eq!(logs.read(task, token, 4, 100).unwrap(), b"two\n");
        assert_eq!(logs.read(task, token, 0, 3).unwrap(), b"one");
    }
}
