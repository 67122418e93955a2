//! What can be wrong with what a person gives: each is said in words, with the
//! exit code that `lithogen --help` promises.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::harness::program::{Running, attempts, is_root, run, run_in, study, turn};

/// A picture of one by one pixel.
const SPECK: &[u8] = &[
    137, 80, 78, 71, 13, 10, 26, 10, 0, 0, 0, 13, 73, 72, 68, 82, 0, 0, 0, 1, 0, 0, 0, 1, 8, 6, 0, 0, 0, 31, 21, 196,
    137, 0, 0, 0, 13, 73, 68, 65, 84, 120, 218, 99, 100, 248, 207, 80, 15, 0, 3, 134, 1, 128, 90, 52, 125, 107, 0, 0,
    0, 0, 73, 69, 78, 68, 174, 66, 96, 130,
];

/// Drawn pictures to spoil, and a folder for the study.
fn pictures() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (data, state) = (folder.path().join("data"), folder.path().join("state"));
    run(["dataset", "phantom", "--scale", "smoke", "-q", "--out", data.to_str().unwrap()]).is_done();
    (folder, data, state)
}

/// The pictures of a class, in order.
fn class(data: &Path, name: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(data.join("raw").join(name)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn reproduce(data: &Path, state: &Path) -> crate::harness::program::Ended {
    study(state, &format!("--data {}", data.display()))
}

#[test]
fn missing_empty_and_single_picture_classes_are_all_named_at_once() {
    let (_folder, data, state) = pictures();
    std::fs::remove_dir_all(data.join("raw/A/SUR/Va")).unwrap();
    class(&data, "C/SEC/Ia").iter().for_each(|file| std::fs::remove_file(file).unwrap());
    class(&data, "A/SEC/Ia")[1..].iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let refused = reproduce(&data, &state);
    refused.says(4, &["A/SUR/Va: missing", "C/SEC/Ia: holds no pictures", "A/SEC/Ia: holds one picture"]);
    assert_eq!(refused.err.matches("raw/").count(), 3, "{refused}");
}

#[test]
fn data_that_are_no_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    reproduce(&folder.path().join("nowhere"), folder.path()).says(4, &["nowhere is not a folder"]);
}

#[test]
fn a_cut_off_picture_is_named_and_once_mended_the_study_goes_on() {
    let (_folder, data, state) = pictures();
    let file = &class(&data, "A/SUR/Ia")[0];
    let whole = std::fs::read(file).unwrap();
    std::fs::write(file, &whole[..whole.len() / 2]).unwrap();
    let name = format!("Ia/{}", file.file_name().unwrap().to_str().unwrap());
    reproduce(&data, &state).says(5, &["ingest A/SUR", "invalid_input", &name, "run the same command again"]);
    std::fs::write(file, whole).unwrap();
    reproduce(&data, &state).is_done();
}

#[test]
fn a_picture_smaller_than_a_patch_is_named() {
    let (_folder, data, state) = pictures();
    let file = &class(&data, "C/SEC/Ia")[0];
    std::fs::write(file, SPECK).unwrap();
    let name = format!("Ia/{}", file.file_name().unwrap().to_str().unwrap());
    reproduce(&data, &state).says(5, &["ingest C/SEC", &name, "1x1 pixels, but at least 16x16"]);
}

#[test]
fn a_mask_of_another_size_is_named_with_its_picture() {
    let (_folder, data, state) = pictures();
    let name = class(&data, "C/SEC/Ia")[0].file_name().unwrap().to_str().unwrap().to_owned();
    let masks = data.join("masks/C/SEC/Ia");
    std::fs::create_dir_all(&masks).unwrap();
    std::fs::write(masks.join(&name), SPECK).unwrap();
    let message = format!("masks.Ia/{name} has 1x1 pixels and its picture raw.Ia/{name} has 48x36");
    reproduce(&data, &state).says(5, &["ingest C/SEC", &message, "remove the mask"]);
}

#[test]
fn a_class_of_one_stone_and_a_line_about_no_picture_are_named() {
    let (_folder, data, state) = pictures();
    let row = |file: &PathBuf| format!("A,SUR,Va,{},K1\n", file.file_name().unwrap().to_str().unwrap());
    let rows: String = class(&data, "A/SUR/Va").iter().map(row).collect();
    let write =
        |rows: &str| std::fs::write(data.join("manifest.csv"), format!("dataset,view,class,path,stone_id\n{rows}"));
    write(&rows).unwrap();
    let parts = ["ingest A/SUR", "A/SUR/Va (CYS) has", "images of 1 stone(s), and one stone cannot be split"];
    reproduce(&data, &state).says(5, &parts);
    write("A,SUR,Ib,1.png,K1\n").unwrap();
    reproduce(&data, &state).says(4, &["manifest.csv: line 2: class \"Ib\" is none of A, which are IVa, "]);
}

#[test]
fn data_that_cannot_be_used_are_tried_once() {
    let (_folder, data, state) = pictures();
    std::fs::write(&class(&data, "C/SEC/Ia")[0], "no picture at all").unwrap();
    reproduce(&data, &state).says(5, &["ingest C/SEC (invalid_input, attempt 1)"]);
}

#[test]
fn a_knob_that_does_not_exist_is_refused_with_the_nearest() {
    let refused = run(["plan", "--set", "tl.repeets=2"]);
    refused.says(2, &["--set tl.repeets", "did you mean tl.repeats?"]);
}

#[test]
fn a_knob_of_the_wrong_type_is_refused() {
    run(["plan", "--set", "tl.repeats=many"]).says(2, &["--set tl.repeats=many"]);
}

#[test]
fn a_wrong_spec_file_is_refused_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spec.toml");
    let plan = |text: &str| {
        std::fs::write(&path, text).unwrap();
        run(["plan", path.to_str().unwrap()])
    };
    plan("scale = \"smoke\"\n\n[tl]\nrepeats = \"two\"\n").says(2, &["spec.toml:4:11: ", "invalid type"]);
    plan("scale = \"smoke\"\n\n[tl]\nrepeets = 2\n").says(2, &["spec.toml:4:1: ", "did you mean tl.repeats?"]);
    plan("scale = \"huge\"\n").says(2, &["spec.toml:1:9: "]);
}

#[test]
fn a_spec_file_that_is_not_there_is_refused() {
    run(["plan", "nowhere.toml"]).says(2, &["cannot read nowhere.toml"]);
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    // Bound and let go: nobody listens there.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    for verb in ["status", "results", "cancel"] {
        run([verb, "--coordinator", &url]).says(6, &[&format!("no coordinator answers at {url}"), "is it running?"]);
    }
}

#[test]
fn an_address_that_is_no_url_is_refused() {
    for verb in ["status", "worker", "watch"] {
        let refused = run([verb, "--coordinator", "127.0.0.1:7443"]);
        refused.says(2, &["\"127.0.0.1:7443\" is not an address of a coordinator", "http://127.0.0.1:7443"]);
    }
}

#[test]
fn a_second_study_in_a_folder_in_use_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let _turn = turn();
    let mut first = Running::start_in(folder.path(), "reproduce --scale smoke");
    first.hear("ingest A/SUR done");
    let address = || std::fs::read_to_string(folder.path().join("address")).unwrap();
    let before = address();
    let second = run_in(folder.path(), "reproduce --scale smoke");
    second.says(1, &["in use by another coordinator", "--state"]);
    assert_eq!(address(), before, "who asks finds the first");
    first.end().is_done();
    assert_eq!(attempts(folder.path()), 118);
}

#[test]
fn a_second_worker_in_a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // It waits for a coordinator, and holds its folder meanwhile.
    let mut first = Running::start_in(folder.path(), "worker --coordinator http://127.0.0.1:9");
    first.hear("drains");
    crate::harness::eventually("it has its folder", crate::harness::PATIENCE, || folder.path().join("inputs").is_dir());
    run_in(folder.path(), "worker --coordinator http://127.0.0.1:9").says(1, &["in use by another worker"]);
}

#[test]
fn results_where_there_is_no_study_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for verb in ["results", "status", "watch", "cancel"] {
        run_in(folder.path(), verb).says(1, &["there is no study in", "lithogen reproduce"]);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "asking leaves nothing behind");
}

#[test]
fn results_of_a_study_that_has_none_yet_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _turn = turn();
    let mut running = Running::start_in(folder.path(), "reproduce --scale smoke");
    running.hear("ingest A/SUR done");
    run_in(folder.path(), "results").says(1, &["has no results yet", "of 118 tasks are done"]);
}

#[test]
fn an_address_that_others_can_reach_is_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Running::start_in(folder.path(), "coordinator --listen 0.0.0.0:0");
    coordinator.hear("coordinator https://0.0.0.0:");
    run(["worker", "--coordinator", "http://192.0.2.10:7443"]).says(2, &["plaintext is for this machine only"]);
}

#[test]
fn a_damaged_journal_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    study(folder.path(), "").is_done();
    let journal = folder.path().join("journal.sqlite");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes[..32].fill(b'?');
    std::fs::write(&journal, &bytes).unwrap();
    for words in ["reproduce --scale smoke", "results", "coordinator --listen 127.0.0.1:0"] {
        run_in(folder.path(), words).says(1, &["journal", "not a database"]);
        assert!(std::fs::read(&journal).unwrap() == bytes, "{words} changed the journal");
    }
}

/// In a mount namespace of its own, so that the disk is gone with the process.
#[test]
#[cfg_attr(not(small_disk), ignore = "needs LITHOGEN_TEST_SMALL_DISK: may mount a small file system")]
fn a_full_disk_is_said_and_with_more_room_the_study_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        mount -t tmpfs -o size=6m none "$1" || exit 99
        "$2" reproduce --scale smoke --state "$1/state" 2>&1
        echo "first: $?"
        mount -o remount,size=200m "$1" || exit 99
        "$2" reproduce --scale smoke --state "$1/state" 2>&1
        echo "second: $?"
    "#;
    let _turn = turn();
    let user: &[&str] = if is_root() { &[] } else { &["--user", "--map-root-user"] };
    let output = std::process::Command::new("unshare")
        .args(user)
        .args(["--mount", "sh", "-c", script, "sh"])
        .args([folder.path(), &crate::harness::program::real()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let (first, second) = said.split_once("first: 1\n").unwrap_or_else(|| panic!("no exit code 1 at first: {said}"));
    assert!(first.contains("disk is full") || first.contains("No space left"), "{first}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(second.trim_end().ends_with("second: 0"), "{second}");
}
