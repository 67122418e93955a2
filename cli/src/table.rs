//! Results as text.

use comfy_table::{Cell, CellAlignment, Table, presets};
use domain::paper::Printed;
use domain::results::{Results, Verdict, export, significant};

/// Table I, paper beside ours, then the evaluation of the synthetic pictures.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    let title = match results.comparable {
        true => "Table I, paper and this study".to_owned(),
        false => "Table I, paper and this study: NOT COMPARABLE WITH THE PAPER".to_owned(),
    };
    text.push_str(&format!("{title}\n{}\n", table_1(results)));
    for note in export::notes(results) {
        text.push_str(&format!("{note}\n"));
    }
    if !results.claims.is_empty() {
        text.push_str(&format!("\nClaims, on pairs of runs\n{}\n", claims(results)));
    }
    text.push_str(&format!("\nSynthetic pictures\n{}\n", evaluation(results)));
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().map(Cell::new));
    table
}

fn number(value: String) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

fn table_1(results: &Results) -> Table {
    let mut header =
        ["cell", "training", "tested on", "configuration", "paper", "ours", "n", "95 % interval", "verdict"]
            .map(str::to_owned)
            .to_vec();
    header.extend(results.others.iter().map(|other| format!("{} (n)", other.protocol)));
    let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for cell in &results.cells {
        let mut row = vec![
            Cell::new(&cell.id),
            Cell::new(&cell.training),
            Cell::new(export::tested_on(cell)),
            Cell::new(&cell.config),
            number(export::plus_minus(Some(cell.paper_mean), Some(cell.paper_std))),
            number(export::plus_minus(cell.mean, cell.std)),
            number(export::count(cell)),
            number(export::interval(cell.interval)),
            Cell::new(export::verdict(cell)),
        ];
        row.extend(export::by_others(results, cell).into_iter().map(number));
        table.add_row(row);
    }
    table
}

fn claims(results: &Results) -> Table {
    let mut table = table(&["claim", "says", "paper", "ours", "95 % interval", "pairs", "p (Holm)", "verdict"]);
    for claim in &results.claims {
        table.add_row([
            Cell::new(&claim.id),
            Cell::new(export::claimed(claim)),
            number(export::signed(Some(claim.paper_difference))),
            number(export::signed(claim.difference)),
            number(export::interval(claim.interval)),
            number(claim.pairs.to_string()),
            number(export::p_value(claim.p_holm)),
            Cell::new(claim.verdict.words()),
        ]);
    }
    table
}

fn evaluation(results: &Results) -> Table {
    let mut table = table(&["view", "measure", "paper", "ours", "if alike (5–95 %)", "verdict"]);
    for score in &results.drift {
        let passed = if score.passed { "passed" } else { "drifted" };
        table.add_row([
            Cell::new(score.view),
            Cell::new(format!("{} drift, KS", score.property)),
            number(format!("{:.3}", score.paper)),
            number(format!("{:.3} {passed}", score.ks)),
            number(format!("{:.3}–{:.3}", score.ks_null[0], score.ks_null[2])),
            Cell::new(score.verdict.words()),
        ]);
    }
    for score in &results.sifid {
        let paper = Printed { mean: score.paper_mean, std: score.paper_std };
        table.add_row([
            Cell::new(score.view),
            Cell::new("SIFID"),
            number(export::plus_minus(Some(paper.mean), Some(paper.std))),
            number(format!("{} ± {}", significant(score.mean), significant(score.std))),
            Cell::new(""),
            Cell::new(score.verdict.words()),
        ]);
    }
    table
}

/// How many cells got which verdict, in words.
pub fn tally(results: &Results) -> String {
    let count = |verdict: Verdict| results.cells.iter().filter(|cell| cell.verdict == verdict).count();
    let some = Verdict::ALL.into_iter().map(|verdict| (count(verdict), verdict)).filter(|(count, _)| *count > 0);
    some.map(|(count, verdict)| format!("{count} {}", verdict.words())).collect::<Vec<_>>().join(" · ")
}
