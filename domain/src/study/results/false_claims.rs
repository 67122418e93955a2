//! How probable it is that a claim of outperformance is false.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::study::stats::joint::Joint;
use crate::study::stone::Dataset;

/// The probability that a claim of outperformance is false; see [`crate::study::stats::joint`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FalseClaim {
    /// The accuracies and cases that the probability is computed from.
    pub of: Cases,
    /// The number of test cases.
    pub n: u32,
    /// The share of cases that both methods get right. Where it is not known: from that of
    /// methods which know nothing of each other to the greatest that the accuracies allow.
    pub congruence: [f64; 2],
    /// The probability at either end of `congruence`.
    pub p: [f64; 2],
}

impl FalseClaim {
    /// The probability by printed accuracies, 0 to 1, whose congruence is not known.
    pub(super) fn of_printed(of: Cases, n: u32, accuracies: [f64; 2]) -> Self {
        let congruence = Joint::congruences(accuracies);
        let p = congruence.map(|shared| Joint::of_accuracies(f64::from(n), accuracies, shared).p_not_better());
        Self { of, n, congruence, p }
    }

    /// The probability by the pictures that both methods were tested on in the same run. A
    /// picture that several runs test is one case, with the share of runs in which it is right.
    pub(super) fn of_votes(
        better: &BTreeMap<String, BTreeMap<(Dataset, u32), bool>>,
        worse: &BTreeMap<String, BTreeMap<(Dataset, u32), bool>>,
    ) -> Option<Self> {
        let mut cases: BTreeMap<(Dataset, u32), Vec<(bool, bool)>> = BTreeMap::new();
        for (images, others) in better.iter().filter_map(|(run, images)| Some((images, worse.get(run)?))) {
            for (image, right) in images {
                cases.entry(*image).or_default().extend(others.get(image).map(|other| (*right, *other)));
            }
        }
        cases.retain(|_, outcomes| !outcomes.is_empty());
        let count = |wanted: (bool, bool)| -> f64 {
            let share = |outcomes: &Vec<(bool, bool)>| {
                outcomes.iter().filter(|outcome| **outcome == wanted).count() as f64 / outcomes.len() as f64
            };
            cases.values().map(share).sum()
        };
        let joint = Joint {
            both: count((true, true)),
            first: count((true, false)),
            second: count((false, true)),
            neither: count((false, false)),
        };
        let is_known = !cases.is_empty();
        is_known.then(|| Self {
            of: Cases::OurImages,
            n: cases.len() as u32,
            congruence: [joint.congruence(); 2],
            p: [joint.p_not_better(); 2],
        })
    }
}

/// The accuracies and cases behind a [`FalseClaim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cases {
    /// The printed accuracies, if a case is a picture.
    PaperImages,
    /// The printed accuracies, if a case is a patch and all patches are independent, which
    /// patches of one picture are not.
    PaperPatches,
    /// Our accuracies by the vote of each picture's patches, whose congruence is known.
    OurImages,
}

impl Cases {
    /// The name of these cases for people.
    pub fn words(self) -> &'static str {
        match self {
            Cases::PaperImages => "paper, test pictures",
            Cases::PaperPatches => "paper, test patches",
            Cases::OurImages => "ours, test pictures",
        }
    }
}

/// Whether the vote of its patches recognises a test picture, by cell, run and picture.
pub type Votes = BTreeMap<String, BTreeMap<String, BTreeMap<(Dataset, u32), bool>>>;
