//! Trials of Table I: which images one of them tests, and what it trains.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::study::experiment::Trials;
use crate::study::paper::{self, FirstStep};
use crate::study::stone::{Dataset, View};

/// One point of a protocol: the trainings of one view in one repeat and fold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trial {
    /// Which half of the table.
    pub view: View,
    /// The protocol that it is a point of.
    pub trials: Trials,
    /// Counted from 0.
    pub repeat: u32,
    /// Counted from 0.
    pub fold: u32,
}

impl Trial {
    /// All trials of a protocol: for each repeat and fold, both views.
    pub fn all(trials: Trials) -> impl Iterator<Item = Trial> {
        trials.points().flat_map(move |(repeat, fold)| View::ALL.map(|view| Trial { view, trials, repeat, fold }))
    }

    /// The trials of one view, by repeat, then fold.
    pub fn of_view(trials: Trials, view: View) -> impl Iterator<Item = Trial> {
        trials.points().map(move |(repeat, fold)| Trial { view, trials, repeat, fold })
    }

    /// Which images it tests.
    pub fn split(self) -> Split {
        Split { number: self.trials.split(self.repeat), folds: self.trials.folds, fold: self.fold }
    }

    /// How the trial is called beside a cell of its view, for instance `r0 f1`, or `r0 s2`
    /// where splits have no folds.
    pub fn name(self) -> String {
        let Self { trials, repeat, fold, .. } = self;
        match trials.folds {
            1 => format!("r{repeat} s{}", trials.split(repeat)),
            _ => format!("r{repeat} f{fold}"),
        }
    }

    /// The same in words, for instance `repeat 0 fold 1`.
    pub fn words(self) -> String {
        let Self { trials, repeat, fold, .. } = self;
        match trials.folds {
            1 => format!("repeat {repeat} split {}", trials.split(repeat)),
            _ => format!("repeat {repeat} fold {fold}"),
        }
    }
}

/// One way to put images on a training and a test side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// Which dealing of the images over the folds, counted from 0: each number has
    /// its own, and all folds of one number share it.
    pub number: u32,
    /// 1: a share of the images is tested. More: each image is tested in one fold.
    pub folds: u32,
    /// The fold whose images are tested, counted from 0.
    pub fold: u32,
}

impl Default for Split {
    fn default() -> Self {
        Self { number: 0, folds: 1, fold: 0 }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Split { number, folds, fold } = self;
        match folds {
            1 => write!(f, "split {number}"),
            _ => write!(f, "split {number} fold {fold}"),
        }
    }
}

/// One training of a classifier: its first step, or a second step after that one. Printed
/// as `A+B-C` where it names a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Training {
    /// Data set I.
    pub first: FirstStep,
    /// Data set II; absent for a first step.
    pub second: Option<Dataset>,
}

impl Training {
    /// The distinct trainings behind Table I: first steps, then second steps, in the
    /// table's order.
    pub fn all() -> Vec<Training> {
        let first: BTreeSet<FirstStep> = paper::TABLE_1.iter().map(|row| row.first).collect();
        let first = FirstStep::ALL.into_iter().filter(|step| first.contains(step));
        let mut all: Vec<Training> = first.map(|first| Training { first, second: None }).collect();
        for row in paper::TABLE_1.iter().filter(|row| row.second.is_some()) {
            let training = Training { first: row.first, second: row.second };
            if !all.contains(&training) {
                all.push(training);
            }
        }
        all
    }

    /// The data sets that this step learns from, and whose test patches score it.
    pub fn datasets(self) -> Vec<Dataset> {
        self.second.map_or_else(|| self.first.datasets(), |second| vec![second])
    }

    /// How the table shows the training, for instance `A+B → C`.
    pub fn shown(self) -> String {
        self.join(" → ")
    }

    fn join(self, between: &str) -> String {
        let Self { first, second } = self;
        second.map_or_else(|| first.to_string(), |second| format!("{first}{between}{second}"))
    }
}

impl fmt::Display for Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.join("-"))
    }
}
