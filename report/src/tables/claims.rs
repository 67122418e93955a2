//! The paper's claims and what our runs say of them.

use std::collections::BTreeSet;

use domain::study::experiment::Protocol;
use domain::study::paper::ClaimKind;
use domain::study::results::{Claim, FalseClaim, LEVEL, Results};

use super::Align::{self, Left, Right};
use super::csv::{csv, high, low, number};
use super::{Table, TableColumn};
use crate::format::{distance, interval, p_value, passing, score, signed};

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

/// A number that a claim is about: a difference of accuracies with two decimals, or a
/// score with its digits.
pub fn claim_difference(claim: &Claim, difference: Option<f64>) -> String {
    match claim.kind {
        ClaimKind::BelowLimit => score(difference),
        _ if claim.better.starts_with("SIFID") => distance(difference),
        _ => signed(difference),
    }
}

/// The interval of the number that a claim is about.
pub fn claim_interval(claim: &Claim) -> String {
    let end = |value| claim_difference(claim, Some(value)).replace('+', "");
    let ends = || claim.interval.map_or_else(|| "–".to_owned(), |ends| ends.map(end).join(" to "));
    match claim.kind {
        ClaimKind::Above if claim.better.starts_with("SIFID") => ends(),
        ClaimKind::BelowLimit => ends(),
        _ => interval(claim.interval),
    }
}

/// The number of pairs that a test with a power of 80 % would take.
pub fn pairs_for_power(claim: &Claim) -> String {
    match (claim.pairs_for_power, claim.detectable_difference) {
        (Some(pairs), _) => pairs.to_string(),
        (None, Some(_)) => "never".to_owned(),
        (None, None) => "–".to_owned(),
    }
}

const CLAIMS: [TableColumn<Claim>; 11] = [
    ("claim", Left, |claim| claim.id.clone()),
    ("says", Left, claimed),
    ("paper", Right, |claim| claim_difference(claim, claim.paper_difference)),
    ("ours", Right, |claim| claim_difference(claim, claim.difference)),
    ("95 % interval", Right, claim_interval),
    ("pairs", Right, |claim| claim.pairs.to_string()),
    ("p (Holm)", Right, |claim| p_value(claim.p_holm)),
    ("detects", Right, |claim| distance(claim.detectable_difference)),
    ("80 % power", Right, pairs_for_power),
    ("B passes", Right, |claim| passing(claim.passing)),
    ("verdict", Left, |claim| claim.verdict.words().to_owned()),
];

/// The claims, each on pairs of our runs.
pub fn claims(results: &Results) -> Table {
    Table::of(&CLAIMS, &results.claims)
}

/// What has to be known of the claims, one remark each.
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

/// A claim of outperformance and one way to find how probable it is that it is false.
type Doubted<'a> = (&'a Claim, &'a FalseClaim);

type DoubtedColumn = (&'static str, Align, fn(&Doubted<'_>) -> String);

const FALSE_CLAIMS: &[DoubtedColumn] = &[
    ("claim of outperformance", Left, |(claim, _)| format!("{} > {}", claim.better, claim.worse)),
    ("accuracies", Left, |(_, found)| found.of.words().to_owned()),
    ("cases", Right, |(_, found)| found.n.to_string()),
    ("congruence", Right, |(_, found)| range(found.congruence)),
    ("probability that it is false", Right, |(_, found)| range(found.p)),
];

/// The probability that each claim of outperformance is false.
pub fn false_claims(results: &Results) -> Table {
    let all = results.claims.iter().flat_map(|claim| claim.false_claim.iter().map(move |found| (claim, found)));
    let mut table = Table::of(FALSE_CLAIMS, &all.collect::<Vec<Doubted<'_>>>());
    // Two claims may be about the same two cells.
    let mut seen = BTreeSet::new();
    table.rows.retain(|row| seen.insert(row.clone()));
    table
}

/// `0.280 to 0.410`, or one number if both ends read alike.
fn range([one, other]: [f64; 2]) -> String {
    let [low, high] = [one.min(other), one.max(other)].map(|end| format!("{end:.3}"));
    if low == high { low } else { format!("{low} to {high}") }
}

/// What a line of `claims.csv` is made of.
struct ClaimLine<'a> {
    results: &'a Results,
    protocol: Protocol,
    claim: &'a Claim,
}

type ClaimColumn = (&'static str, fn(&ClaimLine<'_>) -> String);

const CLAIMS_CSV: &[ClaimColumn] = &[
    ("id", |line| line.claim.id.clone()),
    ("protocol", |line| line.protocol.to_string()),
    ("says", |line| claimed(line.claim)),
    ("paper_difference", |line| number(line.claim.paper_difference)),
    ("pairs", |line| line.claim.pairs.to_string()),
    ("difference", |line| number(line.claim.difference)),
    ("ci_low", |line| low(line.claim.interval)),
    ("ci_high", |line| high(line.claim.interval)),
    ("p", |line| number(line.claim.p)),
    ("p_holm", |line| number(line.claim.p_holm)),
    ("p_wilcoxon", |line| number(line.claim.p_wilcoxon)),
    ("detectable_difference", |line| number(line.claim.detectable_difference)),
    ("pairs_for_power", |line| line.claim.pairs_for_power.map(|pairs| pairs.to_string()).unwrap_or_default()),
    ("verdict", |line| line.claim.verdict.words().to_owned()),
    ("p_false", |line| line.claim.false_claim.iter().map(p_false).collect::<Vec<_>>().join("; ")),
    ("note", |line| line.claim.note.clone().unwrap_or_default()),
    ("stand_ins", |line| line.results.stand_ins.join("; ")),
    ("b_passing", |line| number(line.claim.passing)),
    ("readings", |line| line.results.readings.join("; ")),
];

fn p_false(found: &FalseClaim) -> String {
    format!("{}: {} (n = {}, congruence {})", found.of.words(), range(found.p), found.n, range(found.congruence))
}

/// The claims with a line for each claim of each protocol.
pub fn claims_csv(results: &Results) -> String {
    let own = results.claims.iter().map(|claim| (results.protocol, claim));
    let others = results.others.iter().flat_map(|other| other.claims.iter().map(|claim| (other.protocol, claim)));
    csv(CLAIMS_CSV, own.chain(others).map(|(protocol, claim)| ClaimLine { results, protocol, claim }))
}
