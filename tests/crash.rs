//! Whatever ends the program, the same command goes on from there, and what comes
//! out is what an undisturbed run gives.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

use crate::harness::program::{Running, attempts, changes, processes_about, results, run_in, study, turn};
use crate::harness::{PATIENCE, eventually};

/// The results of a run that nobody disturbs.
fn undisturbed() -> &'static str {
    static RESULTS: OnceLock<String> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        study(folder.path(), "").is_done();
        results(folder.path())
    })
}

/// Kills a study without warning once it has said something; the same command
/// then has to finish it.
fn killed_when_it_says(words: &str) {
    let expected = undisturbed();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let _turn = turn();
    let mut running = Running::start_in(state, "reproduce --scale smoke");
    running.hear(words);
    running.signal("KILL");
    let killed = running.end();
    assert_eq!(killed.code, None, "{killed}");
    nothing_is_left(state);
    let finished = run_in(state, "reproduce --scale smoke");
    finished.is_done();
    assert_eq!(results(state), expected);
    nothing_is_left(state);
}

fn nothing_is_left(state: &Path) {
    eventually("no process is left", PATIENCE, || processes_about(state).is_empty());
}

#[test]
fn a_study_killed_while_it_draws_its_pictures_can_be_finished() {
    killed_when_it_says("drawing stand-ins");
}

#[test]
fn a_study_killed_after_its_first_result_can_be_finished() {
    killed_when_it_says("ingest A/SUR done");
}

#[test]
fn a_study_killed_while_it_trains_generators_can_be_finished() {
    killed_when_it_says("sinddm.train SEC/");
}

#[test]
fn a_study_killed_while_it_trains_classifiers_can_be_finished() {
    killed_when_it_says("classify.train SEC");
}

#[test]
fn what_was_done_before_a_kill_is_not_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let _turn = turn();
    let mut running = Running::start_in(folder.path(), "reproduce --scale smoke --workers 1 --slots 1");
    running.hear("patches ");
    running.signal("KILL");
    running.end();
    run_in(folder.path(), "reproduce --scale smoke").is_done();
    let in_vain = attempts(folder.path()) - 118;
    assert!(in_vain <= 1, "the one slot had one attempt under way, and {in_vain} ran twice");
}

#[test]
fn an_interrupted_study_drains_and_says_how_to_go_on() {
    let expected = undisturbed();
    let folder = tempfile::tempdir().unwrap();
    let _turn = turn();
    let mut running = Running::start_in(folder.path(), "reproduce --scale smoke");
    running.hear("ingest A/SUR done");
    running.signal("INT");
    let interrupted = running.end();
    interrupted.says(130, &["draining", "tasks done; the same command goes on from there"]);
    assert!(!interrupted.err.contains("118 of 118"), "{interrupted}");
    nothing_is_left(folder.path());
    run_in(folder.path(), "reproduce --scale smoke").is_done();
    assert_eq!(results(folder.path()), expected);
    let changes = changes(folder.path());
    let is_cut_off = |change: &&Value| !["running", "succeeded"].contains(&change["state"].as_str().unwrap());
    for cut_off in changes.iter().filter(is_cut_off) {
        // What leaves checkpoints is handed back, and goes on from one.
        let label = cut_off["label"].as_str().unwrap();
        assert!(
            cut_off["state"] == "preempted" && (label.contains("train") || label.contains("sample")),
            "what was drained ran again: {cut_off}"
        );
    }
    assert_eq!(changes.iter().filter(|change| change["state"] == "succeeded").count(), 118);
}
