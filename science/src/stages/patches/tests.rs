use std::collections::BTreeSet;
use std::fs;

use burn::tensor::Device;
use domain::study::experiment::{Fill, Pad, Patch, PatchMethod, Pick};
use domain::study::records::{ImageList, PatchesRecord, Record};
use domain::study::stage::{Choice, Folder, Ingest, InputName, Stage, Unwatched, picture_path};
use domain::study::stone::View;
use image::Rgb;
use safetensors::SafeTensors;

use super::*;

fn patch(size: u32) -> Patch {
    Patch { size, per_class_view: 50, ..Patch::default() }
}

fn patches(dataset: Dataset, fold: u32, folds: u32, size: u32) -> Patches {
    Patches { dataset, view: View::Sec, split: Split { number: 0, folds, fold }, patch: patch(size), pad: None }
}

/// A bright disc on dark ground, brighter by class.
fn stone(side: u32, level: u8) -> RgbImage {
    let middle = f64::from(side) / 2.0;
    RgbImage::from_fn(side, side, |x, y| {
        let inside = (f64::from(x) - middle).hypot(f64::from(y) - middle) < 0.45 * f64::from(side);
        Rgb(if inside { [level, (x % 251) as u8, 200] } else { [4; 3] })
    })
}

/// Two images of each class for its generator.
fn two() -> Option<Choice> {
    Some(Choice { images: 2, pick: Pick::RandomFromTrainSplit, seed: Seed(5) })
}

fn attempt<'a>(folder: &'a Folder, monitor: &'a mut Unwatched, device: &'a Device) -> Attempt<'a> {
    Attempt { seed: Seed(5), folder, monitor, device, memory: 0 }
}

fn run_it(folder: &Folder, stage: Stage) -> Result<(), Failure> {
    super::super::run(&stage, attempt(folder, &mut Unwatched, &Device::flex()))
}

/// `ingest` has seen six classes with that many stones of that size.
fn given(images: u32, side: u32) -> (tempfile::TempDir, Folder) {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path());
    for (label, class) in Dataset::A.classes().into_iter().enumerate() {
        for i in 0..images {
            let path = folder.input(InputName::Raw(Some(class))).join(format!("{i}.png"));
            save_png(&path, &stone(side, 60 + 30 * label as u8)).unwrap();
        }
    }
    let (dataset, view) = (Dataset::A, View::Sec);
    let ingest = Ingest { dataset, view, choice: two(), min_side: 16, stones: Default::default() };
    ingest_it(&folder, ingest);
    (root, folder)
}

/// Runs `ingest` on what lies there.
fn ingest_it(folder: &Folder, ingest: Ingest) {
    run_it(folder, Stage::Ingest(ingest)).unwrap();
    fs::create_dir_all(folder.input(InputName::Ingest)).unwrap();
    fs::rename(folder.output("images.json"), folder.input(InputName::Ingest).join("images.json")).unwrap();
}

fn ids(folder: &Folder, side: &str) -> BTreeSet<[u8; 4]> {
    let bytes = fs::read(folder.output(&format!("{side}.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = tensors.tensor("image_ids").unwrap().data().to_vec();
    ids.chunks_exact(4).map(|id| id.try_into().unwrap()).collect()
}

#[test]
fn every_class_has_its_quota_and_no_image_is_on_both_sides() {
    let (_root, folder) = given(5, 64);
    run_it(&folder, Stage::Patches(patches(Dataset::A, 0, 1, 16))).unwrap();
    let record: PatchesRecord = files::read(&folder.output(PatchesRecord::FILE)).unwrap();
    for class in &record.classes {
        assert_eq!((class.train, class.test), ([4, 40], [1, 10]));
    }
    let bytes = fs::read(folder.output("train.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("images").unwrap().shape(), [240, 3, 16, 16]);
    assert_eq!(tensors.tensor("labels").unwrap().data()[..41], [vec![0; 40], vec![1]].concat());
    assert!(ids(&folder, "train").is_disjoint(&ids(&folder, "test")));
    let list: ImageList = files::read(&folder.input(InputName::Ingest).join(ImageList::FILE)).unwrap();
    assert_eq!((record.train_images.len(), record.test_images.len()), (24, 6));
    let of = |image: &ImageRef| list.images.iter().find(|given| given.id == image.id).unwrap();
    for image in record.train_images.iter().chain(&record.test_images) {
        let given = of(image);
        assert_eq!((&image.file, &image.digest, image.class), (&given.file, &given.pixels, given.class));
    }
    assert!(record.test_images.iter().all(|image| of(image).testable));
    // The first row of the table is the first patch of the tensor.
    let csv = fs::read_to_string(folder.output("patches.csv")).unwrap();
    let row: Vec<&str> = csv.lines().nth(1).unwrap().split(',').collect();
    assert_eq!((row[0], row[1], csv.lines().count()), ("train", "IVa", 301));
    let image = open_rgb8(&folder.input(InputName::Raw(Some(Class::Iva))).join(row[3])).unwrap().image;
    let pixel = image.get_pixel(row[4].parse().unwrap(), row[5].parse().unwrap());
    let first = tensors.tensor("images").unwrap().data().to_vec();
    assert_eq!([first[0], first[256], first[512]], pixel.0);
}

#[test]
fn same_seed_same_bytes_whatever_the_threads() {
    let (_root, folder) = given(4, 48);
    let mut bytes = Vec::new();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run_it(&folder, Stage::Patches(patches(Dataset::A, 0, 1, 16)))).unwrap();
        let files = ["train.safetensors", "test.safetensors", "patches.csv", "patches.json", "sheet.png"];
        bytes.push(files.map(|file| fs::read(folder.output(file)).unwrap()));
    }
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn siblings_make_up_for_a_picture_without_room() {
    let (_root, folder) = given(5, 64);
    // As large as one patch: one place, where ten are wanted. Another is all dark.
    let list: ImageList = files::read(&folder.input(InputName::Ingest).join(ImageList::FILE)).unwrap();
    let train: Vec<_> = list.images.iter().filter(|image| image.class == Class::Ia && !image.testable).collect();
    save_png(&folder.input(InputName::Raw(Some(Class::Ia))).join(&train[0].file), &stone(16, 200)).unwrap();
    save_png(&folder.input(InputName::Raw(Some(Class::Ia))).join(&train[1].file), &RgbImage::new(64, 64)).unwrap();
    run_it(&folder, Stage::Patches(patches(Dataset::A, 0, 1, 16))).unwrap();
    let record: PatchesRecord = files::read(&folder.output(PatchesRecord::FILE)).unwrap();
    assert_eq!((record.classes[4].class, record.classes[4].train), (Class::Ia, [3, 40]));
    assert_eq!(record.classes[4].moved, 19);
    assert_eq!(record.classes[0].moved, 0);
}

#[test]
fn every_split_deals_anew_and_its_folds_agree() {
    let (_root, folder) = given(8, 64);
    let tested = |number, fold| {
        let split = Split { number, folds: 3, fold };
        run_it(&folder, Stage::Patches(Patches { split, ..patches(Dataset::A, 0, 1, 16) })).unwrap();
        let record: PatchesRecord = files::read(&folder.output(PatchesRecord::FILE)).unwrap();
        assert_eq!(record.split, split);
        record.test_images.iter().map(|image| image.id).collect::<BTreeSet<_>>()
    };
    let [first, second] = [0, 1].map(|number| [0, 1, 2].map(|fold| tested(number, fold)));
    for split in [&first, &second] {
        // Six of eight: two are set apart for the generator.
        let all: BTreeSet<_> = split.iter().flatten().collect();
        assert_eq!((all.len(), split.iter().map(BTreeSet::len).sum::<usize>()), (36, 36));
    }
    assert_ne!(first, second);
    let failure = run_it(&folder, Stage::Patches(patches(Dataset::A, 6, 7, 16))).unwrap_err();
    assert!(failure.message.contains("no image of A/SEC is tested in fold 6 of 7: lower tl.folds"), "{failure}");
}

#[test]
fn a_class_with_fewer_images_than_folds_is_untested_in_some_and_learnt_in_all() {
    let (_root, folder) = given(8, 64);
    let mut list: ImageList = files::read(&folder.input(InputName::Ingest).join(ImageList::FILE)).unwrap();
    // Three that may be tested, and one for the generator.
    let mut testable = 0;
    list.images.retain(|image| {
        testable += u32::from(image.class == Class::Ivd && image.testable);
        image.class != Class::Ivd || !image.testable || testable <= 3
    });
    files::write(&folder.input(InputName::Ingest).join("images.json"), &list).unwrap();
    let counts: Vec<[u32; 2]> = (0..5)
        .map(|fold| {
            run_it(&folder, Stage::Patches(patches(Dataset::A, fold, 5, 16))).unwrap();
            let record: PatchesRecord = files::read(&folder.output(PatchesRecord::FILE)).unwrap();
            let class = record.classes.iter().find(|class| class.class == Class::Ivd).unwrap();
            assert_eq!(class.train[0] + class.test[0], 5);
            assert!(record.classes.iter().all(|other| other.class == Class::Ivd || other.test[0] > 0));
            class.test
        })
        .collect();
    assert_eq!(counts.iter().filter(|[images, patches]| (*images, *patches > 0) == (1, true)).count(), 3);
    assert_eq!(counts.iter().filter(|counts| **counts == [0, 0]).count(), 2);
}

#[test]
fn masks_say_where_the_stone_is_and_stones_stay_on_one_side() {
    let (_root, folder) = given(8, 64);
    // The stone of one picture is said to be in its lower right quarter.
    let mask = image::GrayImage::from_fn(64, 64, |x, y| image::Luma([u8::from(x >= 32 && y >= 32)]));
    picture::save_png_grey(&folder.input(InputName::Masks(Class::Ia)).join("3.png"), &mask).unwrap();
    let two_each = (0..8).map(|i| (format!("{i}.png"), i / 2)).collect();
    let ingest = Ingest {
        dataset: Dataset::A,
        view: View::Sec,
        choice: two(),
        min_side: 16,
        stones: [(Class::Ia, two_each)].into(),
    };
    ingest_it(&folder, ingest);
    for fold in 0..3 {
        run_it(&folder, Stage::Patches(patches(Dataset::A, fold, 3, 16))).unwrap();
        let record: PatchesRecord = files::read(&folder.output(PatchesRecord::FILE)).unwrap();
        let stones = |images: &[ImageRef]| -> BTreeSet<u32> {
            let own = images.iter().filter(|image| image.class == Class::Ia);
            own.map(|image| image.file[..1].parse::<u32>().unwrap() / 2).collect()
        };
        assert!(stones(&record.train_images).is_disjoint(&stones(&record.test_images)));
        assert_eq!(stones(&record.test_images).len(), 1);
        assert_eq!(record.classes.iter().map(|class| class.masks).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 0]);
        let csv = fs::read_to_string(folder.output("patches.csv")).unwrap();
        let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let own: Vec<_> = rows.by_ref().filter(|row| row[1] == "Ia" && row[3] == "3.png").collect();
        assert!(!own.is_empty());
        // At least half of a patch shows stone.
        assert!(own.iter().all(|row| [4, 5].iter().all(|at| row[*at].parse::<u32>().unwrap() >= 24)), "{own:?}");
    }
}

#[test]
fn a_seed_of_its_own_splits_anew_and_other_knobs_do_not() {
    let (_root, folder) = given(8, 64);
    let with = |patch: Patch| {
        run_it(&folder, Stage::Patches(Patches { patch, ..patches(Dataset::A, 0, 1, 16) })).unwrap();
        let record: PatchesRecord = files::read(&folder.output(PatchesRecord::FILE)).unwrap();
        (record.test_images, record.classes, fs::read_to_string(folder.output("patches.csv")).unwrap())
    };
    let base = with(patch(16));
    let split = with(Patch { split_seed: Some(1), ..patch(16) });
    assert!(split.0 != base.0 && split.0 == with(Patch { split_seed: Some(1), ..patch(16) }).0);
    let random = with(Patch { method: PatchMethod::Random, ..patch(16) });
    assert!(random.0 == base.0 && random.2 != base.2);
    // Seven training images have no room for 40 patches that hardly overlap.
    let sparse = with(Patch { max_overlap: Some(2), per_class_view: 500, ..patch(16) });
    assert_eq!(sparse.0, base.0);
    assert!(sparse.1.iter().all(|class| class.stride >= 14 && class.train[1] < 400), "{:?}", sparse.1);
}

#[test]
fn padded_pictures_give_patches_of_the_canvas_and_none_of_the_padding() {
    let (_root, folder) = given(5, 64);
    let at = |target: [u32; 2]| {
        let pad = Some(Pad { target: target.into(), fill: Fill::Rgb([7, 8, 9]), ..Pad::default() });
        run_it(&folder, Stage::Patches(Patches { pad, ..patches(Dataset::A, 0, 1, 16) })).unwrap();
        let csv = fs::read_to_string(folder.output("patches.csv")).unwrap();
        let row = |line: &str| line.split(',').skip(4).take(2).map(|at| at.parse().unwrap()).collect::<Vec<u32>>();
        csv.lines().skip(1).map(row).collect::<Vec<_>>()
    };
    // In the middle of a larger canvas, 18 and 8 pixels further.
    let placed = at([100, 80]);
    assert!(placed.iter().all(|at| (18..=66).contains(&at[0]) && (8..=56).contains(&at[1])), "{placed:?}");
    let csv = fs::read_to_string(folder.output("patches.csv")).unwrap();
    let file = csv.lines().nth(1).unwrap().split(',').nth(3).unwrap();
    let image = open_rgb8(&folder.input(InputName::Raw(Some(Class::Iva))).join(file)).unwrap().image;
    let bytes = fs::read(folder.output("train.safetensors")).unwrap();
    let first = SafeTensors::deserialize(&bytes).unwrap().tensor("images").unwrap().data()[..3 * 256].to_vec();
    assert_eq!([first[0], first[256], first[512]], image.get_pixel(placed[0][0] - 18, placed[0][1] - 8).0);
    // Half as large on a smaller one.
    let placed = at([40, 32]);
    assert!(placed.iter().all(|at| (4..=20).contains(&at[0]) && at[1] <= 16), "{placed:?}");
}

#[test]
fn a_class_without_any_place_is_named_with_its_images() {
    let (_root, folder) = given(3, 64);
    let failure = run_it(&folder, Stage::Patches(patches(Dataset::A, 0, 1, 65))).unwrap_err();
    assert_eq!(failure.code, FailureCode::InvalidInput);
    for part in ["A/SEC/IVa", "65x65", ".png", "lower patch.size"] {
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[test]
fn a_class_that_shows_too_little_stone_or_has_no_image_is_named() {
    let (_root, folder) = given(4, 64);
    // A mask of one corner: no patch shows half of it.
    let corner = image::GrayImage::from_fn(64, 64, |x, y| image::Luma([u8::from(x < 9 && y < 9)]));
    for i in 0..4 {
        picture::save_png_grey(&folder.input(InputName::Masks(Class::Ivd)).join(format!("{i}.png")), &corner).unwrap();
    }
    let ingest =
        Ingest { dataset: Dataset::A, view: View::Sec, choice: two(), min_side: 16, stones: Default::default() };
    ingest_it(&folder, ingest);
    let failure = run_it(&folder, Stage::Patches(patches(Dataset::A, 0, 1, 16))).unwrap_err();
    assert_eq!(failure.code, FailureCode::InvalidInput);
    assert!(failure.message.contains("A/SEC/IVd: no place of 16x16 pixels shows stone"), "{}", failure.message);
    let path = folder.input(InputName::Ingest).join("images.json");
    let mut list: ImageList = files::read(&path).unwrap();
    list.images.retain(|image| image.class != Class::Ia);
    files::write(&path, &list).unwrap();
    let failure = run_it(&folder, Stage::Patches(patches(Dataset::A, 0, 1, 16))).unwrap_err();
    assert!(failure.message.contains("A/SEC/Ia has 0 image(s), of which 0 may be tested"), "{}", failure.message);
}

#[test]
fn synthetic_pictures_are_each_tested_in_one_fold_even_without_stones() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::new(root.path());
    for class in Dataset::B.classes() {
        for i in 0..4 {
            let image = if i == 0 { RgbImage::new(48, 48) } else { stone(48, 90) };
            save_png(&folder.input(InputName::Synthetic(Some(class))).join(picture_path(i)), &image).unwrap();
        }
    }
    let mut tested = BTreeSet::new();
    let mut record = None;
    for fold in 0..2 {
        run_it(&folder, Stage::Patches(patches(Dataset::B, fold, 2, 16))).unwrap();
        record = Some(files::read::<PatchesRecord>(&folder.output(PatchesRecord::FILE)).unwrap());
        let test = ids(&folder, "test");
        assert!(test.is_disjoint(&ids(&folder, "train")));
        assert!(test.is_disjoint(&tested), "an image is tested twice");
        tested.extend(test);
    }
    assert_eq!(tested.len(), 24);
    let record = record.unwrap();
    let first = open_rgb8(&folder.input(InputName::Synthetic(Some(Class::Iva))).join("images/000.png")).unwrap().image;
    let all: Vec<_> = record.train_images.iter().chain(&record.test_images).collect();
    let listed = all.iter().find(|image| image.id == 0).unwrap();
    assert_eq!((listed.file.as_str(), &listed.digest), ("000.png", &picture::digest(&first).to_string()));
    assert_eq!(all.len(), 24);
    for class in Dataset::B.classes() {
        (1..4).for_each(|i| {
            fs::remove_file(folder.input(InputName::Synthetic(Some(class))).join(picture_path(i))).unwrap();
        });
    }
    let failure = run_it(&folder, Stage::Patches(patches(Dataset::B, 0, 5, 16))).unwrap_err();
    assert!(failure.message.contains("raise sampling.per_model"), "{}", failure.message);
}
