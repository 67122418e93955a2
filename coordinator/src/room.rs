//! Room on the disks that the coordinator writes to.

use std::io;
use std::path::Path;

/// Bytes that uploads leave on a disk, for the journal above all.
pub const RESERVE: u64 = 16 * 1024 * 1024;

/// Bytes that logs leave on a disk: they are the first to end when it fills up.
pub const LOG_RESERVE: u64 = 4 * RESERVE;

/// Says how many bytes can still be written where a path lies.
pub type Free = fn(&Path) -> io::Result<u64>;

/// What the file system says of a path that is there.
///
/// # Errors
/// If it cannot be asked.
#[cfg(unix)]
pub fn free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Not known beforehand: a full disk shows when it is written.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn free(_: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}
