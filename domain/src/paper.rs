//! What the paper printed (arXiv 2409.13409), for comparison.

use crate::stone::{Class, Dataset, View};

/// A mean with its standard deviation, in the unit of the table it stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Printed {
    /// The printed mean.
    pub mean: f64,
    /// The printed ±; over what, the paper does not say.
    pub std: f64,
}

/// What the first training step of a row learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FirstStep {
    /// One data set.
    One(Dataset),
    /// CCD and synthetic images together.
    AAndB,
}

impl FirstStep {
    /// The four distinct first steps.
    pub const ALL: [FirstStep; 4] =
        [FirstStep::One(Dataset::B), FirstStep::One(Dataset::A), FirstStep::One(Dataset::C), FirstStep::AAndB];

    /// The data sets it trains on, in the order of the paper.
    pub fn datasets(self) -> Vec<Dataset> {
        match self {
            FirstStep::One(dataset) => vec![dataset],
            FirstStep::AAndB => vec![Dataset::A, Dataset::B],
        }
    }
}

impl std::fmt::Display for FirstStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FirstStep::One(dataset) => dataset.fmt(f),
            FirstStep::AAndB => f.write_str("A+B"),
        }
    }
}

/// One row of Table I: accuracies in percent.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which half of the table.
    pub view: View,
    /// Counted from 1 within the view, from top to bottom.
    pub row: u8,
    /// Data set I.
    pub first: FirstStep,
    /// Data set II, where there is a second step.
    pub second: Option<Dataset>,
    /// The paper's name of the configuration.
    pub config: &'static str,
    /// Accuracy on the test images of data set I.
    pub accuracy_1: Printed,
    /// Accuracy on the test images of data set II.
    pub accuracy_2: Option<Printed>,
}

const fn p(mean: f64, std: f64) -> Printed {
    Printed { mean, std }
}

const fn row(
    view: View,
    row: u8,
    first: FirstStep,
    second: Option<Dataset>,
    config: &'static str,
    accuracy_1: Printed,
    accuracy_2: Option<Printed>,
) -> Row {
    Row { view, row, first, second, config, accuracy_1, accuracy_2 }
}

/// Table I: sixteen rows, 26 printed accuracies.
pub const TABLE_1: [Row; 16] = {
    use Dataset::{A, B, C};
    use FirstStep::{AAndB, One};
    use View::{Sec, Sur};
    [
        row(Sur, 1, One(B), None, "Baseline", p(82.82, 8.72), None),
        row(Sur, 2, One(A), None, "Baseline", p(81.72, 9.91), None),
        row(Sur, 3, One(C), None, "Baseline", p(68.98, 12.61), None),
        row(Sur, 4, One(B), Some(A), "TwoStepTL*", p(82.82, 8.72), Some(p(83.81, 4.53))),
        row(Sur, 5, One(A), Some(B), "TwoStepTL*", p(81.72, 9.91), Some(p(82.62, 3.87))),
        row(Sur, 6, One(B), Some(C), "TwoStepTL", p(82.82, 4.16), Some(p(85.72, 5.75))),
        row(Sur, 7, One(A), Some(C), "TwoStepTL", p(81.72, 5.51), Some(p(86.19, 6.12))),
        row(Sur, 8, AAndB, Some(C), "TwoStepTL", p(82.34, 4.70), Some(p(87.82, 3.65))),
        row(Sec, 1, One(B), None, "Baseline", p(71.53, 10.21), None),
        row(Sec, 2, One(A), None, "Baseline", p(71.95, 11.73), None),
        row(Sec, 3, One(C), None, "Baseline", p(57.29, 17.87), None),
        row(Sec, 4, One(B), Some(A), "TwoStepTL*", p(71.53, 10.21), Some(p(72.69, 9.22))),
        row(Sec, 5, One(A), Some(B), "TwoStepTL*", p(71.95, 11.73), Some(p(72.82, 8.89))),
        row(Sec, 6, One(B), Some(C), "TwoStepTL", p(73.53, 7.32), Some(p(79.95, 5.58))),
        row(Sec, 7, One(A), Some(C), "TwoStepTL", p(74.95, 8.58), Some(p(78.27, 4.27))),
        row(Sec, 8, AAndB, Some(C), "TwoStepTL", p(75.88, 7.33), Some(p(80.76, 4.91))),
    ]
};

/// The properties whose drift is scored, in the paper's order.
pub const DRIFT_PROPERTIES: [&str; 5] = [
    "Brightness",
    "RMS Contrast",
    "Mean Red Relative Intensity",
    "Mean Green Relative Intensity",
    "Mean Blue Relative Intensity",
];

/// Printed drift scores of a view, in the order of [`DRIFT_PROPERTIES`].
pub fn drift(view: View) -> [f64; 5] {
    match view {
        View::Sur => [0.142, 0.124, 0.060, 0.112, 0.094],
        View::Sec => [0.137, 0.145, 0.077, 0.055, 0.092],
    }
}

/// Printed SIFID of a view.
#[allow(clippy::approx_constant, reason = "3.14 is what the paper prints, and not π")]
pub fn sifid(view: View) -> Printed {
    match view {
        View::Sur => p(3.14, 0.93),
        View::Sec => p(3.79, 1.71),
    }
}

/// Number of images of one class (ALGORITHM 0.1); `None` where the data set
/// does not have the class, and for B, whose images are made by the study.
pub fn image_count(dataset: Dataset, view: View, class: Class) -> Option<u32> {
    use Class::*;
    let (sur, sec) = match (dataset, class) {
        (Dataset::A, Ia) => (50, 74),
        (Dataset::A, Iva) => (18, 18),
        (Dataset::A, Iva2) => (36, 18),
        (Dataset::A, Ivc) => (25, 19),
        (Dataset::A, Ivd) => (43, 17),
        (Dataset::A, Va) => (37, 11),
        (Dataset::C, Ia) => (62, 25),
        (Dataset::C, Iia) => (13, 12),
        (Dataset::C, Iiia) => (58, 50),
        (Dataset::C, Ivc) => (43, 24),
        (Dataset::C, Ivd) => (23, 4),
        (Dataset::C, Va) => (47, 48),
        _ => return None,
    };
    Some(match view {
        View::Sur => sur,
        View::Sec => sec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_to_what_the_paper_prints() {
        let total = |dataset: Dataset, view| -> u32 {
            dataset.classes().into_iter().filter_map(|class| image_count(dataset, view, class)).sum()
        };
        assert_eq!(total(Dataset::A, View::Sur), 209);
        assert_eq!(total(Dataset::A, View::Sec), 157);
        assert_eq!(total(Dataset::C, View::Sur), 246);
        assert_eq!(total(Dataset::C, View::Sec), 163);
    }

    #[test]
    fn table_1_has_26_cells_in_16_rows() {
        let second = TABLE_1.iter().filter(|row| row.accuracy_2.is_some()).count();
        assert_eq!(TABLE_1.len() + second, 26);
        assert!(TABLE_1.iter().all(|row| row.second.is_some() == row.accuracy_2.is_some()));
    }
}
