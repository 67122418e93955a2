//! How much memory there is, and whether a process ended because it ran out.
//!
//! Two things tell the latter: what it said last, and the kernel's count of
//! processes that it killed for memory in this control group.

use std::fs;
use std::path::{Path, PathBuf};

/// What programs say, in lower case: Rust's allocator, the C++ library's, CUDA
/// and PyTorch, Vulkan, burn's runtime, Python.
const LAST_WORDS: [&str; 9] = [
    "memory allocation of ",
    "std::bad_alloc",
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "out of device memory",
    "out_of_device_memory",
    "can't allocate buffer of size",
    "memoryerror",
];

/// Whether somebody says that memory ran out.
pub(crate) fn ran_out(said: &str) -> bool {
    let said = said.to_lowercase();
    LAST_WORDS.iter().any(|words| said.contains(words))
}

/// How many processes the kernel has killed for memory in the control group of
/// this one, which its children are in too; `None` where it does not say.
pub(crate) fn kills() -> Option<u64> {
    kills_in(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
}

/// Main memory that this process and its children may use, MiB: the machine's, or
/// less if a control group above says so; `None` where the system does not say.
pub fn limit_mib() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok()?;
    let total = machine.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total = total?.parse::<u64>().ok()? << 10;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(limit_in(&groups, Path::new("/sys/fs/cgroup")).map_or(total, |limit| limit.min(total)) >> 20)
}

/// The least limit of a control group or of one above it, bytes.
fn limit_in(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (root, path, name) = group(line, root, ["memory.limit_in_bytes", "memory.max"])?;
        // A group without a limit says `max`, or in version 1 a number beyond any machine.
        let limit = |above: &Path| fs::read_to_string(root.join(above).join(name)).ok()?.trim().parse::<u64>().ok();
        Path::new(path).ancestors().filter_map(limit).min()
    });
    limits.min()
}

fn kills_in(groups: &str, root: &Path) -> Option<u64> {
    let counts = groups.lines().filter_map(|line| {
        let (root, path, name) = group(line, root, ["memory.oom_control", "memory.events"])?;
        let text = fs::read_to_string(root.join(path).join(name)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    });
    counts.reduce(|one, other| one + other)
}

/// Where a line of `/proc/self/cgroup` leads: the folder of all groups, the path of
/// this process's there, and which of the two names, of version 1 and 2, a file has
/// there. Lines are `number:controllers:path`, without controllers in version 2.
fn group<'a>(line: &'a str, root: &Path, names: [&'static str; 2]) -> Option<(PathBuf, &'a str, &'static str)> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let path = path.trim_start_matches('/');
    match controllers {
        "memory" => Some((root.join("memory"), path, names[0])),
        "" => Some((root.to_owned(), path, names[1])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_lack_memory_say_so_in_many_ways() {
        for said in [
            "memory allocation of 4096 bytes failed",
            "thread 'main' panicked at src/x.rs:1:1:\nout of device memory allocating 8 bytes",
            r#"called `Result::unwrap()` on an `Err` value: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "wgpu error: Out of Memory",
        ] {
            assert!(ran_out(said), "{said}");
        }
        for said in ["", "the stone is gone", "index out of bounds: the len is 3 but the index is 3"] {
            assert!(!ran_out(said), "{said}");
        }
    }

    #[test]
    fn the_least_limit_of_the_groups_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("slurm/job/memory.max", "4096\n");
        write("slurm/job/step/memory.max", "max\n");
        write("slurm/memory.max", "8192\n");
        write("memory/job/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/memory.limit_in_bytes", "1024\n");
        let limit = |groups: &str| limit_in(groups, root.path());
        assert_eq!(limit("0::/slurm/job/step\n"), Some(4096));
        assert_eq!(limit("0::/slurm/job/step\n4:memory:/job\n"), Some(1024));
        for unknown in ["", "0::/elsewhere", "3:cpu:/job", "nonsense"] {
            assert_eq!(limit(unknown), None, "{unknown}");
        }
        assert!(limit_mib().is_none_or(|limit| limit > 0));
    }

    #[test]
    fn the_count_is_found_in_both_versions_of_control_groups() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("user/job/memory.events", "low 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 1\n");
        write("memory/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n");
        let kills = |groups: &str| kills_in(groups, root.path());
        assert_eq!(kills("0::/user/job\n"), Some(2));
        assert_eq!(kills("9:name=systemd:/\n4:memory:/job\n1:cpu:/\n0::/\n"), Some(5));
        for unknown in ["", "0::/elsewhere", "4:memory:/elsewhere", "nonsense", "::"] {
            assert_eq!(kills(unknown), None, "{unknown}");
        }
    }
}
