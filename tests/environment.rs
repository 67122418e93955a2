//! What the programs that a worker starts find in their environment.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1;
use worker::environment::PASSED;

use crate::harness::cluster::Cluster;
use crate::harness::command::{result, shell, submit};
use crate::harness::workspace;

/// The documented list; where one ends in `*`, all that begin so.
const LISTED: &str = "PATH HOME USER LOGNAME SHELL LANG LANGUAGE LC_* TZ TMPDIR XDG_* LD_LIBRARY_PATH PYTHONPATH \
    VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV CUDA_* NVIDIA_* ROCM_PATH HIP_PATH ROCR_* HSA_* OMP_* MKL_NUM_THREADS \
    OPENBLAS_NUM_THREADS CUBECL_* WGPU_* VK_* MESA_* LITHOGEN_LOG LITHOGEN_CPU LITHOGEN_DEVICE_MEMORY_MIB RUST_BACKTRACE NO_COLOR";

/// What workers of this process pass on.
fn passed() -> BTreeSet<String> {
    let is_listed = |name: &String| {
        LISTED.split_whitespace().any(|listed| match listed.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == listed,
        })
    };
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(is_listed).collect()
}

fn names(variables: &str, separator: char) -> BTreeSet<String> {
    variables.split(separator).filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect()
}

fn with<'a>(mut names: BTreeSet<String>, more: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.extend(more.into_iter().map(str::to_owned));
    names
}

#[test]
fn the_documented_list_of_variables_is_what_is_passed_on() {
    assert_eq!(LISTED.split_whitespace().collect::<Vec<_>>(), PASSED);
    let documented = std::fs::read_to_string(workspace().join("docs/operating.md")).unwrap();
    assert!(PASSED.iter().all(|name| documented.contains(&format!("`{name}`"))), "{PASSED:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_and_its_guard_find_what_is_listed_and_nothing_else_of_the_workers() {
    // Whoever runs tests has told this program where it lies.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && std::env::var_os("CARGO_PKG_NAME").is_some());
    let cluster = Cluster::start().await;
    let env = |name: &str| {
        let mut spec = shell(name, "");
        spec.argv = vec!["env".to_owned(), "-0".to_owned()];
        spec.environment = BTreeMap::from([("OWN".to_owned(), name.to_owned()), ("TZ".to_owned(), "UTC".to_owned())]);
        spec
    };
    submit(&cluster, vec![env("one")]).await;
    let _worker = cluster.worker_with("one", &[], |config| config.pass_env = vec!["CARGO_PKG_N*".to_owned()]);
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let said = result(&cluster, "command one", "stdout.txt").await;
    let ours = [
        "OWN",
        "TZ",
        "CARGO_PKG_NAME",
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "LITHOGEN_ATTEMPT",
        "LITHOGEN_GUARD",
        "LITHOGEN_INPUTS",
        "LITHOGEN_OUTPUTS",
        "LITHOGEN_TASK",
    ];
    assert_eq!(names(&said, '\0'), with(passed(), ours));
    assert!(said.contains("OWN=one\0") && said.contains("TZ=UTC\0"));
    let guard = said.split('\0').find_map(|variable| variable.strip_prefix("LITHOGEN_GUARD=")).unwrap();
    let environment = std::fs::read_to_string(format!("/proc/{guard}/environ")).unwrap();
    assert_eq!(names(&environment, '\0'), passed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_of_a_stage_finds_what_is_listed_and_what_it_is_told() {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let _worker = cluster.worker_with("one", &[], |config| {
        config.program.path = "/bin/sh".into();
        config.program.arguments = ["-c", "env -0 > $0/outputs/environment"].map(str::to_owned).to_vec();
        config.program.environment = vec![("TOLD".to_owned(), "yes".to_owned())];
    });
    assert_eq!(cluster.end().await.state(), v1::RunState::Succeeded);
    let label = cluster.changes().await[0].label.clone();
    let found = names(&result(&cluster, &label, "environment").await, '\0');
    // A shell adds its own.
    let own = ["PWD", "OLDPWD", "SHLVL", "_"];
    let found: BTreeSet<String> = found.into_iter().filter(|name| !own.contains(&name.as_str())).collect();
    let ours = [
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "LITHOGEN_ATTEMPT",
        "LITHOGEN_FENCING_TOKEN",
        "LITHOGEN_RUN",
        "LITHOGEN_TASK",
        "LITHOGEN_TRIAL",
        "LITHOGEN_WORKER",
        "TOLD",
    ];
    assert_eq!(found, with(passed(), ours));
}
