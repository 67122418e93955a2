//! The files in `deploy/` are read by other programs, on machines where nobody
//! wants to find a mistake: each has to be well formed, and each command in them
//! has to be one that this version of `lithogen` understands.

// Without the worker half, its commands are rightly unknown.
#![cfg(feature = "worker")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use lithogen_cli::args::Cli;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// Fails unless `lithogen` takes these arguments.
fn accepted(place: &str, arguments: &[String]) {
    let words = std::iter::once("lithogen".to_owned()).chain(arguments.iter().cloned());
    if let Err(error) = Cli::try_parse_from(words) {
        panic!("deploy/{place}: lithogen {}\n{error}", arguments.join(" "));
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The value of an option among arguments.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|word| word == name)?;
    arguments.get(at + 1).map(String::as_str)
}

/// `key=value` lines by section; comments start a line, as systemd wants it.
fn unit(path: &str) -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut entries = Vec::new();
    for line in read(path).lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("deploy/{path}: {line}"));
            entries.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    entries
}

/// A span of seconds, with or without its unit.
fn seconds(value: &str) -> u64 {
    value.trim_end_matches('s').parse().unwrap_or_else(|_| panic!("{value:?} is no number of seconds"))
}

const UNIT_KEYS: [&str; 5] = ["Description", "Wants", "After", "StartLimitIntervalSec", "StartLimitBurst"];
const SERVICE_KEYS: [&str; 27] = [
    "Type",
    "EnvironmentFile",
    "ExecStart",
    "Restart",
    "RestartSec",
    "KillMode",
    "KillSignal",
    "TimeoutStopSec",
    "DynamicUser",
    "User",
    "StateDirectory",
    "StateDirectoryMode",
    "UMask",
    "NoNewPrivileges",
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "PrivateDevices",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectControlGroups",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "LockPersonality",
    "CapabilityBoundingSet",
    "SystemCallArchitectures",
    "Environment",
];
const INSTALL_KEYS: [&str; 1] = ["WantedBy"];

#[test]
fn units_have_known_keys_and_a_command_that_parses() {
    for path in ["systemd/lithogen-coordinator.service", "systemd/lithogen-worker.service"] {
        let entries = unit(path);
        for (section, key, _) in &entries {
            let known = match section.as_str() {
                "Unit" => UNIT_KEYS.contains(&key.as_str()),
                "Service" => SERVICE_KEYS.contains(&key.as_str()),
                "Install" => INSTALL_KEYS.contains(&key.as_str()),
                _ => false,
            };
            assert!(known, "deploy/{path}: [{section}] {key}");
        }
        let value = |key: &str| -> &str {
            let found = entries.iter().find(|(section, known, _)| section == "Service" && known == key);
            &found.unwrap_or_else(|| panic!("deploy/{path} lacks {key}")).2
        };
        for (key, expected) in [
            ("DynamicUser", "yes"),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("KillSignal", "SIGTERM"),
            ("Restart", "on-failure"),
        ] {
            assert_eq!(value(key), expected, "deploy/{path}: {key}");
        }
        let command = value("ExecStart").replace("%H", "host").replace("%%", "%");
        let command = command.strip_prefix("/usr/local/bin/lithogen ").expect("an absolute path");
        let arguments = words(command);
        accepted(path, &arguments);
        let state = Path::new("/var/lib").join(value("StateDirectory"));
        assert_eq!(option(&arguments, "--state"), state.to_str(), "deploy/{path}: only this folder can be written");
        if let Some(grace) = option(&arguments, "--grace") {
            assert!(seconds(value("TimeoutStopSec")) > seconds(grace), "deploy/{path}: killed before the grace ends");
        }
    }
}

/// Runs the batch script with a `lithogen` that tells its arguments and what
/// signal it was sent; gives what it told and the status.
#[cfg(unix)]
fn batch(terminate: bool) -> (Vec<String>, Option<i32>) {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    let scratch = tempfile::tempdir().expect("a scratch folder");
    let fake = scratch.path().join("lithogen");
    let heard = scratch.path().join("heard");
    // It writes its arguments once it listens for the signal, so that a signal
    // sent after them cannot come too early.
    let script = format!(
        "#!/usr/bin/env bash\ntrap 'echo TERM >> {0}; exit 7' TERM\nprintf '%s\\n' \"$@\" end > {0}\n{1}\nexit 5\n",
        heard.display(),
        if terminate { "for _ in $(seq 300); do sleep 0.1; done" } else { "" }
    );
    fs::write(&fake, script).expect("a stand-in");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("a stand-in that runs");
    let path = format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new("bash")
        .arg(deploy().join("slurm/worker.sbatch"))
        .env("PATH", path)
        .env("LITHOGEN_COORDINATOR", "http://127.0.0.1:7443")
        .env("SLURM_JOB_ID", "118")
        .env("SLURM_ARRAY_JOB_ID", "117")
        .env("SLURM_ARRAY_TASK_ID", "3")
        .env("SLURM_TMPDIR", scratch.path().join("tmp"))
        .spawn()
        .expect("bash");
    let told =
        || -> Vec<String> { fs::read_to_string(&heard).unwrap_or_default().lines().map(str::to_owned).collect() };
    if terminate {
        let patience = Instant::now() + Duration::from_secs(20);
        while !told().contains(&"end".to_owned()) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        Command::new("bash").args(["-c", &format!("kill -TERM {}", child.id())]).status().expect("kill");
    }
    let status = child.wait().expect("the script to end");
    let left = fs::read_dir(scratch.path().join("tmp")).expect("the scratch folder").count();
    assert_eq!(left, 0, "the script left its scratch behind");
    (told(), status.code())
}

#[cfg(unix)]
#[test]
fn the_batch_script_is_bash_and_starts_a_worker() {
    let path = "slurm/worker.sbatch";
    let checked = Command::new("bash").arg("-n").arg(deploy().join(path)).status().expect("bash");
    assert!(checked.success());
    let (mut arguments, status) = batch(false);
    assert_eq!(status, Some(5), "the worker's status is the job's");
    assert_eq!(arguments.pop().as_deref(), Some("end"));
    accepted(path, &arguments);

    let text = read(path);
    let directives: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#SBATCH ")).collect();
    for needed in ["--requeue", "--open-mode=append"] {
        assert!(directives.contains(&needed), "deploy/{path} lacks {needed}");
    }
    assert!(directives.iter().any(|line| line.starts_with("--array=")));
    let notice = directives.iter().find_map(|line| line.strip_prefix("--signal=B:")).expect("a notice");
    let (signal, notice) = notice.split_once('@').expect("a signal and seconds");
    let heeded = option(&arguments, "--preempt-signals").expect("signals");
    assert!(heeded.split(',').any(|heeded| heeded == signal), "deploy/{path}: the worker does not heed {signal}");
    let grace = option(&arguments, "--grace").expect("a grace");
    assert!(seconds(notice) > seconds(grace), "deploy/{path}: killed before the grace ends");
}

#[cfg(unix)]
#[test]
fn the_batch_script_passes_the_signal_on_and_waits() {
    let (told, status) = batch(true);
    assert_eq!(told.last().map(String::as_str), Some("TERM"));
    assert_eq!(status, Some(7), "the worker's status is the job's");
}

const INSTRUCTIONS: [&str; 13] = [
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "LABEL",
    "RUN",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Instructions with what follows them; continued lines are one.
fn containerfile(path: &str) -> Vec<(String, String)> {
    let text = read(path).replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (instruction, rest) = line.split_once(' ').unwrap_or((line, ""));
            assert!(INSTRUCTIONS.contains(&instruction), "deploy/{path}: {line}");
            (instruction.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

#[test]
fn images_are_built_in_stages_and_do_not_run_as_root() {
    for path in ["container/Containerfile.coordinator", "container/Containerfile.worker"] {
        let instructions = containerfile(path);
        let stages = instructions.iter().filter(|(instruction, _)| instruction == "FROM").count();
        assert!(stages >= 2, "deploy/{path}: the compiler is in the image");
        let last = instructions.iter().rposition(|(instruction, _)| instruction == "FROM").expect("counted");
        assert!(!instructions[last].1.contains("rust"), "deploy/{path}: the compiler is in the image");
        let final_stage = &instructions[last..];
        let of = |name: &str| -> &str {
            let found = final_stage.iter().rev().find(|(instruction, _)| instruction == name);
            &found.unwrap_or_else(|| panic!("deploy/{path} lacks {name}")).1
        };
        assert!(!["root", "0"].contains(&of("USER")), "deploy/{path}: runs as root");
        let exec_form = |name| -> Vec<String> {
            serde_json::from_str(of(name)).unwrap_or_else(|_| panic!("deploy/{path}: {name}"))
        };
        assert_eq!(exec_form("ENTRYPOINT"), ["lithogen"]);
        accepted(path, &exec_form("CMD"));
    }
}

#[test]
fn the_composition_refers_to_what_is_there() {
    let path = "compose.yaml";
    let root: Value = serde_saphyr::from_str(&read(path)).expect("YAML");
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().map(|entries| entries.keys().cloned().collect()).unwrap_or_default()
    };
    assert_eq!(keys(&root), ["name", "services", "volumes"].map(str::to_owned).into());
    let services = root["services"].as_object().expect("services");
    let volumes = keys(&root["volumes"]);
    let mut workers = BTreeSet::new();
    for (name, service) in services {
        for key in keys(service) {
            let known =
                ["build", "command", "depends_on", "environment", "ports", "restart", "stop_grace_period", "volumes"];
            assert!(known.contains(&key.as_str()), "deploy/{path}: {name}.{key}");
        }
        let context = deploy().join(service["build"]["context"].as_str().expect("a context"));
        let recipe = service["build"]["dockerfile"].as_str().expect("a recipe");
        assert!(context.join(recipe).is_file(), "deploy/{path}: {recipe}");
        for mount in service["volumes"].as_array().expect("a state that stays") {
            let volume = mount.as_str().and_then(|mount| mount.split_once(':')).expect("volume:folder").0;
            assert!(volumes.contains(volume), "deploy/{path}: {volume}");
        }
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().expect("a port in quotes");
            assert!(port.starts_with("127.0.0.1:"), "deploy/{path}: {port} is open to others");
        }
        for other in service["depends_on"].as_array().into_iter().flatten() {
            assert!(other.as_str().is_some_and(|other| services.contains_key(other)), "deploy/{path}: {other}");
        }
        // The image's entry point is `lithogen`.
        let arguments = words(service["command"].as_str().expect("a command"));
        accepted(path, &arguments);
        if let Some(grace) = option(&arguments, "--grace") {
            let patience = service["stop_grace_period"].as_str().expect("a grace period");
            assert!(seconds(patience) > seconds(grace), "deploy/{path}: {name} is killed before the grace ends");
            assert!(workers.insert(option(&arguments, "--name").map(str::to_owned)), "deploy/{path}: a name twice");
        }
    }
    assert_eq!((services.len(), workers.len()), (3, 2));
}

#[test]
fn commands_shown_to_people_parse() {
    let mut shown = 0;
    for path in ["README.md", "compose.yaml", "slurm/worker.sbatch"] {
        let text = read(path);
        let mut fenced = false;
        for line in text.lines() {
            fenced ^= line.starts_with("```");
            // In comments a command is set off by three spaces; in the README it is in a fence.
            let command = match path {
                "README.md" if fenced => line.strip_prefix("lithogen "),
                "README.md" => None,
                _ => line.strip_prefix("#   lithogen "),
            };
            if let Some(command) = command {
                accepted(path, &words(command));
                shown += 1;
            }
        }
    }
    assert!(shown >= 6, "found only {shown} commands");
}

#[test]
fn the_readme_names_every_file() {
    let readme = read("README.md");
    for folder in ["", "systemd", "slurm", "container", "prometheus"] {
        for entry in fs::read_dir(deploy().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            if path.is_file() && name != "README.md" && !name.ends_with(".dockerignore") {
                assert!(readme.contains(&name), "deploy/README.md does not name {name}");
            }
        }
    }
}
