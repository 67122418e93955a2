//! Claims as text.

use std::collections::BTreeSet;

use super::{csv_of, distance, interval, number, p_value, passing, score, signed};
use domain::paper::ClaimKind;
use domain::results::{Claim, FalseClaim, LEVEL, Results};

/// What a claim says, for instance `SUR-8-2 > SUR-7-2 + 6`.
pub fn claimed(claim: &Claim) -> String {
    let Claim { better, worse, by, .. } = claim;
    match claim.kind {
        ClaimKind::Above if *by > 0.0 => format!("{better} > {worse} + {by}"),
        ClaimKind::Above => format!("{better} > {worse}"),
        ClaimKind::NoGain => format!("{better} < {worse} + {by}"),
        ClaimKind::Equivalent => format!("{better} = {worse} ± {by}"),
        ClaimKind::BelowLimit => format!("{better} < {by}"),
    }
}

/// A difference of accuracies with two decimals, or a score with its digits.
pub fn claim_difference(claim: &Claim, difference: Option<f64>) -> String {
    match claim.kind {
        ClaimKind::BelowLimit => score(difference),
        _ if claim.better.starts_with("SIFID") => distance(difference),
        _ => signed(difference),
    }
}

/// Its interval, likewise.
pub fn claim_interval(claim: &Claim) -> String {
    let end = |value| claim_difference(claim, Some(value)).replace('+', "");
    match claim.kind {
        ClaimKind::Above if claim.better.starts_with("SIFID") => {
            claim.interval.map_or_else(|| "–".to_owned(), |ends| ends.map(end).join(" to "))
        }
        ClaimKind::BelowLimit => claim.interval.map_or_else(|| "–".to_owned(), |ends| ends.map(end).join(" to ")),
        _ => interval(claim.interval),
    }
}

/// Pairs that a test with a power of 80 % would take.
pub fn pairs_for_power(claim: &Claim) -> String {
    match (claim.pairs_for_power, claim.detectable_difference) {
        (Some(pairs), _) => pairs.to_string(),
        (None, Some(_)) => "never".to_owned(),
        (None, None) => "–".to_owned(),
    }
}

/// `0.28 to 0.41`: the probability that a claim of outperformance is false.
fn probability(found: &FalseClaim) -> String {
    range(found.p)
}

/// The share of cases that both methods get right, likewise.
fn congruence(found: &FalseClaim) -> String {
    range(found.congruence)
}

fn range([one, other]: [f64; 2]) -> String {
    let [low, high] = [one.min(other), one.max(other)].map(|end| format!("{end:.3}"));
    if low == high { low } else { format!("{low} to {high}") }
}

/// Every claim, one a line, of all protocols.
pub fn claims_csv(results: &Results) -> String {
    let own = results.claims.iter().map(|claim| (results.protocol, claim));
    let others = results.others.iter().flat_map(|other| other.claims.iter().map(move |claim| (other.protocol, claim)));
    let lines = own.chain(others).map(|(protocol, claim)| {
        let of_false = claim.false_claim.iter().map(|found| {
            format!("{}: {} (n = {}, congruence {})", found.of.words(), probability(found), found.n, congruence(found))
        });
        [
            claim.id.clone(),
            protocol.to_string(),
            claimed(claim),
            number(claim.paper_difference),
            claim.pairs.to_string(),
            number(claim.difference),
            number(claim.interval.map(|[low, _]| low)),
            number(claim.interval.map(|[_, high]| high)),
            number(claim.p),
            number(claim.p_holm),
            number(claim.p_wilcoxon),
            number(claim.detectable_difference),
            claim.pairs_for_power.map(|pairs| pairs.to_string()).unwrap_or_default(),
            claim.verdict.words().to_owned(),
            of_false.collect::<Vec<_>>().join("; "),
            claim.note.clone().unwrap_or_default(),
            results.stand_ins.join("; "),
            number(claim.passing),
            results.readings.join("; "),
        ]
    });
    let columns = [
        "id",
        "protocol",
        "says",
        "paper_difference",
        "pairs",
        "difference",
        "ci_low",
        "ci_high",
        "p",
        "p_holm",
        "p_wilcoxon",
        "detectable_difference",
        "pairs_for_power",
        "verdict",
        "p_false",
        "note",
        "stand_ins",
        "b_passing",
        "readings",
    ];
    csv_of(&columns, lines)
}

/// What has to be known of claims, one remark a line.
pub fn claim_notes(results: &Results) -> Vec<String> {
    let tested = results.claims.iter().filter(|claim| claim.p.is_some()).count();
    let mut notes = vec![format!(
        "p is corrected by Holm over the {tested} claims that are tested, at {:.2}. Detects: the smallest distance from what \
         is claimed that these pairs find with a power of 80 %; 80 % power: the pairs that would find the paper's difference, \
         or none where none is claimed.",
        1.0 - LEVEL
    )];
    let noted = results.claims.iter().filter_map(|claim| Some((&claim.id, claim.note.as_ref()?)));
    notes.extend(noted.map(|(id, note)| format!("{id}: {note}")));
    notes
}

/// The probability that each claim of outperformance is false: claim, whose accuracies,
/// number of cases, congruence, probability.
pub fn false_claims(results: &Results) -> Vec<[String; 5]> {
    let all = results.claims.iter().flat_map(|claim| claim.false_claim.iter().map(move |found| (claim, found)));
    let line = |(claim, found): (&Claim, &FalseClaim)| {
        let says = format!("{} > {}", claim.better, claim.worse);
        [says, found.of.words().to_owned(), found.n.to_string(), congruence(found), probability(found)]
    };
    let mut lines: Vec<[String; 5]> = all.map(line).collect();
    // Two claims may be about the same two cells.
    let mut seen = BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    lines
}

/// One line of the table of claims.
pub(super) fn claim_line(claim: &Claim) -> [String; 11] {
    [
        claim.id.clone(),
        claimed(claim),
        claim_difference(claim, claim.paper_difference),
        claim_difference(claim, claim.difference),
        claim_interval(claim),
        claim.pairs.to_string(),
        p_value(claim.p_holm),
        distance(claim.detectable_difference),
        pairs_for_power(claim),
        passing(claim.passing),
        claim.verdict.words().to_owned(),
    ]
}
