//! Trains one classifier and tests it (ALGORITHM 7.2, 7.3).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, Sgd, SgdConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use domain::experiment::Init;
use domain::plan::WEIGHTS_FILE;
use domain::stage::{ClassifyTrain, Failure, FailureCode, Monitor, Progress, Stage};
use domain::stats::classification::Confusion;

use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::patchset::{Augmentation, PatchSet};
use crate::models::resnet::{CLASSES, ResNet};
use crate::optimizer::NamedOptimizer;
use crate::random;
use crate::records::{self, ImageOutcome, Metrics, PatchesRecord};
use crate::weights::{self, Array, Arrays};

/// Steps between readings of the loss: each waits for the device.
const READ_EVERY: usize = 10;

/// Time between progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Patches tested at once.
const TEST_BATCH: usize = 64;

/// Most stages that the network can have.
const STAGES_MAX: usize = 4;

/// Writes `model.safetensors`, `metrics.json` and `epochs.csv`. The weights are
/// those of the last epoch, as the paper's were.
///
/// # Errors
/// If an input cannot be used, the loss is not a number, or the attempt was
/// told to stop.
pub fn run(classify: &ClassifyTrain, attempt: Attempt<'_>) -> Result<(), Failure> {
    let device = attempt.device.clone().autodiff();
    let (train, test, records) = load(classify, &attempt)?;
    let (train, validation) = train.split(attempt.seed, classify.val_fraction);

    let log = || Log::new(classify, train.len(), validation.len());
    let mut checkpoints = Checkpoints::new(&Stage::ClassifyTrain(classify.clone()), attempt.seed, attempt.folder)?;
    let resumed = checkpoints.resume(attempt.monitor, |step, state| {
        Training::resume(ResNet::new(&classify.network, &device), sgd(classify), log(), step, state)
    });
    let training = match resumed {
        Some(training) => training,
        None => Training::start(first_weights(classify, &attempt, &device)?, sgd(classify), log()),
    };
    let Training { mut net, mut sgd, mut log } = training;

    for epoch in log.epochs_done()..classify.epochs {
        let lr = learning_rate(classify, epoch);
        let mut order: Vec<usize> = (0..train.len()).collect();
        random::shuffle(&mut random::stream(attempt.seed, "order", u64::from(epoch)), &mut order);
        for batch in batches(&order, classify.batch).skip(log.steps_of_epoch()) {
            checkpoints.visit(log.steps(), attempt.monitor, || {
                log.read(lr)?;
                Ok(state(&net, &sgd, &log))
            })?;
            let augmentations: Vec<Augmentation> = match classify.augment {
                true => batch.iter().map(|&index| Augmentation::draw(attempt.seed, epoch, index)).collect(),
                false => vec![Augmentation::NONE; batch.len()],
            };
            let x = train.batch(batch, &augmentations, &device); // [batch, 3, size, size]
            let truth = train.one_hot(batch, &device); // [batch, 6]

            let mut dropping = random::stream(attempt.seed, "dropout", log.steps());
            let scores = net.forward(x, Some(&mut dropping)); // [batch, 6]
            let loss = (log_softmax(scores, 1) * truth).sum() / -(batch.len() as f64);
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = sgd.step(lr, net, gradients);

            log.push(loss.inner(), lr)?;
            log.report(epoch, attempt.monitor);
        }
        log.read(lr)?;
        log.close(right(&validation, &predict(&net.valid(), &validation, attempt.device)));
    }

    let net = net.valid();
    weights::save(&net, &attempt.folder.output("model.safetensors"))?;
    let predicted = predict(&net, &test, attempt.device);
    let metrics = metrics(classify, &log, &test, &predicted, &records);
    records::write(&attempt.folder.output("metrics.json"), &metrics)?;
    records::write_bytes(&attempt.folder.output("epochs.csv"), log.csv(classify).as_bytes())
}

/// What changes from step to step. With the parameters, the inputs and the seed,
/// the rest of the training depends on nothing else.
struct Training {
    net: ResNet,
    sgd: NamedOptimizer<Sgd>,
    log: Log,
}

impl Training {
    fn start(net: ResNet, sgd: Sgd, log: Log) -> Self {
        Self { net, sgd: NamedOptimizer::new(sgd), log }
    }

    /// Goes on from the [`state`] after so many steps.
    fn resume(blank: ResNet, sgd: Sgd, log: Log, step: u64, mut state: Arrays) -> Result<Self, Failure> {
        let net = weights::restore(blank, weights::take(&mut state, "net"))?;
        let sgd = NamedOptimizer::restore(sgd, &net, weights::take(&mut state, "sgd"))?;
        let log = log.resume(weights::take(&mut state, "log"), step)?;
        Ok(Self { net, sgd, log })
    }
}

fn state(net: &ResNet, sgd: &NamedOptimizer<Sgd>, log: &Log) -> Arrays {
    let mut state = Arrays::new();
    weights::put(&mut state, "net", weights::collect(&net.valid()));
    weights::put(&mut state, "sgd", sgd.collect(net));
    weights::put(&mut state, "log", log.arrays());
    state
}

fn sgd(classify: &ClassifyTrain) -> Sgd {
    let momentum = MomentumConfig::new().with_momentum(classify.momentum).with_dampening(0.0);
    SgdConfig::new().with_momentum(Some(momentum)).build()
}

/// The learning rate of an epoch, counted from 0.
fn learning_rate(classify: &ClassifyTrain, epoch: u32) -> f64 {
    classify.lr * classify.lr_gamma.powi((epoch / classify.lr_step) as i32)
}

/// Training and test patches of all data sets, and their records.
fn load(classify: &ClassifyTrain, attempt: &Attempt<'_>) -> Result<(PatchSet, PatchSet, Vec<PatchesRecord>), Failure> {
    let (mut train, mut test, mut records) = (PatchSet::default(), PatchSet::default(), Vec::new());
    for dataset in &classify.datasets {
        let input = attempt.folder.input(&format!("patches.{dataset}"));
        let record: PatchesRecord = records::read(&input.join("patches.json"))?;
        if record.dataset != *dataset {
            let message = format!("{}: holds data set {}, not {dataset}", input.display(), record.dataset);
            return Err(Failure::invalid_input(message));
        }
        train.append(PatchSet::read(&input.join("train.safetensors"))?)?;
        test.append(PatchSet::read(&input.join("test.safetensors"))?)?;
        records.push(record);
    }
    match records.is_empty() || train.len() < 2 || test.is_empty() {
        true => Err(Failure::invalid_input("there are no patches to learn or to test")),
        false => Ok((train, test, records)),
    }
}

/// The network that training starts from: random, with ImageNet's weights below a
/// random head, or with all weights of the first step.
fn first_weights(classify: &ClassifyTrain, attempt: &Attempt<'_>, device: &Device) -> Result<ResNet, Failure> {
    if classify.network.blocks.len() > STAGES_MAX {
        let stages = classify.network.blocks.len();
        return Err(Failure::invalid_input(format!("tl.network.blocks: names {stages} stages, at most 4 are built")));
    }
    let net = ResNet::new(&classify.network, device);
    match classify.init {
        Some(Init::Random) => Ok(weights::initialise(net, attempt.seed)),
        Some(Init::Imagenet) => {
            let path = attempt.folder.input("weights").join(WEIGHTS_FILE);
            let within = |failure: Failure| Failure::new(failure.code, format!("{}: {failure}", path.display()));
            ResNet::transferred(&classify.network, weights::read(&path)?, attempt.seed, device).map_err(within)
        }
        None => weights::load(net, &attempt.folder.input("init").join("model.safetensors")),
    }
}

/// The order in batches. A last batch of a single patch is dropped: it has no
/// variance to normalise by.
fn batches(order: &[usize], batch: u32) -> impl Iterator<Item = &[usize]> {
    order.chunks(batch.max(2) as usize).filter(|batch| batch.len() > 1)
}

/// The scores of each patch, before softmax.
fn predict(net: &ResNet, patches: &PatchSet, device: &Device) -> Vec<[f32; CLASSES]> {
    let all: Vec<usize> = (0..patches.len()).collect();
    let mut predicted = Vec::with_capacity(all.len());
    for batch in all.chunks(TEST_BATCH) {
        let x = patches.batch(batch, &vec![Augmentation::NONE; batch.len()], device);
        let scores: Vec<f32> = net.forward(x, None).into_data().iter::<f32>().collect();
        predicted.extend(scores.as_chunks().0);
    }
    predicted
}

/// Patches recognised.
fn right(patches: &PatchSet, scores: &[[f32; CLASSES]]) -> usize {
    patches.labels.iter().zip(scores).filter(|(truth, scores)| usize::from(**truth) == highest(scores)).count()
}

/// Share of patches recognised, 0..1; absent without patches.
fn accuracy(right: usize, patches: usize) -> Option<f64> {
    (patches > 0).then(|| right as f64 / patches as f64)
}

fn metrics(
    classify: &ClassifyTrain,
    log: &Log,
    test: &PatchSet,
    scores: &[[f32; CLASSES]],
    records: &[PatchesRecord],
) -> Metrics {
    let pairs = test.labels.iter().zip(scores).map(|(&truth, scores)| (usize::from(truth), highest(scores)));
    let confusion = Confusion::of(pairs, CLASSES);
    let images = outcomes(classify, test, scores);
    let labels = (0..CLASSES).map(|label| {
        let mut classes: Vec<_> = records.iter().filter_map(|r| r.classes.get(label)).map(|c| c.class).collect();
        classes.dedup();
        classes
    });
    let share = |is_right: fn(&ImageOutcome) -> bool| {
        100.0 * images.iter().filter(|image| is_right(image)).count() as f64 / images.len().max(1) as f64
    };
    let classes = || records.iter().flat_map(|record| &record.classes);
    Metrics {
        datasets: classify.datasets.clone(),
        view: records[0].view,
        steps: log.steps(),
        train_loss: log.mean(log.recognised.len().saturating_sub(1)),
        val_accuracy: log.recognised.last().and_then(|&right| accuracy(right, log.validation)),
        test_patches: test.len() as u32,
        test_images: images.len() as u32,
        accuracy: 100.0 * confusion.accuracy(),
        image_accuracy: share(|image| image.vote == image.label),
        image_accuracy_by_score: share(|image| image.by_score == image.label),
        train: [0, 1].map(|of| classes().map(|class| class.train[of]).sum()),
        per_class: confusion.per_class(),
        macro_average: confusion.macro_over(&confusion.tested()),
        weighted_average: confusion.weighted(),
        confusion: confusion.counts().iter().map(|row| row.iter().map(|&count| count as u32).collect()).collect(),
        labels: labels.collect(),
        images,
    }
}

/// What became of each test image. Images, not patches, are independent.
fn outcomes(classify: &ClassifyTrain, test: &PatchSet, scores: &[[f32; CLASSES]]) -> Vec<ImageOutcome> {
    /// An image with the scores of its patches.
    struct Seen<'a> {
        label: u8,
        patches: Vec<&'a [f32; CLASSES]>,
    }
    let mut seen: BTreeMap<(u32, u32), Seen<'_>> = BTreeMap::new();
    for ((&label, scores), &image) in test.labels.iter().zip(scores).zip(&test.images_of) {
        seen.entry(image).or_insert(Seen { label, patches: Vec::new() }).patches.push(scores);
    }
    let outcome = |((set, id), Seen { label, patches }): (&(u32, u32), &Seen<'_>)| {
        let (mut votes, mut sums) = ([0.0; CLASSES], [0.0; CLASSES]);
        for scores in patches {
            votes[highest(scores)] += 1.0;
            sums.iter_mut().zip(softmax(scores)).for_each(|(sum, share)| *sum += share);
        }
        Some(ImageOutcome {
            dataset: *classify.datasets.get(*set as usize)?,
            id: *id,
            label: *label,
            vote: highest(&votes) as u8,
            by_score: highest(&sums) as u8,
            right: f64::from(votes[usize::from(*label)]) / patches.len() as f64,
        })
    };
    seen.iter().filter_map(outcome).collect()
}

/// The place of the highest number, the first of equals.
fn highest(scores: &[f32; CLASSES]) -> usize {
    (1..CLASSES).fold(0, |best, label| if scores[label] > scores[best] { label } else { best })
}

fn softmax(scores: &[f32; CLASSES]) -> [f32; CLASSES] {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers = scores.map(|score| (score - largest).exp());
    let sum: f32 = powers.iter().sum();
    powers.map(|power| power / sum)
}

/// What training has shown so far.
struct Log {
    epochs: u32,
    /// Patches of each step of an epoch.
    sizes: Vec<usize>,
    /// Validation patches.
    validation: usize,
    /// The loss of each step.
    losses: Vec<f32>,
    /// Losses of the newest steps, still on the device.
    unread: Vec<Tensor<1>>,
    /// Validation patches recognised after each epoch.
    recognised: Vec<usize>,
    reported: Instant,
}

impl Log {
    fn new(classify: &ClassifyTrain, patches: usize, validation: usize) -> Self {
        let order: Vec<usize> = (0..patches).collect();
        Self {
            epochs: classify.epochs,
            sizes: batches(&order, classify.batch).map(<[usize]>::len).collect(),
            validation,
            losses: Vec::new(),
            unread: Vec::new(),
            recognised: Vec::new(),
            reported: Instant::now(),
        }
    }

    /// With what is in [`Log::arrays`], which have to be of so many steps.
    fn resume(self, mut arrays: Arrays, steps: u64) -> Result<Self, Failure> {
        let mut column = |name| arrays.remove(name).map_or_else(Vec::new, |array| array.values);
        let losses = column("loss");
        let recognised = column("recognised").into_iter().map(|count| count as usize).collect();
        let log = Self { losses, recognised, ..self };
        match log.steps() == steps && log.steps_of_epoch() < log.sizes.len() {
            true => Ok(log),
            false => Err(Failure::invalid_input(format!("there are not {steps} losses"))),
        }
    }

    /// What is here.
    fn arrays(&self) -> Arrays {
        let column = |values: Vec<f32>| Array { shape: vec![values.len()], values };
        let recognised = self.recognised.iter().map(|&count| count as f32).collect();
        Arrays::from([("loss".to_owned(), column(self.losses.clone())), ("recognised".to_owned(), column(recognised))])
    }

    fn epochs_done(&self) -> u32 {
        self.recognised.len() as u32
    }

    /// Steps done.
    fn steps(&self) -> u64 {
        (self.losses.len() + self.unread.len()) as u64
    }

    /// Steps done since the last epoch ended.
    fn steps_of_epoch(&self) -> usize {
        (self.losses.len() + self.unread.len()).saturating_sub(self.recognised.len() * self.sizes.len())
    }

    fn push(&mut self, loss: Tensor<1>, lr: f64) -> Result<(), Failure> {
        self.unread.push(loss);
        if self.unread.len() >= READ_EVERY { self.read(lr) } else { Ok(()) }
    }

    /// Brings the losses here.
    fn read(&mut self, lr: f64) -> Result<(), Failure> {
        for loss in self.unread.drain(..) {
            let loss = loss.into_scalar::<f32>();
            if !loss.is_finite() {
                let (step, epoch) = (self.losses.len(), self.recognised.len() + 1);
                let message = format!("loss is {loss} at step {step} (epoch {epoch}, lr {lr}): lower tl.lr");
                return Err(Failure::new(FailureCode::NotANumber, message));
            }
            self.losses.push(loss);
        }
        Ok(())
    }

    /// Ends an epoch, all of whose losses are here.
    fn close(&mut self, recognised: usize) {
        self.recognised.push(recognised);
    }

    /// Mean loss of what is here of an epoch.
    fn mean(&self, epoch: usize) -> f64 {
        let losses = self.losses.iter().skip(epoch * self.sizes.len()).zip(&self.sizes);
        let (sum, patches) = losses
            .fold((0.0, 0), |(sum, patches), (&loss, &size)| (sum + f64::from(loss) * size as f64, patches + size));
        sum / patches.max(1) as f64
    }

    fn report(&mut self, epoch: u32, monitor: &mut dyn Monitor) {
        let total = self.sizes.len() as u64 * u64::from(self.epochs);
        if self.reported.elapsed() < REPORT_EVERY && self.steps() < total {
            return;
        }
        self.reported = Instant::now();
        let nothing_yet = self.losses.len() <= epoch as usize * self.sizes.len();
        let loss = self.mean(epoch as usize - usize::from(nothing_yet && epoch > 0));
        let note = format!("epoch {}/{} loss {loss:.2}", epoch + 1, self.epochs);
        monitor.progress(Progress { done: self.steps(), total, note });
    }

    /// One line per epoch.
    fn csv(&self, classify: &ClassifyTrain) -> String {
        let mut text = String::from("epoch,lr,loss,val_accuracy\n");
        for (epoch, &right) in self.recognised.iter().enumerate() {
            let (lr, loss) = (learning_rate(classify, epoch as u32), self.mean(epoch));
            let validation = accuracy(right, self.validation).map_or_else(String::new, |share| share.to_string());
            let _ = writeln!(text, "{},{lr},{loss},{validation}", epoch + 1); // writing to a String cannot fail
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use domain::experiment::{Network, Stem};
    use domain::seed::Seed;
    use domain::stage::{Folder, Monitor, Split, Unwatched};
    use domain::stone::{Dataset, View};
    use safetensors::tensor::{Dtype, TensorView};

    use super::*;
    use crate::checkpoint::tests::changes_nothing;
    use crate::models::resnet::IMAGENET_CLASSES;
    use crate::records::ClassPatches;

    fn small() -> ClassifyTrain {
        ClassifyTrain {
            datasets: vec![Dataset::A],
            network: Network { stem: Stem::Small, width: 4, blocks: vec![1, 1], head: vec![8], dropout: 0.2 },
            init: Some(Init::Random),
            batch: 8,
            epochs: 2,
            lr: 0.05,
            momentum: 0.9,
            lr_step: 7,
            lr_gamma: 0.1,
            augment: true,
            val_fraction: 0.1,
        }
    }

    /// Patches whose stripes tell the class, eight of each and two per image.
    fn write_patches(input: &Path, dataset: Dataset) {
        let (size, each) = (16usize, 8usize);
        for side in ["train", "test"] {
            let mut rng = random::stream(Seed(9), side, 0);
            let (mut images, mut labels, mut ids) = (Vec::new(), Vec::new(), Vec::new());
            for label in 0..CLASSES {
                for patch in 0..each {
                    let shift = random::uniform(&mut rng) * 6.0;
                    for at in 0..3 * size * size {
                        let (x, y) = ((at % size) as f64, (at / size % size) as f64);
                        let wave = ((x + y + shift) * (0.4 + 0.4 * label as f64)).sin();
                        images.push((128.0 + 90.0 * wave) as u8);
                    }
                    labels.push(label as u8);
                    ids.extend(((label * each + patch) as u32 / 2).to_le_bytes());
                }
            }
            let n = labels.len();
            let tensors = [
                ("images", TensorView::new(Dtype::U8, vec![n, 3, size, size], &images).unwrap()),
                ("labels", TensorView::new(Dtype::U8, vec![n], &labels).unwrap()),
                ("image_ids", TensorView::new(Dtype::U32, vec![n], &ids).unwrap()),
            ];
            let bytes = safetensors::serialize(tensors, None).unwrap();
            records::write_bytes(&input.join(format!("{side}.safetensors")), &bytes).unwrap();
        }
        let counts =
            |class| ClassPatches { class, train: [4, 8], test: [4, 8], coverage: 1.0, stride: 1, moved: 0, masks: 0 };
        let classes = dataset.classes().into_iter().map(counts).collect();
        let (split, train_images, test_images) = (Split::default(), vec![], vec![]);
        let (view, size) = (View::Sur, size as u32);
        let record = PatchesRecord { dataset, view, split, size, classes, train_images, test_images };
        records::write(&input.join("patches.json"), &record).unwrap();
    }

    fn train(classify: &ClassifyTrain, seed: u64, root: &Path, monitor: &mut dyn Monitor) -> Result<Folder, Failure> {
        let folder = Folder::new(root);
        for dataset in &classify.datasets {
            write_patches(&folder.input(&format!("patches.{dataset}")), *dataset);
        }
        let attempt = Attempt { seed: Seed(seed), folder: &folder, monitor, device: &Device::flex(), memory: 0 };
        run(classify, attempt)?;
        Ok(folder)
    }

    fn metrics_of(folder: &Folder) -> Metrics {
        records::read(&folder.output("metrics.json")).unwrap()
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
        let mut test = PatchSet::default();
        (test.labels, test.images_of) = (vec![2, 2, 2, 0], vec![(0, 3), (0, 3), (0, 3), (0, 1)]);
        let log = Log::new(&small(), 8, 0);
        let class =
            |class| ClassPatches { class, train: [4, 8], test: [4, 8], coverage: 1.0, stride: 1, moved: 0, masks: 0 };
        let classes = Dataset::A.classes().into_iter().map(class).collect();
        let (dataset, view, split) = (Dataset::A, View::Sur, Split::default());
        let (train_images, test_images) = (vec![], vec![]);
        let record = PatchesRecord { dataset, view, split, size: 16, classes, train_images, test_images };
        let metrics = metrics(&small(), &log, &test, &scores, &[record]);
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
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = [("a", 7), ("b", 7), ("c", 8)].map(|(name, seed)| {
            let folder = train(&small(), seed, &root.path().join(name), &mut Unwatched).unwrap();
            std::fs::read(folder.output("model.safetensors")).unwrap()
        });
        assert!(a == b && a != c);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let [one, three] = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let root = root.path().join(threads.to_string());
            let folder = pool.install(|| train(&small(), 7, &root, &mut Unwatched)).unwrap();
            std::fs::read(folder.output("model.safetensors")).unwrap()
        });
        assert!(one == three);
    }

    #[test]
    fn a_second_step_goes_on_from_all_weights_of_the_first() {
        let root = tempfile::tempdir().unwrap();
        let first = train(&small(), 7, &root.path().join("first"), &mut Unwatched).unwrap();
        let second = Folder::new(root.path().join("second"));
        let model = std::fs::read(first.output("model.safetensors")).unwrap();
        records::write_bytes(&second.input("init").join("model.safetensors"), &model).unwrap();
        let still = ClassifyTrain { datasets: vec![Dataset::A, Dataset::C], init: None, lr: 0.0, ..small() };
        let second = train(&still, 7, second.root(), &mut Unwatched).unwrap();
        let learnt = |folder: &Folder| {
            let mut arrays = weights::read(&folder.output("model.safetensors")).unwrap();
            arrays.retain(|name, _| !name.contains("running_"));
            arrays
        };
        assert_eq!(learnt(&first), learnt(&second));
        let metrics = metrics_of(&second);
        assert_eq!((metrics.test_patches, metrics.test_images), (96, 48));
        assert_eq!(metrics.labels[0].len(), 2);
        assert_eq!(metrics.labels[3].len(), 1);
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
            weights::write(published, &folder.input("weights").join(WEIGHTS_FILE)).unwrap();
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
            records::write_bytes(&Folder::new(root).input("init").join("model.safetensors"), &model).unwrap();
            train(&second, 7, root, monitor)
        });
    }

    #[test]
    fn a_last_batch_of_one_patch_is_dropped() {
        let order: Vec<usize> = (0..9).collect();
        assert_eq!(batches(&order, 4).map(<[usize]>::len).collect::<Vec<_>>(), [4, 4]);
        assert_eq!(batches(&order, 5).map(<[usize]>::len).collect::<Vec<_>>(), [5, 4]);
    }
}
