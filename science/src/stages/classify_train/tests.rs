use std::path::Path;

use domain::seed::Seed;
use domain::study::experiment::{HeadStart, LabelOrder, Network, Stem, Validation, Whiten};
use domain::study::records::{ClassPatches, Metrics};
use domain::study::stage::{Folder, InputName, Monitor, Progress, Unwatched};
use domain::study::stone::{Dataset, View};
use domain::study::trial::Split;

use super::*;
use crate::checkpoint::tests::{Notes, changes_nothing, follows_from_its_seed, threads_change_nothing};
use crate::data::patchset;
use crate::models::resnet::IMAGENET_CLASSES;
use crate::weights::Array;

fn small() -> ClassifyTrain {
    ClassifyTrain {
        datasets: vec![Dataset::A],
        network: Network { stem: Stem::Small, width: 4, blocks: vec![1, 1], head: vec![8], dropout: 0.2 },
        init: Some(Init::Random),
        head: HeadStart::Keep,
        order: LabelOrder::AuthorsAlphabetical,
        mix: Mix::Concat,
        whiten: Whiten::None,
        batch: 8,
        epochs: 2,
        lr: 0.05,
        momentum: 0.9,
        lr_step: 7,
        lr_gamma: 0.1,
        augment: true,
        blur: false,
        val_fraction: 0.1,
        val: Validation::PatchStratified,
        select: Select::Last,
    }
}

/// Patches whose stripes tell the class, eight of each and two per image.
fn write_patches(input: &Path, dataset: Dataset) {
    let (size, each) = (16usize, 8usize);
    for side in ["train", "test"] {
        let mut rng = random::stream(Seed(9), side, 0);
        let (mut pixels, mut labels, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for label in 0..CLASSES {
            for patch in 0..each {
                let shift = random::uniform(&mut rng) * 6.0;
                for at in 0..3 * size * size {
                    let (x, y) = ((at % size) as f64, (at / size % size) as f64);
                    let wave = ((x + y + shift) * (0.4 + 0.4 * label as f64)).sin();
                    pixels.push((128.0 + 90.0 * wave) as u8);
                }
                labels.push(label as u8);
                ids.push((label * each + patch) as u32 / 2);
            }
        }
        patchset::tests::write(&input.join(format!("{side}.safetensors")), size, &pixels, &labels, &ids);
    }
    let counts =
        |class| ClassPatches { class, train: [4, 8], test: [4, 8], coverage: 1.0, stride: 1, moved: 0, masks: 0 };
    let classes = dataset.classes().into_iter().map(counts).collect();
    let (split, train_images, test_images) = (Split::default(), vec![], vec![]);
    let (view, size) = (View::Sur, size as u32);
    let record = PatchesRecord { dataset, view, split, size, classes, train_images, test_images };
    files::write(&input.join("patches.json"), &record).unwrap();
}

fn train(classify: &ClassifyTrain, seed: u64, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
    let folder = Folder::new(root);
    for dataset in &classify.datasets {
        write_patches(&folder.input(InputName::Patches(*dataset)), *dataset);
    }
    let attempt = Attempt { seed: Seed(seed), folder: &folder, monitor, device: &Device::flex(), memory: 0 };
    run(classify, attempt)?;
    Ok(folder)
}

fn metrics_of(folder: &Folder) -> Metrics {
    files::read(&folder.output("metrics.json")).unwrap()
}

#[test]
fn learns_stripes_and_reports_what_it_did() {
    let root = tempfile::tempdir().unwrap();
    let network = Network { width: 8, head: vec![], ..small().network };
    let longer = ClassifyTrain { network, epochs: 12, lr: 0.02, lr_step: 9, augment: false, ..small() };
    let folder = train(&longer, 7, root.path(), &mut Unwatched).unwrap();
    let metrics = metrics_of(&folder);
    assert!(metrics.accuracy > 60.0, "{metrics:?}");
    assert_eq!((metrics.test_patches, metrics.test_images), (48, 24));
    assert_eq!(metrics.steps, 12 * 6); // 42 patches of 48 are left for training
    assert!(metrics.confusion.iter().all(|row| row.iter().sum::<u32>() == 8));
    assert_eq!(metrics.labels[0], [Dataset::A.classes()[0]]);
    assert!(metrics.val_accuracy.is_some());
    let csv = std::fs::read_to_string(folder.output("epochs.csv")).unwrap();
    assert_eq!(csv.lines().count(), 13);
    assert_eq!((metrics.train, metrics.images.len()), ([24, 48], 24));
    let right = metrics.images.iter().map(|image| image.right).sum::<f64>() / 24.0;
    assert!((100.0 * right - metrics.accuracy).abs() < 1e-9, "two patches of each image");
}

#[test]
fn images_are_judged_by_votes_and_by_probabilities() {
    let sure = |label: usize, score: f32| {
        let mut scores = [0.0; CLASSES];
        scores[label] = score;
        scores
    };
    // Of image 3, two patches lean towards label 1, one is sure of label 2.
    let scores = [sure(1, 0.1), sure(1, 0.1), sure(2, 9.0), sure(0, 1.0)];
    let root = tempfile::tempdir().unwrap();
    patchset::tests::write(&root.path().join("test"), 1, &[0; 12], &[2, 2, 2, 0], &[3, 3, 3, 1]);
    let test = PatchSet::open(&root.path().join("test")).unwrap();
    let log = Log::new(&small(), 8, 0);
    let class =
        |class| ClassPatches { class, train: [4, 8], test: [4, 8], coverage: 1.0, stride: 1, moved: 0, masks: 0 };
    let classes = Dataset::A.classes().into_iter().map(class).collect();
    let (dataset, view, split) = (Dataset::A, View::Sur, Split::default());
    let (train_images, test_images) = (vec![], vec![]);
    let record = PatchesRecord { dataset, view, split, size: 16, classes, train_images, test_images };
    let metrics = score::metrics(&small(), &log, &test, &scores, &[record], &Device::flex());
    let images: Vec<_> = metrics.images.iter().map(|image| (image.id, image.vote, image.by_score)).collect();
    assert_eq!(images, [(1, 0, 0), (3, 1, 2)]);
    assert_eq!((metrics.image_accuracy, metrics.image_accuracy_by_score, metrics.accuracy), (50.0, 100.0, 50.0));
    // Labels that this split does not test count in no average.
    assert_eq!(metrics.macro_average.recall, (1.0 + 1.0 / 3.0) / 2.0);
    assert_eq!(metrics.per_class[5].f1, 0.0);
}

#[test]
fn the_first_loss_is_that_of_guessing() {
    let root = tempfile::tempdir().unwrap();
    let still = ClassifyTrain { lr: 0.0, epochs: 1, ..small() };
    let metrics = metrics_of(&train(&still, 7, root.path(), &mut Unwatched).unwrap());
    assert!((metrics.train_loss - 6f64.ln()).abs() < 0.3, "{}", metrics.train_loss);
}

#[test]
fn equal_seeds_give_equal_bytes_and_others_do_not() {
    follows_from_its_seed(&|root, seed| train(&small(), seed, root, &mut Unwatched).unwrap());
}

#[test]
fn the_number_of_threads_changes_nothing() {
    threads_change_nothing(&|root| train(&small(), 7, root, &mut Unwatched).unwrap());
}

/// The learnt tensors of a first step and of a second that learns nothing, and the
/// folder of the second.
fn second_step(root: &Path, classify: &ClassifyTrain) -> (Arrays, Arrays, Folder) {
    let first = train(&small(), 7, &root.join("first"), &mut Unwatched).unwrap();
    let second = Folder::new(root.join("second"));
    let model = std::fs::read(first.output("model.safetensors")).unwrap();
    files::write_bytes(&second.input(InputName::Init).join("model.safetensors"), &model).unwrap();
    let still = ClassifyTrain { init: None, lr: 0.0, ..classify.clone() };
    let second = train(&still, 7, second.root(), &mut Unwatched).unwrap();
    let learnt = |folder: &Folder| {
        let mut arrays = weights::read(&folder.output("model.safetensors")).unwrap();
        arrays.retain(|name, _| !name.contains("running_"));
        arrays
    };
    (learnt(&first), learnt(&second), second)
}

#[test]
fn a_second_step_goes_on_from_all_weights_of_the_first() {
    let root = tempfile::tempdir().unwrap();
    let both = ClassifyTrain { datasets: vec![Dataset::A, Dataset::C], ..small() };
    let (first, second, folder) = second_step(root.path(), &both);
    assert_eq!(first, second);
    let metrics = metrics_of(&folder);
    assert_eq!((metrics.test_patches, metrics.test_images), (96, 48));
    assert_eq!(metrics.labels[0].len(), 2);
    assert_eq!(metrics.labels[3].len(), 1);
}

#[test]
fn a_score_that_is_not_a_number_ends_the_attempt() {
    let root = tempfile::tempdir().unwrap();
    let first = train(&small(), 7, &root.path().join("first"), &mut Unwatched).unwrap();
    let mut model = weights::read(&first.output("model.safetensors")).unwrap();
    // Batches are normalised by their own statistics while training, so that no loss shows it.
    model.get_mut("bn1.running_mean").unwrap().values[0] = f32::NAN;
    let second = Folder::new(root.path().join("second"));
    weights::write(&model, &second.input(InputName::Init).join("model.safetensors")).unwrap();
    let failure = train(&ClassifyTrain { init: None, ..small() }, 7, second.root(), &mut Unwatched).unwrap_err();
    assert_eq!(failure.code, FailureCode::NotANumber);
    assert!(failure.message.contains("a score of the trained network"), "{failure}");
}

#[test]
fn a_first_step_starts_from_the_published_weights_below_its_own_head() {
    let root = tempfile::tempdir().unwrap();
    let net = ResNet::new(&small().network, &Device::flex());
    let mut published = weights::collect(&weights::initialise(net, Seed(99)));
    published.retain(|name, _| !name.starts_with("fc."));
    let backbone = published.clone();
    for (name, shape) in ResNet::tensors(&small().network, IMAGENET_CLASSES) {
        let values = vec![0.0; shape.iter().product()];
        published.entry(name).or_insert(Array { shape, values });
    }
    let start = |name: &str, init, published: &Arrays| {
        let folder = Folder::new(root.path().join(name));
        weights::write(published, &folder.input(InputName::Weights).join(WEIGHTS_FILE)).unwrap();
        let still = ClassifyTrain { init: Some(init), lr: 0.0, epochs: 1, ..small() };
        let folder = train(&still, 7, folder.root(), &mut Unwatched)?;
        let mut learnt = weights::read(&folder.output("model.safetensors"))?;
        learnt.retain(|name, _| !name.contains("running_"));
        Ok::<_, Failure>(learnt)
    };
    let random = start("random", Init::Random, &published).unwrap();
    let learnt = start("imagenet", Init::Imagenet, &published).unwrap();
    for (name, array) in &learnt {
        let expected = if name.starts_with("fc.") { &random[name] } else { &backbone[name] };
        assert_eq!(array, expected, "{name}");
    }
    published.remove("layer2.0.bn3.weight");
    let failure = start("damaged", Init::Imagenet, &published).unwrap_err();
    assert!(failure.message.contains("weights.safetensors: tensor layer2.0.bn3.weight is missing"), "{failure}");
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_attempt() {
    let root = tempfile::tempdir().unwrap();
    let wild = ClassifyTrain { lr: 1e30, ..small() };
    let failure = train(&wild, 7, root.path(), &mut Unwatched).unwrap_err();
    assert_eq!(failure.code, FailureCode::NotANumber);
    assert!(failure.message.contains("tl.lr"), "{failure}");
}

#[test]
fn stopping_and_going_on_elsewhere_changes_no_byte() {
    // Six steps an epoch: within and at the end of the first, within the second.
    changes_nothing(&[1, 6, 10], &|root, monitor| train(&small(), 7, root, monitor));
    let second = ClassifyTrain { init: None, val_fraction: 0.0, ..small() };
    let root = tempfile::tempdir().unwrap();
    let first = train(&small(), 7, root.path(), &mut Unwatched).unwrap();
    changes_nothing(&[4], &|root, monitor| {
        let model = std::fs::read(first.output("model.safetensors")).unwrap();
        files::write_bytes(&Folder::new(root).input(InputName::Init).join("model.safetensors"), &model).unwrap();
        train(&second, 7, root, monitor)
    });
}

#[test]
fn a_last_batch_of_one_patch_is_dropped() {
    let order: Vec<usize> = (0..9).collect();
    assert_eq!(batches(&order, 4).map(<[usize]>::len).collect::<Vec<_>>(), [4, 4]);
    assert_eq!(batches(&order, 5).map(<[usize]>::len).collect::<Vec<_>>(), [5, 4]);
}

#[test]
fn a_second_step_draws_as_much_of_the_head_anew_as_is_asked() {
    for (head, renewed) in [(HeadStart::ResetLast, "fc.5."), (HeadStart::ResetAll, "fc.")] {
        let root = tempfile::tempdir().unwrap();
        let (first, second, _) = second_step(root.path(), &ClassifyTrain { head, epochs: 1, ..small() });
        for (name, array) in &second {
            let is_new = name.starts_with(renewed);
            assert_eq!(first[name] != *array, is_new, "{head:?} {name}");
        }
    }
}

#[test]
fn the_best_epoch_is_the_first_of_those_that_recognise_most() {
    let root = tempfile::tempdir().unwrap();
    // So fast that it gets worse again.
    let wild = ClassifyTrain { select: Select::Best, val_fraction: 0.5, epochs: 6, lr: 0.3, ..small() };
    let run = |classify: &ClassifyTrain, name: &str| {
        let folder = train(classify, 7, &root.path().join(name), &mut Unwatched).unwrap();
        let csv = std::fs::read_to_string(folder.output("epochs.csv")).unwrap();
        let shares: Vec<f64> =
            csv.lines().skip(1).map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect();
        (metrics_of(&folder), shares, std::fs::read(folder.output("model.safetensors")).unwrap())
    };
    let (metrics, shares, best) = run(&wild, "best");
    let most = shares.iter().copied().fold(0.0, f64::max);
    let first = shares.iter().position(|share| *share == most).unwrap();
    assert_eq!((metrics.epoch as usize, metrics.val_accuracy), (first + 1, Some(most)));
    assert!(metrics.epoch < 6, "{shares:?}");
    // The same as a training that ends there.
    let (shorter, _, last) = run(&ClassifyTrain { select: Select::Last, epochs: metrics.epoch, ..wild }, "last");
    assert_eq!((shorter.accuracy, shorter.val_accuracy), (metrics.accuracy, metrics.val_accuracy));
    assert!(best == last);
}

#[test]
fn labels_follow_the_order_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let order = LabelOrder::MineralAlphabetical;
    let folder = train(&ClassifyTrain { order, ..small() }, 7, root.path(), &mut Unwatched).unwrap();
    let metrics = metrics_of(&folder);
    let labels: Vec<_> = metrics.labels.iter().map(|classes| classes[0].mineral()).collect();
    assert_eq!(labels, ["BRU", "CAR", "CAR2", "CYS", "STR", "WW"]);
    // BRU has label 3 in the patches, whose images there are 12 to 15.
    assert!(metrics.images.iter().filter(|image| image.label == 0).map(|image| image.id).eq(12..16));
}

#[test]
fn every_way_to_prepare_patches_goes_on_from_a_checkpoint() {
    let classify = ClassifyTrain {
        datasets: vec![Dataset::A, Dataset::C],
        mix: Mix::Resample,
        whiten: Whiten::PerDataset,
        blur: true,
        val: Validation::ImageDisjoint,
        select: Select::Best,
        val_fraction: 0.25,
        epochs: 3,
        ..small()
    };
    changes_nothing(&[3, 7], &|root, monitor| train(&classify, 7, root, monitor));
}

#[test]
fn the_log_has_a_line_for_each_epoch() {
    let root = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    train(&small(), 7, root.path(), &mut notes).unwrap();
    assert_eq!(notes.log.len(), 2);
    assert!(notes.log[0].starts_with("epoch 1/2 lr 0.05 loss 1."), "{:?}", notes.log);
    assert!(notes.log[1].contains(" validation "), "{:?}", notes.log);
}

#[test]
fn the_end_of_each_epoch_is_told_in_numbers() {
    let root = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    let folder = train(&ClassifyTrain { lr_step: 1, ..small() }, 7, root.path(), &mut notes).unwrap();
    let csv = std::fs::read_to_string(folder.output("epochs.csv")).unwrap();
    for (epoch, line) in csv.lines().skip(1).enumerate() {
        let numbers: Vec<f64> = line.split(',').map(|number| number.parse().unwrap()).collect();
        let names = ["lr", "loss", "val_accuracy"];
        let values = names.into_iter().zip(numbers[1..].iter().copied()).collect();
        let note = format!("epoch {}/2 loss {:.2}", epoch + 1, numbers[2]);
        let told = Progress { done: 6 * (epoch as u64 + 1), total: 12, note, values };
        assert!(notes.progress.contains(&told), "{told:?} in {:?}", notes.progress);
    }
}
