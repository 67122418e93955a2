use std::fs;
use std::path::Path;

use domain::seed::Seed;
use domain::study::stage::{Folder, Stage, Unwatched, milestone_path};
use domain::study::stone::{Dataset, View};
use domain::study::system::{Model, System};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::data::picture::open_rgb8;

/// A blot of light: something to look at.
fn picture(tint: [f32; 3]) -> RgbImage {
    RgbImage::from_fn(264, 200, |x, y| {
        let (dx, dy) = ((x as f32 - 132.0) / 90.0, (y as f32 - 100.0) / 70.0);
        let light = (1.0 - dx * dx - dy * dy).max(0.0).sqrt();
        Rgb(tint.map(|channel| (channel * light) as u8))
    })
}

/// A study as its other stages have left it.
fn study() -> TempDir {
    let root = TempDir::new().unwrap();
    let folder = Folder::new(root.path());
    let results = include_bytes!("../../../../domain/src/study/results/example.json");
    files::write_bytes(&folder.inputs().join("results").join("results.json"), results).unwrap();
    let save = |path: &Path, tint| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture(tint).save(path).unwrap();
    };
    for view in View::ALL {
        for (index, (map, _)) in pictures::MAPS.into_iter().enumerate() {
            let tint = [220.0 - 90.0 * index as f32; 3];
            save(
                &folder.input(InputName::HeatmapOf(System::Sinddm, Model::View(view))).join(format!("{map}.png")),
                tint,
            );
        }
        for (index, class) in Dataset::A.classes().into_iter().enumerate() {
            let tint = [200.0, 120.0 + 20.0 * index as f32, 40.0 * index as f32];
            save(
                &folder.input(InputName::SamplesOf(System::Sinddm, Model::Class(view, class))).join("sheet.png"),
                tint,
            );
            let model = folder.input(InputName::MilestonesOf(Model::Class(view, class)));
            for step in [200, 600] {
                save(&model.join(milestone_path(step)), tint);
            }
            let record = serde_json::json!({
                "sinddm": { "finest": [40, 40], "steps": 1000, "milestones": [200, 600, 1000] }, "sizes": [[40, 40]],
                "scale_factor": 1.4, "rescale_losses": [], "sampling_steps": [100], "parameters": 1,
                "final_loss": 0.5, "determinism": "bitwise",
            });
            files::write(&model.join("training.json"), &record).unwrap();
        }
    }
    root
}

fn report(root: &Path) -> String {
    let folder = Folder::new(root);
    let device = burn::tensor::Device::flex();
    let attempt = Attempt { seed: Seed(7), folder: &folder, monitor: &mut Unwatched, device: &device, memory: 0 };
    crate::run(&Stage::Report, attempt).unwrap();
    fs::read_to_string(folder.output("index.html")).unwrap()
}

/// Every path that the page loads or links to.
fn links(html: &str) -> Vec<&str> {
    let after = |mark| html.split(mark).skip(1).filter_map(|rest: &str| rest.split('"').next());
    after("src=\"").chain(after("href=\"")).filter(|path| !path.starts_with('#')).collect()
}

#[test]
fn the_page_loads_only_what_is_beside_it() {
    let root = study();
    let html = report(root.path());
    // LITHOGEN_KEEP_REPORT=FOLDER keeps the page for people to look at.
    if let Ok(keep) = std::env::var("LITHOGEN_KEEP_REPORT") {
        let from = root.path().join("outputs");
        for path in links(&html).into_iter().chain(["index.html"]) {
            pictures::copy(&from.join(path), &Path::new(&keep).join(path)).unwrap();
        }
    }
    let links = links(&html);
    assert_eq!(links.len(), 6 + 2 * (3 + 6 + 6));
    for path in links {
        assert!(root.path().join("outputs").join(path).is_file(), "{path}");
    }
}

#[test]
fn milestones_are_shown_one_above_the_other() {
    let root = study();
    assert!(report(root.path()).contains("rows from the top: after 200, 600 steps"));
    let sheet = open_rgb8(&root.path().join("outputs/pictures/milestones-SUR-IVa.png")).unwrap().image;
    assert_eq!(sheet.dimensions(), (264, 2 * 200));
}

#[test]
fn pictures_that_a_study_did_not_leave_are_absent() {
    let root = study();
    fs::remove_dir_all(root.path().join("inputs/heatmap.SUR")).unwrap();
    fs::remove_dir_all(root.path().join("inputs/milestones.SEC.IVa")).unwrap();
    assert_eq!(links(&report(root.path())).len(), 6 + 2 * (3 + 6 + 6) - 3 - 1);
}

#[test]
fn results_are_passed_on_byte_for_byte() {
    let root = study();
    report(root.path());
    let from = fs::read(root.path().join("inputs/results/results.json")).unwrap();
    assert_eq!(from, fs::read(root.path().join("outputs/results.json")).unwrap());
}

#[test]
fn the_same_results_give_the_same_page() {
    let root = study();
    assert_eq!(report(root.path()), report(root.path()));
}
