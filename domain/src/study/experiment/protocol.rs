//! How images are divided into training and test, and what runs come of that.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// A division into training and test images; see [`TransferLearning::protocol`](super::TransferLearning::protocol).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Cross-validation by image, repeated with new folds: the spread shows what other images
    /// would do.
    #[default]
    RepeatedCv,
    /// One split by `patch.test_fraction` and several seeds of training: the best supported
    /// reading of the paper. The spread is that of training alone.
    FixedSplit,
    /// A new split by `patch.test_fraction` for each training.
    Resplit,
}

impl Protocol {
    /// The name in specs and results.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::RepeatedCv => "repeated_cv",
            Protocol::FixedSplit => "fixed_split",
            Protocol::Resplit => "resplit",
        }
    }

    /// What differs between the protocol's runs.
    pub fn varied(self) -> Varied {
        match self {
            Protocol::RepeatedCv | Protocol::Resplit => Varied::PicturesAndSeeds,
            Protocol::FixedSplit => Varied::SeedsOnly,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What differs between the runs of a cell, and so what the cell's ± and interval are about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Varied {
    /// The pictures that are learnt from and tested, and the seeds of training.
    #[default]
    PicturesAndSeeds,
    /// Only the seeds of training: with other pictures the numbers might differ widely.
    SeedsOnly,
}

impl Varied {
    /// The description for people.
    pub fn words(self) -> &'static str {
        match self {
            Varied::PicturesAndSeeds => "other pictures and other seeds",
            Varied::SeedsOnly => "other seeds only",
        }
    }
}

/// One protocol with its numbers: the trials behind a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Trials {
    /// How images are divided into training and test.
    pub protocol: Protocol,
    /// Number of repeats, each with seeds of its own.
    pub repeats: u32,
    /// Number of folds of each repeat.
    pub folds: u32,
}

impl Trials {
    /// Repeat and fold of every trial of one view, counted from 0.
    pub fn points(self) -> impl Iterator<Item = (u32, u32)> {
        (0..self.repeats).flat_map(move |repeat| (0..self.folds).map(move |fold| (repeat, fold)))
    }

    /// What ± over these trials means.
    pub fn spread(self) -> String {
        let plural = |count: u32| if count == 1 { "" } else { "s" };
        let Self { repeats, folds, .. } = self;
        let over = match self.protocol {
            Protocol::RepeatedCv => {
                format!("{repeats} repeat{} x {folds} fold{}", plural(repeats), plural(folds))
            }
            Protocol::FixedSplit => format!("{repeats} training{} on one split: seeds only", plural(repeats)),
            Protocol::Resplit => format!("{repeats} training{}, each on a split of its own", plural(repeats)),
        };
        format!("sample standard deviation (n - 1) over {over}")
    }

    /// Index of the split that a repeat uses.
    pub fn split(self, repeat: u32) -> u32 {
        match self.protocol {
            Protocol::FixedSplit => 0,
            Protocol::RepeatedCv | Protocol::Resplit => repeat,
        }
    }
}

/// Deserialises a list, or its only entry.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Protocol>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected repeated_cv, fixed_split or resplit, or a list of these")]
    enum OneOrMany {
        One(Protocol),
        Many(Vec<Protocol>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(protocol) => vec![protocol],
        OneOrMany::Many(protocols) => protocols,
    })
}
