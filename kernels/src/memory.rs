//! What the C library does with memory that is given back.

/// Keeps memory that is given back for later use in this process, which does not shrink after
/// that.
///
/// GNU's C library returns large blocks to the system, which hands them out again page by
/// page: on a virtual machine that took four fifths of the time of a function of single
/// values. It keeps those of the process's first thread only, whose memory is one heap. No
/// effect with other C libraries.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "a function of C")]
    // SAFETY: sets numbers of the allocator, under its own lock; any value is allowed.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}
