//! `lithogen model`: the way of a model to the published code and back, and
//! samples held to a picture.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use domain::study::experiment::Sinddm;
use serde_json::json;

fn lithogen(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lithogen"));
    command.args(arguments).current_dir(folder).env_remove("LITHOGEN_DEVICE");
    // An attempt ends when its input does: it is to stay open.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let open = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(open);
    output
}

fn succeeds(arguments: &[&str], folder: &Path) -> String {
    let output = lithogen(arguments, folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Trains a small model, in `a/outputs`.
fn train(root: &Path) {
    succeeds(&["dataset", "phantom", "--scale", "smoke", "--out", "data"], root);
    let images = root.join("a/inputs/pad/images");
    fs::create_dir_all(&images).unwrap();
    for picture in fs::read_dir(root.join("data/raw/A/SUR/Ia")).unwrap().map(Result::unwrap) {
        fs::copy(picture.path(), images.join(picture.file_name())).unwrap();
    }
    let sinddm = Sinddm {
        finest: [42, 32].into(),
        coarsest: Some(22),
        dim: 8,
        batch: 4,
        steps: 20,
        timesteps: 20,
        ..Sinddm::default()
    };
    let order = json!({ "stage": { "stage": "sinddm.train", "sinddm": sinddm }, "seed": 7, "checkpoint": {} });
    fs::write(root.join("a/order.json"), order.to_string()).unwrap();
    succeeds(&["attempt", "a"], root);
}

#[test]
fn models_go_to_the_published_code_and_back_and_sample_as_they_are_asked() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    train(root);
    succeeds(&["model", "export", "a/outputs", "--out", "m.pt"], root);
    let told = succeeds(&["model", "import", "m.pt", "--finest", "42x32", "--coarsest", "22", "--out", "m"], root);
    assert!(told.contains("2 scales"), "{told}");

    let sample = |model: &str, out: &str, more: &[&str]| {
        succeeds(&[&["model", "sample", model, "--out", out], more].concat(), root);
        let size = image_size(&root.join(out).join("000.png"));
        (fs::read(root.join(out).join("000.png")).unwrap(), size)
    };
    let free = sample("a/outputs", "free", &[]);
    assert_eq!(free.1, [42, 32]);
    assert!(sample("m", "again", &[]) == free, "the imported model samples as the one that was exported");
    assert!(sample("m", "seed", &["--seed", "1"]) != free);
    assert_eq!(sample("m", "wide", &["--scale-mul", "1", "2"]).1, [84, 32]);
    let start = ["--start", "free/000.png", "--scale", "1", "--time", "3"];
    let started = sample("m", "start", &start);
    assert!(started != free);
    assert!(sample("m", "colors", &[&start[..], &["--colors-of", "seed/000.png"]].concat()) != started);
    let whole = sample("m", "region", &["--region", "seed/000.png@0.25,0.25,0.5,0.5"]);
    assert!(whole != free);
    let part = sample("m", "part", &["--region", "seed/000.png@0,0,0.5,0.5@0.25,0.25,0.5,0.5"]);
    assert!(part != free && part != whole);
    let wrong = lithogen(&["model", "sample", "m", "--out", "s", "--region", "x.png@0,0,1"], root);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("PICTURE[@PART]@PLACE"));
    fs::write(root.join("black.png"), include_bytes!("fixtures/black.png")).unwrap();
    // A mask that frees nothing gives the starting picture back.
    let black = sample("m", "mask", &[&start[..], &["--mask", "black.png"]].concat());
    assert!(black == free);
}

/// Width and height in the header of a PNG file.
fn image_size(path: &Path) -> [u32; 2] {
    let bytes = fs::read(path).unwrap();
    [16, 20].map(|at| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()))
}

#[test]
fn what_does_not_fit_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::write(root.join("x.pt"), "nonsense").unwrap();
    for (arguments, code, part) in [
        (&["model", "import", "x.pt", "--finest", "42x32", "--out", "m"][..], 4, "x.pt"),
        (&["model", "import", "x.pt", "--finest", "42", "--out", "m"], 2, "such as 264x200"),
        (&["model", "export", "nowhere", "--out", "x.pt"], 4, "nowhere"),
        (&["model", "sample", "nowhere", "--out", "s", "--time", "3"], 2, "--start"),
        (&["model", "sample", "nowhere", "--out", "s", "--device", "abacus"], 2, "abacus"),
    ] {
        let output = lithogen(arguments, root);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(part), "{told}");
    }
}
