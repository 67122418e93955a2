//! Artifacts: immutable outputs of tasks, named by digest.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::ArtifactId;

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative path with `/` between folders, for instance `images/000.png`.
    pub path: String,
    /// blake3 of the file's bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// The files of an artifact, sorted by path. The JSON form of a manifest is stored as a blob,
/// whose digest is the artifact's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Entry>", try_from = "Vec<Entry>")]
pub struct Manifest(Vec<Entry>);

/// Most files of an artifact.
pub const ENTRIES_MAX: usize = 100_000;

/// Most bytes of a manifest's JSON form, which is sent in one message of at most 16 MiB.
pub const MANIFEST_MAX: usize = 15 * 1024 * 1024;

/// Most bytes of a file's path within an artifact.
pub const PATH_MAX: usize = 1024;

/// Most bytes of a name between two `/`: what common file systems can hold.
pub const NAME_MAX: usize = 255;

/// Why a list of files cannot be an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// A path could leave the artifact's folder, or no file system can hold it.
    #[error("{0:?} is not a plain relative path")]
    Path(String),
    /// A path is longer than file systems allow.
    #[error(
        "the path that begins with {0:?} is too long: a path has at most {PATH_MAX} bytes, and a name in it at most \
         {NAME_MAX}"
    )]
    Long(String),
    /// Two files have the same path, or a file has the path of another file's folder.
    #[error("two files at {0:?}")]
    Twice(String),
    /// There are more files than an artifact may have.
    #[error("there are {0} files, and an artifact has at most {ENTRIES_MAX}; pack them into archives")]
    Entries(usize),
    /// The JSON form is longer than a manifest may be.
    #[error(
        "the list of files has {0} bytes, at most {MANIFEST_MAX} are taken; give the files shorter names, or fewer"
    )]
    Bytes(usize),
    /// The sizes add up to more than 64 bits can count.
    #[error("the sizes of the files add up to more than a number of 64 bits")]
    Size,
    /// The bytes are not the JSON form of a list of files.
    #[error("{0}")]
    Form(String),
}

impl Manifest {
    /// A manifest of these files, given in any order.
    ///
    /// # Errors
    /// Names the first path that is not plain, is too long or occurs twice, or the limit that
    /// is exceeded.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, InvalidManifest> {
        if entries.len() > ENTRIES_MAX {
            return Err(InvalidManifest::Entries(entries.len()));
        }
        entries.iter().try_for_each(|entry| check_path(&entry.path))?;
        entries.iter().try_fold(0u64, |sum, entry| sum.checked_add(entry.size)).ok_or(InvalidManifest::Size)?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        check_places(&entries)?;
        let manifest = Self(entries);
        match manifest.to_bytes().len() {
            0..=MANIFEST_MAX => Ok(manifest),
            bytes => Err(InvalidManifest::Bytes(bytes)),
        }
    }

    /// Parses the form in which manifests are stored and sent.
    ///
    /// # Errors
    /// If the bytes are too many, are not a list of files, or are one that [`Manifest::new`]
    /// refuses.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidManifest> {
        if bytes.len() > MANIFEST_MAX {
            return Err(InvalidManifest::Bytes(bytes.len()));
        }
        let entries = serde_json::from_slice(bytes).map_err(|error| InvalidManifest::Form(error.to_string()))?;
        Self::new(entries)
    }

    /// The files, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The artifact's name: the digest of [`Manifest::to_bytes`].
    pub fn id(&self) -> ArtifactId {
        ArtifactId(Digest::of_json(self))
    }

    /// The form in which the manifest is stored and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest serialises to JSON")
    }

    /// Total length of all files in bytes.
    pub fn size(&self) -> u64 {
        self.0.iter().map(|entry| entry.size).sum()
    }
}

fn check_path(path: &str) -> Result<(), InvalidManifest> {
    if path.len() > PATH_MAX || path.split('/').any(|name| name.len() > NAME_MAX) {
        return Err(InvalidManifest::Long(path.chars().take(80).collect()));
    }
    let plain = |name: &str| !matches!(name, "" | "." | "..") && !name.contains(['\\', '\0', ':']);
    if path.split('/').all(plain) { Ok(()) } else { Err(InvalidManifest::Path(path.to_owned())) }
}

/// Checks that no path occurs twice or is a folder of another; the error names the first that
/// does.
fn check_places(entries: &[Entry]) -> Result<(), InvalidManifest> {
    // With `/` before all else, what lies in a folder follows the folder's name at once.
    let by_folder = |path: &str| path.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect::<Vec<u8>>();
    let mut paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    paths.sort_by_cached_key(|path| by_folder(path));
    let clash =
        |pair: &&[&str]| pair[1].strip_prefix(pair[0]).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match paths.windows(2).find(clash) {
        Some(pair) => Err(InvalidManifest::Twice(pair[1].to_owned())),
        None => Ok(()),
    }
}

impl TryFrom<Vec<Entry>> for Manifest {
    type Error = InvalidManifest;

    fn try_from(entries: Vec<Entry>) -> Result<Self, InvalidManifest> {
        Self::new(entries)
    }
}

impl From<Manifest> for Vec<Entry> {
    fn from(manifest: Manifest) -> Self {
        manifest.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry { path: path.to_owned(), digest: Digest::of(path.as_bytes()), size: 1 }
    }

    #[test]
    fn files_that_are_longer_than_can_be_counted_are_refused() {
        let long = |path: &str| Entry { size: 1 << 63, ..entry(path) };
        assert_eq!(Manifest::new(vec![long("a"), entry("b")]).unwrap().size(), (1 << 63) + 1);
        assert_eq!(Manifest::new(vec![long("a"), long("b")]), Err(InvalidManifest::Size));
    }

    #[test]
    fn order_of_files_does_not_change_the_name() {
        let one = Manifest::new(vec![entry("b"), entry("a/c")]).unwrap();
        let other = Manifest::new(vec![entry("a/c"), entry("b")]).unwrap();
        assert_eq!(one.id(), other.id());
        assert_eq!(serde_json::from_slice::<Manifest>(&one.to_bytes()).unwrap(), one);
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\b", "c:x", "a\0"] {
            assert_eq!(Manifest::new(vec![entry(bad)]), Err(InvalidManifest::Path(bad.to_owned())));
            let json = serde_json::to_vec(&vec![entry(bad)]).unwrap();
            assert!(serde_json::from_slice::<Manifest>(&json).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_path_cannot_be_two_things() {
        for (bad, at) in [(vec!["a", "a"], "a"), (vec!["a/b", "a"], "a/b"), (vec!["a", "a-b", "a.b", "a/b/c"], "a/b/c")]
        {
            let entries = bad.into_iter().map(entry).collect();
            assert_eq!(Manifest::new(entries), Err(InvalidManifest::Twice(at.to_owned())));
        }
        assert!(Manifest::new(["a", "a-b", "ab", "a.b/c", "b/a"].map(entry).to_vec()).is_ok());
    }

    #[test]
    fn names_and_paths_that_no_disk_holds_are_refused() {
        // Two bytes each: it is bytes that disks count.
        let names = [("ü".repeat(127) + "x", true), ("ü".repeat(128), false)];
        let deep = |length: usize| format!("{}/b", "a/".repeat(length / 2 - 2) + "a");
        for (path, fits) in names.into_iter().chain([(deep(PATH_MAX), true), (deep(PATH_MAX + 2), false)]) {
            match Manifest::new(vec![entry(&path)]) {
                Ok(_) => assert!(fits, "{path}"),
                Err(error) => assert!(!fits && matches!(error, InvalidManifest::Long(_)), "{error}"),
            }
        }
        assert!(InvalidManifest::Long("x".to_owned()).to_string().contains("at most 255"));
    }

    #[test]
    fn the_number_of_files_and_the_length_of_their_list_are_bounded() {
        let many = |count: usize, folder: &str| {
            (0..count).map(|number| Entry { path: format!("{folder}{number}"), ..entry("x") }).collect::<Vec<_>>()
        };
        assert_eq!(Manifest::new(many(ENTRIES_MAX, "")).unwrap().entries().len(), ENTRIES_MAX);
        assert_eq!(Manifest::new(many(ENTRIES_MAX + 1, "")), Err(InvalidManifest::Entries(ENTRIES_MAX + 1)));
        let folder = "long/".repeat(200);
        assert!(matches!(Manifest::new(many(MANIFEST_MAX / 1000, &folder)), Err(InvalidManifest::Bytes(_))));
        let bytes = vec![b' '; MANIFEST_MAX + 1];
        assert_eq!(Manifest::from_bytes(&bytes), Err(InvalidManifest::Bytes(MANIFEST_MAX + 1)));
    }

    #[test]
    fn sizes_that_add_up_to_no_number_are_refused() {
        let huge = |path| Entry { size: u64::MAX, ..entry(path) };
        assert_eq!(Manifest::new(vec![huge("a")]).unwrap().size(), u64::MAX);
        assert_eq!(Manifest::new(vec![huge("a"), entry("b")]), Err(InvalidManifest::Size));
    }
}
