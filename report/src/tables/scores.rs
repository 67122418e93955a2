//! Scores of the synthetic pictures as comma-separated values.

use domain::study::experiment::DriftMethod;
use domain::study::results::{ComparedScore, DriftScore, HeatmapScore, Results, SifidScore};

use super::csv::{csv, high, low, number};

/// What a line of `scores.csv` is made of.
struct ScoreLine<'a> {
    results: &'a Results,
    score: Score<'a>,
}

/// One score of synthetic pictures.
#[derive(Default)]
struct Score<'a> {
    /// The view, the view and class, or the plain diffusion model.
    of: String,
    name: String,
    value: Option<f64>,
    interval: Option<[f64; 2]>,
    paper: Option<f64>,
    /// The probability of a score as large as ours without any drift.
    p_null: Option<f64>,
    /// The probability of a score as small as the paper's without any drift.
    p_null_paper: Option<f64>,
    verdict: &'static str,
    why: Option<&'a String>,
    /// The share of the synthetic pictures behind the score that pass the gate.
    passing: Option<f64>,
}

type ScoreColumn = (&'static str, fn(&ScoreLine<'_>) -> String);

const SCORES_CSV: &[ScoreColumn] = &[
    ("of", |line| line.score.of.clone()),
    ("score", |line| line.score.name.clone()),
    ("value", |line| number(line.score.value)),
    ("low", |line| low(line.score.interval)),
    ("high", |line| high(line.score.interval)),
    ("paper", |line| number(line.score.paper)),
    ("p_null", |line| number(line.score.p_null)),
    ("p_null_paper", |line| number(line.score.p_null_paper)),
    ("verdict", |line| line.score.verdict.to_owned()),
    ("why", |line| line.score.why.cloned().unwrap_or_default()),
    ("stand_ins", |line| line.results.stand_ins.join("; ")),
    ("b_passing", |line| number(line.score.passing)),
    ("readings", |line| line.results.readings.join("; ")),
];

/// The scores of the synthetic pictures, one a line; `why` says why one is absent.
pub fn scores_csv(results: &Results) -> String {
    let of_views = results.drift.iter().flat_map(drift);
    let sifid = results.sifid.iter().flat_map(sifid);
    let maps = results.heatmap.iter().map(heatmap);
    let plain = results.compared.iter().flat_map(compared);
    csv(SCORES_CSV, of_views.chain(sifid).chain(maps).chain(plain).map(|score| ScoreLine { results, score }))
}

const SIFID: &str = "SIFID";
const MAPS: &str = "difference of mean pictures";

fn ks(property: &str) -> String {
    format!("{property} drift, KS")
}

fn emd(property: &str) -> String {
    format!("{property} drift, EMD")
}

/// The distance that the verdict is about, then the other one.
fn drift(found: &DriftScore) -> [Score<'_>; 2] {
    let (ks, emd) = ((ks(&found.property), found.ks), (emd(&found.property), found.emd));
    let [own, other] = if found.method == DriftMethod::Ks { [ks, emd] } else { [emd, ks] };
    let score = |(name, value)| Score {
        of: found.view.to_string(),
        name,
        value,
        why: found.why.as_ref(),
        passing: found.passing,
        ..Score::default()
    };
    let own = Score {
        interval: found.interval,
        paper: Some(found.paper),
        p_null: found.p_null,
        p_null_paper: found.p_null_paper,
        verdict: found.verdict.words(),
        ..score(own)
    };
    [own, score(other)]
}

/// The score of the view, then those of its classes.
fn sifid(found: &SifidScore) -> impl Iterator<Item = Score<'_>> {
    let score = |of, value| Score { of, name: SIFID.to_owned(), value, passing: found.passing, ..Score::default() };
    let of_view = Score {
        paper: Some(found.paper_mean),
        verdict: found.verdict.words(),
        why: found.why.as_ref(),
        ..score(found.view.to_string(), found.mean)
    };
    let of_class = move |(class, mean): &(_, f64)| score(format!("{}.{class}", found.view), Some(*mean));
    std::iter::once(of_view).chain(found.per_class.iter().map(of_class))
}

fn heatmap(found: &HeatmapScore) -> Score<'_> {
    Score {
        of: found.view.to_string(),
        name: MAPS.to_owned(),
        value: found.mean_difference,
        why: found.why.as_ref(),
        passing: found.passing,
        ..Score::default()
    }
}

fn compared(found: &ComparedScore) -> Vec<Score<'_>> {
    let score = |name, value, kind| Score {
        of: found.title(),
        name,
        value,
        why: found.why.get(kind),
        passing: found.passing,
        ..Score::default()
    };
    let of_property = |(property, of_ks, of_emd): &(String, Option<f64>, Option<f64>)| {
        [score(ks(property), *of_ks, "drift"), score(emd(property), *of_emd, "drift")]
    };
    let mut scores: Vec<Score<'_>> = found.drift.iter().flat_map(of_property).collect();
    scores.push(score(SIFID.to_owned(), found.sifid, "sifid"));
    scores.push(score(MAPS.to_owned(), found.mean_difference, "heatmap"));
    scores
}
