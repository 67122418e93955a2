//! Scores of the synthetic pictures as text.

use super::{csv_of, number};
use domain::experiment::DriftMethod;
use domain::results::Results;

/// One score.
#[derive(Default)]
struct Line<'a> {
    /// View, view and class, or plain diffusion model.
    of: String,
    score: String,
    value: Option<f64>,
    interval: Option<[f64; 2]>,
    paper: Option<f64>,
    /// How probable a score as large as ours is without drift, and one as small as the paper's.
    p_null: [Option<f64>; 2],
    verdict: &'static str,
    why: Option<&'a String>,
    /// Share of the synthetic pictures behind it that pass the gate.
    passing: Option<f64>,
}

/// Every score of the synthetic pictures, one a line; `why` says why one is absent.
pub fn scores_csv(results: &Results) -> String {
    let columns = [
        "of",
        "score",
        "value",
        "low",
        "high",
        "paper",
        "p_null",
        "p_null_paper",
        "verdict",
        "why",
        "stand_ins",
        "b_passing",
        "readings",
    ];
    let fields = |line: Line<'_>| {
        [
            line.of,
            line.score,
            number(line.value),
            number(line.interval.map(|[low, _]| low)),
            number(line.interval.map(|[_, high]| high)),
            number(line.paper),
            number(line.p_null[0]),
            number(line.p_null[1]),
            line.verdict.to_owned(),
            line.why.cloned().unwrap_or_default(),
            results.stand_ins.join("; "),
            number(line.passing),
            results.readings.join("; "),
        ]
    };
    csv_of(&columns, lines(results).into_iter().map(fields))
}

fn lines(results: &Results) -> Vec<Line<'_>> {
    let mut lines = vec![];
    let ks = |property: &str| format!("{property} drift, KS");
    let emd = |property: &str| format!("{property} drift, EMD");
    let (sifid, maps) = ("SIFID".to_owned(), "difference of mean pictures".to_owned());
    for found in &results.drift {
        let (of, why, p_null) = (found.view.to_string(), found.why.as_ref(), [found.p_null, found.p_null_paper]);
        let (paper, verdict, interval) = (Some(found.paper), found.verdict.words(), found.interval);
        let (ks, emd) = ((ks(&found.property), found.ks), (emd(&found.property), found.emd));
        let [own, other] = if found.method == DriftMethod::Ks { [ks, emd] } else { [emd, ks] };
        let passing = found.passing;
        lines.push(Line { of: of.clone(), score: own.0, value: own.1, interval, paper, p_null, verdict, why, passing });
        lines.push(Line { of, score: other.0, value: other.1, why, passing, ..Line::default() });
    }
    for found in &results.sifid {
        let (of, paper, verdict) = (found.view.to_string(), Some(found.paper_mean), found.verdict.words());
        let (score, value, why, passing) = (sifid.clone(), found.mean, found.why.as_ref(), found.passing);
        lines.push(Line { of, score, value, paper, verdict, why, passing, ..Line::default() });
        for (class, mean) in &found.per_class {
            let (of, score) = (format!("{}.{class}", found.view), sifid.clone());
            lines.push(Line { of, score, value: Some(*mean), passing, ..Line::default() });
        }
    }
    for found in &results.heatmap {
        let (of, score, why) = (found.view.to_string(), maps.clone(), found.why.as_ref());
        lines.push(Line { of, score, value: found.mean_difference, why, passing: found.passing, ..Line::default() });
    }
    for found in &results.ddpm {
        let mut add = |score: String, value: Option<f64>, kind: &str| {
            let of = format!("DDPM {}", found.model);
            let (why, passing) = (found.why.get(kind), found.passing);
            lines.push(Line { of, score, value, why, passing, ..Line::default() });
        };
        for (property, of_ks, of_emd) in &found.drift {
            add(ks(property), *of_ks, "drift");
            add(emd(property), *of_emd, "drift");
        }
        add(sifid.clone(), found.sifid, "sifid");
        add(maps.clone(), found.mean_difference, "heatmap");
    }
    lines
}

/// Scores of synthetic pictures that could not be had, and why.
pub(super) fn absent(results: &Results) -> Vec<(String, String)> {
    let mut absent: Vec<(String, String)> = vec![];
    let of_properties = results.drift.iter().map(|score| (format!("drift of {}", score.view), &score.why));
    let of_views = results.sifid.iter().map(|score| (format!("SIFID of {}", score.view), &score.why));
    let of_maps = results.heatmap.iter().map(|score| (format!("the heat map of {}", score.view), &score.why));
    for (score, why) in of_properties.chain(of_views).chain(of_maps) {
        absent.extend(why.clone().map(|why| (score, why)));
    }
    for score in &results.ddpm {
        absent.extend(
            score.why.iter().map(|(kind, why)| (format!("{kind} of the DDPM of {}", score.model), why.clone())),
        );
    }
    // All properties of a view are absent for one reason.
    absent.dedup();
    absent
}
