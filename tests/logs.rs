//! What a program that serves says where logs are collected.

use crate::harness::program::{Running, run_in};

/// Every line that was said, as JSON with what every line has.
fn lines(said: &str) -> Vec<serde_json::Value> {
    let read = |line: &str| {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?} in:\n{said}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line[key].is_string(), "{key} is not in {line}");
        }
        line
    };
    said.lines().map(read).collect()
}

fn has(lines: &[serde_json::Value], level: &str, words: &str) {
    let is_it = |line: &serde_json::Value| line["level"] == level && line["message"].as_str().unwrap().contains(words);
    assert!(lines.iter().any(is_it), "{level} {words:?} is not among {lines:#?}");
}

#[test]
fn all_that_a_coordinator_says_is_json_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let serves = "coordinator --listen 127.0.0.1:0 --http 127.0.0.1:0 --log-format json";
    let mut running = Running::start_in(folder.path(), &format!("{serves} -vv"));
    running.hear("/healthz and /readyz");
    let ended = run_in(folder.path(), serves);
    ended.says(1, &["in use"]);
    has(&lines(&ended.err), "ERROR", "in use");
    running.signal("INT");
    let ended = running.end();
    ended.is_done();
    let said = lines(&ended.err);
    has(&said, "INFO", "coordinator http://127.0.0.1:");
    assert!(said.iter().any(|line| line["target"] != "lithogen::note"), "no logs are among {said:#?}");
}

#[test]
fn notes_are_not_filtered_with_the_logs() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let words = ["coordinator", "--listen", "127.0.0.1:0", "--log-format", "json", "--state", state];
    let mut running = Running::start_with(words, &[("LITHOGEN_LOG", "off")]);
    running.hear("^C ends it");
    running.signal("INT");
    assert_eq!(lines(&running.end().err).len(), 1);
}

#[test]
fn all_that_a_worker_says_is_json_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let works = "worker --coordinator http://127.0.0.1:9 --log-format json -vv";
    let mut running = Running::start_in(folder.path(), works);
    running.hear("no session");
    running.signal("INT");
    let ended = running.end();
    ended.is_done();
    let said = lines(&ended.err);
    has(&said, "INFO", "coordinator http://127.0.0.1:9 ");
    has(&said, "DEBUG", "no session");
    assert!(said.iter().any(|line| line["reason"].is_string()), "{said:#?}");
    has(&said, "INFO", "draining");
}
