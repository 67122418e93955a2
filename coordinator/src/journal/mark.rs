//! A file that says up to which event the journal was acknowledged: a journal that is shorter,
//! or that differs there, is not served.
//!
//! A database drops what it cannot read at the end of its log, as it must after a power cut,
//! and cannot tell that from damage to acknowledged events. The mark can. The mark follows the
//! journal: events are on disk before the mark names them, and nobody is told of events before
//! the mark names them. So the journal may be ahead of its mark, by what was written between
//! the two when the process was cut off, and never behind.
//!
//! The file has two places, written in turn: a torn write leaves the other place intact, which
//! the journal is then ahead of.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use domain::digest::Digest;

use super::{Error, FORM, beside};

/// Distance of the two places in bytes: more than a disk writes in parts.
const PLACE: usize = 4096;

/// Length of the file in bytes.
const LENGTH: u64 = 2 * PLACE as u64;

/// The last events that were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Number of the last acknowledged event; 0 if there is none.
    pub number: u64,
    /// Digest of the batch that ends with that event.
    pub digest: Digest,
}

impl Mark {
    /// The mark of a journal without events.
    pub fn none() -> Self {
        Self { number: 0, digest: Digest::of(b"") }
    }

    /// The mark of a journal that ends with event `number` and a batch of this digest; a
    /// `digest` that is not 32 bytes long counts as that of no events.
    pub(super) fn new(number: u64, digest: &[u8]) -> Self {
        let digest =
            <[u8; 32]>::try_from(digest).map_or_else(|_| Digest::of(b""), |bytes| blake3::Hash::from(bytes).into());
        Self { number, digest }
    }

    /// The stored form of the mark. Every mark has the same length.
    fn line(self) -> String {
        let words = format!("lithogen journal mark, form {FORM}: event {:020} {}", self.number, self.digest);
        let check = Digest::of(words.as_bytes());
        format!("{words} {check}\n")
    }

    fn parse(place: &[u8]) -> Option<Self> {
        let length = Self::none().line().len();
        let line = str::from_utf8(place.get(..length)?).ok()?;
        let mut words = line.split_whitespace().rev().skip(1);
        let (digest, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { number, digest }).filter(|mark| mark.line() == line)
    }
}

/// The two places of a mark file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places([Option<Mark>; 2]);

impl Places {
    /// Both places with the same mark.
    pub fn new(mark: Mark) -> Self {
        Self([Some(mark); 2])
    }

    /// Parses the stored bytes; a place that cannot be read is empty.
    pub fn parse(bytes: &[u8]) -> Self {
        let place = |number: usize| bytes.get(number * PLACE..).and_then(Mark::parse);
        Self([place(0), place(1)])
    }

    /// The stored form of both places.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![b' '; 2 * PLACE];
        for (number, mark) in self.0.iter().enumerate() {
            let line = mark.map(Mark::line).unwrap_or_default();
            bytes[number * PLACE..number * PLACE + line.len()].copy_from_slice(line.as_bytes());
        }
        bytes
    }

    /// Puts the next mark in the place of the older one; returns the offset and the bytes to
    /// store there.
    pub fn note(&mut self, mark: Mark) -> (u64, Vec<u8>) {
        let number = |place: usize| self.0[place].map(|mark| mark.number);
        let place = usize::from(number(1) < number(0));
        self.0[place] = Some(mark);
        ((place * PLACE) as u64, mark.line().into_bytes())
    }

    /// The newer of the marks that can be read, if any.
    pub fn newest(&self) -> Option<Mark> {
        self.0.into_iter().flatten().max_by_key(|mark| mark.number)
    }

    /// Whether a journal may be served that ends with event `last` and has the mark `there` at
    /// the number of the newest mark.
    ///
    /// # Errors
    /// If the journal is shorter than what was acknowledged, or differs from it, or the mark
    /// cannot tell.
    pub fn check(&self, last: u64, there: Option<Mark>) -> Result<(), Refusal> {
        let mark = self.newest().ok_or(Refusal::Unreadable)?;
        match mark.number {
            marked if marked > last => Err(Refusal::Shorter { last, marked }),
            // A mark is written after its events: a torn one leaves a journal that is ahead.
            marked if marked == last && self.is_torn() => Err(Refusal::Unreadable),
            marked if marked > 0 && there != Some(mark) => Err(Refusal::Differs { marked }),
            _ => Ok(()),
        }
    }

    /// Whether at least one place cannot be read.
    pub fn is_torn(&self) -> bool {
        self.0.contains(&None)
    }
}

/// Why a journal may not be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Acknowledged events are missing at the journal's end.
    #[error(
        "it ends with event {last}, but events up to {marked} were acknowledged, as its mark says; a damaged or removed \
         log does that, and so does an old copy"
    )]
    Shorter {
        /// Number of the last event in the journal.
        last: u64,
        /// Number of the last acknowledged event.
        marked: u64,
    },
    /// The journal holds another history than the acknowledged one.
    #[error("its event {marked} is not the one that was acknowledged, as its mark says")]
    Differs {
        /// Number of the event that differs.
        marked: u64,
    },
    /// The mark file is damaged.
    #[error("its mark cannot be read, which says up to which event it was acknowledged")]
    Unreadable,
    /// The mark file is missing.
    #[error("its mark is missing, which says up to which event it was acknowledged")]
    Missing,
    /// The marked file is not a journal of the form that the mark was made for.
    #[error("it is not of the form that its mark says")]
    Form,
    /// [`recover`](super::recover) was interrupted.
    #[error("a recovery was cut short")]
    Recovering,
}

/// The mark file of a journal.
#[derive(Debug)]
pub(super) struct MarkFile {
    path: PathBuf,
    file: File,
    pub(super) places: Places,
}

impl MarkFile {
    /// Opens the mark file at `path`, if there is one.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let read = || -> io::Result<Self> {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let mut bytes = vec![];
            (&file).take(LENGTH).read_to_end(&mut bytes)?;
            Ok(Self { path: path.to_owned(), file, places: Places::parse(&bytes) })
        };
        match read() {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(Error::Read { place: path.display().to_string(), cause: cause.into() }),
        }
    }

    /// Replaces whatever is at `path` by a mark file, atomically.
    pub(super) fn create(path: &Path, mark: Mark) -> Result<Self, Error> {
        let places = Places::new(mark);
        let written = || -> io::Result<File> {
            let partial = beside(path, ".partial");
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&partial)?;
            file.write_all_at(&places.bytes(), 0)?;
            file.sync_all()?;
            std::fs::rename(&partial, path)?;
            sync_folder_of(path)?;
            Ok(file)
        };
        let file = written().map_err(|cause| write_error(path, cause))?;
        Ok(Self { path: path.to_owned(), file, places })
    }

    /// Notes what may be acknowledged from now on; the mark is on disk when this returns.
    pub(super) fn note(&mut self, mark: Mark) -> Result<(), Error> {
        let (offset, line) = self.places.note(mark);
        let written = self.file.write_all_at(&line, offset).and_then(|()| self.file.sync_data());
        written.map_err(|cause| write_error(&self.path, cause))
    }

    /// Advances the mark to what the journal holds, for instance after a cut between the two
    /// writes.
    pub(super) fn follow(&mut self, mark: Mark) -> Result<(), Error> {
        if self.places.newest() == Some(mark) { Ok(()) } else { self.note(mark) }
    }
}

fn write_error(path: &Path, cause: io::Error) -> Error {
    Error::Write { place: path.display().to_string(), cause: cause.into() }
}

/// Syncs the folder of a file, so that its names are on disk.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> Mark {
        Mark { number, digest: Digest::of(&number.to_le_bytes()) }
    }

    fn check(places: &Places, last: u64) -> Result<(), Refusal> {
        places.check(last, places.newest().map(|newest| mark(newest.number)))
    }

    /// The stored form of a mark file to which marks with these numbers were written.
    fn stored(numbers: &[u64]) -> Vec<u8> {
        let mut places = Places::new(Mark::none());
        let mut bytes = places.bytes();
        for number in numbers {
            let (offset, line) = places.note(mark(*number));
            bytes[offset as usize..offset as usize + line.len()].copy_from_slice(&line);
        }
        assert_eq!(places.bytes(), bytes);
        assert_eq!(Places::parse(&bytes), places);
        bytes
    }

    #[test]
    fn a_journal_is_never_behind_its_mark_and_may_be_ahead() {
        let places = Places::parse(&stored(&[3, 8]));
        assert_eq!(check(&places, 7), Err(Refusal::Shorter { last: 7, marked: 8 }));
        assert_eq!(check(&places, 8), Ok(()));
        assert_eq!(check(&places, 11), Ok(()));
        assert_eq!(places.check(9, Some(mark(7))), Err(Refusal::Differs { marked: 8 }));
        assert_eq!(check(&Places::new(Mark::none()), 0), Ok(()));
    }

    /// What was being written when power was cut may be anything, and its events are
    /// on disk.
    #[test]
    fn a_torn_mark_is_no_reason_to_refuse_what_is_ahead_of_it() {
        let (before, after) = (stored(&[3, 8]), stored(&[3, 8, 9]));
        let written: Vec<usize> = (0..before.len()).filter(|place| before[*place] != after[*place]).collect();
        for cut in &written {
            let torn: Vec<u8> = (0..)
                .zip(before.iter().zip(&after))
                .map(|(at, (old, new))| if at < *cut { *new } else { *old })
                .collect();
            assert_eq!(check(&Places::parse(&torn), 9), Ok(()), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        let whole = stored(&[3, 8]);
        let line = mark(8).line().len();
        let flipped = |byte: usize, bit: u8| {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1 << bit;
            Places::parse(&bytes)
        };
        for (byte, bit) in (0..line).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let older = flipped(byte, bit);
            assert_eq!(check(&older, 8), Err(Refusal::Unreadable), "byte {byte}, bit {bit}");
            assert_eq!(check(&older, 7), Err(Refusal::Shorter { last: 7, marked: 8 }), "byte {byte}, bit {bit}");
            // As if it were torn: what is ahead of the other place is there.
            let newer = flipped(PLACE + byte, bit);
            assert_eq!(check(&newer, 8), Ok(()), "byte {byte}, bit {bit}");
            assert_eq!(check(&newer, 3), Err(Refusal::Unreadable), "byte {byte}, bit {bit}");
        }
        assert_eq!(check(&Places::parse(&[]), 8), Err(Refusal::Unreadable));
        assert_eq!(check(&Places::parse(&vec![0; 2 * PLACE]), 0), Err(Refusal::Unreadable));
    }
}
