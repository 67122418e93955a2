//! Trains one classifier and tests it (ALGORITHM 7.2, 7.3).

use std::thread;

use burn::module::Module;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, Sgd, SgdConfig};
use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::{Init, Mix, Select};
use domain::study::plan::WEIGHTS_FILE;
use domain::study::records::{Metrics, PatchesRecord, Record};
use domain::study::stage::{ClassifyTrain, Failure, FailureCode, InputName, Stage};
use domain::study::stone::CLASSES;

use self::log::Log;
use super::Attempt;
use crate::checkpoint::Checkpoints;
use crate::data::augment::Augmentation;
use crate::data::patchset::{Normalisation, PatchSet};
use crate::files;
use crate::layers::activation::log_softmax;
use crate::models::resnet::ResNet;
use crate::random;
use crate::training::ahead;
use crate::training::optimizer::NamedOptimizer;
use crate::weights::{self, Arrays};

mod log;
mod score;

/// The number of patches tested at once.
const TEST_BATCH: usize = 64;

/// The largest number of stages that the network can have.
const STAGES_MAX: usize = 4;

/// Writes `model.safetensors`, `metrics.json` and `epochs.csv`; each epoch is a line of
/// the log as it ends.
///
/// # Errors
/// If an input cannot be used, the loss or a score is not a number, or the attempt was
/// told to stop.
pub fn run(classify: &ClassifyTrain, attempt: Attempt<'_>) -> Result<(), Failure> {
    let device = attempt.device.clone().autodiff();
    let Data { train, validation, test, normalisation, records } = load(classify, &attempt)?;

    let log = || Log::new(classify, train.len(), validation.len());
    let mut checkpoints = Checkpoints::new(&Stage::ClassifyTrain(classify.clone()), attempt.seed, attempt.folder)?;
    let resumed = checkpoints.resume(attempt.monitor, |step, state| {
        Training::resume(ResNet::new(&classify.network, &device), sgd(classify), log(), step, state)
    });
    let training = match resumed {
        Some(training) => training,
        None => Training::start(first_weights(classify, &attempt, &device)?, sgd(classify), log()),
    };
    let Training { mut net, mut sgd, mut log, mut best } = training;

    let (steps, per_epoch, seed) = (log.steps()..log.total(), log.steps_per_epoch() as u32, attempt.seed);
    let drawn = (&train, &normalisation);
    let draw = move |step: u32| Draw::new(classify, drawn, seed, step / per_epoch, step % per_epoch);
    let net = thread::scope(|scope| {
        for (step, Draw { x, truth }) in ahead(scope, steps, draw) {
            let lr = learning_rate(classify, step / per_epoch);
            checkpoints.visit(u64::from(step), attempt.monitor, || {
                log.read(lr)?;
                Ok(state(&net, &sgd, &log, best.as_ref()))
            })?;

            let (batch, size) = (truth.len() / CLASSES, train.size());
            let x = Tensor::<4>::from_data(TensorData::new(x, [batch, 3, size, size]), &device);
            let truth = Tensor::<2>::from_data(TensorData::new(truth, [batch, CLASSES]), &device);
            let mut dropping = random::stream(seed, "dropout", u64::from(step));
            let scores = net.forward(x, Some(&mut dropping)); // [batch, classes]
            let loss = (log_softmax(scores, 1) * truth).sum() / -(batch as f64);
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = sgd.step(lr, net, gradients);

            log.push(loss.inner(), lr)?;
            if log.epoch_is_over() {
                log.read(lr)?;
                let scores = predict(&net.valid(), &validation, &normalisation, attempt.device)?;
                attempt.monitor.log(&log.close(score::right(&validation, &scores), lr));
                if classify.select == Select::Best && log.selected(Select::Best) == log.selected(Select::Last) {
                    best = Some(weights::collect(&net.valid()));
                }
            }
            log.report(lr, attempt.monitor);
        }
        Ok::<_, Failure>(net)
    })?;

    let net = match best {
        Some(best) => weights::apply(ResNet::new(&classify.network, attempt.device), best)?,
        None => net.valid(),
    };
    weights::save(&net, &attempt.folder.output("model.safetensors"))?;
    let scores = predict(&net, &test, &normalisation, attempt.device)?;
    let metrics = score::metrics(classify, &log, &test, &scores, &records, attempt.device);
    files::write(&attempt.folder.output(Metrics::FILE), &metrics)?;
    files::write_bytes(&attempt.folder.output("epochs.csv"), log.csv(classify).as_bytes())
}

/// The state of a training between two steps. With the parameters, the inputs and the seed, the
/// rest of the training depends on nothing else.
struct Training {
    net: ResNet,
    sgd: NamedOptimizer<Sgd>,
    log: Log,
    /// The weights of the best epoch so far, where these are asked for.
    best: Option<Arrays>,
}

impl Training {
    fn start(net: ResNet, sgd: Sgd, log: Log) -> Self {
        Self { net, sgd: NamedOptimizer::new(sgd), log, best: None }
    }

    /// The state after so many steps, from the tensors of [`state`].
    fn resume(blank: ResNet, sgd: Sgd, log: Log, step: u64, mut state: Arrays) -> Result<Self, Failure> {
        let net = weights::restore(blank, weights::take(&mut state, "net"))?;
        let sgd = NamedOptimizer::restore(sgd, &net, weights::take(&mut state, "sgd"))?;
        let log = log.resume(weights::take(&mut state, "log"), step)?;
        let best = Some(weights::take(&mut state, "best")).filter(|best| !best.is_empty());
        Ok(Self { net, sgd, log, best })
    }
}

fn state(net: &ResNet, sgd: &NamedOptimizer<Sgd>, log: &Log, best: Option<&Arrays>) -> Arrays {
    let mut state = Arrays::new();
    weights::put(&mut state, "net", weights::collect(&net.valid()));
    weights::put(&mut state, "sgd", sgd.collect(net));
    weights::put(&mut state, "log", log.arrays());
    weights::put(&mut state, "best", best.cloned().unwrap_or_default());
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

/// The batch that one step learns from.
struct Draw {
    /// `[batch, 3, size, size]`
    x: Vec<f32>,
    /// The truth, 1 at the label: `[batch, classes]`
    truth: Vec<f32>,
}

impl Draw {
    /// The batch of that number of an epoch, both from 0.
    fn new(
        classify: &ClassifyTrain,
        (train, normalisation): (&PatchSet, &Normalisation),
        seed: Seed,
        epoch: u32,
        number: u32,
    ) -> Self {
        let mut order: Vec<usize> = (0..train.len()).collect();
        random::shuffle(&mut random::stream(seed, "order", u64::from(epoch)), &mut order);
        let batch = batches(&order, classify.batch).nth(number as usize).unwrap_or_default();
        let vary = |&index: &usize| Augmentation::draw(seed, epoch, index, classify.augment, classify.blur);
        let augmentations: Vec<Augmentation> = batch.iter().map(vary).collect();
        Self { x: train.values(batch, &augmentations, normalisation), truth: train.one_hot(batch) }
    }
}

/// The patches that are learnt and tested.
struct Data {
    train: PatchSet,
    validation: PatchSet,
    test: PatchSet,
    normalisation: Normalisation,
    /// The record of each data set.
    records: Vec<PatchesRecord>,
}

fn load(classify: &ClassifyTrain, attempt: &Attempt<'_>) -> Result<Data, Failure> {
    let (mut train, mut test, mut records) = (PatchSet::default(), PatchSet::default(), Vec::new());
    for dataset in &classify.datasets {
        let input = attempt.folder.input(InputName::Patches(*dataset));
        let record: PatchesRecord = files::read(&input.join(PatchesRecord::FILE))?;
        if record.dataset != *dataset {
            let message = format!("{}: holds data set {}, not {dataset}", input.display(), record.dataset);
            return Err(Failure::invalid_input(message));
        }
        let ordered = classify.order.classes(*dataset);
        let label = |class| ordered.iter().position(|ordered| *ordered == class).unwrap_or_default() as u8;
        let labels = dataset.classes().map(label);
        train.append(PatchSet::open(&input.join("train.safetensors"))?.relabelled(labels))?;
        test.append(PatchSet::open(&input.join("test.safetensors"))?.relabelled(labels))?;
        records.push(record);
    }
    if classify.mix == Mix::Resample {
        train = train.resampled(attempt.seed);
    }
    let normalisation = train.normalisation(classify.whiten);
    let (train, validation) = train.split(attempt.seed, classify.val_fraction, classify.val);
    if records.is_empty() || train.len() < 2 || test.is_empty() {
        Err(Failure::invalid_input("there are no patches to learn or to test"))
    } else {
        Ok(Data { train, validation, test, normalisation, records })
    }
}

/// The network that training starts from: random, with ImageNet's weights below a
/// random head, or with the weights of the first step.
fn first_weights(classify: &ClassifyTrain, attempt: &Attempt<'_>, device: &Device) -> Result<ResNet, Failure> {
    if classify.network.blocks.len() > STAGES_MAX {
        let stages = classify.network.blocks.len();
        return Err(Failure::invalid_input(format!("tl.network.blocks: names {stages} stages, at most 4 are built")));
    }
    let from = |path: std::path::PathBuf, build: &dyn Fn(Arrays) -> Result<ResNet, Failure>| {
        let within = |failure: Failure| Failure::new(failure.code, format!("{}: {failure}", path.display()));
        build(weights::read(&path)?).map_err(within)
    };
    match classify.init {
        Some(Init::Random) => Ok(weights::initialise(ResNet::new(&classify.network, device), attempt.seed)),
        Some(Init::Imagenet) => from(attempt.folder.input(InputName::Weights).join(WEIGHTS_FILE), &|published| {
            ResNet::transferred(&classify.network, published, attempt.seed, device)
        }),
        None => from(attempt.folder.input(InputName::Init).join("model.safetensors"), &|first| {
            ResNet::continued(&classify.network, first, classify.head, attempt.seed, device)
        }),
    }
}

/// The order in batches. A last batch of a single patch is dropped: it has no
/// variance to normalise by.
fn batches(order: &[usize], batch: u32) -> impl Iterator<Item = &[usize]> {
    order.chunks(batch.max(2) as usize).filter(|batch| batch.len() > 1)
}

/// The scores of each patch, before softmax.
///
/// # Errors
/// [`FailureCode::NotANumber`] if a score is none.
fn predict(
    net: &ResNet,
    patches: &PatchSet,
    normalisation: &Normalisation,
    device: &Device,
) -> Result<Vec<[f32; CLASSES]>, Failure> {
    let all: Vec<usize> = (0..patches.len()).collect();
    let mut predicted = Vec::with_capacity(all.len());
    for batch in all.chunks(TEST_BATCH) {
        let x = patches.values(batch, &vec![Augmentation::NONE; batch.len()], normalisation);
        let shape = [batch.len(), 3, patches.size(), patches.size()];
        let x = Tensor::<4>::from_data(TensorData::new(x, shape), device);
        let scores: Vec<f32> = net.forward(x, None).into_data().iter::<f32>().collect();
        if scores.iter().any(|score| !score.is_finite()) {
            let message = "a score of the trained network is not a number: lower tl.lr";
            return Err(Failure::new(FailureCode::NotANumber, message));
        }
        predicted.extend(scores.as_chunks().0);
    }
    Ok(predicted)
}

#[cfg(test)]
mod tests;
