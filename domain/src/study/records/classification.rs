//! Trainings of classifiers.

use serde::{Deserialize, Serialize};

use crate::study::stats::classification::Score;
use crate::study::stone::{Class, Dataset, View};

/// `metrics.json` of `classify.train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Data sets learnt and tested.
    pub datasets: Vec<Dataset>,
    /// Which half of them.
    pub view: View,
    /// What computed it: `cpu`, or a GPU by its place.
    pub device: String,
    /// Optimiser steps.
    pub steps: u64,
    /// The epoch, from 1, whose weights were tested and passed on.
    pub epoch: u32,
    /// Mean training loss of the last epoch.
    pub train_loss: f64,
    /// Share of validation patches recognised after `epoch`; absent without validation.
    pub val_accuracy: Option<f64>,
    /// Test patches.
    pub test_patches: u32,
    /// Test images.
    pub test_images: u32,
    /// Share of test patches recognised, in percent.
    pub accuracy: f64,
    /// Share of test images whose patches' majority is right, in percent; of
    /// equally many votes the lowest label's count.
    pub image_accuracy: f64,
    /// Share of test images for whose true label the mean probability over their
    /// patches is highest, in percent.
    pub image_accuracy_by_score: f64,
    /// Training images and patches, those held out for validation included.
    pub train: [u32; 2],
    /// Precision, recall and F1 of each label, 0..1.
    pub per_class: Vec<Score>,
    /// Their mean over the labels that are tested.
    pub macro_average: Score,
    /// Their mean over labels, each counting by its test patches.
    pub weighted_average: Score,
    /// Each test image, by data set, then id.
    pub images: Vec<ImageOutcome>,
    /// Counts: row is the true label, column the predicted one.
    pub confusion: Vec<Vec<u32>>,
    /// Classes that carry each label in the data sets tested.
    pub labels: Vec<Vec<Class>>,
}

/// What became of one test image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageOutcome {
    /// Whose image.
    pub dataset: Dataset,
    /// Its id in that data set and view.
    pub id: u32,
    /// Its true label.
    pub label: u8,
    /// The label of most of its patches.
    pub vote: u8,
    /// The label of the highest mean probability.
    pub by_score: u8,
    /// Share of its patches that are recognised, 0..1.
    pub right: f64,
}
