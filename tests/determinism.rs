//! A seed determines a study to the last byte, whoever computes it.

use serde_json::Value;

use crate::harness::program::{attempts, results, study};

#[test]
fn the_number_of_workers_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    study(&one, "").is_done();
    study(&other, "--workers 2 --slots 1").is_done();
    assert_eq!(results(&one), results(&other));
    for file in ["index.html", "table.csv", "scores.csv", "claims.csv", "table.md", "table.tex", "results.json"] {
        let read = |state: &std::path::Path| std::fs::read(state.join("report").join(file)).unwrap();
        assert!(read(&one) == read(&other), "report/{file} differs");
    }
    assert_eq!(results(&one).trim_end(), std::fs::read_to_string(one.join("report/results.json")).unwrap().trim_end());
}

#[test]
fn another_seed_gives_other_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let means = |seed: u32| -> Vec<Value> {
        let state = folder.path().join(seed.to_string());
        study(&state, &format!("--set seed={seed}")).is_done();
        let results: Value = serde_json::from_str(&results(&state)).unwrap();
        results["cells"].as_array().unwrap().iter().map(|cell| cell["mean"].clone()).collect()
    };
    assert_ne!(means(7), means(8));
}

#[test]
fn a_finished_study_is_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = study(folder.path(), "");
    first.is_done();
    let before = attempts(folder.path());
    assert_eq!(before, 118);
    let again = study(folder.path(), "");
    again.says(0, &["118 cached · nothing to run"]);
    assert_eq!(attempts(folder.path()), before);
    assert_eq!(again.out, first.out);
}

/// Only what depends on the knob runs; the first steps of the study are shared.
#[test]
fn a_study_that_differs_in_one_knob_shares_what_the_knob_leaves_alone() {
    let folder = tempfile::tempdir().unwrap();
    study(folder.path(), "").is_done();
    let other = study(folder.path(), "--set drift.threshold=0.3");
    other.is_done();
    // The results and the report: what drifts is measured without a threshold.
    assert!(other.err.contains("116 cached"), "{other}");
}
