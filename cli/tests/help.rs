//! What the program says of itself: help, completions, plans and specs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeSet;

use assert_cmd::Command;
use serde_json::Value;

/// Runs `lithogen`, which has to succeed, and returns what it prints.
fn lithogen(arguments: &[&str]) -> String {
    let assert = Command::cargo_bin("lithogen").unwrap().args(arguments).assert().success();
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

fn has_all(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[test]
fn help_lists_the_verbs_and_the_exit_codes() {
    let help = lithogen(&["--help"]);
    let verbs = ["plan", "coordinator", "submit", "watch", "cancel", "status", "results", "config", "completions"];
    for verb in verbs {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb}:\n{help}");
    }
    has_all(&help, &["0 done", "1 error", "2 usage", "4 data", "5 ended", "6 coordinator", "7 versions", "130 inter"]);
}

#[cfg(feature = "worker")]
#[test]
fn help_lists_the_verbs_that_need_the_worker_half() {
    let help = lithogen(&["--help"]);
    for verb in ["reproduce", "worker", "dataset"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb}:\n{help}");
    }
    assert!(!help.contains("  attempt"), "only workers start attempts:\n{help}");
}

#[test]
fn completions_are_a_script_for_the_shell() {
    has_all(&lithogen(&["completions", "bash"]), &["_lithogen()", "complete -F _lithogen", "coordinator", "--scale"]);
}

#[test]
fn the_plan_of_the_paper_counts_as_the_paper_does() {
    let plan = lithogen(&["plan", "--scale", "paper", "--measure", "never"]);
    has_all(
        &plan,
        &[
            "12 diffusion trainings of 120 001 steps",
            "300 synthetic pictures",
            "36 000 patches",
            "9 trainings × 2 views",
        ],
    );
}

#[test]
fn a_plan_as_json_names_each_task_once() {
    let plan: Value = serde_json::from_str(&lithogen(&["plan", "--scale", "smoke", "--json"])).unwrap();
    assert_eq!(plan["schema_version"], 1);
    let tasks = plan["tasks"].as_array().unwrap();
    let keys: BTreeSet<&str> = tasks.iter().map(|task| task["key"].as_str().unwrap()).collect();
    assert_eq!((tasks.len(), keys.len()), (118, 118));
    let needs = tasks.iter().flat_map(|task| task["needs"].as_array().unwrap());
    assert!(needs.map(|need| need.as_str().unwrap()).all(|need| keys.contains(need)));
}

#[test]
fn a_plan_as_json_says_how_long_it_takes_and_by_what() {
    let plan: Value = serde_json::from_str(&lithogen(&["plan", "--scale", "smoke", "--json"])).unwrap();
    let estimate = &plan["estimate"];
    assert_eq!(estimate["source"], "assumed");
    let number = |name: &str| estimate[name].as_f64().unwrap();
    assert!(0.0 < number("low") && number("low") < number("seconds") && number("seconds") < number("high"));
    assert!(number("slots") >= 1.0);
    let stages = estimate["stages"].as_array().unwrap();
    let training = stages.iter().find(|of_stage| of_stage["stage"] == "sinddm.train").unwrap();
    assert_eq!(training["basis"], "assumed");
    let in_slots: f64 = stages.iter().map(|of_stage| of_stage["seconds"].as_f64().unwrap()).sum();
    assert!(in_slots >= number("seconds"), "{in_slots}: {estimate}");
}

#[test]
fn a_coordinator_that_is_away_does_not_keep_people_from_planning() {
    // Bound and let go: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    let arguments = ["plan", "--scale", "smoke", "--measure", "never", "--coordinator", &url];
    let planned = Command::cargo_bin("lithogen").unwrap().args(arguments).assert().success();
    let [out, err] =
        [&planned.get_output().stdout, &planned.get_output().stderr].map(|text| String::from_utf8_lossy(text));
    assert!(err.contains(&format!("no coordinator at {url} tells how long tasks took")), "{err}");
    assert!(out.contains("assumed, not measured"), "{out}");
}

#[cfg(feature = "worker")]
#[test]
fn a_plan_for_people_is_measured_here_unless_they_say_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let plan = lithogen(&["plan", "--scale", "smoke", "--state", state]);
    assert!(plan.lines().any(|line| line.starts_with("cost ") && line.contains("; measured here in ")), "{plan}");
    assert!(
        lithogen(&["plan", "--scale", "smoke", "--state", state, "--measure", "never"])
            .contains("; assumed, not measured)")
    );
}

#[test]
fn a_printed_spec_is_a_spec_that_prints_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for scale in ["smoke", "tiny", "small", "paper"] {
        let shown = lithogen(&["config", "show", "--scale", scale]);
        let path = folder.path().join(format!("{scale}.toml"));
        std::fs::write(&path, &shown).unwrap();
        assert_eq!(lithogen(&["config", "show", path.to_str().unwrap()]), shown);
        assert!(shown.contains(&format!("scale = \"{scale}\"")), "{shown}");
    }
}

#[test]
fn a_knob_that_is_set_shows_in_the_spec() {
    has_all(&lithogen(&["config", "show", "--set", "tl.repeats=4"]), &["repeats = 4"]);
}

/// A reader that has had enough (`lithogen … | head`) is no reason to complain.
#[test]
fn a_closed_pipe_ends_the_program_in_silence() {
    use std::io::Read;
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_lithogen"))
        .args(["plan", "--scale", "paper", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The document is longer than what a pipe holds, so it is cut off while it is written.
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
