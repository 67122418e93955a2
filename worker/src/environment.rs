//! What the programs that a worker starts find in their environment: a short list, so
//! that no secret is in it that the worker was started with.

use std::ffi::OsStr;
use std::process::Command;

use domain::runner::task::Grant;
use proto::trace;
use tracing::Span;

/// Variable with the key of the task.
pub const TASK: &str = "LITHOGEN_TASK";

/// Variable with the number of the attempt.
pub const ATTEMPT: &str = "LITHOGEN_ATTEMPT";

/// Variables that are passed on, if they are set. A name that ends in `*` stands for all
/// that begin so.
pub const PASSED: [&str; 33] = [
    // Who and where somebody is, and how they read and write.
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "XDG_*",
    // Where programs and their libraries are.
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "CUDA_*",
    "NVIDIA_*",
    "ROCM_PATH",
    "HIP_PATH",
    "ROCR_*",
    "HSA_*",
    // How they compute.
    "OMP_*",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "CUBECL_*",
    "WGPU_*",
    "VK_*",
    "MESA_*",
    // How this program talks about it.
    "LITHOGEN_LOG",
    "LITHOGEN_DEVICE_MEMORY_MIB",
    "RUST_BACKTRACE",
    "NO_COLOR",
];

/// Leaves a program nothing of this process's environment but what is on the list, and
/// `further` names, which may end in `*` as well.
pub(crate) fn pass(command: &mut Command, further: &[String]) {
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_passed(name, further)));
}

/// What a program finds of the attempt that it is: its task, its number and, if the worker
/// traces, where the current span is.
pub(crate) fn of_attempt(grant: &Grant) -> Vec<(String, String)> {
    let place = trace::place(&Span::current());
    let mut variables = vec![
        (TASK.to_owned(), grant.task.to_string()),
        (ATTEMPT.to_owned(), grant.attempt.to_string()),
        (trace::VARIABLE.to_owned(), place),
    ];
    variables.retain(|(_, value)| !value.is_empty());
    variables
}

/// Whether a variable is on the list.
fn is_passed(name: &OsStr, further: &[String]) -> bool {
    let name = name.as_encoded_bytes();
    let stands_for = |listed: &str| match listed.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning.as_bytes()),
        None => name == listed.as_bytes(),
    };
    PASSED.into_iter().chain(further.iter().map(String::as_str)).any(stands_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_on_the_list_and_what_is_asked_for_is() {
        let further = ["WANDB_PROJECT".to_owned(), "SLURM_*".to_owned()];
        let passed = |name: &str| is_passed(OsStr::new(name), &further);
        for name in ["PATH", "LC_ALL", "CUDA_HOME", "VIRTUAL_ENV", "WANDB_PROJECT", "SLURM_JOB_ID"] {
            assert!(passed(name), "{name}");
        }
        let secrets = [
            "LITHOGEN_JOIN_TOKEN",
            "LITHOGEN_JOURNAL",
            "AWS_SECRET_ACCESS_KEY",
            "PGPASSWORD",
            "WANDB_API_KEY",
            "https_proxy",
            "SSH_AUTH_SOCK",
            "PATHS",
        ];
        for name in secrets {
            assert!(!passed(name), "{name}");
        }
    }
}
