//! The page: what the results say, arranged for `templates/report.html`, which
//! escapes all text; only the charts are markup, and they escape their own.

use askama::Template;
use domain::study::audit::{self, Finding};
use domain::study::experiment::StdOver;
use domain::study::results::{
    Cell, Claim, ClaimVerdict, ComparedScore, DriftScore, Enlarging, Gate, HeatmapScore, ModelTraining, Nearness,
    Results, SifidScore, Verdict,
};
use domain::study::stone::{Class, Dataset, View};
use domain::study::system::System;

use crate::{figures, format, tables};

/// The pictures of a page. Their paths are relative to it; a picture that the study did
/// not leave is absent.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    pub maps: Vec<Map>,
    pub samples: Vec<Samples>,
    pub milestones: Vec<Milestones>,
}

/// A map of where the pictures of a view are bright.
#[derive(Clone, Debug)]
pub struct Map {
    pub view: View,
    pub caption: &'static str,
    pub path: String,
}

/// Samples of a diffusion model.
#[derive(Clone, Debug)]
pub struct Samples {
    pub view: View,
    pub class: Class,
    pub path: String,
}

/// Samples of a diffusion model while it learnt, with a row for each milestone.
#[derive(Clone, Debug)]
pub struct Milestones {
    pub view: View,
    pub class: Class,
    /// Optimiser steps before each row, from top to bottom.
    pub steps: Vec<u32>,
    pub path: String,
}

/// The cells of a view to compare: minuend, subtrahend, and what differs.
const CONTRASTS: [(&str, &str, &str); 4] = [
    ("8-2", "3-1", "A+B, then C, against C alone"),
    ("7-2", "3-1", "A, then C, against C alone"),
    ("8-2", "7-2", "synthetic images added to A before C"),
    ("6-2", "7-2", "synthetic images in place of A before C"),
];

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    results: &'a Results,
    verdicts: Vec<Tally>,
    finished: (u64, u64),
    contrasts: Vec<Contrast>,
    claims: Vec<Claimed<'a>>,
    claim_notes: Vec<String>,
    false_claims: Vec<Vec<String>>,
    audit: Vec<Finding>,
    notes: Vec<String>,
    views: Vec<Half<'a>>,
    compared: Vec<Compared<'a>>,
}

/// The scores of a system beside SinDDM.
struct Compared<'a> {
    title: &'static str,
    /// What its networks are, and what they are scored against.
    about: &'static str,
    scores: Vec<&'a ComparedScore>,
}

/// The number of cells that got one verdict.
struct Tally {
    words: &'static str,
    mark: &'static str,
    cells: usize,
}

/// The difference of two cells in percentage points.
struct Contrast {
    view: View,
    meaning: &'static str,
    cells: String,
    paper: String,
    ours: String,
    passing: String,
}

/// A claim of the paper and what our runs say of it.
struct Claimed<'a> {
    claim: &'a Claim,
    says: String,
    paper: String,
    ours: String,
    interval: String,
    p: String,
    detects: String,
    pairs_for_power: String,
    mark: &'static str,
}

/// What the page says of one view.
struct Half<'a> {
    view: View,
    title: &'static str,
    /// The gate at which the synthetic pictures were judged, if they were.
    gate: Option<Gate>,
    chart: String,
    rows: Vec<Row<'a>>,
    per_class: Vec<PerClass>,
    drift: Vec<Drift<'a>>,
    sifid: Option<(&'a SifidScore, &'static str)>,
    heatmap: Option<&'a HeatmapScore>,
    brightness: String,
    maps: Vec<&'a Map>,
    sheets: Vec<Sheet<'a>>,
    trainings: Vec<Trained>,
    enlarging: Option<Enlarged>,
    milestones: Vec<Learning<'a>>,
}

/// One cell of Table I.
struct Row<'a> {
    cell: &'a Cell,
    tested_on: String,
    paper: String,
    ours: String,
    count: String,
    interval: String,
    within: &'static str,
    detects: String,
    needs: String,
    images: String,
    verdict: String,
    /// The same cell by each other protocol.
    others: Vec<String>,
    /// The id of an earlier cell about the same training.
    same_as: Option<&'a str>,
    mark: &'static str,
}

/// Accuracies of the trainings that are scored on the same classes.
struct PerClass {
    classes: Vec<String>,
    rows: Vec<ClassRow>,
}

struct ClassRow {
    training: String,
    id: String,
    means: Vec<f64>,
    spread: String,
}

struct Drift<'a> {
    score: &'a DriftScore,
    chart: String,
    ks: String,
    emd: String,
    interval: String,
    p_null: String,
    p_null_paper: String,
    passed: &'static str,
    mark: &'static str,
}

/// Samples of one generator and how many of them are of use.
struct Sheet<'a> {
    class: Class,
    path: &'a str,
    samples: u32,
    empty: u32,
    passed: Option<u32>,
}

/// The training of a network that draws pictures or enlarges them.
struct Trained {
    title: String,
    chart: String,
    steps: u32,
    loss: String,
    /// The loss at each scale, the coarsest first.
    by_scale: Vec<String>,
}

/// The similarity of enlarged pictures to the true ones.
struct Enlarged {
    held_out: u32,
    rows: [EnlargedBy; 2],
}

struct EnlargedBy {
    by: &'static str,
    psnr: String,
    ssim: String,
}

/// Samples of one generator at several steps of its training.
struct Learning<'a> {
    class: Class,
    path: &'a str,
    steps: String,
}

/// The page as HTML.
///
/// # Errors
/// If the template cannot be filled.
pub fn render(results: &Results, pictures: &Pictures) -> Result<String, askama::Error> {
    let page = Page {
        results,
        verdicts: verdicts(results),
        finished: finished(results),
        contrasts: contrasts(results),
        claims: results.claims.iter().map(claimed).collect(),
        claim_notes: tables::claim_notes(results),
        false_claims: tables::false_claims(results).rows,
        audit: audit::findings(),
        notes: tables::notes(results),
        views: View::ALL.into_iter().map(|view| half(results, pictures, view)).collect(),
        compared: compared(results),
    };
    page.render()
}

// Templates pass their values by reference.

fn distance(value: &Option<f64>) -> String {
    format::distance(*value)
}

fn known_distance(value: &f64) -> String {
    format::significant(*value)
}

fn passing(share: &Option<f64>) -> String {
    format::passing(*share)
}

fn score(value: &Option<f64>) -> String {
    format::score(*value)
}

/// The verdicts that at least one cell got.
fn verdicts(results: &Results) -> Vec<Tally> {
    Verdict::ALL
        .into_iter()
        .map(|verdict| {
            let cells = results.cells.iter().filter(|cell| cell.verdict == verdict).count();
            Tally { words: verdict.words(), mark: mark(verdict), cells }
        })
        .filter(|tally| tally.cells > 0)
        .collect()
}

/// The numbers of finished runs and of those asked for, over all distinct trainings.
fn finished(results: &Results) -> (u64, u64) {
    let distinct = results.cells.iter().filter(|cell| same_as(results, cell).is_none());
    distinct.fold((0, 0), |(n, asked), cell| (n + u64::from(cell.n), asked + u64::from(cell.n_asked)))
}

/// The style of a verdict on a score of which less is better.
fn mark_of_less(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Lower => "good",
        other => mark(other),
    }
}

/// The style of a verdict on an accuracy.
fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Equivalent | Verdict::Consistent => "good",
        Verdict::Higher | Verdict::Lower => "off",
        Verdict::NotComparable | Verdict::NotRun => "none",
    }
}

fn claimed(claim: &Claim) -> Claimed<'_> {
    Claimed {
        claim,
        says: tables::claimed(claim),
        paper: tables::claim_difference(claim, claim.paper_difference),
        ours: tables::claim_difference(claim, claim.difference),
        interval: tables::claim_interval(claim),
        p: format::p_value(claim.p_holm),
        detects: format::distance(claim.detectable_difference),
        pairs_for_power: tables::pairs_for_power(claim),
        mark: match claim.verdict {
            ClaimVerdict::Supported => "good",
            ClaimVerdict::NotSupported | ClaimVerdict::Contradicted => "off",
            ClaimVerdict::NotComparable | ClaimVerdict::NotRun => "none",
        },
    }
}

fn contrasts(results: &Results) -> Vec<Contrast> {
    let find = |view: View, number: &str| {
        let id = format!("{view}-{number}");
        results.cells.iter().find(|cell| cell.id == id)
    };
    let mut contrasts = Vec::new();
    for view in View::ALL {
        for (of, against, meaning) in CONTRASTS {
            let (Some(of), Some(against)) = (find(view, of), find(view, against)) else { continue };
            contrasts.push(Contrast {
                view,
                meaning,
                cells: format!("{} − {}", of.id, against.id),
                paper: format::signed(Some(of.paper_mean - against.paper_mean)),
                ours: format::signed(of.mean.zip(against.mean).map(|(of, against)| of - against)),
                passing: format::passing(of.passing.or(against.passing)),
            });
        }
    }
    contrasts
}

fn half<'a>(results: &'a Results, pictures: &'a Pictures, view: View) -> Half<'a> {
    let cells: Vec<&Cell> = results.cells.iter().filter(|cell| cell.view == view).collect();
    let heatmap = results.heatmap.iter().find(|score| score.view == view);
    Half {
        view,
        title: match view {
            View::Sur => "surface",
            View::Sec => "section",
        },
        gate: results.gate(view),
        chart: figures::table_1(results, view),
        rows: cells.iter().map(|cell| row(results, cell)).collect(),
        per_class: [false, true].into_iter().filter_map(|endoscopic| per_class(results, &cells, endoscopic)).collect(),
        drift: results.drift.iter().filter(|score| score.view == view).map(drift).collect(),
        sifid: results.sifid.iter().find(|score| score.view == view).map(|score| (score, mark_of_less(score.verdict))),
        heatmap,
        brightness: heatmap.map_or_else(String::new, brightness),
        maps: pictures.maps.iter().filter(|map| map.view == view).collect(),
        sheets: sheets(results, pictures, view),
        trainings: results.trainings.iter().filter(|training| training.view == view).map(trained).collect(),
        enlarging: results
            .trainings
            .iter()
            .filter(|training| training.view == view)
            .find_map(|training| training.enlarging.as_ref().map(enlarged)),
        milestones: pictures.milestones.iter().filter(|of| of.view == view).map(learning).collect(),
    }
}

/// The systems beside SinDDM that have scores.
fn compared(results: &Results) -> Vec<Compared<'_>> {
    let of = |system| {
        let (title, about) = match system {
            System::Ddpm => (
                "Plain diffusion models",
                "U-Nets after Ho et al. (2020), trained in this study on the same pictures brought to squares, and \
                 scored against these squares.",
            ),
            System::Sinddm => return None,
        };
        let scores: Vec<&ComparedScore> = results.compared.iter().filter(|score| score.system == system).collect();
        (!scores.is_empty()).then_some(Compared { title, about, scores })
    };
    System::compared().filter_map(of).collect()
}

fn trained(training: &ModelTraining) -> Trained {
    let name = match training.stage.as_str() {
        "sinddm.train" => "SinDDM",
        "ddpm.train" => "DDPM",
        "swin2sr.train" => "Swin2SR",
        other => other,
    };
    Trained {
        title: format!("{name} {}", training.model()),
        chart: figures::loss(training),
        steps: training.steps,
        loss: format!("{:.4}", training.final_loss),
        by_scale: training.loss_by_scale.values().map(|loss| format!("{loss:.4}")).collect(),
    }
}

fn learning(milestones: &Milestones) -> Learning<'_> {
    let steps: Vec<String> = milestones.steps.iter().map(u32::to_string).collect();
    Learning { class: milestones.class, path: &milestones.path, steps: steps.join(", ") }
}

fn enlarged(enlarging: &Enlarging) -> Enlarged {
    let dash = || "–".to_owned();
    let row = |by, nearness: Nearness| EnlargedBy {
        by,
        psnr: nearness.psnr.map_or_else(dash, |psnr| format!("{psnr:.2}")),
        ssim: nearness.ssim.map_or_else(dash, |ssim| format!("{ssim:.4}")),
    };
    let rows = [row("Swin2SR trained here", enlarging.ours), row("Bicubic interpolation", enlarging.bicubic)];
    Enlarged { held_out: enlarging.held_out, rows }
}

/// What the maps of a view show, or why there are none.
fn brightness(map: &HeatmapScore) -> String {
    let scores = (map.mean_difference, map.foreground_real, map.foreground_synthetic);
    let (Some(difference), Some(real), Some(synthetic)) = scores else {
        return format!("No maps: {}", map.why.as_deref().unwrap_or_default());
    };
    let gate =
        map.passing.map(|share| format!(" Of the synthetic pictures, {} pass the gate.", format::passing(Some(share))));
    format!(
        "Mean absolute difference {difference:.1} of 255 grey levels. Above the background: {:.0} % of the mean real \
         picture, {:.0} % of the mean synthetic one.{}",
        100.0 * real,
        100.0 * synthetic,
        gate.unwrap_or_default()
    )
}

fn drift(score: &DriftScore) -> Drift<'_> {
    Drift {
        score,
        chart: figures::drift(score),
        ks: format::score(score.ks),
        emd: format::score(score.emd),
        interval: score.interval.map_or_else(|| "–".to_owned(), |[low, high]| format!("{low:.3} to {high:.3}")),
        p_null: format::p_value(score.p_null),
        p_null_paper: format::p_value(score.p_null_paper),
        passed: match score.passed {
            None => "–",
            Some(true) => "passed",
            Some(false) => "drifted",
        },
        mark: mark_of_less(score.verdict),
    }
}

fn row<'a>(results: &'a Results, cell: &'a Cell) -> Row<'a> {
    Row {
        cell,
        tested_on: cell.test_sets(),
        paper: format::plus_minus(Some(cell.paper_mean), Some(cell.paper_std)),
        ours: format::ours(cell),
        count: format::count(cell),
        interval: format::interval(cell.interval),
        within: format::yes_no(cell.within_printed_std),
        detects: format::plus_minus(cell.detectable_difference, None),
        needs: format::plus_minus(cell.equivalence_std, None),
        images: format::plus_minus(cell.image_accuracy, None),
        same_as: same_as(results, cell),
        mark: mark(cell.verdict),
        verdict: format::verdict(cell),
        others: format::by_others(results, cell),
    }
}

/// The id of the first cell about the training of `cell`, unless that is `cell` itself.
fn same_as<'a>(results: &'a Results, cell: &Cell) -> Option<&'a str> {
    let first = results.cells.iter().find(|other| (other.view, &other.training) == (cell.view, &cell.training))?;
    (first.id != cell.id).then_some(first.id.as_str())
}

/// The trainings scored on C (`endoscopic`), or those scored on A and B. The labels of the
/// two stand for different classes.
fn per_class(results: &Results, cells: &[&Cell], endoscopic: bool) -> Option<PerClass> {
    let scored: Vec<&&Cell> = cells
        .iter()
        .filter(|cell| cell.tested_on.contains(&Dataset::C) == endoscopic)
        .filter(|cell| same_as(results, cell).is_none() && !cell.per_class.is_empty())
        .collect();
    let classes = scored.iter().map(|cell| &cell.per_class).max_by_key(|classes| classes.len())?;
    let labels: Vec<u8> = classes.iter().map(|class| class.label).collect();
    let names = classes.iter().map(|class| {
        let names: Vec<String> = class.classes.iter().map(|class| format!("{class} {}", class.mineral())).collect();
        names.join(" / ")
    });
    let row = |cell: &&&Cell| ClassRow {
        training: cell.training.clone(),
        id: cell.id.clone(),
        means: labels
            .iter()
            .map(|label| cell.per_class.iter().find(|class| class.label == *label).map_or(f64::NAN, |class| class.mean))
            .collect(),
        spread: cell.std_over_classes.map_or_else(|| "–".to_owned(), |std| format!("{std:.1}")),
    };
    Some(PerClass { classes: names.collect(), rows: scored.iter().map(row).collect() })
}

fn sheets<'a>(results: &Results, pictures: &'a Pictures, view: View) -> Vec<Sheet<'a>> {
    let of_view = pictures.samples.iter().filter(|samples| samples.view == view);
    of_view
        .map(|Samples { class, path, .. }| {
            let generator = results.generators.iter().find(|made| (made.view, made.class) == (view, *class));
            Sheet {
                class: *class,
                path,
                samples: generator.map_or(0, |made| made.samples),
                empty: generator.map_or(0, |made| made.empty),
                passed: generator.and_then(|made| made.passed),
            }
        })
        .collect()
}
