//! Immutable outputs, named by digest.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One file of an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative path with `/` between folders, for instance `images/000.png`.
    pub path: String,
    /// blake3 of its bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
}

/// The files of an artifact, sorted by path. Its JSON form is stored as a blob,
/// whose digest is the artifact's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Entry>", try_from = "Vec<Entry>")]
pub struct Manifest(Vec<Entry>);

/// The list of files cannot be an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidManifest {
    /// A path that could leave the artifact's folder, or that no file system holds.
    #[error("{0:?} is not a plain relative path")]
    Path(String),
    /// Two files at one path, or a file where another path needs a folder.
    #[error("two files at {0:?}")]
    Twice(String),
    /// Lengths of files that cannot be added up.
    #[error("the files up to {0:?} are longer together than can be counted")]
    Length(String),
}

impl Manifest {
    /// A manifest of these files, in any order.
    ///
    /// # Errors
    /// Names the first path that is not plain, that stands twice, or with which the
    /// files together have more bytes than 64 bits count.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, InvalidManifest> {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(entry) = entries.iter().find(|entry| !is_plain(&entry.path)) {
            return Err(InvalidManifest::Path(entry.path.clone()));
        }
        let paths: std::collections::BTreeSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        let folder_of_none = |path: &str| path.match_indices('/').all(|(slash, _)| !paths.contains(&path[..slash]));
        if let Some(entry) = entries.iter().find(|entry| !folder_of_none(&entry.path)) {
            return Err(InvalidManifest::Twice(entry.path.clone()));
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].path == pair[1].path) {
            return Err(InvalidManifest::Twice(pair[0].path.clone()));
        }
        let mut length = 0u64;
        for entry in &entries {
            length = length.checked_add(entry.size).ok_or_else(|| InvalidManifest::Length(entry.path.clone()))?;
        }
        Ok(Self(entries))
    }

    /// The files, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// The artifact's name: the digest of [`Manifest::to_bytes`].
    pub fn digest(&self) -> Digest {
        Digest::of_json(self)
    }

    /// The form in which the manifest is stored and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest serialises to JSON")
    }

    /// Total length in bytes.
    pub fn size(&self) -> u64 {
        self.0.iter().map(|entry| entry.size).sum()
    }
}

fn is_plain(path: &str) -> bool {
    let part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0', ':']);
    path.len() <= 1024 && path.split('/').all(part)
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
        assert_eq!(Manifest::new(vec![long("a"), long("b")]), Err(InvalidManifest::Length("b".to_owned())));
    }

    #[test]
    fn order_of_files_does_not_change_the_name() {
        let one = Manifest::new(vec![entry("b"), entry("a/c")]).unwrap();
        let other = Manifest::new(vec![entry("a/c"), entry("b")]).unwrap();
        assert_eq!(one.digest(), other.digest());
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
        for bad in [["a", "a"], ["a", "a/b"]] {
            assert!(matches!(Manifest::new(bad.map(entry).to_vec()), Err(InvalidManifest::Twice(_))));
        }
    }
}
