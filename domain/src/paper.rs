//! What the paper printed (arXiv 2409.13409), for comparison: `paper.toml`.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug)]
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
    pub config: String,
    /// Accuracy on the test images of data set I.
    pub accuracy_1: Printed,
    /// Accuracy on the test images of data set II.
    pub accuracy_2: Option<Printed>,
    /// Where the one and the other stand.
    pub quotes: [Option<String>; 2],
}

impl Row {
    /// Whether the accuracy after the first step, or after a second one on that data set,
    /// is of a network that has learnt from `dataset` or is tested on it.
    pub fn rests_on(&self, second: Option<Dataset>, dataset: Dataset) -> bool {
        self.first.datasets().contains(&dataset) || second == Some(dataset)
    }
}

/// Something that the paper says of its numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// For instance `SUR-synthetic`.
    pub id: String,
    /// How the first is said to lie to the second.
    #[serde(default)]
    pub kind: ClaimKind,
    /// What the claim is about: a cell, for instance `SUR-8-2`, which is said to be above
    /// the other, or a score: `drift`, the largest of all, `SIFID-SEC`, `SIFID-DDPM`.
    pub better: String,
    /// Id of the other; empty where there is a limit instead.
    #[serde(default)]
    pub worse: String,
    /// By more than how many percentage points it is above the other. Other kinds go by
    /// the study's own margin or limit.
    #[serde(default)]
    pub by: f64,
    /// Where, or in which words.
    pub quote: String,
}

/// A number of the text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quoted<T> {
    /// The number.
    pub value: T,
    /// Where it stands, or in which words.
    pub quote: String,
}

/// Numbers of the text outside tables. Sizes are width and height in pixels.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The canvas that pictures are padded to.
    pub canvas_in_figure: Quoted<[u32; 2]>,
    /// The same canvas, elsewhere.
    pub canvas_in_text: Quoted<[u32; 2]>,
    /// A sample of SinDDM.
    pub sample_size: Quoted<[u32; 2]>,
    /// A sample enlarged four times.
    pub enlarged_size: Quoted<[u32; 2]>,
    /// A picture of data set C.
    pub endoscopic_size: Quoted<[u32; 2]>,
    /// Pictures that a SinDDM model learns from.
    pub pictures_per_model: Quoted<u32>,
    /// Samples of a SinDDM model.
    pub samples_per_model: Quoted<u32>,
    /// The number of samples, as one sentence has it.
    pub samples_in_words: Quoted<u32>,
    /// Pictures of data set B.
    pub samples: Quoted<u32>,
    /// The drift score below which a property counts as alike.
    pub drift_limit: Quoted<f64>,
    /// FID of the plain diffusion model.
    pub fid_ddpm: Quoted<f64>,
    /// Side of a patch in pixels.
    pub patch_size: Quoted<u32>,
    /// Patches of each class of one view.
    pub patches_per_class: Quoted<u32>,
    /// Those of them that are tested.
    pub test_patches_per_class: Quoted<u32>,
}

/// What earlier work prints of the same data sets; accuracies and spreads in percentage points.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    /// By how many pixels neighbouring patches overlap.
    pub overlap: Quoted<u32>,
    /// Runs behind a ±.
    pub executions: Quoted<u32>,
    /// Least and largest ± over these runs.
    pub spread_of_executions: Quoted<[f64; 2]>,
    /// Least and largest sample standard deviation of the class accuracies of a run.
    pub spread_of_classes: Quoted<[f64; 2]>,
    /// Accuracy on A, view SUR, after the first step.
    pub accuracy_sur: Quoted<f64>,
    /// Accuracy on A, view SEC, after the first step.
    pub accuracy_sec: Quoted<f64>,
}

/// How two numbers are said to lie to each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// The first is above the second by more than `by`.
    #[default]
    Above,
    /// The first gains less than the margin over the second.
    NoGain,
    /// They differ by less than the margin.
    Equivalent,
    /// The first, alone, is below the limit.
    BelowLimit,
}

/// Everything in the file.
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
    /// What the paper prints.
    total: u32,
    /// What earlier work on the same data sets prints.
    counts: BTreeMap<Class, u32>,
}

static PAPER: LazyLock<Paper> =
    LazyLock::new(|| toml::from_str(include_str!("paper.toml")).expect("a test reads the same file"));

/// Table I: sixteen rows, 26 printed accuracies.
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

/// The printed accuracy of a cell, by its id, for instance `SUR-8-2`.
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

/// Printed drift scores of a view, in the order of [`DRIFT_PROPERTIES`].
pub fn drift(view: View) -> [f64; 5] {
    let score = |property: &str| PAPER.drift.iter().find(|score| score.view == view && score.property == property);
    DRIFT_PROPERTIES.map(|property| score(property).map_or(f64::NAN, |found| found.score))
}

/// Printed SIFID of a view.
pub fn sifid(view: View) -> Printed {
    let found = PAPER.sifid.iter().find(|score| score.view == view);
    found.map_or(Printed { mean: f64::NAN, std: f64::NAN }, |score| Printed { mean: score.mean, std: score.std })
}

/// Numbers of the text outside tables.
pub fn text() -> &'static Text {
    &PAPER.text
}

/// What earlier work prints of the same data sets.
pub fn earlier() -> &'static Earlier {
    &PAPER.earlier
}

/// Number of images of one view of a data set, as the paper prints it; `None` for B.
pub fn image_total(dataset: Dataset, view: View) -> Option<u32> {
    PAPER.images.iter().find(|images| (images.dataset, images.view) == (dataset, view)).map(|images| images.total)
}

/// Test cases of a view of C, as the paper's numbers of pictures and patches have them:
/// pictures, if a fifth of them is tested, and patches, 200 of each class.
pub fn test_cases(view: View) -> [u32; 2] {
    let classes = Dataset::C.classes();
    let images: u32 = classes.into_iter().filter_map(|class| image_count(Dataset::C, view, class)).sum();
    [(f64::from(images) / 5.0).round() as u32, 200 * classes.len() as u32]
}

/// Number of images of one class in earlier work on the same data sets, which the paper
/// does not print (ALGORITHM 0.1); `None` where the data set
/// does not have the class, and for B, whose images are made by the study.
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
