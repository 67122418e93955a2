//! A study as a graph of tasks.
//!
//! A task's key is the digest of everything that determines its result: stage, version,
//! parameters that its results depend on, inputs and seed. An input that another task makes is
//! named by that task's key, so the whole graph, and what of it is already done, is known
//! before anything runs, and equal work is one task: the sixteen rows of Table I share nine
//! trainings per view, repeat and fold.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{DIGEST_BYTES, Digest};
use crate::id::{ArtifactId, RunId, TaskKey};
use crate::resources::Resources;
use crate::seed::Seed;
use crate::study::experiment::{Experiment, Pick};
use crate::study::stage::{Stage, StageKind};
use crate::study::stone::Dataset;
use crate::text::FIELD_BYTES;

pub mod cost;
mod data;
mod lineage;
pub mod rates;
mod study;

pub use data::{Data, InvalidData, Missing, RawClass, WEIGHTS_FILE};
pub use lineage::lineage;
pub use study::plan;

/// Where an input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// An existing artifact.
    Artifact(ArtifactId),
    /// The result of a task.
    Task(TaskKey),
}

/// One input of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub from: Source,
    /// Paths of the files that are read; empty if all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

/// The inputs of a task by name. An ordered map in a slice, as there may be a million of these
/// maps, most with one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs(Box<[(String, Input)]>);

impl Inputs {
    /// All inputs, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Input)> {
        self.0.iter().map(|(name, input)| (name.as_str(), input))
    }

    /// The input of that name.
    pub fn get(&self, name: &str) -> Option<&Input> {
        let place = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        Some(&self.0[place].1)
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
    pub key: TaskKey,
    /// What the task is about, for people, for instance `SUR/IVa`. Not part of the key.
    pub subject: String,
    /// The stage with its parameters.
    pub stage: Stage,
    /// Version of the stage that the task was planned for. A task from before an upgrade is not
    /// given to workers that compute something else.
    pub version: u32,
    pub inputs: Inputs,
    /// Root of the task's random numbers.
    pub seed: Seed,
    /// The resources that an attempt occupies. Not part of the key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Arc<Resources>,
    /// Arithmetic of the longest chain of tasks that begins with this one, in millions of
    /// floating-point operations: tasks with longer chains go first. Not part of the key.
    #[serde(default)]
    pub chain_mflop: u64,
}

fn is_default(resources: &Resources) -> bool {
    *resources == Resources::default()
}

impl TaskSpec {
    /// A task with default resources.
    pub fn new(subject: String, stage: Stage, inputs: BTreeMap<String, Input>, seed: Seed) -> Self {
        let (version, inputs) = (stage.kind().version(), Inputs::from(inputs));
        let key = Self::key_of(&stage, version, &inputs, seed);
        Self { key, subject, stage, version, inputs, seed, resources: Arc::default(), chain_mflop: 0 }
    }

    /// The key; [`Stage::identity`] says which parameters count.
    fn key_of(stage: &Stage, version: u32, inputs: &Inputs, seed: Seed) -> TaskKey {
        match stage {
            // All of a command counts, and there may be a million of them.
            Stage::Command(_) => TaskKey(Digest::of_json(&(stage.kind().name(), version, stage, inputs, seed))),
            _ => TaskKey(Digest::of_json(&(stage.kind().name(), version, stage.identity(), inputs, seed))),
        }
    }

    /// Whether the key matches the content. False for a spec that was altered in transit.
    pub fn key_is_right(&self) -> bool {
        Self::key_of(&self.stage, self.version, &self.inputs, self.seed) == self.key
    }

    /// Keys of the tasks whose results this one reads.
    pub fn needs(&self) -> impl Iterator<Item = TaskKey> + '_ {
        self.inputs.iter().filter_map(|(_, input)| match input.from {
            Source::Task(key) => Some(key),
            Source::Artifact(_) => None,
        })
    }

    /// Shares memory with another task for what both have in common, as the tasks of one array
    /// do for their arguments when they are planned. The content does not change.
    pub fn share(&mut self, other: &TaskSpec) {
        fn once<T: PartialEq + ?Sized>(own: &mut Arc<T>, other: &Arc<T>) {
            if own == other {
                own.clone_from(other);
            }
        }
        once(&mut self.resources, &other.resources);
        if let (Stage::Command(own), Stage::Command(other)) = (&mut self.stage, &other.stage) {
            once(&mut own.id, &other.id);
            once(&mut own.argv, &other.argv);
            once(&mut own.environment, &other.environment);
        }
    }

    /// Whether this task holds a second copy in memory of the other task's arguments.
    pub fn repeats(&self, other: &TaskSpec) -> bool {
        match (&self.stage, &other.stage) {
            (Stage::Command(own), Stage::Command(other)) => {
                !Arc::ptr_eq(&own.argv, &other.argv) && own.argv == other.argv
            }
            _ => false,
        }
    }

    /// Bytes that a worker is told about the task. The parameters of a stage of the study are
    /// left out, as these are few.
    pub fn told_bytes(&self) -> u64 {
        let inputs = self.inputs.iter().map(|(name, input)| {
            let files: usize = input.only.iter().map(|file| file.len() + FIELD_BYTES).sum();
            name.len() + DIGEST_BYTES + files
        });
        let command = match &self.stage {
            Stage::Command(command) => command.told_bytes(),
            _ => 0,
        };
        (inputs.sum::<usize>() + command) as u64
    }

    /// The task's weight in the limit on what is kept for its submitter: 1, and 1 more for each
    /// KiB of its command, inputs and labels.
    pub fn weight(&self) -> u64 {
        let labels: usize = self.resources.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        1 + (self.told_bytes() + labels as u64) / 1024
    }

    /// Stage and subject, for people.
    pub fn label(&self) -> String {
        self.stage.kind().label(&self.subject)
    }
}

/// The planned tasks of a run, each after all that it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub tasks: Vec<TaskSpec>,
}

impl Plan {
    /// Names the run of the plan: equal plans are one run.
    pub fn id(&self) -> RunId {
        let keys: Vec<TaskKey> = self.tasks.iter().map(|task| task.key).collect();
        RunId(Digest::of_json(&keys))
    }

    /// Computes the longest chain that begins with each task.
    fn weigh(&mut self) {
        let mut longest_after: BTreeMap<TaskKey, u64> = BTreeMap::new();
        let flops = cost::flops(self);
        for (task, flop) in self.tasks.iter_mut().zip(flops).rev() {
            let own = (flop / 1e6) as u64;
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
    pub fn by_stage(&self) -> Vec<(StageKind, usize)> {
        let mut counts: Vec<(StageKind, usize)> = Vec::new();
        for task in &self.tasks {
            match counts.iter_mut().find(|(kind, _)| *kind == task.stage.kind()) {
                Some((_, count)) => *count += 1,
                None => counts.push((task.stage.kind(), 1)),
            }
        }
        counts
    }
}

/// Why the numbers of a study are not comparable with the paper's: because of its data, its
/// methods and knobs, and generators that learn from fewer pictures than asked for.
pub fn stand_ins(experiment: &Experiment, data: &Data) -> Vec<String> {
    data.stand_ins().into_iter().chain(experiment.stand_ins()).chain(short_generators(experiment, data)).collect()
}

/// The diffusion models that learn from fewer pictures than `sinddm.images_per_model`, since
/// some pictures of their class have to be left for testing.
pub fn short_generators(experiment: &Experiment, data: &Data) -> Vec<String> {
    let asked = experiment.sinddm.images_per_model;
    let of_a = data.classes.iter().filter(|raw| raw.dataset == Dataset::A);
    let short = of_a.filter_map(|raw| {
        let learnable = raw.learnable(experiment.sinddm.pick);
        let RawClass { view, class, images, .. } = raw;
        (learnable < asked).then(|| {
            format!(
                "the diffusion model of {view}/{class} learns from {learnable} pictures, not {asked}: the class has {images}"
            )
        })
    });
    short.collect()
}

/// The classes that some folds do not test, as fewer of their pictures may be tested than there
/// are folds; with several pictures per stone, more folds may lack the class.
pub fn untested(experiment: &Experiment, data: &Data) -> Vec<String> {
    let folds = experiment.tl.most_folds();
    let line = |raw: &RawClass| {
        let learnt = match (raw.dataset, experiment.sinddm.pick) {
            (Dataset::A, Pick::RandomFromTrainSplit) => raw.spare().min(experiment.sinddm.images_per_model),
            _ => 0,
        };
        let testable = raw.images - learnt.min(raw.images);
        let RawClass { dataset, view, class, .. } = raw;
        (testable < folds).then(|| {
            format!(
                "{dataset}/{view}/{class}: {testable} of its pictures may be tested, so {} of {folds} folds do not test it",
                folds - testable
            )
        })
    };
    data.classes.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests;
