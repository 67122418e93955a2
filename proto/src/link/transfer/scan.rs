//! What a folder holds, as an artifact.

use std::io;
use std::path::Path;

use domain::artifact::{Entry, InvalidManifest, Manifest};
use domain::digest::Digest;

use super::Error;
use crate::path_error::io_error;

/// The files below a folder, with their digests. Symbolic links are followed.
///
/// # Errors
/// If a file cannot be read, or its name is not UTF-8 or not plain.
pub fn scan(root: &Path) -> Result<Manifest, Error> {
    let mut entries = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(&folder).map_err(io_error("list", &folder))? {
            let path = item.map_err(io_error("list", &folder))?.path();
            let meta = std::fs::metadata(&path).map_err(io_error("read", &path))?;
            if meta.is_dir() {
                folders.push(path);
                continue;
            }
            let file = std::fs::File::open(&path).map_err(io_error("read", &path))?;
            let digest = hash(file).map_err(io_error("read", &path))?;
            let relative: Option<Vec<&str>> = path
                .strip_prefix(root)
                .ok()
                .map(|rest| rest.iter().map(|part| part.to_str()).collect())
                .unwrap_or(None);
            let relative = relative.ok_or_else(|| InvalidManifest::Path(path.display().to_string()))?.join("/");
            entries.push(Entry { path: relative, digest, size: meta.len() });
        }
    }
    Ok(Manifest::new(entries)?)
}

/// A single file under its own name, as the only one of an artifact.
///
/// # Errors
/// If it cannot be read, or its name is not UTF-8.
pub fn entry(path: &Path) -> Result<Entry, Error> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| InvalidManifest::Path(path.display().to_string()))?;
    let file = std::fs::File::open(path).map_err(io_error("read", path))?;
    let size = file.metadata().map_err(io_error("read", path))?.len();
    let digest = hash(file).map_err(io_error("read", path))?;
    Ok(Entry { path: name.to_owned(), digest, size })
}

fn hash(file: std::fs::File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_scanned_with_its_subfolders() {
        let root = std::env::temp_dir().join(format!("lithogen-scan-{}", std::process::id()));
        std::fs::create_dir_all(root.join("b")).unwrap();
        std::fs::write(root.join("b/c.txt"), b"two").unwrap();
        std::fs::write(root.join("a.txt"), b"one").unwrap();
        let manifest = scan(&root).unwrap();
        let paths: Vec<&str> = manifest.entries().iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a.txt", "b/c.txt"]);
        assert_eq!(manifest.entries()[1].digest, Digest::of(b"two"));
        assert_eq!(manifest.size(), 6);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
