use domain::study::records::{ImageRef, PatchesRecord};

use super::*;

/// A study planned at the smallest size, with what its records say of pictures: picture
/// `n` of a class is tested in fold `n mod 2` of A and C, and the generators have
/// learnt from pictures of their own.
fn with_pictures() -> (TempDir, Aggregate) {
    let root = study();
    let folder = Folder::new(root.path());
    let mut experiment = domain::study::experiment::Experiment::default();
    (experiment.tl.repeats, experiment.tl.folds) = (2, 2);
    let plan = domain::study::plan::plan(&experiment, &domain::study::plan::Data::of_the_paper()).unwrap();
    let lineage = domain::study::plan::lineage(&plan.tasks);
    for task in &plan.tasks {
        let input = folder.inputs().join(task.label().replace([' ', '/'], "."));
        let image = |class: Class, id: u32, digest: String| ImageRef { class, id, file: format!("{id}.png"), digest };
        match &task.stage {
            Stage::Patches(patches) => {
                let given = (0..4).flat_map(|id| {
                    let dataset = patches.dataset;
                    dataset.classes().map(|class| image(class, id, format!("{dataset} {} {class} {id}", patches.view)))
                });
                let (test_images, train_images) = given.partition(|image| image.id % 2 == patches.split.fold);
                let record = PatchesRecord {
                    dataset: patches.dataset,
                    view: patches.view,
                    split: patches.split,
                    size: 16,
                    classes: vec![],
                    train_images,
                    test_images,
                };
                files::write(&input.join("patches.json"), &record).unwrap();
            }
            Stage::Pad(canvases) => {
                let (class, label) = (canvases.class, task.label());
                let images = vec![image(class, 9, format!("{label} 9"))];
                let pad = json!({ "class": class, "canvas": [8, 8], "images": images, "black": [] });
                files::write(&input.join("pad.json"), &pad).unwrap();
            }
            _ => {}
        }
    }
    (root, Aggregate { lineage, ..params(&[]) })
}

fn refused(results: &Results) -> Vec<&str> {
    results.cells.iter().filter(|cell| cell.mean.is_none()).map(|cell| cell.id.as_str()).collect()
}

#[test]
fn a_test_picture_among_those_of_a_generator_refuses_the_cells_that_it_leaks_into() {
    let (root, params) = with_pictures();
    let clean = aggregate(root.path(), &params).unwrap();
    assert_eq!(refused(&clean), Vec::<&str>::new());
    assert!(clean.cells.iter().all(|cell| cell.leaks.is_empty()));

    // Picture 1 of A/SUR/IVa is tested in fold 1.
    let path = root.path().join("inputs/pad.SUR.IVa/pad.json");
    let mut record: domain::study::records::PadRecord = files::read(&path).unwrap();
    record.images[0].digest = "A SUR IVa 1".to_owned();
    files::write(&path, &record).unwrap();
    let results = aggregate(root.path(), &params).unwrap();
    // B → A tests A; A+B tests both. A → B tests B, and A alone has not seen it.
    assert_eq!(refused(&results), ["SUR-4-2", "SUR-8-1"]);
    let cell = results.cells.iter().find(|cell| cell.id == "SUR-4-2").unwrap();
    assert_eq!((cell.n, cell.n_asked, cell.verdict), (0, 4, Verdict::NotComparable));
    let [leak] = cell.leaks.as_slice() else { panic!("{:?}", cell.leaks) };
    assert_eq!(
        (leak.image.as_str(), leak.runs.as_slice()),
        ("A/SUR/IVa/1.png", &["r0 f1".to_owned(), "r1 f1".to_owned()][..])
    );
    let way = [
        "classify.train SUR B-A repeat 0 fold 1",
        "classify.train SUR B repeat 0 fold 1",
        "patches B/SUR split 0 fold 1",
        "upscale SUR/IVa",
        "sinddm.sample SUR/IVa",
        "sinddm.train SUR/IVa",
        "pad SUR/IVa",
    ];
    assert_eq!(leak.path, way);
    assert!(cell.why.as_ref().unwrap().starts_with("test picture A/SUR/IVa/1.png was learnt from"));

    let allowed = aggregate(root.path(), &Aggregate { allow_leak: true, ..params }).unwrap();
    assert_eq!(refused(&allowed), Vec::<&str>::new());
    let cell = allowed.cells.iter().find(|cell| cell.id == "SUR-4-2").unwrap();
    assert_eq!((cell.leaks.len(), cell.n, cell.verdict), (1, 4, Verdict::NotComparable));
}

#[test]
fn the_same_picture_in_another_data_set_or_class_leaks_by_what_it_shows() {
    let (root, params) = with_pictures();
    // Picture 0 of C/SEC/Ia, tested in fold 0, is also picture 1 of A/SEC/Va.
    for split in 0..2 {
        let path = root.path().join(format!("inputs/patches.A.SEC.split.{split}.fold.0/patches.json"));
        let mut record: PatchesRecord = files::read(&path).unwrap();
        let image = record.train_images.iter_mut().find(|image| (image.class, image.id) == (Class::Va, 1)).unwrap();
        image.digest = "C SEC Ia 0".to_owned();
        files::write(&path, &record).unwrap();
    }
    let results = aggregate(root.path(), &params).unwrap();
    assert_eq!(refused(&results), ["SEC-7-2", "SEC-8-2"]);
    let way = &results.cells.iter().find(|cell| cell.id == "SEC-7-2").unwrap().leaks[0].path;
    let expected = [
        "classify.train SEC A-C repeat 0 fold 0",
        "classify.train SEC A repeat 0 fold 0",
        "patches A/SEC split 0 fold 0",
    ];
    assert_eq!(way.as_slice(), expected);
}
