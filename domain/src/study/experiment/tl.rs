//! Classifiers: baselines and two-step transfer learning (ALGORITHM 7).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::knob::{Knob, Reading};
use super::protocol::{Protocol, Trials, one_or_many};
use super::range::{BATCH_MAX, Checked, refuse};
use crate::study::pretrained::Pretrained;
use crate::study::stone::{CLASSES, Class, Dataset};

/// Classifiers (ALGORITHM 7).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TransferLearning {
    /// The network.
    pub network: Network,
    /// The weights that the first step starts from; the head is random in any case.
    pub init: Init,
    /// Which published ImageNet weights are used.
    pub weights: ImagenetWeights,
    /// Patches per optimiser step.
    pub batch: u32,
    /// Epochs of the first and the second step.
    pub epochs: [u32; 2],
    /// Learning rates of the first and the second step.
    pub lr: [f64; 2],
    /// Momentum of stochastic gradient descent, without dampening.
    pub momentum: f64,
    /// Epochs after which the learning rate is multiplied by `lr_gamma`.
    pub lr_step: u32,
    /// Factor of the learning rate at each such fall.
    pub lr_gamma: f64,
    /// Random flips and rotations by up to 45° of training patches.
    pub augment: bool,
    /// A Gaussian blur of training patches of the first step, its σ drawn from 0.1 to
    /// 2 pixels for each.
    pub blur_step1: bool,
    /// Share of training patches kept for validation, of each class.
    pub val_fraction: f64,
    /// How the validation patches are chosen.
    pub val: Validation,
    /// The epoch whose weights are tested and passed on.
    pub select: Select,
    /// What a second step does with the head of the first.
    pub head: HeadStart,
    /// How training patches of A and B are put together.
    pub mix: Mix,
    /// How images are divided into training and test. Each of several protocols makes a table
    /// of its own.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "Vec<Protocol>")]
    pub protocol: Vec<Protocol>,
    /// Number of cross-validations of `repeated_cv`, each with folds and seeds of its own.
    pub repeats: u32,
    /// Folds of each cross-validation. Every image that no diffusion model learns from is
    /// tested in one of the folds; a class with fewer such images than folds is not tested in
    /// some.
    pub folds: u32,
    /// Number of trainings of `fixed_split` and of `resplit`.
    pub seeds: u32,
    /// Largest difference to the paper's mean accuracy that counts as equivalent, in percentage
    /// points.
    pub margin: f64,
    /// The correction of a table's verdicts for multiple comparisons.
    pub correction: Correction,
    /// Whether cells are filled whose training has seen a test picture; such cells are marked.
    pub allow_leak: bool,
}

impl Default for TransferLearning {
    fn default() -> Self {
        Self {
            network: Network::default(),
            init: Init::Imagenet,
            weights: ImagenetWeights::V2,
            batch: 24,
            epochs: [30, 30],
            lr: [0.001, 0.01],
            momentum: 0.9,
            lr_step: 7,
            lr_gamma: 0.1,
            augment: true,
            blur_step1: false,
            val_fraction: 0.1,
            val: Validation::PatchStratified,
            select: Select::Last,
            head: HeadStart::Keep,
            mix: Mix::Concat,
            protocol: vec![Protocol::RepeatedCv],
            repeats: 2,
            folds: 5,
            seeds: 5,
            margin: 2.0,
            correction: Correction::Holm,
            allow_leak: false,
        }
    }
}

/// The reading for the printed ±: over how many runs, and on which pictures.
const RUNS: Reading = Reading {
    section: "Table I",
    paper: "every accuracy has a ±; over how many runs, and on which pictures, is not said",
    alternatives: "fixed_split with five seeds, the best supported by earlier work; resplit; any number",
    reason: "cross-validation by picture shows what other pictures would do",
    allows: |_| true,
};

/// The reading for when and by how much the learning rate falls.
const SCHEDULE: Reading = Reading {
    section: "IV-B",
    paper: "the learning rate is 0.001, then 0.01; whether it falls within a step is not said",
    alternatives: "any schedule",
    reason: "a tenth after every seven epochs, as in the authors' earlier code",
    allows: |_| true,
};

/// The reading for the training patches that are kept for validation.
const VALIDATION: Reading = Reading {
    section: "V-B",
    paper: "80 % of the patches are for training and validation; how these are told apart is not said",
    alternatives: "image_disjoint; another share",
    reason: "a tenth of the patches at random, as in the authors' earlier code",
    allows: |_| true,
};

/// The knobs of [`TransferLearning`] and [`Labels`].
pub(super) const KNOBS: &[Knob] = &[
    Knob::reading(
        "labels.order",
        Reading {
            section: "III; IV-B",
            paper: "one network names the classes of A and then those of C, of which four are the same; their order is not said",
            alternatives: "mineral_alphabetical",
            reason: "by the names of the authors' folders, the four shared classes keep their label",
            allows: |_| true,
        },
    ),
    Knob::deviation("tl.network.stem"),
    Knob::deviation("tl.network.width").whole(1, 1024),
    Knob::deviation("tl.network.blocks").list([1, 4], [1, 100]),
    Knob::deviation("tl.network.head").list([0, 16], [1, 16384]),
    Knob::deviation("tl.network.dropout").real(0.0, 0.95),
    Knob::deviation("tl.init"),
    Knob::reading(
        "tl.weights",
        Reading {
            section: "Table I; V-B",
            paper: "networks start from ImageNet's weights; which of the two published sets is not said",
            alternatives: "imagenet1k_v1",
            reason: "the library's default when the paper was written",
            allows: |_| true,
        },
    ),
    Knob::deviation("tl.batch").whole(2, BATCH_MAX),
    Knob::reading(
        "tl.epochs",
        Reading {
            section: "IV-B",
            paper: "the second step takes 30 epochs; those of the first are not said",
            alternatives: "any number in the first step",
            reason: "30 in the first step too, as in the authors' earlier code",
            allows: |it| it.tl.epochs[1] == 30,
        },
    )
    .whole(1, EPOCHS_MAX),
    Knob::deviation("tl.lr").real(0.0, 10.0),
    Knob::deviation("tl.momentum").real(0.0, 0.999),
    Knob::reading("tl.lr_step", SCHEDULE).whole(1, EPOCHS_MAX),
    Knob::reading("tl.lr_gamma", SCHEDULE).real(0.0, 1.0),
    Knob::reading(
        "tl.augment",
        Reading {
            section: "V-B",
            paper: "whether training patches were flipped or turned is not said",
            alternatives: "false",
            reason: "flips and rotations, as in the authors' earlier code",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "tl.blur_step1",
        Reading {
            section: "IV-B",
            paper: "no blur is mentioned; earlier work of the authors blurred patches of the first step",
            alternatives: "true",
            reason: "the paper's own words",
            allows: |_| true,
        },
    ),
    Knob::reading("tl.val_fraction", VALIDATION).real(0.0, 0.5),
    Knob::reading("tl.val", VALIDATION),
    Knob::reading(
        "tl.select",
        Reading {
            section: "V-B",
            paper: "which epoch's weights were tested is not said",
            alternatives: "best",
            reason: "the authors' earlier code tests those of the last epoch",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "tl.head",
        Reading {
            section: "IV-B",
            paper: "fully connected layers are left out in the second step, which may mean no new ones or none of the old",
            alternatives: "reset_last; reset_all",
            reason: "no layers are added: all weights of the first step go on",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "tl.mix",
        Reading {
            section: "Table I, row 8",
            paper: "A and B are mixed in the first step; in which shares is not said",
            alternatives: "resample_to_4800",
            reason: "all patches of both",
            allows: |_| true,
        },
    ),
    Knob::reading("tl.protocol", RUNS),
    Knob::reading("tl.repeats", RUNS).whole(1, RUNS_MAX),
    Knob::reading("tl.folds", RUNS).whole(1, 10),
    Knob::reading("tl.seeds", RUNS).whole(1, RUNS_MAX),
    Knob::reading(
        "tl.margin",
        Reading {
            section: "Table I",
            paper: "how near counts as the same is for whoever compares to say",
            alternatives: "any margin",
            reason: "two percentage points, about the gains that the paper draws conclusions from",
            allows: |_| true,
        },
    )
    .real(0.01, 50.0),
    Knob::reading(
        "tl.correction",
        Reading {
            section: "Table I",
            paper: "26 accuracies are compared with one another; nothing is corrected for their number",
            alternatives: "none",
            reason: "of 18 numbers that are compared, one is far off by chance alone more often than not",
            allows: |_| true,
        },
    ),
    // A cell with a leak is not compared, whatever the knob.
    Knob::execution("tl.allow_leak"),
];

/// A bottleneck residual network with a head of fully connected layers. The defaults are
/// ResNet50 with the paper's head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// The first layers.
    pub stem: Stem,
    /// Channels of the stem; stage i has `width · 2^i` inner channels and four
    /// times as many at its end.
    pub width: u32,
    /// Blocks of each stage.
    pub blocks: Vec<u32>,
    /// Widths of the head's hidden layers.
    pub head: Vec<u32>,
    /// Share of activations dropped in the head during training.
    pub dropout: f64,
}

impl Default for Network {
    fn default() -> Self {
        Self { stem: Stem::Imagenet, width: 64, blocks: vec![3, 4, 6, 3], head: vec![768, 256, 128], dropout: 0.5 }
    }
}

impl Network {
    /// Whether the network without its head is ResNet50.
    pub fn is_resnet50(&self) -> bool {
        let paper = Network::default();
        (self.stem, self.width, &self.blocks) == (paper.stem, paper.width, &paper.blocks)
    }
}

/// The first layers of a network; see [`Network::stem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stem {
    /// 7×7 with stride 2, then max-pooling with stride 2, for patches of 100 pixels and more.
    Imagenet,
    /// 3×3 with stride 1, for small patches.
    Small,
}

/// Initial weights; see [`TransferLearning::init`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Weights of ResNet50 learnt on ImageNet.
    Imagenet,
    /// Random numbers, which stand in for the ImageNet weights.
    Random,
}

/// Published ImageNet weights; see [`TransferLearning::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagenetWeights {
    /// torchvision's second weights, its default when the paper was written.
    #[serde(rename = "imagenet1k_v2", alias = "v2")]
    V2,
    /// torchvision's first weights.
    #[serde(rename = "imagenet1k_v1", alias = "v1")]
    V1,
}

/// Most epochs of a step, and most after which the learning rate falls.
const EPOCHS_MAX: u32 = 100_000;

/// Most runs of all protocols together: each run is eighteen trainings, whose numbers one task
/// brings together.
const RUNS_MAX: u32 = 500;

impl TransferLearning {
    pub(super) fn check(&self) -> Checked {
        if self.init == Init::Imagenet && !self.network.is_resnet50() {
            let problem = "is imagenet, whose weights are those of ResNet50, which tl.network is not: \
                           choose tl.init=random, or leave tl.network as it is at scale paper";
            return refuse("tl.init", problem);
        }
        if self.select == Select::Best && self.val_fraction == 0.0 {
            return refuse("tl.select", "is best, which needs patches for validation: raise tl.val_fraction");
        }
        self.check_runs()
    }

    fn check_runs(&self) -> Checked {
        let protocols: BTreeSet<Protocol> = self.protocol.iter().copied().collect();
        if protocols.is_empty() || protocols.len() < self.protocol.len() {
            return refuse("tl.protocol", "has to name at least one protocol, and each once");
        }
        let runs: u32 = self.trials().iter().map(|trials| trials.repeats * trials.folds).sum();
        if runs > RUNS_MAX {
            let with = "with tl.folds, tl.seeds and tl.protocol";
            return refuse("tl.repeats", format!("makes {runs} runs {with}, has to make 1 to {RUNS_MAX}"));
        }
        Ok(())
    }

    /// The weights that the first step needs.
    pub fn pretrained(&self) -> Option<Pretrained> {
        let which = match self.weights {
            ImagenetWeights::V2 => Pretrained::Resnet50V2,
            ImagenetWeights::V1 => Pretrained::Resnet50V1,
        };
        (self.init == Init::Imagenet).then_some(which)
    }
}

/// A choice of validation patches; see [`TransferLearning::val`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Validation {
    /// Random patches, as in the authors' code. Other patches of the same images are learnt
    /// from, so that the validation says little.
    PatchStratified,
    /// All patches of some images, which make up the share; none of a class with a single
    /// image.
    ImageDisjoint,
}

/// A choice of weights; see [`TransferLearning::select`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The weights of the last epoch, as in the authors' code.
    Last,
    /// The weights that classify most validation patches correctly; of equal ones, the
    /// earliest.
    Best,
}

/// The head at the start of a second step; see [`TransferLearning::head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadStart {
    /// The head is kept; two of the six labels change their meaning from A to C.
    Keep,
    /// The head's last layer is drawn anew.
    ResetLast,
    /// The whole head is drawn anew.
    ResetAll,
}

/// Combinations of the training patches of A and B; see [`TransferLearning::mix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mix {
    /// All patches of both.
    #[serde(rename = "concat")]
    Concat,
    /// As many patches as one of the two has (4800 in the paper), half of each, drawn by class.
    #[serde(rename = "resample_to_4800")]
    Resample,
}

/// What patches are normalised by; see [`Patch::whiten`](super::Patch::whiten).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Whiten {
    /// Mean and standard deviation of ImageNet's pixels.
    None,
    /// Mean and standard deviation of each patch's own channels.
    PerPatch,
    /// Mean and standard deviation of the channels over the data set's training patches.
    PerDataset,
}

/// Labels of the classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Labels {
    /// The order of the classes of a data set.
    pub order: LabelOrder,
}

impl Default for Labels {
    fn default() -> Self {
        Self { order: LabelOrder::AuthorsAlphabetical }
    }
}

/// An order of classes; see [`Labels::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelOrder {
    /// The order of the names of the authors' folders: the four classes that A and C share have
    /// the same label.
    AuthorsAlphabetical,
    /// The order of the minerals' abbreviations (BRU, CAR, …): two of the four shared classes
    /// have another label in C than in A.
    MineralAlphabetical,
}

impl LabelOrder {
    /// The classes in the order of their labels.
    pub fn classes(self, dataset: Dataset) -> [Class; CLASSES] {
        let mut classes = dataset.classes();
        match self {
            LabelOrder::AuthorsAlphabetical => {}
            LabelOrder::MineralAlphabetical => classes.sort_by_key(|class| class.mineral()),
        }
        classes
    }
}

/// A correction for multiple comparisons; see [`TransferLearning::correction`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Holm's correction over the distinct trainings of the table.
    #[default]
    Holm,
    /// No correction: each verdict is treated as if it were the only one.
    None,
}

impl TransferLearning {
    /// Most folds of any split.
    pub fn most_folds(&self) -> u32 {
        self.trials().iter().map(|trials| trials.folds).max().unwrap_or(1)
    }

    /// The trials of each protocol, in the order named.
    pub fn trials(&self) -> Vec<Trials> {
        let trials = |protocol: &Protocol| match protocol {
            Protocol::RepeatedCv => Trials { protocol: *protocol, repeats: self.repeats, folds: self.folds },
            Protocol::FixedSplit | Protocol::Resplit => Trials { protocol: *protocol, repeats: self.seeds, folds: 1 },
        };
        self.protocol.iter().map(trials).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_classes_keep_their_label_in_the_authors_order_alone() {
        let kept = |order: LabelOrder| {
            let (a, c) = (order.classes(Dataset::A), order.classes(Dataset::C));
            a.iter().zip(c).filter(|(a, c)| **a == *c).count()
        };
        assert_eq!(kept(LabelOrder::AuthorsAlphabetical), 4);
        let minerals = LabelOrder::MineralAlphabetical.classes(Dataset::A).map(Class::mineral);
        assert_eq!(minerals, ["BRU", "CAR", "CAR2", "CYS", "STR", "WW"]);
        assert_eq!(kept(LabelOrder::MineralAlphabetical), 2);
    }

    #[test]
    fn each_protocol_has_its_own_trials_and_splits() {
        let mut tl = TransferLearning { repeats: 2, folds: 3, seeds: 4, ..TransferLearning::default() };
        tl.protocol = vec![Protocol::Resplit, Protocol::RepeatedCv, Protocol::FixedSplit];
        let protocols = tl.trials();
        let counts: Vec<usize> = protocols.iter().map(|trials| trials.points().count()).collect();
        assert_eq!(counts, [4, 6, 4]);
        assert_eq!(protocols[1].points().nth(3), Some((1, 0)));
        assert_eq!(protocols.iter().map(|trials| trials.split(1)).collect::<Vec<_>>(), [1, 1, 0]);
    }

    #[test]
    fn one_protocol_needs_no_list() {
        let read = |text: &str| toml::from_str::<TransferLearning>(text).map(|tl| tl.protocol);
        assert_eq!(read("protocol = 'resplit'").unwrap(), [Protocol::Resplit]);
        let both = [Protocol::FixedSplit, Protocol::RepeatedCv];
        assert_eq!(read("protocol = ['fixed_split', 'repeated_cv']").unwrap(), both);
        assert!(read("protocol = 'loocv'").unwrap_err().to_string().contains("expected repeated_cv"));
    }
}
