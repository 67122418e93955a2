//! Uploads of blobs.
//!
//! An upload is written to a file of its own, named by digest and session, so that two clients
//! that send the same bytes do not interfere. When the connection breaks, the file stays: the
//! client asks how much has arrived and goes on from there. On any other failure, the file is
//! removed.
//!
//! Room for all that an upload may store is promised when it begins; an upload that finds none
//! left beside the promises is refused at once. Promises to others take half of the free room
//! at most, so that nobody can keep all of it by announcing what never comes. Interrupted
//! uploads that nobody continues give way to new ones.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use domain::digest::Digest;
use domain::runner::registry::IdentityId;
use proto::encoding::{Check, CheckError, Encoding, Invalid};
use proto::path_error::io_error;

use super::Error;
use crate::room;

/// Age at which an abandoned upload is removed.
pub(crate) const GIVEN_UP: Duration = Duration::from_secs(24 * 3600);

/// Most files of interrupted uploads: the oldest are removed.
const HALVES_MAX: usize = 512;

/// Most such files of one session.
const HALVES_OF_SESSION: usize = 64;

/// The announcement of an upload.
#[derive(Clone, Debug)]
pub struct Start {
    /// Digest of the raw bytes.
    pub digest: Digest,
    /// Tells uploads of the same bytes apart.
    pub session: String,
    /// Encoding of the bytes as sent.
    pub encoding: Encoding,
    /// Length of the raw bytes.
    pub size: u64,
    /// Offset of the first bytes, in the encoded form.
    pub offset: u64,
    /// The uploader; none on this machine, where callers cannot be told apart and whoever knows
    /// the session may continue.
    pub identity: Option<IdentityId>,
}

impl Start {
    fn owner(&self) -> Owner {
        match &self.identity {
            Some(identity) => Owner::Identity(identity.clone()),
            None => Owner::Session(self.session.clone()),
        }
    }
}

/// Owner of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Identity(IdentityId),
    Session(String),
}

/// The folder of unfinished uploads.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    open: Promises,
    /// Tells how many bytes can still be written below a folder.
    pub(super) free: room::Free,
}

/// The files that calls are writing, with their promises.
type Promises = Arc<Mutex<BTreeMap<PathBuf, Promise>>>;

/// Room that was promised to an upload.
#[derive(Debug)]
struct Promise {
    owner: Owner,
    /// Promised bytes that have not arrived yet.
    bytes: u64,
}

/// The right of one call to write a file, until this is dropped.
#[derive(Debug)]
struct Turn {
    path: PathBuf,
    open: Promises,
}

impl Turn {
    /// Notes that `bytes` of the promised bytes have arrived, or will not.
    fn keep_promise(&self, bytes: u64) {
        if let Some(promise) = lock(&self.open).get_mut(&self.path) {
            promise.bytes = promise.bytes.saturating_sub(bytes);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        if length(&self.path) == 0 {
            // Nothing to go on from; gone already if it was given its name.
            let _ = fs::remove_file(&self.path);
        }
        open.remove(&self.path);
    }
}

fn lock(open: &Promises) -> MutexGuard<'_, BTreeMap<PathBuf, Promise>> {
    // A map is whole after any panic.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// A session name for bytes that this process stores itself.
pub fn own_session() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("own-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Checks a session name that a client chose.
///
/// # Errors
/// If the name is empty, too long or holds anything that a file name should not.
pub fn check_session(session: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match session.len() {
        1..=64 if session.bytes().all(plain) => Ok(()),
        _ => Err(Error::Invalid { field: "session", problem: "has to be 1 to 64 of a-z, 0-9 and -".to_owned() }),
    }
}

/// A file of an interrupted upload.
#[derive(Debug)]
struct Half {
    path: PathBuf,
    written: SystemTime,
    size: u64,
}

impl Half {
    fn is_of(&self, session: &str) -> bool {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.split('.').nth(1) == Some(session)
    }
}

impl Staging {
    /// Opens the folder, or creates it. Recent uploads stay, so that they can continue after a
    /// restart.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
        let this = Self { folder, open: Arc::default(), free: room::free };
        this.remove_older(SystemTime::now() - GIVEN_UP, false)?;
        Ok(this)
    }

    fn path(&self, digest: Digest, session: &str, encoding: Encoding) -> PathBuf {
        self.folder.join(format!("{digest}.{session}{}", encoding.suffix()))
    }

    /// Number of bytes of an upload that have arrived.
    pub fn arrived(&self, digest: Digest, session: &str, encoding: Encoding) -> u64 {
        length(&self.path(digest, session, encoding))
    }

    /// Begins an upload or continues one.
    ///
    /// # Errors
    /// If the upload is under way in another call, does not continue where it stopped, or has
    /// no room; nothing of the upload is kept in that case.
    pub fn begin(&self, start: Start) -> Result<Upload, Error> {
        check_session(&start.session)?;
        let path = self.path(start.digest, &start.session, start.encoding);
        let turn = self.turn(&path, start.owner()).ok_or(Error::Busy(start.digest))?;
        let arrived = length(&path);
        if start.offset > arrived {
            let problem = format!("is {}, but {arrived} bytes have arrived", start.offset);
            return Err(Error::Invalid { field: "offset", problem });
        }
        let upload = || {
            self.thin_out(&start.session)?;
            let bytes = start.encoding.stored_max(start.size).saturating_sub(arrived);
            self.make_room(&turn, &start, bytes)?;
            open(&path, &start)
        };
        match upload() {
            Ok((file, check)) => Ok(Upload { start, file, check, turn, free: self.free }),
            Err(error) => {
                // What had arrived is of no use.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Takes the right to write a file, unless another call has it.
    fn turn(&self, path: &Path, owner: Owner) -> Option<Turn> {
        let mut open = lock(&self.open);
        if open.contains_key(path) {
            return None;
        }
        open.insert(path.to_owned(), Promise { owner, bytes: 0 });
        Some(Turn { path: path.to_owned(), open: self.open.clone() })
    }

    /// Promises room to an upload. If there is too little, interrupted uploads are removed, the
    /// oldest first, as long as that helps.
    fn make_room(&self, turn: &Turn, start: &Start, bytes: u64) -> Result<(), Error> {
        let (needed, owner) = (bytes.saturating_add(room::RESERVE), start.owner());
        loop {
            let halves = self.halves()?;
            let left = {
                let mut open = lock(&self.open);
                let promised = |own: bool| {
                    let promises = open.values().filter(|promise| (promise.owner == owner) == own);
                    promises.fold(0u64, |sum, promise| sum.saturating_add(promise.bytes))
                };
                let free = (self.free)(&self.folder).map_err(io_error("ask for the room in", &self.folder))?;
                let of_others = promised(false).min(free.saturating_sub(room::RESERVE) / 2);
                let left = free.saturating_sub(promised(true)).saturating_sub(of_others);
                if needed <= left {
                    open.insert(turn.path.clone(), Promise { owner, bytes });
                    return Ok(());
                }
                left
            };
            let could_go: u64 = halves.iter().map(|half| half.size).sum();
            match halves.first() {
                Some(oldest) if needed <= left.saturating_add(could_go) => self.remove(&oldest.path)?,
                _ => return Err(Error::NoRoom { digest: start.digest, needed, free: left, path: self.folder.clone() }),
            };
        }
    }

    /// Removes the oldest interrupted uploads if there are too many, in all or of a session.
    fn thin_out(&self, session: &str) -> Result<(), Error> {
        let halves = self.halves()?;
        let of_session: Vec<&Half> = halves.iter().filter(|half| half.is_of(session)).collect();
        let too_many = |count: usize, most: usize| (count + 1).saturating_sub(most);
        let oldest = halves.iter().take(too_many(halves.len(), HALVES_MAX));
        let own = of_session.iter().copied().take(too_many(of_session.len(), HALVES_OF_SESSION));
        for half in oldest.chain(own) {
            self.remove(&half.path)?;
        }
        Ok(())
    }

    /// The files of interrupted uploads, oldest first.
    fn halves(&self) -> Result<Vec<Half>, Error> {
        let mut halves = Vec::new();
        for item in fs::read_dir(&self.folder).map_err(io_error("list", &self.folder))? {
            let path = item.map_err(io_error("list", &self.folder))?.path();
            // It may have gone meanwhile.
            let Ok(meta) = fs::metadata(&path) else { continue };
            let written = meta.modified().map_err(io_error("read", &path))?;
            halves.push(Half { path, written, size: meta.len() });
        }
        let open = lock(&self.open);
        halves.retain(|half| !open.contains_key(&half.path));
        halves.sort_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
        Ok(halves)
    }

    /// Removes an interrupted upload, unless a call continues it; returns whether it was
    /// removed.
    fn remove(&self, half: &Path) -> Result<bool, Error> {
        let open = lock(&self.open);
        if open.contains_key(half) {
            return Ok(false);
        }
        match fs::remove_file(half) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => Ok(removed.map(|()| true).map_err(io_error("remove", half))?),
        }
    }

    /// Removes uploads to which nothing was added since `since`; returns their number.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove_older(&self, since: SystemTime, dry_run: bool) -> Result<u64, Error> {
        let mut removed = 0;
        for half in self.halves()?.iter().take_while(|half| half.written < since) {
            if dry_run || self.remove(&half.path)? {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Opens the file of an upload and checks its bytes up to the offset where it continues.
fn open(path: &Path, start: &Start) -> Result<(File, Check), Error> {
    let options = || File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = options().map_err(io_error("open", path))?;
    file.set_len(start.offset).map_err(io_error("write", path))?;
    let mut check = Check::new(start.encoding, start.size).map_err(io_error("unpack", path))?;
    check.update_reader(&mut file).map_err(|error| match error {
        CheckError::Read(error) => io_error("read", path)(error).into(),
        CheckError::Invalid(invalid) => of_bytes(&invalid),
    })?;
    file.seek(SeekFrom::End(0)).map_err(io_error("read", path))?;
    Ok((file, check))
}

/// An upload under way.
#[derive(Debug)]
pub struct Upload {
    start: Start,
    file: File,
    check: Check,
    turn: Turn,
    free: room::Free,
}

/// A complete upload whose bytes match its digest.
#[derive(Debug)]
pub struct Checked {
    pub digest: Digest,
    pub encoding: Encoding,
    /// Path of the complete file.
    pub path: PathBuf,
    turn: Turn,
}

impl Drop for Checked {
    fn drop(&mut self) {
        // Gone already if it was given its name.
        let _ = fs::remove_file(&self.turn.path);
    }
}

impl Upload {
    /// Appends bytes.
    ///
    /// # Errors
    /// If the bytes cannot be written, are not a zstd stream, or are more than announced;
    /// nothing of the upload is kept then.
    pub fn write(&mut self, stored: &[u8]) -> Result<(), Error> {
        let written = self.add(stored);
        if written.is_err() {
            self.discard();
        }
        written
    }

    fn add(&mut self, stored: &[u8]) -> Result<(), Error> {
        let (path, bytes) = (&self.turn.path, stored.len() as u64);
        let folder = path.parent().unwrap_or(path);
        self.check.update(stored).map_err(|invalid| of_bytes(&invalid))?;
        // Others write to this disk as well, whatever was promised.
        let free = (self.free)(folder).map_err(io_error("ask for the room in", folder))?;
        let needed = bytes.saturating_add(room::RESERVE);
        if needed > free {
            return Err(Error::NoRoom { digest: self.start.digest, needed, free, path: folder.to_owned() });
        }
        self.file.write_all(stored).map_err(io_error("write", path))?;
        self.turn.keep_promise(bytes);
        Ok(())
    }

    /// Checks the digest of the complete upload.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the bytes do not match the digest; nothing of the upload is kept
    /// then.
    pub fn finish(self) -> Result<Checked, Error> {
        let Self { start, check, turn, .. } = self;
        // No more will come.
        turn.keep_promise(u64::MAX);
        let checked = Checked { digest: start.digest, encoding: start.encoding, path: turn.path.clone(), turn };
        let (got, size) = check.finish().map_err(|invalid| of_bytes(&invalid))?;
        if got != start.digest {
            return Err(Error::Mismatch { wanted: start.digest, got });
        }
        if size != start.size {
            return Err(Error::Invalid { field: "size", problem: format!("is {}, but {size} bytes came", start.size) });
        }
        Ok(checked)
    }

    /// Removes what has arrived of the upload.
    pub fn discard(&mut self) {
        let _ = fs::remove_file(&self.turn.path);
    }
}

fn of_bytes(invalid: &Invalid) -> Error {
    Error::Invalid { field: "data", problem: invalid.to_string() }
}
