//! Findings about the paper's numbers that need no run: where the numbers contradict each
//! other or the text, and what they leave open.

mod drift;
mod text;

use serde::Serialize;

use crate::study::paper::{self, Printed, Row};
use crate::study::results::PAPER_N;
use crate::study::stats::estimate::Estimate;
use crate::study::stats::power::{POWER, samples_for_power, samples_for_significance};
use crate::study::stone::View;

/// One finding about the paper's numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The id of the finding, for instance `same-model-SUR-B`.
    pub id: String,
    /// The finding in one sentence.
    pub finding: String,
    /// The numbers that the finding follows from, and where the paper prints them.
    pub evidence: Vec<String>,
}

/// All findings; those computed from the table come first.
pub fn findings() -> Vec<Finding> {
    let mut findings = vec![finding(
        "n",
        "over how many repeats or folds any ± is taken is printed nowhere, so no interval follows from one".to_owned(),
        vec!["Table I, SIFID".to_owned()],
    )];
    findings.extend(View::ALL.into_iter().flat_map(same_model));
    findings.extend(View::ALL.into_iter().filter_map(whole_steps));
    findings.extend(View::ALL.into_iter().map(headline));
    findings.extend(claims());
    findings.push(granularity());
    findings.extend(drift::findings());
    findings.extend(text::findings());
    findings
}

fn finding(id: &str, finding: String, evidence: Vec<String>) -> Finding {
    Finding { id: id.to_owned(), finding, evidence }
}

/// A printed number and where the paper prints it.
fn printed(quote: &str, Printed { mean, std }: Printed) -> String {
    format!("{mean:.2} ± {std:.2} ({quote})")
}

/// First steps whose accuracy is printed with several values.
fn same_model(view: View) -> Vec<Finding> {
    let rows: Vec<&Row> = paper::TABLE_1.iter().filter(|row| row.view == view).collect();
    let mut found = vec![];
    for first in paper::FirstStep::ALL {
        let of: Vec<&&Row> = rows.iter().filter(|row| row.first == first).collect();
        let Some(one) = of.first() else { continue };
        let differs = of.iter().filter(|row| row.accuracy_1 != one.accuracy_1).count();
        if differs == 0 {
            continue;
        }
        let means = of.iter().any(|row| row.accuracy_1.mean != one.accuracy_1.mean);
        let what = if means { "different means and ±" } else { "different ±" };
        let evidence = of.iter().map(|row| printed(row.quotes[0].as_deref().unwrap_or_default(), row.accuracy_1));
        found.push(finding(
            &format!("same-model-{view}-{first}"),
            format!("Accuracy I of one model, ImageNet then {first} in view {view}, is printed with {what}"),
            evidence.collect(),
        ));
    }
    found
}

/// First steps whose accuracy is that of the baseline with another first digit.
fn whole_steps(view: View) -> Option<Finding> {
    let rows: Vec<&Row> = paper::TABLE_1.iter().filter(|row| row.view == view).collect();
    let baseline = |row: &Row| rows.iter().copied().find(|other| other.second.is_none() && other.first == row.first);
    let mut evidence = vec![];
    let mut steps = vec![];
    for row in &rows {
        let Some(baseline) = baseline(row) else { continue };
        let [from, to] = [baseline, row].map(|row| format!("{:.2}", row.accuracy_1.mean));
        let digits = from.chars().zip(to.chars()).filter(|(from, to)| from != to).count();
        let hundredths = (100.0 * (row.accuracy_1.mean - baseline.accuracy_1.mean)).round();
        if hundredths != 0.0 && hundredths % 100.0 == 0.0 && digits == 1 {
            let rows = format!("rows {} and {}", baseline.row, row.row);
            steps.push(format!("{:+.2} (row {})", hundredths / 100.0, row.row));
            evidence.push(format!("{from} and {to} (Table I, {view}, {rows}, Accuracy I): one digit differs"));
        }
    }
    (!steps.is_empty()).then(|| {
        finding(
            &format!("whole-steps-{view}"),
            format!(
                "Accuracy I in view {view} differs from that of the baseline with the same first step by exactly {}, \
                 one digit each, where other rows repeat the baseline's: it may be misprinted",
                steps.join(" and ")
            ),
            evidence,
        )
    })
}

/// The number of runs with which the gain by synthetic pictures would be significant.
fn headline(view: View) -> Finding {
    let (with, without) = (format!("{view}-8-2"), format!("{view}-7-2"));
    let cells = paper::cell(&with).zip(paper::cell(&without));
    let (with, without) = cells.unwrap_or((UNKNOWN, UNKNOWN));
    let arms = [with, without].map(|cell| [cell.mean, cell.std]);
    let runs = |needed: Option<u32>| needed.map_or_else(|| "a million".to_owned(), |n| n.to_string());
    let p = PAPER_N.into_iter().filter_map(|n| {
        let of = |cell: Printed| Estimate::of_summary(cell.mean, cell.std, n, 0.0);
        Some(format!("p = {:.2} if n = {n}", of(with)?.minus(of(without)?).p(0.0)))
    });
    finding(
        &format!("headline-{view}"),
        format!(
            "the gain of A+B → C over A → C in view {view}, {:+.2} points, would be significant only from {} runs per arm on, \
             and another study would find it with a power of 80 % only from {} on",
            with.mean - without.mean,
            runs(samples_for_significance(arms[0], arms[1], 0.05)),
            runs(samples_for_power(arms[0], arms[1], 0.05, POWER))
        ),
        p.collect(),
    )
}

const UNKNOWN: Printed = Printed { mean: f64::NAN, std: f64::NAN };

/// Gains in the text that differ from those in the table.
fn claims() -> Vec<Finding> {
    let quantified = paper::claims().iter().filter(|claim| claim.by > 0.0);
    quantified
        .filter_map(|claim| {
            let (better, worse) = (paper::cell(&claim.better)?, paper::cell(&claim.worse)?);
            let gain = better.mean - worse.mean;
            // Rounded to whole points, as the text does.
            if gain.round() == claim.by {
                return None;
            }
            let view = &claim.better[..3];
            let mut evidence = vec![claim.quote.clone(), format!("{} − {} = {gain:+.2}", claim.better, claim.worse)];
            if gain < claim.by {
                let other = paper::cell(&format!("{view}-2-1"))?;
                let apart = better.mean - other.mean;
                evidence.push(format!(
                    "nearest: {} − {view}-2-1 = {apart:+.2}, which is tested on other pictures",
                    claim.better
                ));
            }
            Some(finding(
                &format!("claim-{}", claim.id),
                format!("the text's {:+} points are {gain:+.2} in Table I", claim.by),
                evidence,
            ))
        })
        .collect()
}

/// Whether the means can be those of single runs.
fn granularity() -> Finding {
    let patches = 1200.0; // 200 of each of six classes
    let is_multiple = |mean: f64, runs: u32| {
        let parts = patches * f64::from(runs);
        let nearest = (mean / 100.0 * parts).round() / parts * 100.0;
        (nearest - mean).abs() < 0.005 + 1e-9
    };
    let mut means: Vec<f64> = vec![];
    for row in paper::TABLE_1.iter() {
        let first = (row.first.datasets().len() == 1).then_some(row.accuracy_1);
        for cell in [first, row.accuracy_2].into_iter().flatten() {
            if !means.contains(&cell.mean) {
                means.push(cell.mean);
            }
        }
    }
    let fit = |runs: u32| means.iter().filter(|mean| is_multiple(**mean, runs)).count();
    let misfits = means.iter().filter(|mean| !is_multiple(**mean, 5)).map(|mean| format!("{mean:.2}"));
    let several = [2, 3, 5, 8].map(|runs| format!("{} for a mean over {runs}", fit(runs)));
    finding(
        "granularity",
        format!(
            "{} of {} distinct means are multiples of 1/12 %, as an accuracy on 1200 test patches is: they are not of single runs",
            fit(1),
            means.len()
        ),
        vec![
            "Table I, rows tested on one data set".to_owned(),
            format!("means that fit: {}; with 9 runs or more any number does", several.join(", ")),
            format!(
                "not means over 5 runs, unless runs were rounded before: {}",
                misfits.collect::<Vec<_>>().join(", ")
            ),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(id: &str) -> Finding {
        findings().into_iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no {id}"))
    }

    #[test]
    fn the_same_model_has_several_values() {
        assert_eq!(get("same-model-SUR-B").evidence.len(), 3);
        assert!(get("same-model-SUR-B").finding.ends_with("different ±"));
        assert!(get("same-model-SEC-A").finding.ends_with("different means and ±"));
        assert!(findings().iter().all(|finding| !finding.id.starts_with("same-model-SUR-C")));
    }

    #[test]
    fn two_sections_differ_from_the_baseline_by_one_digit() {
        let found = get("whole-steps-SEC");
        assert!(found.finding.contains("by exactly +2.00 (row 6) and +3.00 (row 7), one digit each"), "{found:?}");
        assert!(found.evidence[0].starts_with("71.53 and 73.53 (Table I, SEC, rows 1 and 6"));
        assert!(found.evidence[1].starts_with("71.95 and 74.95 (Table I, SEC, rows 2 and 7"));
        assert!(findings().iter().all(|finding| finding.id != "whole-steps-SUR"));
    }

    #[test]
    fn the_headline_gain_needs_more_runs_than_anybody_does() {
        assert!(get("headline-SUR").finding.contains("+1.63 points, would be significant only from 75 runs"));
        assert!(get("headline-SUR").finding.ends_with("with a power of 80 % only from 152 on"));
        assert!(get("headline-SEC").finding.contains("+2.49 points, would be significant only from 28 runs"));
        assert!(get("headline-SEC").finding.ends_with("with a power of 80 % only from 55 on"));
        assert_eq!(
            get("headline-SUR").evidence,
            ["p = 0.72 if n = 3", "p = 0.63 if n = 5", "p = 0.48 if n = 10", "p = 0.22 if n = 30"]
        );
    }

    #[test]
    fn gains_of_the_text_are_not_those_of_the_table() {
        assert_eq!(get("claim-SUR-imagenet").finding, "the text's +10 points are +18.84 in Table I");
        assert_eq!(get("claim-SEC-imagenet").finding, "the text's +10 points are +23.47 in Table I");
        let ccd = get("claim-SUR-ccd").evidence;
        assert_eq!(
            ccd[1..],
            ["SUR-8-2 − SUR-7-2 = +1.63", "nearest: SUR-8-2 − SUR-2-1 = +6.10, which is tested on other pictures"]
        );
        assert!(get("claim-SEC-ccd").evidence[2].contains("+8.81"));
    }

    #[test]
    fn no_mean_is_of_a_single_run() {
        let found = get("granularity");
        assert!(found.finding.starts_with("0 of 18 distinct means"), "{found:?}");
        assert!(found.evidence[1].contains("13 for a mean over 5, 18 for a mean over 8"), "{found:?}");
        assert!(found.evidence[2].ends_with("before: 83.81, 86.19, 57.29, 72.69, 80.76"), "{found:?}");
    }

    #[test]
    fn every_finding_has_a_name_of_its_own_and_evidence() {
        let findings = findings();
        let names: std::collections::BTreeSet<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(names.len(), findings.len());
        assert!(findings.iter().all(|finding| !finding.evidence.is_empty()));
    }
}
