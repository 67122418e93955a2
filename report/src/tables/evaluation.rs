//! The evaluation of the synthetic pictures, for people.

use domain::study::experiment::DriftMethod;
use domain::study::results::{ComparedScore, DriftScore, Results, SifidScore};

use super::Align::{Left, Right};
use super::{Table, TableColumn};
use crate::format::{distance, p_value, passing, plus_minus, score};

/// One row; what does not apply to its measure is empty.
#[derive(Default)]
struct Row {
    of: String,
    measure: String,
    paper: String,
    ours: String,
    interval: String,
    /// What two samples from one distribution would give.
    if_alike: String,
    p_if_alike: String,
    passing: String,
    verdict: &'static str,
}

const EVALUATION: [TableColumn<Row>; 9] = [
    ("of", Left, |row| row.of.clone()),
    ("measure", Left, |row| row.measure.clone()),
    ("paper", Right, |row| row.paper.clone()),
    ("ours", Right, |row| row.ours.clone()),
    ("95 % interval", Right, |row| row.interval.clone()),
    ("if alike (5–95 %)", Right, |row| row.if_alike.clone()),
    ("p if alike", Right, |row| row.p_if_alike.clone()),
    ("B passes", Right, |row| row.passing.clone()),
    ("verdict", Left, |row| row.verdict.to_owned()),
];

/// Drift and SIFID of the synthetic pictures, the paper beside this study, then those of
/// the plain diffusion models.
pub fn evaluation(results: &Results) -> Table {
    let mut rows: Vec<Row> = results.drift.iter().map(drift).collect();
    rows.extend(results.sifid.iter().map(sifid));
    rows.extend(results.compared.iter().flat_map(compared));
    Table::of(&EVALUATION, &rows)
}

fn drift(found: &DriftScore) -> Row {
    let passed = match found.passed {
        None => "",
        Some(true) => " passed",
        Some(false) => " drifted",
    };
    let range = |[low, high]: [f64; 2]| format!("{low:.3}–{high:.3}");
    Row {
        of: found.view.to_string(),
        measure: format!("{} drift, {}", found.property, found.method.name()),
        paper: format!("{:.3}", found.paper),
        ours: format!("{}{passed}", score(found.score())),
        interval: found.interval.map_or_else(|| "–".to_owned(), range),
        // The distribution of the other distance is not known.
        if_alike: match found.method {
            DriftMethod::Ks => range([found.ks_null[0], found.ks_null[2]]),
            DriftMethod::Emd => "–".to_owned(),
        },
        p_if_alike: p_value(found.p_null),
        passing: passing(found.passing),
        verdict: found.verdict.words(),
    }
}

fn sifid(found: &SifidScore) -> Row {
    Row {
        of: found.view.to_string(),
        measure: "SIFID".to_owned(),
        paper: plus_minus(Some(found.paper_mean), Some(found.paper_std)),
        ours: format!("{} ± {}", distance(found.mean), distance(found.std)),
        passing: passing(found.passing),
        verdict: found.verdict.words(),
        ..Row::default()
    }
}

fn compared(found: &ComparedScore) -> Vec<Row> {
    let row = |measure, ours| Row { of: found.title(), measure, ours, ..Row::default() };
    let of_property =
        |(property, ks, _): &(String, Option<f64>, Option<f64>)| row(format!("{property} drift, KS"), score(*ks));
    let mut rows: Vec<Row> = found.drift.iter().map(of_property).collect();
    rows.push(row("SIFID".to_owned(), distance(found.sifid)));
    rows
}
