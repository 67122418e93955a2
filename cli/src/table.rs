//! Results as text.

use comfy_table::{Cell, CellAlignment, Table, presets};
use domain::experiment::DriftMethod;
use domain::paper::Printed;
use domain::results::{Gate, Results, Verdict};
use domain::stone::View;
use report::tables;

/// Table I, paper beside ours, then the evaluation of the synthetic pictures.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    let title = if results.comparable {
        "Table I, paper and this study".to_owned()
    } else {
        "Table I, paper and this study: NOT COMPARABLE WITH THE PAPER".to_owned()
    };
    text.push_str(&format!("{title}\n{}\n", table_1(results)));
    for note in tables::notes(results) {
        text.push_str(&format!("{note}\n"));
    }
    if !results.claims.is_empty() {
        text.push_str(&format!("\nClaims, on pairs of runs\n{}\n", claims(results)));
        for note in tables::claim_notes(results) {
            text.push_str(&format!("{note}\n"));
        }
        text.push_str(&format!(
            "\nHow probable it is that a claim of outperformance is false\n{}\n",
            false_claims(results)
        ));
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
    let mut header = [
        "cell",
        "training",
        "tested on",
        "paper",
        "ours",
        "n",
        "95 % interval",
        "in ±",
        "detects",
        "needs s",
        "B passes",
        "verdict",
    ]
    .map(str::to_owned)
    .to_vec();
    header.extend(results.others.iter().map(|other| format!("{} (n)", other.protocol)));
    let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for cell in &results.cells {
        let mut row = vec![
            Cell::new(&cell.id),
            Cell::new(&cell.training),
            Cell::new(cell.test_sets()),
            number(tables::plus_minus(Some(cell.paper_mean), Some(cell.paper_std))),
            number(tables::ours(cell)),
            number(tables::count(cell)),
            number(tables::interval(cell.interval)),
            Cell::new(tables::yes_no(cell.within_printed_std)),
            number(tables::plus_minus(cell.detectable_difference, None)),
            number(tables::plus_minus(cell.equivalence_std, None)),
            number(tables::passing(cell.passing)),
            Cell::new(tables::verdict(cell)),
        ];
        row.extend(tables::by_others(results, cell).into_iter().map(number));
        table.add_row(row);
    }
    table
}

fn claims(results: &Results) -> Table {
    let header = [
        "claim",
        "says",
        "paper",
        "ours",
        "95 % interval",
        "pairs",
        "p (Holm)",
        "detects",
        "80 % power",
        "B passes",
        "verdict",
    ];
    let mut table = table(&header);
    for claim in &results.claims {
        table.add_row([
            Cell::new(&claim.id),
            Cell::new(tables::claimed(claim)),
            number(tables::claim_difference(claim, claim.paper_difference)),
            number(tables::claim_difference(claim, claim.difference)),
            number(tables::claim_interval(claim)),
            number(claim.pairs.to_string()),
            number(tables::p_value(claim.p_holm)),
            number(tables::distance(claim.detectable_difference)),
            number(tables::pairs_for_power(claim)),
            number(tables::passing(claim.passing)),
            Cell::new(claim.verdict.words()),
        ]);
    }
    table
}

fn false_claims(results: &Results) -> Table {
    let mut table = table(&["claim", "accuracies", "cases", "right in both", "probability"]);
    for line in tables::false_claims(results) {
        table.add_row(line);
    }
    table
}

fn evaluation(results: &Results) -> Table {
    let header =
        ["of", "measure", "paper", "ours", "95 % interval", "if alike (5–95 %)", "p if alike", "B passes", "verdict"];
    let mut table = table(&header);
    for score in &results.drift {
        let passed = match score.passed {
            None => "",
            Some(true) => " passed",
            Some(false) => " drifted",
        };
        table.add_row([
            Cell::new(score.view),
            Cell::new(format!("{} drift, {}", score.property, score.method.name())),
            number(format!("{:.3}", score.paper)),
            number(format!("{}{passed}", tables::score(score.score()))),
            number(score.interval.map_or_else(|| "–".to_owned(), |[low, high]| format!("{low:.3}–{high:.3}"))),
            // No distribution is known of the other distance.
            number(match score.method {
                DriftMethod::Ks => format!("{:.3}–{:.3}", score.ks_null[0], score.ks_null[2]),
                DriftMethod::Emd => "–".to_owned(),
            }),
            number(tables::p_value(score.p_null)),
            number(tables::passing(score.passing)),
            Cell::new(score.verdict.words()),
        ]);
    }
    for score in &results.sifid {
        let paper = Printed { mean: score.paper_mean, std: score.paper_std };
        table.add_row([
            Cell::new(score.view),
            Cell::new("SIFID"),
            number(tables::plus_minus(Some(paper.mean), Some(paper.std))),
            number(format!("{} ± {}", tables::distance(score.mean), tables::distance(score.std))),
            Cell::new(""),
            Cell::new(""),
            Cell::new(""),
            number(tables::passing(score.passing)),
            Cell::new(score.verdict.words()),
        ]);
    }
    for score in &results.ddpm {
        let of = format!("DDPM {}", score.model);
        for (property, ks, _) in &score.drift {
            table.add_row([
                Cell::new(&of),
                Cell::new(format!("{property} drift, KS")),
                Cell::new(""),
                number(tables::score(*ks)),
            ]);
        }
        table.add_row([Cell::new(&of), Cell::new("SIFID"), Cell::new(""), number(tables::distance(score.sifid))]);
    }
    table
}

/// How many synthetic pictures of each view pass the gate, and whether all do; nothing
/// if none was judged.
pub fn gate(results: &Results) -> Option<String> {
    let views = View::ALL.into_iter().filter_map(|view| Some((view, results.gate(view)?)));
    let views: Vec<(View, Gate)> = views.collect();
    let mark = if views.iter().all(|(_, gate)| gate.passed == gate.samples) { "✓" } else { "!" };
    let of_view = |(view, gate): &(View, Gate)| {
        format!("{view} {} of {} ({})", gate.passed, gate.samples, tables::passing(Some(gate.passing())))
    };
    let counts: Vec<String> = views.iter().map(of_view).collect();
    (!views.is_empty()).then(|| {
        format!("{mark} synthetic pictures that show one central object as real ones do: {}", counts.join(" · "))
    })
}

/// How many cells got which verdict, in words.
pub fn tally(results: &Results) -> String {
    let count = |verdict: Verdict| results.cells.iter().filter(|cell| cell.verdict == verdict).count();
    let some = Verdict::ALL.into_iter().map(|verdict| (count(verdict), verdict)).filter(|(count, _)| *count > 0);
    some.map(|(count, verdict)| format!("{count} {}", verdict.words())).collect::<Vec<_>>().join(" · ")
}
