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

/// One class folder of the data as given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawClass {
    /// A or C.
    pub dataset: Dataset,
    /// Which half of it.
    pub view: View,
    /// Which class.
    pub class: Class,
    /// The folder as an artifact.
    pub artifact: Digest,
    /// Pictures in it.
    pub images: u32,
    /// Where the stone is in some of them, as an artifact: `<file stem>.png`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<Digest>,
    /// Which stone a picture shows, by file name; what is not named shows one of its
    /// own. Only which are equal counts: names of stones or patients stay where they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stones: BTreeMap<String, u32>,
}

impl RawClass {
    /// A folder without masks, of whose stones nothing is known.
    pub fn new((dataset, view, class): (Dataset, View, Class), artifact: Digest, images: u32) -> Self {
        Self { dataset, view, class, artifact, images, masks: None, stones: BTreeMap::new() }
    }

    /// Pictures of each stone, fewest first.
    fn by_stone(&self) -> Vec<u32> {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        self.stones.values().for_each(|stone| *counts.entry(*stone).or_default() += 1);
        let named: u32 = counts.values().sum();
        let mut counts: Vec<u32> = counts.into_values().collect();
        counts.extend((named..self.images).map(|_| 1));
        counts.sort_unstable();
        counts
    }
}

/// What the study starts from: every class folder of A and C.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// 24 folders: two data sets, two views, six classes.
    pub classes: Vec<RawClass>,
    /// What the pictures are, if they only stand in for real ones.
    pub stand_in: Option<String>,
    /// Published weights, each an artifact with the file [`WEIGHTS_FILE`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<Pretrained, Digest>,
    /// Which of these came from a file that is not the published one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unpublished: BTreeSet<Pretrained>,
}

/// The file of an artifact of published weights.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// What a study needs and is not among the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A class folder.
    #[error("no pictures of class {class} in data set {dataset}, view {view}")]
    Class {
        /// A or C.
        dataset: Dataset,
        /// Which half of it.
        view: View,
        /// Which class.
        class: Class,
    },
    /// Published weights.
    #[error("the study needs the weights {0}, which were not handed in with it")]
    Weights(Pretrained),
}

impl Data {
    /// Every folder of A and C that a study needs.
    pub fn folders() -> impl Iterator<Item = (Dataset, View, Class)> {
        [Dataset::A, Dataset::C].into_iter().flat_map(|dataset| {
            View::ALL
                .into_iter()
                .flat_map(move |view| dataset.classes().into_iter().map(move |class| (dataset, view, class)))
        })
    }

    /// Data with the paper's counts and no pictures behind them, to plan with.
    pub fn of_the_paper() -> Self {
        let raw = |(dataset, view, class)| {
            let images = paper::image_count(dataset, view, class).unwrap_or(0);
            RawClass::new((dataset, view, class), Digest::of_json(&(dataset, view, class)), images)
        };
        let weights = Pretrained::ALL.map(|which| (which, Self::unknown(which))).into();
        Self { classes: Self::folders().map(raw).collect(), stand_in: None, weights, unpublished: BTreeSet::new() }
    }

    /// A digest that stands for weights that are not here, to plan with.
    pub fn unknown(which: Pretrained) -> Digest {
        Digest::of_json(&which)
    }

    /// Why results on these data cannot be set beside the paper's.
    pub fn stand_ins(&self) -> Vec<String> {
        let foreign = |which: &Pretrained| format!("the weights {which} are not those of the published file");
        self.of_pictures().into_iter().chain(self.unpublished.iter().map(foreign)).collect()
    }

    fn of_pictures(&self) -> Option<String> {
        if let Some(stand_in) = &self.stand_in {
            return Some(format!("stand-in data: {stand_in}"));
        }
        let differs = |raw: &&RawClass| paper::image_count(raw.dataset, raw.view, raw.class) != Some(raw.images);
        let count = self.classes.iter().filter(differs).count();
        match count {
            0 => None,
            _ => Some(format!("not the paper's data: {count} of 24 class folders have another number of images")),
        }
    }

    fn get(&self, dataset: Dataset, view: View, class: Class) -> Result<&RawClass, Missing> {
        let found = self.classes.iter().find(|raw| (raw.dataset, raw.view, raw.class) == (dataset, view, class));
        found.ok_or(Missing::Class { dataset, view, class })
    }
}

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
mod tests {
    use super::*;
    use crate::experiment::Protocol;

    fn paper_plan() -> Plan {
        plan(&Experiment::default(), &Data::of_the_paper()).unwrap()
    }

    #[test]
    fn the_shape_of_the_study_is_the_papers() {
        let plan = paper_plan();
        let count = |name| plan.by_stage().into_iter().find(|(stage, _)| *stage == name).unwrap().1;
        assert_eq!(count("ingest"), 4);
        for stage in ["pad", "sinddm.train", "sinddm.sample", "upscale", "evaluate.sifid"] {
            assert_eq!(count(stage), 12, "{stage}");
        }
        assert_eq!(count("evaluate.drift"), 2);
        assert_eq!(count("evaluate.heatmap"), 2);
        assert_eq!(count("patches"), 6 * 2 * 5);
        assert_eq!(count("classify.train"), 9 * 2 * 2 * 5);
        assert_eq!(count("aggregate") + count("report"), 2);
    }

    #[test]
    fn protocols_share_what_they_have_in_common() {
        let trainings = |protocols: &[Protocol]| {
            let mut experiment = Experiment::default();
            experiment.tl.protocol = protocols.to_vec();
            let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
            let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.name() == name).count();
            (of("classify.train"), of("patches"), of("sinddm.train"))
        };
        assert_eq!(trainings(&[Protocol::FixedSplit]), (9 * 2 * 5, 6, 12));
        assert_eq!(trainings(&[Protocol::Resplit]), (9 * 2 * 5, 6 * 5, 12));
        // The first training of each is the same.
        assert_eq!(trainings(&[Protocol::FixedSplit, Protocol::Resplit]), (9 * 2 * 9, 6 * 5, 12));
        let all = [Protocol::RepeatedCv, Protocol::FixedSplit, Protocol::Resplit];
        assert_eq!(trainings(&all), (9 * 2 * (10 + 9), 6 * (10 + 5), 12));
    }

    #[test]
    fn every_task_comes_after_what_it_needs_and_no_key_stands_twice() {
        let plan = paper_plan();
        let mut seen = BTreeSet::new();
        for task in &plan.tasks {
            assert!(task.needs().all(|key| seen.contains(&key)), "{}", task.label());
            assert!(task.key_is_right());
            assert!(seen.insert(task.key), "{} stands twice", task.label());
        }
    }

    #[test]
    fn a_key_changes_with_what_determines_the_result_and_with_nothing_else() {
        let keys = |experiment: &Experiment| -> BTreeMap<String, Digest> {
            let plan = plan(experiment, &Data::of_the_paper()).unwrap();
            plan.tasks.iter().map(|task| (task.label(), task.key)).collect()
        };
        let base = keys(&Experiment::default());
        let mut experiment = Experiment::default();
        experiment.sampling.omega = 0.1;
        let changed = keys(&experiment);
        for (label, key) in &base {
            let same = ["ingest", "pad", "sinddm.train", "patches A", "patches C", "classify.train SUR A repeat"];
            let expect_same = same.iter().any(|prefix| label.starts_with(prefix))
                || label.starts_with("classify.train SUR C ")
                || label.starts_with("classify.train SUR A-C ")
                || label.starts_with("classify.train SEC A ")
                || label.starts_with("classify.train SEC C ")
                || label.starts_with("classify.train SEC A-C ");
            assert_eq!(changed[label] == *key, expect_same, "{label}");
        }
    }

    #[test]
    fn how_patches_are_cut_changes_those_of_the_data_sets_concerned() {
        let changed = |change: fn(&mut Experiment)| {
            let mut experiment = Experiment::default();
            change(&mut experiment);
            let (before, after) = (paper_plan(), plan(&experiment, &Data::of_the_paper()).unwrap());
            let differs = |(before, after): &(&TaskSpec, &TaskSpec)| {
                before.key != after.key && !matches!(before.stage.name(), "classify.train" | "aggregate" | "report")
            };
            let pairs = before.tasks.iter().zip(&after.tasks).filter(differs);
            // In each split alike.
            let names = pairs.map(|(task, _)| task.label().split(" split").next().unwrap().to_owned());
            names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
        };
        assert_eq!(changed(|it| it.patch.source_a = PatchSource::Padded), "patches A/SEC, patches A/SUR");
        // No diffusion model depends on who is tested.
        let all = "patches A/SEC, patches A/SUR, patches B/SEC, patches B/SUR, patches C/SEC, patches C/SUR";
        assert_eq!(changed(|it| it.patch.split_seed = Some(5)), all);
    }

    #[test]
    fn plain_diffusion_models_are_planned_where_they_are_asked_for() {
        let count = |models| {
            let mut experiment = Experiment::default();
            experiment.ddpm.models = models;
            let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
            let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.name() == name).count();
            assert_eq!(of("ddpm.train"), of("ddpm.sample"));
            let samples = plan.tasks.iter().map(|task| match &task.stage {
                Stage::DdpmSample { sampling } => sampling.per_class_view,
                _ => 0,
            });
            (of("ddpm.train"), of("evaluate.drift"), samples.sum::<u32>())
        };
        assert_eq!(count(DdpmModels::None), (0, 2, 0));
        assert_eq!(count(DdpmModels::PerView), (2, 4, 300));
        assert_eq!(count(DdpmModels::PerClassView), (12, 14, 300));
    }

    #[test]
    fn each_picture_may_have_a_model_of_its_own() {
        let mut experiment = Experiment::default();
        experiment.sinddm.multi_image = MultiImage::PerImage;
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.name() == name).collect::<Vec<_>>();
        assert_eq!(
            (of("sinddm.train").len(), of("sinddm.sample").len()),
            (94, 12),
            "A/SEC/Va has 11 pictures, of which 5 are left for the folds"
        );
        assert_eq!(of("sinddm.sample")[0].inputs.iter().len(), 8);
        let pad = of("sinddm.train")[3].inputs.get("pad").unwrap();
        assert_eq!(pad.only, ["images/003.png", "pad.json"]);
        assert_ne!(of("sinddm.train")[3].key, of("sinddm.train")[4].key);
    }

    #[test]
    fn masks_and_stones_change_the_tasks_that_use_them_and_no_others() {
        let plan_of = |data: &Data| plan(&Experiment::default(), data).unwrap();
        let (before, mut data) = (paper_plan(), Data::of_the_paper());
        data.classes[0].masks = Some(Digest::of(b"masks"));
        data.classes[0].stones =
            [("1.png", 0), ("2.png", 0), ("3.png", 1)].map(|(name, n)| (name.to_owned(), n)).into();
        let json = serde_json::to_value(&data).unwrap();
        assert_eq!(serde_json::from_value::<Data>(json).unwrap(), data);
        let RawClass { dataset, view, class, images, .. } = data.classes[0].clone();
        assert_eq!(
            (dataset, view, data.classes[0].by_stone()),
            (Dataset::A, View::Sur, {
                let mut counts = vec![1; images as usize - 2];
                counts.push(2);
                counts
            })
        );
        let after = plan_of(&data);
        let of = |plan: &Plan, label: &str| plan.tasks.iter().find(|task| task.label() == label).unwrap().clone();
        for label in ["ingest A/SUR", "patches A/SUR split 0 fold 0"] {
            let task = of(&after, label);
            let masks = task.inputs.get(&format!("masks.{class}")).map(|input| input.from);
            assert_eq!(masks, Some(Source::Artifact(Digest::of(b"masks"))));
            assert_ne!(task.key, of(&before, label).key);
        }
        for label in ["ingest C/SUR", "patches A/SEC split 0 fold 0", "patches C/SUR split 1 fold 4"] {
            assert_eq!(of(&after, label).key, of(&before, label).key, "{label}");
        }
    }

    #[test]
    fn a_missing_class_is_named() {
        let mut data = Data::of_the_paper();
        data.classes.retain(|raw| (raw.view, raw.class) != (View::Sec, Class::Ivd) || raw.dataset == Dataset::A);
        let error = plan(&Experiment::default(), &data).unwrap_err();
        assert_eq!(error.to_string(), "no pictures of class IVd in data set C, view SEC");
    }

    #[test]
    fn data_with_the_papers_counts_may_be_compared_and_others_not() {
        assert_eq!(Data::of_the_paper().stand_ins(), Vec::<String>::new());
        let mut data = Data::of_the_paper();
        data.classes[0].images += 1;
        assert_eq!(data.stand_ins().len(), 1);
        data.stand_in = Some("drawings".to_owned());
        assert_eq!(data.stand_ins(), ["stand-in data: drawings"]);
        data.unpublished.insert(Pretrained::Resnet50V2);
        assert_eq!(data.stand_ins()[1], "the weights resnet50-imagenet1k-v2 are not those of the published file");
    }

    #[test]
    fn a_network_of_ones_own_is_trained_once_a_view_and_enlarges_all_its_samples() {
        let mut experiment = Experiment::default();
        experiment.upscale.weights = crate::experiment::UpscaleWeights::Trained;
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let of = |stage: &str| plan.tasks.iter().filter(|task| task.stage.name() == stage).collect::<Vec<_>>();
        let trained = of("swin2sr.train");
        assert_eq!(trained.iter().map(|task| task.inputs.iter().len()).collect::<Vec<_>>(), [6, 6]);
        assert!(matches!(trained[0].stage, Stage::Swin2srTrain { size: [1056, 800], .. }));
        let reads = |task: &&TaskSpec| task.inputs.get("model").map(|input| input.from);
        let read: Vec<_> = of("upscale").iter().map(reads).collect();
        assert_eq!((read[0], read[11]), (Some(Source::Task(trained[0].key)), Some(Source::Task(trained[1].key))));
        assert!(of("upscale").iter().all(|task| task.inputs.get("weights").is_none()));
    }

    #[test]
    fn tasks_read_the_weights_that_they_start_from_and_no_others() {
        let of_the_paper = Data::of_the_paper();
        let plan_of = |experiment: &Experiment| plan(experiment, &of_the_paper).unwrap();
        let reads = |plan: &Plan| -> BTreeMap<String, Digest> {
            let read = plan.tasks.iter().filter_map(|task| match task.inputs.get("weights")?.from {
                Source::Artifact(artifact) => Some((task.label(), artifact)),
                Source::Task(_) => None,
            });
            read.collect()
        };
        let read = reads(&paper_plan());
        // 12 upscale, 12 sifid, and the 4 first steps of 9 trainings.
        assert_eq!(read.len(), 12 + 12 + 4 * 2 * 2 * 5);
        assert_eq!(read["upscale SUR/IVa"], Data::unknown(Pretrained::Swin2srCompressed));
        assert_eq!(read["evaluate.sifid SUR/IVa"], Data::unknown(Pretrained::InceptionV3));
        assert_eq!(read["classify.train SUR A+B repeat 0 fold 0"], Data::unknown(Pretrained::Resnet50V2));
        let mut experiment = Experiment::default();
        experiment.upscale.method = crate::experiment::UpscaleMethod::Lanczos;
        experiment.tl.init = crate::experiment::Init::Random;
        experiment.sifid.features = crate::experiment::Features::Random;
        assert_eq!(reads(&plan_of(&experiment)), BTreeMap::new());
    }

    #[test]
    fn missing_weights_are_named_and_data_of_before_there_were_any_are_read() {
        let mut data = Data::of_the_paper();
        data.weights.remove(&Pretrained::InceptionV3);
        assert_eq!(plan(&Experiment::default(), &data), Err(Missing::Weights(Pretrained::InceptionV3)));
        data.weights.clear();
        let json = serde_json::to_value(&data).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), ["classes", "stand_in"]);
        assert_eq!(serde_json::from_value::<Data>(json).unwrap(), data);
    }
}
