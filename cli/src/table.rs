//! Results as text.

use comfy_table::{Cell, CellAlignment, Table, presets};
use domain::paper::Printed;
use domain::results::{Results, Verdict, significant};

/// Table I, paper beside ours, then the evaluation of the synthetic pictures.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    let title = match results.comparable {
        true => "Table I, paper and this study".to_owned(),
        false => "Table I, paper and this study: NOT COMPARABLE WITH THE PAPER".to_owned(),
    };
    text.push_str(&format!("{title}\n{}\n", table_1(results)));
    text.push_str(&format!("accuracy in %, mean ± {} · chance level {:.1} %\n", results.spread, results.chance));
    let incomplete: Vec<&str> =
        results.cells.iter().filter(|cell| cell.n < cell.n_asked).map(|cell| cell.id.as_str()).collect();
    if !incomplete.is_empty() {
        text.push_str(&format!("fewer runs than asked for: {}\n", incomplete.join(", ")));
    }
    text.push_str(&format!("\nSynthetic pictures\n{}\n", evaluation(results)));
    for reason in &results.stand_ins {
        text.push_str(&format!("not comparable: {reason}\n"));
    }
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

fn mean_std(mean: Option<f64>, std: Option<f64>) -> String {
    match (mean, std) {
        (Some(mean), Some(std)) => format!("{mean:.2} ± {std:.2}"),
        (Some(mean), None) => format!("{mean:.2}"),
        (None, _) => "–".to_owned(),
    }
}

fn table_1(results: &Results) -> Table {
    let mut table = table(&["cell", "training", "tested on", "configuration", "paper", "ours", "n", "verdict"]);
    for cell in &results.cells {
        let tested: Vec<String> = cell.tested_on.iter().map(ToString::to_string).collect();
        table.add_row([
            Cell::new(&cell.id),
            Cell::new(&cell.training),
            Cell::new(tested.join("+")),
            Cell::new(&cell.config),
            number(mean_std(Some(cell.paper_mean), Some(cell.paper_std))),
            number(mean_std(cell.mean, cell.std)),
            number(cell.n.to_string()),
            Cell::new(cell.verdict.words()),
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
            number(mean_std(Some(paper.mean), Some(paper.std))),
            number(format!("{} ± {}", significant(score.mean), significant(score.std))),
            Cell::new(""),
            Cell::new(score.verdict.words()),
        ]);
    }
    table
}

/// How many cells got which verdict, in words.
pub fn tally(results: &Results) -> String {
    let verdicts = [Verdict::Consistent, Verdict::Higher, Verdict::Lower, Verdict::NotComparable, Verdict::NotRun];
    let count = |verdict: Verdict| results.cells.iter().filter(|cell| cell.verdict == verdict).count();
    let some = verdicts.into_iter().map(|verdict| (count(verdict), verdict)).filter(|(count, _)| *count > 0);
    some.map(|(count, verdict)| format!("{count} {}", verdict.words())).collect::<Vec<_>>().join(" · ")
}
