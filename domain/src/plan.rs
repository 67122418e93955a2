//! The study as a graph of tasks.
//!
//! A task's key is the digest of everything that determines its result: stage,
//! version, parameters, inputs and seed. An input that another task makes is
//! named by that task's key, so the whole graph and what of it is already done
//! are known before anything runs, and equal work is one task: the sixteen rows
//! of Table I share nine trainings per view, repeat and fold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::Commands;
use crate::cost;
use crate::digest::Digest;
use crate::experiment::{
    Canvas, DdpmModels, DdpmSampling, Experiment, HeadStart, Mix, MultiImage, PatchSource, Pick, Rounds, Whiten,
};
use crate::lineage::{self, Lineage};
use crate::paper::{self, FirstStep};
use crate::pretrained::Pretrained;
use crate::resources::Resources;
use crate::seed::Seed;
use crate::stage::{Aggregate, ClassifyTrain, Ingest, Patches, Split, Stage};
use crate::stone::{Class, Dataset, View};

mod data;

pub use data::{Data, Missing, RawClass, WEIGHTS_FILE};

/// Where an input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An artifact that exists.
    Artifact(Digest),
    /// The result of a task.
    Task(Digest),
}

/// One named input of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Where it comes from.
    pub from: Source,
    /// Paths of the files that are read; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

/// What a run is a run of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Work {
    /// The study.
    Study {
        /// The spec it was planned from.
        experiment: Box<Experiment>,
        /// The data it was planned for.
        data: Data,
    },
    /// Somebody's own programs.
    Commands {
        /// What was asked for.
        commands: Arc<Commands>,
    },
}

impl Work {
    /// For people: the preset's name, or that of the first command.
    pub fn title(&self) -> &str {
        match self {
            Work::Study { experiment, .. } => experiment.scale.name(),
            Work::Commands { commands } => commands.command.first().map_or("nothing", |command| &command.name),
        }
    }
}

/// The named inputs of a task, by name. An ordered map in a slice: there may be a
/// million of them, most with one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(Box<[(String, Input)]>);

impl Inputs {
    /// All of them, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Input)> {
        self.0.iter().map(|(name, input)| (name.as_str(), input))
    }

    /// The input of that name.
    pub fn get(&self, name: &str) -> Option<&Input> {
        self.iter().find(|(known, _)| *known == name).map(|(_, input)| input)
    }
}

impl From<BTreeMap<String, Input>> for Inputs {
    fn from(inputs: BTreeMap<String, Input>) -> Self {
        Self(inputs.into_iter().collect())
    }
}

impl Serialize for Inputs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self::from)
    }
}

/// One stage applied to its inputs: a node of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Digest of stage, version, parameters, inputs and seed.
    pub key: Digest,
    /// What it is about, for people, for instance `SUR/IVa`. Not part of the key.
    pub subject: String,
    /// What to do.
    pub stage: Stage,
    /// Version of the stage that the task was planned for. A task of before an
    /// upgrade is not given to workers that compute something else.
    pub version: u32,
    /// What it reads.
    pub inputs: Inputs,
    /// Root of its random numbers.
    pub seed: Seed,
    /// What an attempt occupies. Not part of the key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// Arithmetic of the longest chain of tasks that begins with this one, in
    /// millions of floating-point operations: what has more behind it goes first. Not part
    /// of the key.
    #[serde(default)]
    pub chain_mflop: u64,
}

fn is_default(resources: &Resources) -> bool {
    *resources == Resources::default()
}

impl TaskSpec {
    /// A task of default resources.
    pub fn new(subject: String, stage: Stage, inputs: BTreeMap<String, Input>, seed: Seed) -> Self {
        let (version, inputs) = (stage.version(), Inputs::from(inputs));
        let key = Self::key_of(&stage, version, &inputs, seed);
        Self { key, subject, stage, version, inputs, seed, resources: Resources::default(), chain_mflop: 0 }
    }

    fn key_of(stage: &Stage, version: u32, inputs: &Inputs, seed: Seed) -> Digest {
        Digest::of_json(&(stage.name(), version, stage, inputs, seed))
    }

    /// Whether the key is what the content says. False for a spec that was
    /// altered on its way.
    pub fn key_is_right(&self) -> bool {
        Self::key_of(&self.stage, self.version, &self.inputs, self.seed) == self.key
    }

    /// The tasks whose results it reads.
    pub fn needs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.inputs.iter().filter_map(|(_, input)| match input.from {
            Source::Task(key) => Some(key),
            Source::Artifact(_) => None,
        })
    }

    /// Stage and subject, for people.
    pub fn label(&self) -> String {
        match self.subject.is_empty() {
            true => self.stage.name().to_owned(),
            false => format!("{} {}", self.stage.name(), self.subject),
        }
    }
}

/// The study: its tasks, each after all that it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The tasks.
    pub tasks: Vec<TaskSpec>,
}

impl Plan {
    /// Names the plan: equal plans have equal digests.
    pub fn digest(&self) -> Digest {
        let keys: Vec<Digest> = self.tasks.iter().map(|task| task.key).collect();
        Digest::of_json(&keys)
    }

    /// Finds the longest chain that begins with each task.
    fn weigh(&mut self) {
        let mut longest_after: BTreeMap<Digest, u64> = BTreeMap::new();
        for place in (0..self.tasks.len()).rev() {
            let own = (cost::flop(&self.tasks[place], self) / 1e6) as u64;
            let task = &mut self.tasks[place];
            task.chain_mflop = own.saturating_add(longest_after.get(&task.key).copied().unwrap_or(0));
            for need in task.needs() {
                let longest = longest_after.entry(need).or_default();
                *longest = (*longest).max(task.chain_mflop);
            }
        }
        // All data are looked at first, so that what is wrong with them shows early.
        let longest = self.tasks.iter().map(|task| task.chain_mflop).max().unwrap_or(0);
        for task in self.tasks.iter_mut().filter(|task| matches!(task.stage, Stage::Ingest(_))) {
            task.chain_mflop = longest;
        }
    }

    /// Number of tasks of each stage, in the order in which stages first appear.
    pub fn by_stage(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for task in &self.tasks {
            match counts.iter_mut().find(|(name, _)| *name == task.stage.name()) {
                Some((_, count)) => *count += 1,
                None => counts.push((task.stage.name(), 1)),
            }
        }
        counts
    }
}

/// The whole study for these data.
///
/// # Errors
/// Names the first class folder that is missing, or the weights.
pub fn plan(experiment: &Experiment, data: &Data) -> Result<Plan, Missing> {
    let mut study =
        Study { experiment, data, seed: Seed(experiment.seed), plan: Plan { tasks: vec![] }, known: BTreeSet::new() };
    let mut report = Report::default();
    let mut patches = BTreeMap::new();
    let mut ingests = Vec::new();
    let splits: BTreeSet<Split> = experiment.tl.rounds().into_iter().flat_map(splits).collect();
    for view in View::ALL {
        ingests.push((view, study.ingest(Dataset::A, view)?, study.ingest(Dataset::C, view)?));
    }
    for (view, ingest_a, ingest_c) in ingests {
        let (real, synthetic) = study.generate(view, ingest_a, &mut report)?;
        study.evaluate(view, &real, &synthetic, &mut report)?;
        study.compare(view, &real, &mut report)?;
        for split in &splits {
            patches.insert((view, *split, Dataset::A), study.patches_of_raw(Dataset::A, view, *split, ingest_a)?);
            patches.insert((view, *split, Dataset::B), study.patches_of_synthetic(view, *split, &synthetic));
            patches.insert((view, *split, Dataset::C), study.patches_of_raw(Dataset::C, view, *split, ingest_c)?);
        }
    }
    for rounds in experiment.tl.rounds() {
        for (repeat, fold) in rounds.runs() {
            let split = Split { number: rounds.split(repeat), folds: rounds.folds, fold };
            for view in View::ALL {
                let patches = |dataset: Dataset| patches[&(view, split, dataset)];
                study.classify(Run { view, rounds, repeat, fold }, patches, &mut report)?;
            }
        }
    }
    study.conclude(report);
    study.plan.weigh();
    Ok(study.plan)
}

/// The distinct trainings behind Table I for one view, repeat and fold: first
/// steps, then second steps, in the table's order.
pub fn trainings() -> (Vec<FirstStep>, Vec<(FirstStep, Dataset)>) {
    let first: BTreeSet<FirstStep> = paper::TABLE_1.iter().map(|row| row.first).collect();
    let mut second: Vec<(FirstStep, Dataset)> = Vec::new();
    for row in paper::TABLE_1.iter() {
        if let Some(dataset) = row.second
            && !second.contains(&(row.first, dataset))
        {
            second.push((row.first, dataset));
        }
    }
    (FirstStep::ALL.into_iter().filter(|step| first.contains(step)).collect(), second)
}

/// All splits that a protocol's runs are on.
fn splits(rounds: Rounds) -> impl Iterator<Item = Split> {
    rounds.runs().map(move |(repeat, fold)| Split { number: rounds.split(repeat), folds: rounds.folds, fold })
}

fn patches_subject(dataset: Dataset, view: View, split: Split) -> String {
    let Split { number, folds, fold } = split;
    match folds {
        1 => format!("{dataset}/{view} split {number}"),
        _ => format!("{dataset}/{view} split {number} fold {fold}"),
    }
}

/// One run of one view: the trainings of a repeat and fold.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Which half of the table.
    pub view: View,
    /// Out of which runs.
    pub rounds: Rounds,
    /// Which repeat, from 0.
    pub repeat: u32,
    /// Which fold, from 0.
    pub fold: u32,
}

impl Run {
    /// The subject of a training, which [`training_name`] names.
    fn subject(self, training: &str) -> String {
        format!("{} {training} {}", self.view, self.rounds.subject(self.repeat, self.fold))
    }

    /// The label of its task.
    pub fn label(self, training: &str) -> String {
        format!("classify.train {}", self.subject(training))
    }

    /// The name under which `aggregate` reads its metrics, for instance
    /// `classify.SUR.A+B-C.r0.f1`.
    pub fn input(self, training: &str) -> String {
        let run = self.rounds.run_name(self.repeat, self.fold).replace(' ', ".");
        format!("classify.{}.{training}.{run}", self.view)
    }
}

/// How a training is called in subjects and in names of inputs: `A+B-C`.
pub fn training_name(first: FirstStep, second: Option<Dataset>) -> String {
    match second {
        None => first.to_string(),
        Some(second) => format!("{first}-{second}"),
    }
}

/// The files of a training that make up its model.
const MODEL: [&str; 2] = ["model.safetensors", "training.json"];

/// A plan in the making.
struct Study<'a> {
    experiment: &'a Experiment,
    data: &'a Data,
    seed: Seed,
    plan: Plan,
    /// The keys of its tasks.
    known: BTreeSet<Digest>,
}

/// What the last two tasks read.
#[derive(Default)]
struct Report {
    results: BTreeMap<String, Input>,
    pictures: BTreeMap<String, Input>,
}

type InputMap = BTreeMap<String, Input>;

fn all_of(task: Digest) -> Input {
    Input { from: Source::Task(task), only: vec![] }
}

fn only(task: Digest, files: &[&str]) -> Input {
    Input { from: Source::Task(task), only: files.iter().map(|file| (*file).to_owned()).collect() }
}

impl Study<'_> {
    /// Adds a task; its random numbers are told apart by `stream`.
    fn add(&mut self, subject: String, stage: Stage, inputs: InputMap, stream: &str) -> Digest {
        let seed = self.seed.derive(&format!("{} {stream}", stage.name()), 0);
        let task = TaskSpec::new(subject, stage, inputs, seed);
        let key = task.key;
        // Two protocols may ask for the same.
        if self.known.insert(key) {
            self.plan.tasks.push(task);
        }
        key
    }

    fn ingest(&mut self, dataset: Dataset, view: View) -> Result<Digest, Missing> {
        let experiment = self.experiment;
        let stage = Stage::Ingest(Ingest {
            dataset,
            view,
            generator_images: if dataset == Dataset::A { experiment.sinddm.images_per_model } else { 0 },
            leave: experiment.tl.most_folds(),
            pick: experiment.sinddm.pick,
            pick_seed: experiment.sinddm.pick_seed,
            min_side: experiment.patch.size,
            stones: self.stones(dataset, view)?,
        });
        let inputs = self.raw_inputs(dataset, view)?;
        Ok(self.add(format!("{dataset}/{view}"), stage, inputs, &format!("{dataset} {view}")))
    }

    /// Pictures and masks of each class.
    fn raw_inputs(&self, dataset: Dataset, view: View) -> Result<InputMap, Missing> {
        let given = |artifact| Input { from: Source::Artifact(artifact), only: vec![] };
        let mut inputs = InputMap::new();
        for class in dataset.classes() {
            let raw = self.data.get(dataset, view, class)?;
            inputs.insert(format!("raw.{class}"), given(raw.artifact));
            inputs.extend(raw.masks.map(|masks| (format!("masks.{class}"), given(masks))));
        }
        Ok(inputs)
    }

    fn stones(&self, dataset: Dataset, view: View) -> Result<BTreeMap<Class, BTreeMap<String, u32>>, Missing> {
        let mut stones = BTreeMap::new();
        for class in dataset.classes() {
            let raw = self.data.get(dataset, view, class)?;
            if !raw.stones.is_empty() {
                stones.insert(class, raw.stones.clone());
            }
        }
        Ok(stones)
    }

    /// Padded pictures and enlarged samples of each class.
    #[allow(clippy::type_complexity, reason = "two lists of the same shape, used at once")]
    fn generate(
        &mut self,
        view: View,
        ingest: Digest,
        report: &mut Report,
    ) -> Result<(Vec<(Class, Digest)>, Vec<(Class, Digest)>), Missing> {
        let experiment = self.experiment;
        let (mut real, mut samples) = (vec![], vec![]);
        for class in Dataset::A.classes() {
            let subject = format!("{view}/{class}");
            let raw = Input { from: Source::Artifact(self.data.get(Dataset::A, view, class)?.artifact), only: vec![] };
            let inputs = InputMap::from([("ingest".to_owned(), all_of(ingest)), ("raw".to_owned(), raw)]);
            let pad = self.add(subject.clone(), Stage::Pad { class, pad: experiment.pad.clone() }, inputs, "");
            let models = self.train_generator(view, class, pad)?;
            let stage = Stage::SinddmSample { sampling: experiment.sampling.clone() };
            let sample = self.add(subject.clone(), stage, models, &subject);
            real.push((class, pad));
            samples.push((class, sample));
            report.results.insert(format!("samples.{view}.{class}"), only(sample, &["samples.json"]));
            report.pictures.insert(format!("samples.{view}.{class}"), only(sample, &["sheet.png"]));
        }
        let network = self.upscaler(view, &real)?;
        let enlarge = |(class, sample): (Class, Digest)| {
            let mut inputs = InputMap::from([("samples".to_owned(), all_of(sample))]);
            inputs.extend(network.clone());
            let stage = Stage::Upscale { upscale: experiment.upscale.clone() };
            (class, self.add(format!("{view}/{class}"), stage, inputs, ""))
        };
        let synthetic = samples.into_iter().map(enlarge).collect();
        Ok((real, synthetic))
    }

    /// What enlarges the samples of a view, as an input of that; none for filters.
    fn upscaler(&mut self, view: View, real: &[(Class, Digest)]) -> Result<InputMap, Missing> {
        let upscale = &self.experiment.upscale;
        if !upscale.is_trained() {
            return self.with_weights(InputMap::new(), upscale.pretrained());
        }
        let pads = real.iter().map(|(class, pad)| (format!("pad.{class}"), all_of(*pad))).collect();
        let canvas = self.experiment.pad.target.nominal();
        let size = self.experiment.sampling.size(self.experiment.sinddm.finest.size(canvas));
        let size = size.map(|side| side * upscale.factor);
        let stage = Stage::Swin2srTrain { size, training: upscale.training.clone() };
        let train = self.add(view.to_string(), stage, pads, view.code());
        Ok(InputMap::from([("model".to_owned(), only(train, &MODEL))]))
    }

    /// The diffusion models of one class, as inputs of sampling.
    fn train_generator(&mut self, view: View, class: Class, pad: Digest) -> Result<InputMap, Missing> {
        let subject = format!("{view}/{class}");
        let sinddm = match self.experiment.pad.target {
            Canvas::Size(canvas) => self.experiment.sinddm.on(canvas),
            // Known when the pictures are.
            Canvas::Rule(_) => self.experiment.sinddm.clone(),
        };
        let stage = Stage::SinddmTrain { sinddm: sinddm.clone() };
        if sinddm.multi_image != MultiImage::PerImage {
            let pad = InputMap::from([("pad".to_owned(), all_of(pad))]);
            let train = self.add(subject.clone(), stage, pad, &subject);
            return Ok(InputMap::from([("model".to_owned(), only(train, &MODEL))]));
        }
        // The split may leave a small class fewer pictures than asked for.
        let raw = self.data.get(Dataset::A, view, class)?;
        let spare = match sinddm.pick {
            Pick::RandomFromAll => raw.images,
            // Whichever stones are left for testing.
            Pick::RandomFromTrainSplit => {
                let by_stone = raw.by_stone();
                let leave = (self.experiment.tl.most_folds() as usize).min(by_stone.len().saturating_sub(1));
                by_stone.iter().take(by_stone.len() - leave).sum()
            }
        };
        let model = |image: u32| {
            let pad = only(pad, &[&format!("images/{image:03}.png"), "pad.json"]);
            let subject = format!("{subject} picture {image}");
            let train = self.add(subject.clone(), stage.clone(), InputMap::from([("pad".to_owned(), pad)]), &subject);
            (format!("model.{image}"), only(train, &MODEL))
        };
        Ok((0..sinddm.images_per_model.min(spare.max(1))).map(model).collect())
    }

    /// Inputs with the published weights that a task reads, if it reads any.
    fn with_weights(&self, mut inputs: InputMap, which: Option<Pretrained>) -> Result<InputMap, Missing> {
        if let Some(which) = which {
            let artifact = *self.data.weights.get(&which).ok_or(Missing::Weights(which))?;
            let weights = Input { from: Source::Artifact(artifact), only: vec![WEIGHTS_FILE.to_owned()] };
            inputs.insert("weights".to_owned(), weights);
        }
        Ok(inputs)
    }

    fn evaluate(
        &mut self,
        view: View,
        real: &[(Class, Digest)],
        synthetic: &[(Class, Digest)],
        report: &mut Report,
    ) -> Result<(), Missing> {
        let both = || {
            let named = |prefix: &'static str, list: &[(Class, Digest)]| -> Vec<(String, Input)> {
                list.iter().map(|(class, task)| (format!("{prefix}.{class}"), all_of(*task))).collect()
            };
            InputMap::from_iter(named("real", real).into_iter().chain(named("synthetic", synthetic)))
        };
        let stream = view.to_string();
        let drift =
            self.add(stream.clone(), Stage::EvaluateDrift { drift: self.experiment.drift.clone() }, both(), &stream);
        report.results.insert(format!("drift.{view}"), only(drift, &["drift.json"]));
        let heatmap = self.add(stream.clone(), Stage::EvaluateHeatmap, both(), &stream);
        report.results.insert(format!("heatmap.{view}"), only(heatmap, &["heatmap.json"]));
        let maps = only(heatmap, &["difference.png", "real.png", "synthetic.png"]);
        report.pictures.insert(format!("heatmap.{view}"), maps);
        for ((class, real), (_, synthetic)) in real.iter().zip(synthetic) {
            let inputs =
                InputMap::from([("real".to_owned(), all_of(*real)), ("synthetic".to_owned(), all_of(*synthetic))]);
            let inputs = self.with_weights(inputs, self.experiment.sifid.weights())?;
            let stage = Stage::EvaluateSifid { sifid: self.experiment.sifid.clone() };
            let sifid = self.add(format!("{view}/{class}"), stage, inputs, "");
            report.results.insert(format!("sifid.{view}.{class}"), only(sifid, &["sifid.json"]));
        }
        Ok(())
    }

    /// The plain diffusion models of one view, evaluated as the others are.
    fn compare(&mut self, view: View, real: &[(Class, Digest)], report: &mut Report) -> Result<(), Missing> {
        let ddpm = &self.experiment.ddpm;
        let samples = ddpm.sampling.per_class_view;
        let models: Vec<(String, InputMap, u32)> = match ddpm.models {
            DdpmModels::None => return Ok(()),
            DdpmModels::PerView => {
                let pads = real.iter().map(|(class, pad)| (format!("pad.{class}"), all_of(*pad))).collect();
                vec![(view.to_string(), pads, samples * real.len() as u32)]
            }
            DdpmModels::PerClassView => {
                let one = |(class, pad): &(Class, Digest)| {
                    (format!("{view}/{class}"), InputMap::from([("pad".to_owned(), all_of(*pad))]), samples)
                };
                real.iter().map(one).collect()
            }
        };
        for (subject, pads, per_class_view) in models {
            let training = self.experiment.ddpm.training.clone();
            let train = self.add(subject.clone(), Stage::DdpmTrain { training }, pads, &subject);
            let sampling = DdpmSampling { per_class_view, ..self.experiment.ddpm.sampling.clone() };
            let model = InputMap::from([("model".to_owned(), only(train, &["model.safetensors", "training.json"]))]);
            let sample = self.add(subject.clone(), Stage::DdpmSample { sampling }, model, &subject);
            let name = subject.replace('/', ".");
            let subject = format!("{subject} ddpm");
            let both = InputMap::from([("real".to_owned(), all_of(train)), ("synthetic".to_owned(), all_of(sample))]);
            let (drift, sifid) = (self.experiment.drift.clone(), self.experiment.sifid.clone());
            let weights = sifid.weights();
            for (stage, score, weights) in [
                (Stage::EvaluateDrift { drift }, "drift", None),
                (Stage::EvaluateHeatmap, "heatmap", None),
                (Stage::EvaluateSifid { sifid }, "sifid", weights),
            ] {
                let inputs = self.with_weights(both.clone(), weights)?;
                let task = self.add(subject.clone(), stage, inputs, &subject);
                report.results.insert(format!("ddpm-{score}.{name}"), only(task, &[&format!("{score}.json")]));
            }
        }
        Ok(())
    }

    fn patches_stage(&self, dataset: Dataset, view: View, split: Split) -> Stage {
        let mut patch = self.experiment.patch.clone();
        // What a stage does not look at must not tell its tasks apart.
        patch.whiten = Whiten::None;
        if dataset != Dataset::A {
            patch.source_a = PatchSource::Original;
        }
        let pad = (patch.source_a == PatchSource::Padded).then(|| self.experiment.pad.clone());
        Stage::Patches(Patches { dataset, view, split, patch, pad })
    }

    /// The stream leaves the split out: the images of all folds are dealt by it.
    fn patches_of_raw(
        &mut self,
        dataset: Dataset,
        view: View,
        split: Split,
        ingest: Digest,
    ) -> Result<Digest, Missing> {
        let mut inputs = self.raw_inputs(dataset, view)?;
        inputs.insert("ingest".to_owned(), all_of(ingest));
        let stage = self.patches_stage(dataset, view, split);
        Ok(self.add(patches_subject(dataset, view, split), stage, inputs, &format!("{dataset} {view}")))
    }

    fn patches_of_synthetic(&mut self, view: View, split: Split, synthetic: &[(Class, Digest)]) -> Digest {
        let named = |(class, task): &(Class, Digest)| (format!("synthetic.{class}"), all_of(*task));
        let inputs = synthetic.iter().map(named).collect();
        let stage = self.patches_stage(Dataset::B, view, split);
        self.add(patches_subject(Dataset::B, view, split), stage, inputs, &format!("B {view}"))
    }

    /// The nine trainings of one run.
    fn classify(&mut self, run: Run, patches: impl Fn(Dataset) -> Digest, report: &mut Report) -> Result<(), Missing> {
        let (first_steps, second_steps) = trainings();
        let patches = &patches;
        let named = |dataset: &Dataset| (format!("patches.{dataset}"), all_of(patches(*dataset)));
        let mut models = BTreeMap::new();
        for first in first_steps {
            let inputs = first.datasets().iter().map(named).collect();
            let inputs = self.with_weights(inputs, self.experiment.tl.pretrained())?;
            let stage = self.classify_stage(first.datasets(), 0);
            let model = self.add_training(run, &training_name(first, None), stage, inputs, report);
            models.insert(first, model);
        }
        for (first, second) in second_steps {
            let mut inputs = InputMap::from([named(&second)]);
            inputs.insert("init".to_owned(), only(models[&first], &["model.safetensors"]));
            let stage = self.classify_stage(vec![second], 1);
            self.add_training(run, &training_name(first, Some(second)), stage, inputs, report);
        }
        Ok(())
    }

    fn classify_stage(&self, datasets: Vec<Dataset>, step: usize) -> Stage {
        let tl = &self.experiment.tl;
        Stage::ClassifyTrain(ClassifyTrain {
            network: tl.network.clone(),
            init: (step == 0).then_some(tl.init),
            // As above.
            head: if step == 1 { tl.head } else { HeadStart::Keep },
            order: self.experiment.labels.order,
            mix: if datasets.len() > 1 { tl.mix } else { Mix::Concat },
            whiten: self.experiment.patch.whiten,
            datasets,
            batch: tl.batch,
            epochs: tl.epochs[step],
            lr: tl.lr[step],
            momentum: tl.momentum,
            lr_step: tl.lr_step,
            lr_gamma: tl.lr_gamma,
            augment: tl.augment,
            blur: tl.blur_step1 && step == 0,
            val_fraction: tl.val_fraction,
            val: tl.val,
            select: tl.select,
        })
    }

    fn add_training(&mut self, run: Run, name: &str, stage: Stage, inputs: InputMap, report: &mut Report) -> Digest {
        let task = self.add(run.subject(name), stage, inputs, &format!("{} {name} {}", run.view, run.repeat));
        report.results.insert(run.input(name), only(task, &["metrics.json"]));
        task
    }

    fn conclude(&mut self, mut report: Report) {
        let experiment = self.experiment;
        for task in &self.plan.tasks {
            let record = match task.stage {
                Stage::Pad { .. } => "pad.json",
                Stage::Patches(_) => "patches.json",
                _ => continue,
            };
            report.results.insert(lineage::input_of(&task.label()), only(task.key, &[record]));
        }
        let stage = Stage::Aggregate(Aggregate {
            scale: experiment.scale.name().to_owned(),
            seed: experiment.seed,
            rounds: experiment.tl.rounds(),
            allow_leak: experiment.tl.allow_leak,
            lineage: Lineage::of(&self.plan.tasks),
            stand_ins: self.data.stand_ins().into_iter().chain(experiment.stand_ins()).collect(),
            drift_threshold: experiment.drift.threshold,
            margin: experiment.tl.margin,
        });
        let aggregate = self.add(String::new(), stage, report.results, "");
        let mut inputs = report.pictures;
        inputs.insert("results".to_owned(), all_of(aggregate));
        self.add(String::new(), Stage::Report, inputs, "");
    }
}

#[cfg(test)]
mod tests;
