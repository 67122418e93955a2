//! What the programs that a worker starts find in their environment: a short list, so
//! that no secret is in it that the worker was started with.

use std::ffi::OsStr;
use std::process::Command;

use domain::runner::task::{Grant, WorkerId};
use proto::trace::{self, put_below};
use tracing::field::Empty;
use tracing::{Span, info_span};

/// Variable with the key of the task.
const TASK: &str = "LITHOGEN_TASK";

/// Variable with the number of the attempt.
const ATTEMPT: &str = "LITHOGEN_ATTEMPT";

/// Variable with a run that wants the task. Like the three that follow, it is for the span of
/// a stage. A command does not find them, as its result must not depend on them.
const RUN: &str = "LITHOGEN_RUN";

/// Variable with what the task is about.
const TRIAL: &str = "LITHOGEN_TRIAL";

/// Variable with the name of the worker's process.
const WORKER: &str = "LITHOGEN_WORKER";

/// Variable with the fencing token of the attempt's lease, which is no secret.
const FENCING_TOKEN: &str = "LITHOGEN_FENCING_TOKEN";

/// Variables that are passed on, if they are set. A name that ends in `*` stands for all
/// that begin so.
pub const PASSED: [&str; 34] = [
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
    "LITHOGEN_CPU",
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
    told([(TASK, grant.task.to_string()), (ATTEMPT, grant.attempt.to_string()), (trace::VARIABLE, place)])
}

/// What a stage finds besides: whatever its span tells of the attempt.
pub(crate) fn of_stage(worker: &WorkerId, grant: &Grant) -> Vec<(String, String)> {
    let run = grant.run.map(|run| run.to_string()).unwrap_or_default();
    let (trial, worker, token) = (grant.subject.clone(), worker.to_string(), grant.token.to_string());
    told([(RUN, run), (TRIAL, trial), (WORKER, worker), (FENCING_TOKEN, token)])
}

/// The variables that have a value.
fn told<const N: usize>(variables: [(&str, String); N]) -> Vec<(String, String)> {
    let set = variables.into_iter().filter(|(_, value)| !value.is_empty());
    set.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The span of the stage that this process runs, below that of the worker which started it.
/// The field `stage` is left to whoever reads the order.
pub fn span() -> Span {
    let told = |name| std::env::var(name).ok();
    let number = |name| told(name)?.parse::<u64>().ok();
    let span = info_span!(
        "compute",
        run = told(RUN),
        trial = told(TRIAL),
        stage = Empty,
        task = told(TASK),
        attempt = number(ATTEMPT),
        worker = told(WORKER),
        token = number(FENCING_TOKEN)
    );
    put_below(&span, &told(trace::VARIABLE).unwrap_or_default());
    span
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
