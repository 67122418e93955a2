//! Scores of a classifier from its confusion matrix. A share of nothing counts
//! as 0, as scikit-learn does by `zero_division=0`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Precision, recall and F1, each 0..1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Score {
    /// The share of cases given the label that carry it.
    pub precision: f64,
    /// The share of cases carrying the label that were given it.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
}

impl Score {
    fn of(right: u64, predicted: u64, true_ones: u64) -> Self {
        Self {
            precision: share(right, predicted),
            recall: share(right, true_ones),
            f1: share(2 * right, predicted + true_ones),
        }
    }
}

/// A confusion matrix of counts: the row is the true label, the column the predicted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    counts: Vec<Vec<u64>>,
}

impl Confusion {
    /// The matrix of pairs of true and predicted label. Labels from `classes` on are left out.
    pub fn of(pairs: impl IntoIterator<Item = (usize, usize)>, classes: usize) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (truth, predicted) in pairs {
            if let Some(count) = counts.get_mut(truth).and_then(|row: &mut Vec<u64>| row.get_mut(predicted)) {
                *count += 1;
            }
        }
        Self { counts }
    }

    /// The matrix of given counts, which should have as many rows as columns; missing
    /// counts are 0.
    pub fn from_counts(rows: &[Vec<u32>]) -> Self {
        let n = rows.len();
        let row = |row: &Vec<u32>| (0..n).map(|column| row.get(column).copied().unwrap_or(0).into()).collect();
        Self { counts: rows.iter().map(row).collect() }
    }

    /// The counts by true, then predicted label.
    pub fn counts(&self) -> &[Vec<u64>] {
        &self.counts
    }

    fn classes(&self) -> std::ops::Range<usize> {
        0..self.counts.len()
    }

    /// The number of cases that carry the label.
    pub fn support(&self, label: usize) -> u64 {
        self.counts.get(label).map_or(0, |row| row.iter().sum())
    }

    fn predicted(&self, label: usize) -> u64 {
        self.counts.iter().map(|row| row[label]).sum()
    }

    fn right(&self) -> u64 {
        self.classes().map(|label| self.counts[label][label]).sum()
    }

    fn all(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// The labels that at least one case carries.
    pub fn tested(&self) -> Vec<usize> {
        self.classes().filter(|&label| self.support(label) > 0).collect()
    }

    /// The share of cases that were given the label they carry.
    pub fn accuracy(&self) -> f64 {
        share(self.right(), self.all())
    }

    /// The scores of each label.
    pub fn per_class(&self) -> Vec<Score> {
        let of = |label: usize| Score::of(self.counts[label][label], self.predicted(label), self.support(label));
        self.classes().map(of).collect()
    }

    /// The mean scores over the given labels, all with the same weight.
    pub fn macro_over(&self, labels: &[usize]) -> Score {
        self.averaged(|label| if labels.contains(&label) { 1.0 } else { 0.0 })
    }

    /// The mean scores over labels, each weighted by the number of cases that carry it.
    pub fn weighted(&self) -> Score {
        self.averaged(|label| self.support(label) as f64)
    }

    /// The scores of all labels' counts together: precision, recall and F1 are the accuracy.
    pub fn micro(&self) -> Score {
        Score::of(self.right(), self.all(), self.all())
    }

    fn averaged(&self, weight: impl Fn(usize) -> f64) -> Score {
        let weights: f64 = self.classes().map(&weight).sum();
        let scores = self.per_class();
        let mean = |value: fn(&Score) -> f64| {
            let sum: f64 = scores.iter().enumerate().map(|(label, score)| weight(label) * value(score)).sum();
            if weights > 0.0 { sum / weights } else { 0.0 }
        };
        Score { precision: mean(|s| s.precision), recall: mean(|s| s.recall), f1: mean(|s| s.f1) }
    }

    /// The mean recall of the labels that at least one case carries; absent without any.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        let tested = self.tested();
        (!tested.is_empty()).then(|| self.macro_over(&tested).recall)
    }

    /// Cohen's κ, the agreement beyond chance, at most 1; absent where chance alone always
    /// agrees.
    pub fn kappa(&self) -> Option<f64> {
        let n = self.all() as f64;
        let chance: f64 = self.margins().map(|(truth, predicted)| truth * predicted).sum::<f64>() / (n * n);
        (chance < 1.0).then(|| (self.right() as f64 / n - chance) / (1.0 - chance))
    }

    /// Matthews' correlation of true and predicted labels, −1..1; 0 where the true or the
    /// predicted label is always the same.
    pub fn matthews(&self) -> f64 {
        let n = self.all() as f64;
        let both: f64 = self.margins().map(|(truth, predicted)| truth * predicted).sum();
        let (truth, predicted) = self
            .margins()
            .fold((0.0, 0.0), |(a, b), (truth, predicted)| (a + truth * truth, b + predicted * predicted));
        let below = ((n * n - truth) * (n * n - predicted)).sqrt();
        if below > 0.0 { (self.right() as f64 * n - both) / below } else { 0.0 }
    }

    fn margins(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.classes().map(|label| (self.support(label) as f64, self.predicted(label) as f64))
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole > 0 { part as f64 / whole as f64 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_nothing_carries_counts_only_where_it_is_asked_for() {
        let confusion = Confusion::of([(0, 0), (0, 1), (1, 1)], 3);
        assert_eq!(confusion.tested(), [0, 1]);
        assert_eq!(confusion.per_class()[2], Score::default());
        assert_eq!(confusion.macro_over(&confusion.tested()).recall, 0.75);
        assert_eq!(confusion.macro_over(&[0, 1, 2]).recall, 0.5);
        assert_eq!(confusion.balanced_accuracy(), Some(0.75));
    }

    #[test]
    fn nothing_has_no_scores_and_no_panic() {
        for confusion in [Confusion::of([], 0), Confusion::of([(9, 0)], 3), Confusion::from_counts(&[vec![], vec![]])] {
            assert_eq!((confusion.accuracy(), confusion.matthews()), (0.0, 0.0));
            assert_eq!((confusion.kappa(), confusion.balanced_accuracy()), (None, None));
            assert_eq!((confusion.weighted(), confusion.micro()), (Score::default(), Score::default()));
        }
    }
}
