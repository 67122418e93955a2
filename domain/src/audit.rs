//! What can be found out about the paper's numbers without any run: where they
//! contradict each other or the text, and what they leave open.

use serde::Serialize;

use crate::paper::{self, Printed, Row};
use crate::results::PAPER_N;
use crate::stats::estimate::{Estimate, smallest_n};
use crate::stone::{Dataset, View};

/// One finding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// For instance `same-model-SUR-B`.
    pub id: String,
    /// What was found, in a sentence.
    pub finding: String,
    /// The numbers that it follows from, and where they stand.
    pub evidence: Vec<String>,
}

/// Every finding, those computed from the table first.
pub fn findings() -> Vec<Finding> {
    let mut findings = vec![finding(
        "n",
        "over how many repeats or folds any ± is taken is printed nowhere, so no interval follows from one".to_owned(),
        vec!["Table I, SIFID".to_owned()],
    )];
    findings.extend(View::ALL.into_iter().flat_map(same_model));
    findings.extend(View::ALL.into_iter().map(headline));
    findings.extend(claims());
    findings.push(granularity());
    findings.extend(text());
    findings
}

fn finding(id: &str, finding: String, evidence: Vec<String>) -> Finding {
    Finding { id: id.to_owned(), finding, evidence }
}

/// The number and where it stands.
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

/// What it would take for the gain by synthetic pictures to be significant.
fn headline(view: View) -> Finding {
    let (with, without) = (format!("{view}-8-2"), format!("{view}-7-2"));
    let cells = paper::cell(&with).zip(paper::cell(&without));
    let (with, without) = cells.unwrap_or((UNKNOWN, UNKNOWN));
    let needed = smallest_n([with.mean, with.std], [without.mean, without.std], 0.05);
    let p = PAPER_N.into_iter().filter_map(|n| {
        let of = |cell: Printed| Estimate::of_summary(cell.mean, cell.std, n, 0.0);
        Some(format!("p = {:.2} if n = {n}", of(with)?.minus(of(without)?).p(0.0)))
    });
    finding(
        &format!("headline-{view}"),
        format!(
            "the gain of A+B → C over A → C in view {view}, {:+.2} points, would be significant only from {} runs per arm on",
            with.mean - without.mean,
            needed.map_or_else(|| "a million".to_owned(), |n| n.to_string())
        ),
        p.collect(),
    )
}

const UNKNOWN: Printed = Printed { mean: f64::NAN, std: f64::NAN };

/// Gains in the text that are not those of the table.
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
    let is_multiple = |mean: f64| {
        let nearest = (mean / 100.0 * patches).round() / patches * 100.0;
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
    let fit = means.iter().filter(|mean| is_multiple(**mean)).count();
    finding(
        "granularity",
        format!(
            "{fit} of {} distinct means are multiples of 1/12 %, as an accuracy on 1200 test patches is: they are not of single runs",
            means.len()
        ),
        vec!["Table I, rows tested on one data set".to_owned()],
    )
}

/// Contradictions of the text, which no number tells.
fn text() -> Vec<Finding> {
    let shared = Dataset::A.classes().into_iter().filter(|class| Dataset::C.classes().contains(class)).count();
    vec![
        finding(
            "canvas",
            "the canvas is 2848×4288 in one place and 2448×4288 in another; neither has the shape of 264×200 samples".to_owned(),
            vec!["Fig. 2: aspect 1.51".to_owned(), "V-A: aspect 1.75".to_owned(), "264×200: aspect 1.32".to_owned()],
        ),
        finding(
            "baseline",
            "baselines are trained “from scratch” in one place and from ImageNet in another".to_owned(),
            vec!["IV-B".to_owned(), "V-B, Table I".to_owned()],
        ),
        finding(
            "classes",
            format!("A and B share {shared} of six classes with C, so Accuracy I and II are not on one scale"),
            vec!["A, B: CAR, CAR2".to_owned(), "C: UA, WD".to_owned()],
        ),
        finding(
            "single-image",
            "SinDDM learns from one picture; the paper trains eight per model and does not say how".to_owned(),
            vec!["what the text says of its diffusion models".to_owned()],
        ),
        finding(
            "drift",
            "which distance the drift score is depends on the program's version, and its default threshold is not the paper's 0.2".to_owned(),
            vec!["drift scores".to_owned()],
        ),
        finding(
            "sifid",
            "SIFID compares one real with one synthetic picture; how 25 and 8 were paired is not said".to_owned(),
            vec!["SIFID".to_owned()],
        ),
    ]
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
    fn the_headline_gain_needs_more_runs_than_anybody_does() {
        assert!(get("headline-SUR").finding.contains("+1.63 points, would be significant only from 75 runs"));
        assert!(get("headline-SEC").finding.contains("+2.49 points, would be significant only from 28 runs"));
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
        assert!(get("granularity").finding.starts_with("0 of 18 distinct means"), "{:?}", get("granularity"));
    }

    #[test]
    fn every_finding_has_a_name_of_its_own_and_evidence() {
        let findings = findings();
        let names: std::collections::BTreeSet<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(names.len(), findings.len());
        assert!(findings.iter().all(|finding| !finding.evidence.is_empty()));
    }
}
