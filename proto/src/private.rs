//! Folders and files that are for their owner alone.
//!
//! A state folder holds what decides about others: a journal, keys, a lock. It is
//! closed to other users of the machine from its first moment, and what lies in it
//! is looked at before any of it is opened: nobody else may have put it there.

use std::fs::{self, DirEntry, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::path_error::{PathError, io_error};

/// Mode bits of those who do not own a folder.
const OTHERS: u32 = 0o077;

/// Mode bit of a folder that all users share, as `/tmp`.
const STICKY: u32 = 0o1000;

/// The user id of root.
const ROOT: u32 = 0;

/// What a state folder may hold at first. One with anything else and none of this is
/// somebody's folder for something else.
const OURS: [&str; 9] =
    ["lock", "journal.sqlite", "blobs", "tls", "ca.pem", "key.pem", "identity", "inputs", "weights"];

/// Why a private folder or a file in it is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refuses an operation.
    #[error(transparent)]
    Io(#[from] PathError),
    /// The folder or file belongs to another user, who could change it at any time.
    #[error(
        "{} belongs to user {owner}, not to user {user}, who runs this; use a folder of your own, or have it handed \
         over with chown",
        path.display()
    )]
    OtherOwner {
        path: PathBuf,
        owner: u32,
        /// The user who runs this program.
        user: u32,
    },
    /// The path is a symbolic link, which may lead to a file of somebody else.
    #[error("{} is a symbolic link; nothing was written through it: remove it, or put what it leads to in its place", .0.display())]
    Link(PathBuf),
    /// The folder is for all users of the machine.
    #[error("{} is for all users of this machine; use a folder of its own in it", .0.display())]
    Shared(PathBuf),
    /// Closing the folder would shut others out from what is theirs.
    #[error(
        "{} is open to other users and holds other things already; use a folder of its own, or close it with chmod 700",
        .0.display()
    )]
    NotAlone(PathBuf),
    /// Another process has the folder.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
}

/// A folder that only its owner may enter: made so, or closed if it is older and more
/// open. Neither it nor anything directly in it may belong to another user, and no
/// file in it may be a symbolic link; a folder may, as long as the link is one's own.
///
/// Root may use anybody's folder, in which what belongs to that user is right too.
///
/// # Errors
/// What is wrong with it; nothing in it was opened or changed.
pub fn folder(path: &Path) -> Result<(), Error> {
    let io = || io_error("use", path);
    if !path.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io())?;
    }
    // A link to it is right where the folder is: systemd's lead to /var/lib/private.
    let (folder, user) = (fs::metadata(path).map_err(io())?, geteuid().as_raw());
    if folder.mode() & STICKY != 0 || path.canonicalize().map_err(io())?.parent().is_none() {
        return Err(Error::Shared(path.to_owned()));
    }
    if user != ROOT {
        check_owner(path, folder.uid(), &[user])?;
    }
    let trusted = trusted(user, folder.uid());
    let entries = inspect(path, &trusted)?;
    if folder.mode() & OTHERS != 0 {
        let is_ours = |entry: &DirEntry| OURS.iter().any(|ours| entry.file_name() == *ours);
        if !entries.is_empty() && !entries.iter().any(is_ours) {
            return Err(Error::NotAlone(path.to_owned()));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io())?;
        tracing::warn!("{} was open to other users of this machine; it is closed now (mode 0700)", path.display());
        // What others put there in the meantime.
        inspect(path, &trusted)?;
    }
    Ok(())
}

/// Whose files count where a user has a folder that belongs to `owner`.
fn trusted(user: u32, owner: u32) -> [u32; 2] {
    match user {
        ROOT => [ROOT, owner],
        _ => [user, ROOT],
    }
}

/// Checks that what lies there belongs to one of these users.
fn check_owner(path: &Path, owner: u32, trusted: &[u32]) -> Result<(), Error> {
    if trusted.contains(&owner) {
        Ok(())
    } else {
        Err(Error::OtherOwner { path: path.to_owned(), owner, user: geteuid().as_raw() })
    }
}

/// Looks at all that lies directly in a private folder.
fn inspect(folder: &Path, trusted: &[u32]) -> Result<Vec<DirEntry>, Error> {
    let entries =
        fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(io_error("use", folder))?;
    for path in entries.iter().map(DirEntry::path) {
        let found = match fs::symlink_metadata(&path) {
            // Removed meanwhile, by the process that has the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found.map_err(io_error("use", &path))?,
        };
        check_owner(&path, found.uid(), trusted)?;
        if found.is_symlink() && !path.is_dir() {
            return Err(Error::Link(path));
        }
    }
    Ok(entries)
}

/// Takes the lock of a private folder, which ends with what is returned or with the
/// process.
///
/// # Errors
/// [`Error::InUse`] if another process has it; otherwise why there is none.
pub fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(no_follow);
    let file = options.open(&path).map_err(io_error("use", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error("use", &path)(source).into()),
    }
}

/// Writes a file that only its owner may read, whole or not at all. A file that had the name before
/// is replaced, and not followed if it is a link.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// A folder of ours with that mode, in another.
    fn made(mode: u32) -> (TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("state");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (root, path)
    }

    #[test]
    fn a_folder_is_made_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        folder(&path).unwrap();
        assert_eq!((mode(&path), mode(&root.path().join("a"))), (0o700, 0o700));
    }

    #[test]
    fn an_open_folder_of_ours_is_closed() {
        let (_root, path) = made(0o755);
        folder(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::write(path.join("lock"), "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        folder(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn an_open_folder_of_other_things_is_left_as_it_is() {
        let (_root, path) = made(0o755);
        fs::write(path.join("thesis.tex"), "").unwrap();
        assert!(matches!(folder(&path), Err(Error::NotAlone(_))));
        assert_eq!(mode(&path), 0o755);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        folder(&path).unwrap();
    }

    #[test]
    fn a_folder_for_everybody_is_refused() {
        let (_root, path) = made(0o1777);
        assert!(matches!(folder(&path), Err(Error::Shared(_))));
        assert!(matches!(folder(Path::new("/")), Err(Error::Shared(_))));
    }

    #[test]
    fn links_to_files_are_refused_by_name_and_not_followed() {
        for name in ["lock", "journal.sqlite", "address", "blobs-place", "coordinator.sock"] {
            let (root, path) = made(0o700);
            let elsewhere = root.path().join("elsewhere");
            fs::write(&elsewhere, "precious").unwrap();
            symlink(&elsewhere, path.join(name)).unwrap();
            let refused = folder(&path).unwrap_err();
            assert!(matches!(&refused, Error::Link(link) if link.ends_with(name)), "{refused}");
            assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
        }
        let (root, path) = made(0o700);
        symlink(root.path().join("nowhere"), path.join("lock")).unwrap();
        assert!(matches!(folder(&path), Err(Error::Link(_))));
    }

    #[test]
    fn ones_own_link_to_a_folder_is_followed() {
        let (root, path) = made(0o700);
        symlink(root.path(), path.join("blobs")).unwrap();
        folder(&path).unwrap();
    }

    #[test]
    fn root_trusts_the_owner_of_the_folder_and_nobody_else_a_third() {
        assert_eq!(trusted(1000, 1000), [1000, ROOT]);
        assert_eq!(trusted(ROOT, 1000), [ROOT, 1000]);
        let of_mallory = check_owner(Path::new("lock"), 666, &trusted(1000, 1000)).unwrap_err();
        assert!(of_mallory.to_string().starts_with("lock belongs to user 666"), "{of_mallory}");
    }

    #[test]
    fn a_lock_is_had_once_and_not_taken_through_a_link() {
        let (root, path) = made(0o700);
        let held = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(Error::InUse(_))));
        drop(held);
        let elsewhere = root.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        fs::remove_file(path.join("lock")).unwrap();
        symlink(&elsewhere, path.join("lock")).unwrap();
        assert!(matches!(lock(&path), Err(Error::Io(_))));
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    }

    #[test]
    fn a_file_is_for_its_owner_and_replaces_a_link() {
        let (root, path) = made(0o700);
        let elsewhere = root.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        symlink(&elsewhere, path.join("address")).unwrap();
        write(&path.join("address"), "here").unwrap();
        assert_eq!(mode(&path.join("address")), 0o600);
        assert_eq!(fs::read_to_string(path.join("address")).unwrap(), "here");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    }
}
