//! The drift scores that chance alone would give.

use super::{Finding, finding};
use crate::study::paper;
use crate::study::stats::kolmogorov::{ks_probability, ks_probability_below};
use crate::study::stone::{Dataset, View};

/// Half a unit of the last decimal: a printed score stands for all that are rounded to it.
const HALF_DIGIT: f64 = 0.0005;

/// The sizes of the two sets of pictures that may have been compared.
struct Sizes {
    /// The number of pictures of a view that the diffusion models learn from.
    learnt: usize,
    /// The number of synthetic pictures of a view.
    synthetic: usize,
    classes: usize,
}

impl Sizes {
    fn printed() -> Self {
        let (text, classes) = (paper::text(), Dataset::A.classes().len());
        let of = |per_class: u32| per_class as usize * classes;
        let (learnt, synthetic) = (of(text.pictures_per_model.value), of(text.samples_per_model.value));
        Self { learnt, synthetic, classes }
    }

    /// The probability of a score that is printed as `score` or less, if `real` real pictures
    /// and the synthetic ones are independent draws from one distribution.
    fn chance(&self, real: usize, score: f64) -> f64 {
        ks_probability(real, self.synthetic, score + HALF_DIGIT)
    }

    /// The probability of such a score for the pictures that are learnt from, if the classes
    /// do not overlap in the property. Both sets have equal shares of each class, so the gap
    /// is the largest of the gaps within a class, each counted by the share of its class.
    fn chance_of_classes(&self, score: f64) -> f64 {
        let [real, synthetic] = [self.learnt, self.synthetic].map(|all| all / self.classes);
        let within_class = (score + HALF_DIGIT) * self.classes as f64;
        ks_probability(real, synthetic, within_class).powi(self.classes as i32)
    }
}

/// Findings on whether the drift scores can be measured between the sets that the text
/// names, and on what their limit says.
pub(super) fn findings() -> [Finding; 2] {
    let sizes = Sizes::printed();
    let Sizes { learnt, synthetic, classes } = sizes;
    let all_real = |view| paper::image_total(Dataset::A, view).unwrap_or_default() as usize;
    let scores = View::ALL.map(|view| (view, paper::drift(view)));
    let smallest = scores.iter().flat_map(|(_, scores)| *scores).fold(f64::INFINITY, f64::min);
    let limit = &paper::text().drift_limit;

    let mut evidence = vec![
        format!("{learnt} and {synthetic}: {} and {} of each class", learnt / classes, synthetic / classes),
        "deepchecks has this distance and the limit 0.2 as its defaults since 0.12.0 (2023-02-21), the earth mover's \
         distance and 0.1 before"
            .to_owned(),
    ];
    for (view, scores) in scores {
        for (property, score) in paper::DRIFT_PROPERTIES.into_iter().zip(scores) {
            let [of_learnt, of_all] = [learnt, all_real(view)].map(|real| probability(sizes.chance(real, score)));
            evidence.push(format!(
                "{view}, {property}: {score:.3} or less by chance with probability {of_learnt}; {of_all} if all {} \
                 pictures of A are compared",
                all_real(view)
            ));
        }
    }
    evidence.push(format!(
        "not ruled out: samples that are nearer to the pictures learnt from than other pictures are, and classes that \
         differ in a property, of which both sets have equal shares ({smallest:.3} or less: {} if none overlap)",
        probability(sizes.chance_of_classes(smallest))
    ));

    let below = |real| probability(ks_probability_below(real, synthetic, limit.value));
    let [sur, sec] = View::ALL.map(all_real);
    [
        finding(
            "drift",
            format!(
                "the text names neither the distance behind the drift scores nor the real pictures; as the \
                 Kolmogorov–Smirnov distance of the {learnt} pictures learnt from and {synthetic} synthetic ones they \
                 are too small: two samples of these sizes from one distribution score {smallest:.3} or less with \
                 probability {}",
                probability(sizes.chance(learnt, smallest))
            ),
            evidence,
        ),
        finding(
            "drift-limit",
            format!(
                "a drift score below {} says little: two samples of {learnt} and {synthetic} from one distribution score \
                 below it with probability {}, and how large a drift would pass is not said",
                limit.value,
                below(learnt)
            ),
            vec![
                limit.quote.clone(),
                format!("{learnt} against {synthetic}: {}", below(learnt)),
                format!("{sur} (SUR) against {synthetic}: {}", below(sur)),
                format!("{sec} (SEC) against {synthetic}: {}", below(sec)),
            ],
        ),
    ]
}

/// A probability with two significant digits.
fn probability(p: f64) -> String {
    match p {
        p if p < 0.01 => format!("{p:.4}"),
        p if !(0.1..=0.99).contains(&p) => format!("{p:.3}"),
        p => format!("{p:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The probabilities are those of an independent count of paths.
    #[test]
    fn every_printed_score_has_its_probability() {
        let [drift, limit] = findings();
        assert!(drift.finding.contains("the 48 pictures learnt from and 150 synthetic ones they are too small"));
        assert!(drift.finding.ends_with("score 0.055 or less with probability 0.0006"), "{}", drift.finding);
        let of = |start: &str| drift.evidence.iter().find(|evidence| evidence.starts_with(start)).unwrap();
        let line = |start: &str, learnt: &str, all: &str, total: u32| {
            let expected = format!(" or less by chance with probability {learnt}; {all} if all {total} pictures of A");
            assert!(of(start).contains(&expected), "{}", of(start));
        };
        line("SUR, Brightness: 0.142", "0.60", "0.95", 209);
        line("SUR, Mean Red Relative Intensity: 0.060", "0.0023", "0.12", 209);
        line("SEC, Mean Red Relative Intensity: 0.077", "0.036", "0.30", 157);
        line("SEC, Mean Green Relative Intensity: 0.055", "0.0006", "0.044", 157);
        let printed = drift.evidence.iter().filter(|evidence| evidence.contains("by chance with probability"));
        assert_eq!(printed.count(), 10);
        assert!(
            drift.evidence.last().unwrap().contains("(0.055 or less: 0.038 if none overlap)"),
            "{:?}",
            drift.evidence.last()
        );
        assert!(limit.finding.contains("below 0.2 says little: two samples of 48 and 150 from one distribution"));
        assert_eq!(
            limit.evidence[1..],
            ["48 against 150: 0.91", "209 (SUR) against 150: 0.998", "157 (SEC) against 150: 0.996"]
        );
    }
}
