//! `lithogen dataset check` and `patches`, as a person runs them on folders that have
//! something wrong, and on good ones.

#![cfg(feature = "worker")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use image::{GrayImage, Luma, RgbImage};
use serde_json::Value;

fn lithogen(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lithogen")).args(arguments).current_dir(folder).output().unwrap()
}

fn check(folder: &Path) -> (Option<i32>, Value) {
    let output = lithogen(&["dataset", "check", "stones", "--scale", "smoke", "--json"], folder);
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap())
}

/// The texts of the findings of one severity.
fn findings(checkup: &Value, severity: &str) -> Vec<String> {
    let all = checkup["findings"].as_array().unwrap().iter();
    let of_it = all.filter(|finding| finding["severity"] == severity);
    of_it.map(|finding| finding["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn good_data_pass_whatever_their_folders_are_called_and_every_fault_is_named() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    assert!(lithogen(&["dataset", "phantom", "--out", "stones", "--scale", "smoke"], root).status.success());
    let views = |dataset: &str, view: &str| root.join("stones/raw").join(dataset).join(view);
    fs::rename(views("A", "SUR").join("Ia"), views("A", "SUR").join("SUR-Subtype_Ia")).unwrap();
    fs::rename(views("C", "SEC").join("IIIa"), views("C", "SEC").join("uric acid")).unwrap();

    let (code, checkup) = check(root);
    assert_eq!((code, findings(&checkup, "blocking")), (Some(0), vec![]), "{checkup}");
    assert_eq!(checkup["classes"].as_array().unwrap().len(), 24);
    assert!(checkup["classes"].as_array().unwrap().iter().all(|class| class["tested"][0].as_u64() > Some(0)));
    assert!(findings(&checkup, "note").iter().any(|text| text.contains("stand-in data")));
    assert!(findings(&checkup, "warning").iter().any(|text| text.starts_with("C/SEC/IVd (BRU) has 4 pictures")));
    let five = ["dataset", "check", "stones", "--scale", "smoke", "--set", "tl.folds=5", "--json"];
    let checkup: Value = serde_json::from_slice(&lithogen(&five, root).stdout).unwrap();
    let untested = "C/SEC/IVd (BRU) has 4 pictures, of which 4 may be tested, fewer than there are folds: in 1 of 5 splits it is not tested";
    assert!(findings(&checkup, "warning").iter().any(|text| text.starts_with(untested)), "{checkup}");
    let brushite = checkup["classes"].as_array().unwrap().iter().find(|class| class["class"] == "IVd").unwrap();
    assert_eq!(brushite["tested"].as_array().unwrap().len(), 5);
    let planned = lithogen(&["plan", "--scale", "smoke", "--data", "stones", "--measure", "never"], root);
    assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));

    let pictures = |folder: &Path| {
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    let [struvite, brushite, cystine] = ["IVc", "IVd", "Va"].map(|class| pictures(&views("A", "SEC").join(class)));
    // The same file under two labels, and one that is cut off.
    fs::copy(&struvite[0], views("A", "SEC").join("IVd/copy.png")).unwrap();
    let bytes = fs::read(&brushite[0]).unwrap();
    fs::write(&brushite[0], &bytes[..bytes.len() / 2]).unwrap();
    // A smaller picture of a stone that is there already.
    let smaller = image::open(&cystine[0]).unwrap().into_rgb8();
    let (width, height) = smaller.dimensions();
    let smaller = image::imageops::thumbnail(&smaller, width * 3 / 4, height * 3 / 4);
    smaller.save(views("A", "SEC").join("Va/z.png")).unwrap();
    RgbImage::new(9, 9).save(views("A", "SUR").join("IVc/tiny.png")).unwrap();
    fs::create_dir(views("A", "SUR").join("IIIa")).unwrap();
    fs::create_dir(views("C", "SUR").join("WW")).unwrap();
    fs::remove_dir_all(views("C", "SEC").join("IVd")).unwrap();
    let masks = root.join("stones/masks/A/SEC/Va");
    fs::create_dir_all(&masks).unwrap();
    GrayImage::from_pixel(width, height, Luma([255])).save(masks.join(cystine[0].file_name().unwrap())).unwrap();
    GrayImage::new(3, 3).save(masks.join(cystine[1].file_name().unwrap())).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let manifest =
        format!("dataset,view,class,path,stone_id\nA,SEC,Va,{},K1\nA,SEC,Va,nowhere.png,K1\n", name(&cystine[2]));
    fs::write(root.join("stones/manifest.csv"), manifest).unwrap();

    let (code, checkup) = check(root);
    let blocking = findings(&checkup, "blocking");
    assert_eq!(code, Some(4), "{checkup}");
    for part in [
        "copy.png are the same file",
        "is truncated or damaged",
        "tiny.png has 9x9 pixels",
        "IIIa: no class of A",
        "both are of class Ia",
        "IVd: missing",
        "has 3x3 pixels and its picture",
        "manifest.csv: line 3: there is no picture \"nowhere.png\" in A/SEC/Va",
    ] {
        assert!(blocking.iter().any(|text| text.contains(part)), "{part}: {blocking:#?}");
    }
    let alike = findings(&checkup, "warning");
    assert!(alike.iter().any(|text| text.contains("z.png look alike")), "{alike:#?}");
    let class = checkup["classes"].as_array().unwrap().iter().find(|class| class["masks"] == 1).unwrap();
    assert_eq!((class["dataset"].as_str(), class["class"].as_str()), (Some("A"), Some("Va")));
    let refused = lithogen(&["plan", "--scale", "smoke", "--data", "stones", "--measure", "never"], root);
    assert_eq!(refused.status.code(), Some(4));
}

#[test]
fn masks_and_stones_are_found_and_go_into_the_plan() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    assert!(lithogen(&["dataset", "phantom", "--out", "stones", "--scale", "smoke"], root).status.success());
    let keys = || {
        let output = lithogen(&["plan", "--scale", "smoke", "--data", "stones", "--json"], root);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        let tasks = plan["tasks"].as_array().unwrap().iter();
        let label = |task: &Value| format!("{} {}", task["stage"], task["subject"]).replace('"', "");
        tasks.map(|task| (label(task), task["key"].clone())).collect::<BTreeMap<_, _>>()
    };
    let before = keys();

    // Two pictures of each stone of one class; a mask of one picture of another.
    let class = root.join("stones/raw/A/SUR/Ia");
    let mut names: Vec<_> = fs::read_dir(&class).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let rows = names.iter().enumerate().map(|(i, name)| format!("A;SUR;WW;{};P{}\n", name.to_str().unwrap(), i / 2));
    let header = "dataset;view;class;path;patient_or_stone_id\n".to_owned();
    fs::write(root.join("stones/manifest.csv"), header + &rows.collect::<String>()).unwrap();
    let other = root.join("stones/raw/A/SEC/IVa");
    let picture = fs::read_dir(&other).unwrap().next().unwrap().unwrap().path();
    let (width, height) = image::image_dimensions(&picture).unwrap();
    fs::create_dir_all(root.join("stones/masks/A/SEC/IVa")).unwrap();
    let mask = root.join("stones/masks/A/SEC/IVa").join(picture.file_name().unwrap());
    GrayImage::from_pixel(width, height, Luma([255])).save(mask).unwrap();

    let (code, checkup) = check(root);
    assert_eq!(code, Some(0), "{checkup}");
    let stones = names.len().div_ceil(2);
    let note = format!("manifest.csv names {stones} stones of {} pictures", names.len());
    assert!(findings(&checkup, "note").iter().any(|text| text.starts_with(&note)), "{checkup}");
    assert!(findings(&checkup, "warning").iter().any(|text| text.contains("names no stone of")), "{checkup}");
    let of =
        |field: &str| checkup["classes"].as_array().unwrap().iter().filter_map(|class| class[field].as_u64()).sum();
    let (all_stones, masks): (u64, u64) = (of("stones"), of("masks"));
    assert_eq!((all_stones, masks), (stones as u64, 1));
    let after = keys();
    for (label, same) in
        [("ingest A/SUR", false), ("ingest A/SEC", false), ("ingest C/SUR", true), ("ingest C/SEC", true)]
    {
        assert_eq!(before[label] == after[label], same, "{label}");
    }
}

#[test]
fn patches_can_be_looked_at_without_a_study() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    assert!(lithogen(&["dataset", "phantom", "--out", "stones", "--scale", "smoke"], root).status.success());
    let patches = |more: &[&str]| {
        let always = ["dataset", "patches", "stones", "--scale", "smoke", "--preview", "look"];
        lithogen(&[&always, more].concat(), root)
    };
    let output = patches(&["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let preview: Value = serde_json::from_slice(&output.stdout).unwrap();
    let views = preview["views"].as_array().unwrap();
    assert_eq!(views.len(), 4);
    let rows = fs::read_to_string(root.join("look/patches.csv")).unwrap();
    assert!(rows.starts_with("dataset,view,side,class,image_id,file,x,y,coverage,stride\n"));
    // 20 patches of each of 24 classes, and the line of names.
    assert_eq!(rows.lines().count(), 1 + 24 * 20);
    for view in views {
        assert!(
            view["classes"].as_array().unwrap().iter().all(|class| class["train"][1] == 16 && class["test"][1] == 4)
        );
        for sheet in ["sheet", "windows"] {
            let (width, height) = image::image_dimensions(root.join(view[sheet].as_str().unwrap())).unwrap();
            assert!(width > 12 * 16 && height > 6 * 16);
        }
    }
    assert_eq!(fs::read_dir(root.join("look")).unwrap().count(), 4 * 2 + 1, "nothing else is left");
    // The same places as in the study: a seed decides them.
    assert!(patches(&[]).status.success());
    assert_eq!(fs::read_to_string(root.join("look/patches.csv")).unwrap(), rows);
    assert!(patches(&["--set", "patch.split_seed=9"]).status.success());
    assert_ne!(fs::read_to_string(root.join("look/patches.csv")).unwrap(), rows);

    // What is wrong is said of all views at once, as the study would say it.
    let pictures = |place: &str| {
        let mut files: Vec<_> =
            fs::read_dir(root.join("stones/raw").join(place)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    for stone in pictures("A/SUR/Va") {
        let (width, height) = image::image_dimensions(&stone).unwrap();
        let name = stone.file_stem().unwrap().to_str().unwrap().as_bytes().last().copied().unwrap();
        // Of each something else, or they would be the same file.
        RgbImage::from_pixel(width, height, image::Rgb([name, 9, 9])).save(&stone).unwrap();
    }
    fs::write(&pictures("C/SEC/Ia")[0], "no picture").unwrap();
    let refused = patches(&[]);
    assert_eq!(refused.status.code(), Some(4));
    let said = String::from_utf8_lossy(&refused.stderr);
    for part in ["A/SUR/Va: no place of 16x16 pixels shows stone", "is neither a PNG nor a JPEG file"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    fs::remove_dir_all(root.join("stones/raw/A/SEC/Ia")).unwrap();
    fs::create_dir(root.join("stones/raw/A/SEC/Ix")).unwrap();
    let refused = patches(&[]);
    assert_eq!(refused.status.code(), Some(4));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Ix: no class of A; it has IVa, IVa2") && said.contains("Ia: missing"), "{said}");
}
