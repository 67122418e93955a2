//! The numbers that the paper prints (arXiv 2409.13409), read from `paper.toml`.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::study::stone::{Class, Dataset, View};

/// A mean with its standard deviation, in the unit of the table it stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Printed {
    /// The printed mean.
    pub mean: f64,
    /// The printed ±. The paper does not say what it is over.
    pub std: f64,
}

/// The data that the first training step of a row learns from.
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

    /// The data sets that the step trains on, in the order of the paper.
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

/// One row of Table I, with accuracies in percent.
#[derive(Clone, Debug)]
pub struct Row {
    /// The half of the table.
    pub view: View,
    /// The number of the row within the view, counted from 1 at the top.
    pub row: u8,
    /// Data set I.
    pub first: FirstStep,
    /// Data set II, where there is a second step.
    pub second: Option<Dataset>,
    /// The paper's name of the configuration.
    pub config: String,
    /// Accuracy on the test images of data set I.
    pub accuracy_1: Printed,
    /// Accuracy on the test images of data set II.
    pub accuracy_2: Option<Printed>,
    /// The places where the paper prints the two accuracies.
    pub quotes: [Option<String>; 2],
}

impl Row {
    /// Whether the accuracy after the first step, or after a second step on `second`, is of
    /// a network that has learnt from `dataset` or is tested on it.
    pub fn rests_on(&self, second: Option<Dataset>, dataset: Dataset) -> bool {
        self.first.datasets().contains(&dataset) || second == Some(dataset)
    }
}

/// A claim of the paper about its numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The id of the claim, for instance `SUR-synthetic`.
    pub id: String,
    /// The relation that `better` is said to have to `worse`.
    #[serde(default)]
    pub kind: ClaimKind,
    /// The subject of the claim: a cell, for instance `SUR-8-2`, which is said to be above
    /// `worse`, or a score: `drift`, which is the largest of all drift scores, `SIFID-SEC`,
    /// `SIFID-DDPM`.
    pub better: String,
    /// The id of the cell that `better` is compared with; empty where there is a limit instead.
    #[serde(default)]
    pub worse: String,
    /// The difference in percentage points that `better` is said to exceed. Other kinds of
    /// claim use the study's own margin or limit.
    #[serde(default)]
    pub by: f64,
    /// The place or the words of the claim in the paper.
    pub quote: String,
}

/// A number in the text of the paper.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quoted<T> {
    pub value: T,
    /// The place or the words of the number in the paper.
    pub quote: String,
}

/// The numbers in the text outside tables. Sizes are width and height in pixels.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The canvas that pictures are padded to, as a figure has it.
    pub canvas_in_figure: Quoted<[u32; 2]>,
    /// The canvas that pictures are padded to, as the text has it.
    pub canvas_in_text: Quoted<[u32; 2]>,
    /// The size of a sample of SinDDM.
    pub sample_size: Quoted<[u32; 2]>,
    /// The size of a sample enlarged four times.
    pub enlarged_size: Quoted<[u32; 2]>,
    /// The size of a picture of data set C.
    pub endoscopic_size: Quoted<[u32; 2]>,
    /// The number of pictures that a SinDDM model learns from.
    pub pictures_per_model: Quoted<u32>,
    /// The number of samples of a SinDDM model.
    pub samples_per_model: Quoted<u32>,
    /// The number of samples of a SinDDM model, as one sentence has it.
    pub samples_in_words: Quoted<u32>,
    /// The number of pictures of data set B.
    pub samples: Quoted<u32>,
    /// The drift score below which a property counts as alike.
    pub drift_limit: Quoted<f64>,
    /// The FID of the plain diffusion model.
    pub fid_ddpm: Quoted<f64>,
    /// The side of a patch in pixels.
    pub patch_size: Quoted<u32>,
    /// The number of patches of each class of one view.
    pub patches_per_class: Quoted<u32>,
    /// The number of test patches of each class of one view.
    pub test_patches_per_class: Quoted<u32>,
}

/// The numbers of earlier work on the same data sets. Accuracies and spreads are in
/// percentage points.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    /// The overlap of neighbouring patches in pixels.
    pub overlap: Quoted<u32>,
    /// The number of runs behind a ±.
    pub executions: Quoted<u32>,
    /// The smallest and the largest ± over runs.
    pub spread_of_executions: Quoted<[f64; 2]>,
    /// The smallest and the largest sample standard deviation of the class accuracies of a run.
    pub spread_of_classes: Quoted<[f64; 2]>,
    /// The accuracy on A, view SUR, after the first step.
    pub accuracy_sur: Quoted<f64>,
    /// The accuracy on A, view SEC, after the first step.
    pub accuracy_sec: Quoted<f64>,
}

/// The relation that two numbers are said to have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// The first is above the second by more than `by`.
    #[default]
    Above,
    /// The first gains less than the margin over the second.
    NoGain,
    /// The two differ by less than the margin.
    Equivalent,
    /// The first, alone, is below the limit.
    BelowLimit,
}

/// The contents of `paper.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Paper {
    text: Text,
    earlier: Earlier,
    row: Vec<RowText>,
    drift: Vec<DriftText>,
    sifid: Vec<SifidText>,
    claim: Vec<Claim>,
    images: Vec<Images>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowText {
    view: View,
    row: u8,
    first: Vec<Dataset>,
    second: Option<Dataset>,
    config: String,
    accuracy_1: CellText,
    accuracy_2: Option<CellText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CellText {
    mean: f64,
    std: f64,
    quote: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DriftText {
    view: View,
    property: String,
    score: f64,
    #[allow(dead_code, reason = "every number of the file says where it stands")]
    quote: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SifidText {
    view: View,
    mean: f64,
    std: f64,
    #[allow(dead_code, reason = "every number of the file says where it stands")]
    quote: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Images {
    dataset: Dataset,
    view: View,
    /// The number that the paper prints.
    total: u32,
    /// The numbers that earlier work on the same data sets prints.
    counts: BTreeMap<Class, u32>,
}

static PAPER: LazyLock<Paper> =
    LazyLock::new(|| toml::from_str(include_str!("paper.toml")).expect("a test reads the same file"));

/// Table I, which has sixteen rows and 26 printed accuracies.
pub static TABLE_1: LazyLock<Vec<Row>> = LazyLock::new(|| PAPER.row.iter().map(row).collect());

fn row(text: &RowText) -> Row {
    let printed = |cell: &CellText| Printed { mean: cell.mean, std: cell.std };
    Row {
        view: text.view,
        row: text.row,
        first: match text.first.as_slice() {
            [one] => FirstStep::One(*one),
            _ => FirstStep::AAndB,
        },
        second: text.second,
        config: text.config.clone(),
        accuracy_1: printed(&text.accuracy_1),
        accuracy_2: text.accuracy_2.as_ref().map(printed),
        quotes: [Some(text.accuracy_1.quote.clone()), text.accuracy_2.as_ref().map(|cell| cell.quote.clone())],
    }
}

/// The printed accuracy of the cell with this id, for instance `SUR-8-2`.
pub fn cell(id: &str) -> Option<Printed> {
    let cells = TABLE_1.iter().flat_map(|row| {
        let named = |step: u8, printed| (format!("{}-{}-{step}", row.view, row.row), printed);
        [Some(named(1, row.accuracy_1)), row.accuracy_2.map(|printed| named(2, printed))].into_iter().flatten()
    });
    cells.into_iter().find(|(known, _)| known == id).map(|(_, printed)| printed)
}

/// The claims that are checked, view by view.
pub fn claims() -> &'static [Claim] {
    &PAPER.claim
}

/// The properties whose drift is scored, in the paper's order.
pub const DRIFT_PROPERTIES: [&str; 5] = [
    "Brightness",
    "RMS Contrast",
    "Mean Red Relative Intensity",
    "Mean Green Relative Intensity",
    "Mean Blue Relative Intensity",
];

/// The printed drift scores of a view, in the order of [`DRIFT_PROPERTIES`].
pub fn drift(view: View) -> [f64; 5] {
    let score = |property: &str| PAPER.drift.iter().find(|score| score.view == view && score.property == property);
    DRIFT_PROPERTIES.map(|property| score(property).map_or(f64::NAN, |found| found.score))
}

/// The printed SIFID of a view.
pub fn sifid(view: View) -> Printed {
    let found = PAPER.sifid.iter().find(|score| score.view == view);
    found.map_or(Printed { mean: f64::NAN, std: f64::NAN }, |score| Printed { mean: score.mean, std: score.std })
}

/// The numbers in the text outside tables.
pub fn text() -> &'static Text {
    &PAPER.text
}

/// The numbers of earlier work on the same data sets.
pub fn earlier() -> &'static Earlier {
    &PAPER.earlier
}

/// The number of images of one view of a data set, as the paper prints it; `None` for B.
pub fn image_total(dataset: Dataset, view: View) -> Option<u32> {
    PAPER.images.iter().find(|images| (images.dataset, images.view) == (dataset, view)).map(|images| images.total)
}

/// The numbers of test cases of a view of C by the paper's numbers: pictures, if a fifth of
/// them is tested, and patches, 200 of each class.
pub fn test_cases(view: View) -> [u32; 2] {
    let classes = Dataset::C.classes();
    let images: u32 = classes.into_iter().filter_map(|class| image_count(Dataset::C, view, class)).sum();
    [(f64::from(images) / 5.0).round() as u32, 200 * classes.len() as u32]
}

/// The number of images of one class in earlier work on the same data sets, as the paper
/// does not print it (ALGORITHM 0.1); `None` where the data set does not have the class, and
/// for B, whose images are made by the study.
pub fn image_count(dataset: Dataset, view: View, class: Class) -> Option<u32> {
    let images = PAPER.deref().images.iter().find(|images| (images.dataset, images.view) == (dataset, view))?;
    images.counts.get(&class).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_to_what_the_paper_prints() {
        for images in &PAPER.images {
            let classes = images.dataset.classes();
            let counted = classes.into_iter().filter_map(|class| image_count(images.dataset, images.view, class));
            assert_eq!(counted.sum::<u32>(), images.total);
            assert_eq!(images.counts.len(), classes.len());
        }
        assert_eq!(PAPER.images.iter().map(|images| images.total).collect::<Vec<_>>(), [209, 157, 246, 163]);
        assert_eq!(image_count(Dataset::B, View::Sur, Class::Ia), None);
    }

    #[test]
    fn table_1_has_26_cells_in_16_rows() {
        let second = TABLE_1.iter().filter(|row| row.accuracy_2.is_some()).count();
        assert_eq!((TABLE_1.len(), TABLE_1.len() + second), (16, 26));
        assert!(TABLE_1.iter().all(|row| row.second.is_some() == row.accuracy_2.is_some()));
        let sum = |of: fn(&Printed) -> f64| {
            let cells = TABLE_1.iter().flat_map(|row| [Some(row.accuracy_1), row.accuracy_2]).flatten();
            cells.map(|printed| (100.0 * of(&printed)).round() as u32).sum::<u32>()
        };
        // A digit that was mistyped in the file would show here, unless another made up for it.
        assert_eq!((sum(|printed| printed.mean), sum(|printed| printed.std)), (SUM_OF_MEANS, SUM_OF_STDS));
        assert_eq!(cell("SUR-8-2"), Some(Printed { mean: 87.82, std: 3.65 }));
        assert_eq!((cell("SUR-3-2"), cell("SUR-9-1")), (None, None));
    }

    const SUM_OF_MEANS: u32 = 202_420;
    const SUM_OF_STDS: u32 = 20_601;

    #[test]
    fn every_number_is_there_and_says_where_it_stands() {
        assert_eq!((PAPER.drift.len(), PAPER.sifid.len()), (10, 2));
        for view in View::ALL {
            assert!(drift(view).into_iter().all(f64::is_finite) && sifid(view).mean.is_finite());
        }
        let cells = PAPER.row.iter().flat_map(|row| [Some(&row.accuracy_1), row.accuracy_2.as_ref()]).flatten();
        let quotes: Vec<&str> = cells
            .map(|cell| cell.quote.as_str())
            .chain(PAPER.drift.iter().map(|score| score.quote.as_str()))
            .chain(PAPER.sifid.iter().map(|score| score.quote.as_str()))
            .collect();
        let distinct: std::collections::BTreeSet<&str> = quotes.iter().copied().collect();
        assert_eq!((quotes.len(), distinct.len()), (38, 38));
    }

    #[test]
    fn claims_are_about_numbers_of_the_paper() {
        assert_eq!(claims().len(), 21);
        let ids: std::collections::BTreeSet<&str> = claims().iter().map(|claim| claim.id.as_str()).collect();
        assert_eq!(ids.len(), claims().len());
        assert_eq!(View::ALL.map(test_cases), [[49, 1200], [33, 1200]]);
        for claim in claims() {
            assert!(!claim.quote.is_empty());
            let (Some(better), Some(worse)) = (cell(&claim.better), cell(&claim.worse)) else {
                assert!(["drift", "SIFID-SEC", "SIFID-DDPM"].contains(&claim.better.as_str()), "{}", claim.id);
                continue;
            };
            match claim.kind {
                ClaimKind::Above => assert!(better.mean > worse.mean, "{}", claim.id),
                // By the study's margin. The table itself prints 2.09 points for one of them.
                ClaimKind::NoGain | ClaimKind::Equivalent => {
                    assert!(better.mean - worse.mean < 2.1 && claim.by == 0.0, "{}", claim.id);
                }
                ClaimKind::BelowLimit => panic!("{} is about a cell", claim.id),
            }
        }
    }
}
