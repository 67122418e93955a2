//! What an attempt says, as far as it is kept: the beginning and the end.
//!
//! It comes through a pipe, so that one that talks without end fills neither its
//! worker's disk nor its memory. A line in the log says how much was left out.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use domain::study::stage::Failure;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

/// Bytes kept of the beginning of a log. With [`END`] that is less than the 16 MiB that
/// coordinators keep.
const BEGINNING: usize = 15 * 1024 * 1024;

/// Bytes kept of the end of a log: a backtrace may come after what matters.
pub(crate) const END: usize = 64 * 1024;

/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// A log that several streams add to.
#[derive(Debug)]
pub(crate) struct Said(Mutex<Log>);

#[derive(Debug)]
struct Log {
    file: File,
    /// Bytes of the beginning that have not come yet.
    room: usize,
    /// The last bytes of what came after the beginning.
    end: VecDeque<u8>,
    left_out: u64,
}

impl Said {
    /// A log that is kept in a new file.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let file = std::fs::File::create(path).map_err(|error| Failure::io("create", path, &error))?;
        Ok(Self(Mutex::new(Log { file: file.into(), room: BEGINNING, end: VecDeque::new(), left_out: 0 })))
    }

    /// Adds all bytes of a stream to the log.
    pub(crate) async fn hear(&self, mut stream: impl AsyncRead + Unpin) {
        let mut piece = Vec::with_capacity(PIECE);
        // One that breaks has no more to say.
        while matches!(stream.read_buf(&mut piece).await, Ok(1..)) {
            self.add(&piece).await;
            piece.clear();
        }
    }

    /// Adds some bytes to the log. A log that cannot be written is no reason to lose a result.
    pub(crate) async fn add(&self, bytes: &[u8]) {
        let mut log = self.0.lock().await;
        let (beginning, rest) = bytes.split_at(bytes.len().min(log.room));
        log.room -= beginning.len();
        let _ = log.file.write_all(beginning).await;
        let _ = log.file.flush().await;
        log.end.extend(rest);
        let too_many = log.end.len().saturating_sub(END);
        log.end.drain(..too_many);
        log.left_out += too_many as u64;
    }

    /// Writes the end of the log. Nothing may be added after that.
    pub(crate) async fn end(&self) {
        let mut log = self.0.lock().await;
        let end: Vec<u8> = std::mem::take(&mut log.end).into();
        if log.left_out > 0 {
            let note = format!("\n[{} bytes are left out here: they are not kept]\n", log.left_out);
            let _ = log.file.write_all(note.as_bytes()).await;
        }
        let _ = log.file.write_all(&end).await;
        let _ = log.file.flush().await;
    }
}

/// The last bytes of a log, [`END`] at most.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(END as u64)))?;
    let mut end = vec![];
    file.take(END as u64).read_to_end(&mut end)?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_only_the_end_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let file = std::fs::File::create(&path).unwrap();
        // Takes no room: nothing is in the middle.
        file.set_len(1 << 40).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"the last words", 1 << 40).unwrap();
        let end = end_of(&path).unwrap();
        assert_eq!((end.len(), end.ends_with(b"\0the last words")), (END, true));
    }

    async fn kept(said: &[&[u8]]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        let log = Said::create(&path).unwrap();
        for words in said {
            log.hear(*words).await;
        }
        assert!(log.0.lock().await.end.len() <= END);
        log.end().await;
        std::fs::read(&path).unwrap()
    }

    #[tokio::test]
    async fn what_is_not_much_is_kept_whole() {
        assert_eq!(kept(&[b"one\n", b"two\n"]).await, b"one\ntwo\n");
        let much = vec![b'x'; BEGINNING + END];
        assert!(kept(&[&much]).await == much);
    }

    #[tokio::test]
    async fn of_much_the_beginning_and_the_end_are_kept_and_the_gap_is_told() {
        let beginning = vec![b'a'; BEGINNING];
        let (middle, end) = (vec![b'b'; 3_000_000], vec![b'c'; END]);
        let note = b"\n[3000000 bytes are left out here: they are not kept]\n".as_slice();
        let log = kept(&[&beginning, &middle, &end]).await;
        assert!(log == [beginning.as_slice(), note, &end].concat());
        assert!(log.len() < 16 << 20, "coordinators keep all of it");
    }
}
