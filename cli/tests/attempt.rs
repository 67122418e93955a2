//! `lithogen attempt` as a worker uses it: orders, lines and files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use domain::study::experiment::Sinddm;
use serde_json::{Value, json};

const LITHOGEN: &str = env!("CARGO_BIN_EXE_lithogen");

/// The folder of an attempt at training a small generator on the pictures.
fn attempt(folder: PathBuf, pictures: &Path, checkpoint: Value) -> PathBuf {
    let sinddm = Sinddm {
        finest: [21, 16].into(),
        coarsest: Some(11),
        dim: 8,
        batch: 4,
        steps: 200,
        timesteps: 20,
        ..Sinddm::default()
    };
    let order = json!({ "stage": { "stage": "sinddm.train", "sinddm": sinddm }, "seed": 7, "checkpoint": checkpoint });
    let images = folder.join("inputs/pad/images");
    fs::create_dir_all(&images).unwrap();
    for picture in fs::read_dir(pictures).unwrap().map(Result::unwrap) {
        fs::copy(picture.path(), images.join(picture.file_name())).unwrap();
    }
    fs::write(folder.join("order.json"), order.to_string()).unwrap();
    folder
}

fn start(folder: &Path) -> Child {
    let mut command = Command::new(LITHOGEN);
    command.arg("attempt").arg(folder).env_remove("LITHOGEN_DEVICE");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Lets it come to its end, which has to be good, and gives its log.
fn finish(folder: &Path) -> String {
    let mut child = start(folder);
    let open = child.stdin.take(); // a closed input would end it
    let ended = child.wait_with_output().unwrap();
    drop(open);
    let log = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{log}");
    log
}

fn outputs(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder.join("outputs")).unwrap().map(|file| file.unwrap().path());
    files.map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap())).collect()
}

#[test]
fn an_attempt_that_is_told_to_stop_is_finished_by_another_as_if_nothing_had_happened() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    let drawn = Command::new(LITHOGEN).args(["dataset", "phantom", "--scale", "smoke", "--out"]).arg(&data).output();
    assert!(drawn.unwrap().status.success());
    let pictures = data.join("raw/A/SUR/Ia");

    let alone = attempt(root.path().join("alone"), &pictures, json!({}));
    finish(&alone);
    assert!(!alone.join("checkpoints").exists());

    let stopped = attempt(root.path().join("stopped"), &pictures, json!({ "every_steps": 20 }));
    let mut child = start(&stopped);
    let mut announced: Vec<u64> = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let Some(step) = line["checkpoint"].as_u64() else { continue };
        assert!(stopped.join(format!("checkpoints/{step}/checkpoint.json")).is_file());
        if announced.is_empty() {
            writeln!(child.stdin.as_mut().unwrap(), "stop").unwrap();
        }
        announced.push(step);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let failure: Value = serde_json::from_slice(&fs::read(stopped.join("failure.json")).unwrap()).unwrap();
    assert_eq!(failure["code"], "preempted");
    assert_eq!(announced[0], 20);
    let last = *announced.last().unwrap();

    let resumed = attempt(root.path().join("resumed"), &pictures, json!({}));
    fs::rename(stopped.join(format!("checkpoints/{last}")), resumed.join("checkpoint")).unwrap();
    let log = finish(&resumed);
    assert!(log.contains(&format!("going on from the checkpoint of step {last}")), "{log}");
    assert!(outputs(&resumed) == outputs(&alone));
}
