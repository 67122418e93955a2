//! What a trained classifier makes of its test patches.

use std::collections::BTreeMap;

use burn::tensor::Device;
use domain::study::records::{ImageOutcome, Metrics, PatchesRecord};
use domain::study::stage::ClassifyTrain;
use domain::study::stats::classification::Confusion;
use domain::study::stone::CLASSES;

use super::log::Log;
use crate::data::patchset::PatchSet;
use crate::device;

/// The number of patches recognised.
pub(super) fn right(patches: &PatchSet, scores: &[[f32; CLASSES]]) -> usize {
    patches.patches().iter().zip(scores).filter(|(patch, scores)| usize::from(patch.label) == highest(scores)).count()
}

/// All numbers of a training.
pub(super) fn metrics(
    classify: &ClassifyTrain,
    log: &Log,
    test: &PatchSet,
    scores: &[[f32; CLASSES]],
    records: &[PatchesRecord],
    device: &Device,
) -> Metrics {
    let pairs = test.patches().iter().zip(scores).map(|(patch, scores)| (usize::from(patch.label), highest(scores)));
    let confusion = Confusion::of(pairs, CLASSES);
    let images = outcomes(classify, test, scores);
    let labels = (0..CLASSES).map(|label| {
        let of_set = |record: &PatchesRecord| classify.order.classes(record.dataset)[label];
        let mut classes: Vec<_> = records.iter().map(of_set).collect();
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
        device: device::name(device),
        steps: u64::from(log.steps()),
        epoch: log.selected(classify.select) as u32 + 1,
        train_loss: log.last_mean(),
        val_accuracy: log.validated(log.selected(classify.select)),
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

/// The outcome of each test image. Images, not patches, are independent.
fn outcomes(classify: &ClassifyTrain, test: &PatchSet, scores: &[[f32; CLASSES]]) -> Vec<ImageOutcome> {
    /// An image with the scores of its patches.
    struct Seen<'a> {
        label: u8,
        patches: Vec<&'a [f32; CLASSES]>,
    }
    let mut seen: BTreeMap<(u32, u32), Seen<'_>> = BTreeMap::new();
    for (patch, scores) in test.patches().iter().zip(scores) {
        let seen = seen.entry((patch.set, patch.image));
        seen.or_insert(Seen { label: patch.label, patches: Vec::new() }).patches.push(scores);
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
