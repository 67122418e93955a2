//! Results as text on a terminal.

use comfy_table::{Cell, CellAlignment, presets};
use domain::study::results::{Gate, Results, Verdict};
use domain::study::stone::View;
use report::format::passing;
use report::tables::{self, Align, Heading, Table};

/// The columns of Table I that a terminal has no room for.
const WIDE: [&str; 2] = ["difference", "images, vote"];

/// Table I, paper beside ours, then the evaluation of the synthetic pictures.
pub fn text(results: &Results) -> String {
    let foreign = if results.comparable { "" } else { ": NOT COMPARABLE WITH THE PAPER" };
    let table_1 = tables::table_1(results).without(&WIDE);
    let mut text = format!("Table I, paper and this study{foreign}\n{}\n", laid_out(table_1));
    text.extend(tables::notes(results).into_iter().map(|note| note + "\n"));
    if !results.claims.is_empty() {
        text += &format!("\nClaims, on pairs of runs\n{}\n", laid_out(tables::claims(results)));
        text.extend(tables::claim_notes(results).into_iter().map(|note| note + "\n"));
        text += &format!(
            "\nHow probable it is that a claim of outperformance is false\n{}\n",
            laid_out(false_claims(results))
        );
    }
    text + &format!("\nSynthetic pictures\n{}\n", laid_out(tables::evaluation(results)))
}

/// [`tables::false_claims`] with shorter names.
fn false_claims(results: &Results) -> Table {
    let names = ["claim", "accuracies", "cases", "right in both", "probability"];
    let columns = names.map(|name| Heading { name: name.to_owned(), align: Align::Left });
    Table { columns: columns.to_vec(), rows: tables::false_claims(results).rows }
}

/// A table as text.
pub fn laid_out(table: Table) -> comfy_table::Table {
    let mut laid_out = comfy_table::Table::new();
    laid_out.load_style(presets::NOTHING);
    laid_out.set_header(table.columns.iter().map(|column| Cell::new(&column.name)));
    for row in table.rows {
        laid_out.add_row(row.into_iter().zip(&table.columns).map(|(text, column)| {
            Cell::new(text).set_alignment(match column.align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            })
        }));
    }
    laid_out
}

/// How many synthetic pictures of each view pass the gate, and whether all do; nothing
/// if none was judged.
pub fn gate(results: &Results) -> Option<String> {
    let views = View::ALL.into_iter().filter_map(|view| Some((view, results.gate(view)?)));
    let views: Vec<(View, Gate)> = views.collect();
    let mark = if views.iter().all(|(_, gate)| gate.passed == gate.samples) { "✓" } else { "!" };
    let of_view = |(view, gate): &(View, Gate)| {
        format!("{view} {} of {} ({})", gate.passed, gate.samples, passing(Some(gate.passing())))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_look_like_this() {
        let example = include_str!("../../domain/src/study/results/example.json");
        let results: Results = serde_json::from_str(example).unwrap();
        assert_eq!(text(&results), include_str!("table/example.txt"));
        assert_eq!(tally(&results), "1 EQUIVALENT · 18 CONSISTENT · 1 HIGHER · 6 LOWER");
        assert_eq!(
            gate(&results).as_deref(),
            Some(
                "! synthetic pictures that show one central object as real ones do: SUR 105 of 125 (84 %) · SEC 126 of 150 (84 %)"
            )
        );
    }
}
