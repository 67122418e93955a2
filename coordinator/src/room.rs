//! Free space on the disks that the coordinator writes to.

use std::io;
use std::path::Path;

/// Bytes that uploads leave free on a disk, above all for the journal.
pub const RESERVE: u64 = 16 * 1024 * 1024;

/// Bytes that logs leave free on a disk: logs are the first to stop when it fills up.
pub const LOG_RESERVE: u64 = 4 * RESERVE;

/// Tells how many bytes can still be written where a path lies.
pub type Free = fn(&Path) -> io::Result<u64>;

/// Free bytes in the file system of an existing path.
///
/// # Errors
/// If the file system cannot be asked.
#[cfg(unix)]
pub fn free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// No limit: on this system the free space is not known, and a full disk shows on writing.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn free(_: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}
