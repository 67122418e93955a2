//! `lithogen bench compute`: the form of what it prints, and peers that do not keep to what was
//! agreed on. No times are looked at: this machine may be busy.

#![cfg(feature = "worker")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

/// The cheapest step.
const STEP: &str = "inception_sifid_1056x800";

fn compute(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("lithogen").unwrap();
    command.args(["bench", "compute"]).args(arguments).env_remove("LITHOGEN_DEVICE");
    command
}

fn json(arguments: &[&str]) -> Value {
    let assert = compute(&[arguments, &["--json", "--rounds", "1"]].concat()).assert().success();
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

/// A program in place of Python. Where it is asked for a way, `$4`, it does what the script says.
fn python(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("python");
    fs::write(&path, format!("#!/bin/sh\nif [ $# = 2 ]; then echo lithogen; exit; fi\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_step_has_its_time_memory_and_share_and_no_peer_that_was_not_asked_for() {
    let report = json(&["--step", STEP]);
    assert_eq!((&report["schema_version"], &report["kernels"]), (&1.into(), &Value::Array(vec![])));
    for number in ["threads", "peak_gflops", "bandwidth_gb_per_second"] {
        assert!(report[number].as_f64().unwrap() > 0.0, "{number}");
    }
    let [step] = &report["steps"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(step["name"], STEP);
    for number in ["seconds", "peak_bytes", "roofline_share", "gflop"] {
        assert!(step[number].as_f64().unwrap() > 0.0, "{number}");
    }
    assert_eq!((&step["ratio_to_best_peer"], &step["ratio_to_eager"]), (&Value::Null, &Value::Null));
    let [ours] = &step["ways"].as_array().unwrap()[..] else { panic!("{step}") };
    assert_eq!((&ours["way"], &ours["problem"]), (&"lithogen".into(), &Value::Null));
    assert!(ours["on"].as_str().unwrap().starts_with(concat!("lithogen ", env!("CARGO_PKG_VERSION"), ", cpu, ")));
}

#[test]
fn a_kernel_has_its_time_and_share_and_steps_are_left_out() {
    let report = json(&["--kernel", "512>2048 1x1 forward"]);
    assert_eq!(report["steps"], Value::Array(vec![]));
    let [kernel] = &report["kernels"].as_array().unwrap()[..] else { panic!("{report}") };
    for number in ["seconds", "gflop", "gigabytes", "roofline_share"] {
        assert!(kernel[number].as_f64().unwrap() > 0.0, "{number}");
    }
}

#[test]
fn a_peer_is_a_ratio_where_it_keeps_to_its_part_and_a_reason_where_not() {
    let folder = tempfile::tempdir().unwrap();
    let python = python(
        folder.path(),
        r#"case $4 in
            eager) echo ready nothing; while read line; do echo 0.5; done; echo 4096;;
            channels_last) echo ready nothing; read line; echo rubbish;;
            compile) echo "No module named 'torch'" >&2; exit 1;;
        esac"#,
    );
    let arguments = ["--step", STEP, "--peer", python.to_str().unwrap()];
    let report = json(&arguments);
    let step = &report["steps"][0];
    let [_, eager, channels_last, compile] = &step["ways"].as_array().unwrap()[..] else { panic!("{step}") };
    assert_eq!((&eager["on"], &eager["seconds"], &eager["peak_bytes"]), (&"nothing".into(), &0.5.into(), &4096.into()));
    let ratio = step["seconds"].as_f64().unwrap() / 0.5;
    assert_eq!([&step["ratio_to_best_peer"], &step["ratio_to_eager"]], [ratio, ratio]);
    for (way, reason) in [(channels_last, r#"says "rubbish" instead of seconds"#), (compile, "No module named 'torch'")]
    {
        assert_eq!((&way["seconds"], &way["peak_bytes"]), (&Value::Null, &Value::Null), "{way}");
        assert_eq!(way["problem"], reason);
    }

    let assert = compute(&[&arguments[..], &["--rounds", "1", "--quiet"]].concat()).assert().success().stderr("");
    let text = String::from_utf8_lossy(&assert.get_output().stdout).into_owned();
    assert!(text.contains(&format!("\n! {STEP}, compile: No module named 'torch'")), "{text}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    for (arguments, part) in [
        (["--step", "sinddm"], STEP),
        (["--rounds", "0"], "1..=1000"),
        (["--device", "abacus"], "unknown device"),
        (["--kernel", "fold"], "no kernel has this in its name"),
        (["--peer", "true"], "--peer true: is no Python"),
        (["--peer", nowhere.to_str().unwrap()], "cannot be started"),
    ] {
        let assert = compute(&arguments).assert().code(2).stdout("");
        let told = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
        assert!(told.contains(part), "{told}");
    }
    let assert = compute(&[]).env("LITHOGEN_CPU", "sse9").assert().code(2).stdout("");
    let told = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(told.contains("LITHOGEN_CPU: \"sse9\" is none of portable"), "{told}");
}
