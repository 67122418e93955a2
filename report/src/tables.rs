//! The tables of a study. Every one says what ± means and what stands in for the
//! paper's data and methods, every number says which cell it is.
//!
//! What a table shows is a list of columns, each a name beside the function that gives
//! its text, so that a new column is one entry of one list.

use std::fmt::Write as _;

use domain::study::experiment::{Correction, Protocol};
use domain::study::results::{Cell, Results};

use crate::format::{by_others, count, interval, ours, passing, plus_minus, signed, verdict, yes_no};

mod claims;
mod csv;
mod escape;
mod evaluation;
mod notes;
mod scores;

pub use self::claims::{
    claim_difference, claim_interval, claim_notes, claimed, claims, claims_csv, false_claims, pairs_for_power,
};
pub use self::csv::csv_of;
pub use self::evaluation::evaluation;
pub use self::notes::notes;
pub use self::scores::scores_csv;

use self::csv::{csv, high, low, number};
use self::escape::{for_latex, for_markdown};

/// A table for people: text without markup, to be laid out where it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<Heading>,
    pub rows: Vec<Vec<String>>,
}

/// The top of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heading {
    pub name: String,
    pub align: Align,
}

/// The side of its column that text stands at: words left, numbers right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

use Align::{Left, Right};

/// A column of a [`Table`] with a row for each `T`: its name, its side, and its text.
type TableColumn<T> = (&'static str, Align, fn(&T) -> String);

impl Table {
    /// The table of these columns with a row for each of `items`.
    fn of<'a, T: 'a>(columns: &[TableColumn<T>], items: impl IntoIterator<Item = &'a T>) -> Self {
        let heading = |(name, align, _): &TableColumn<T>| Heading { name: (*name).to_owned(), align: *align };
        let row = |item| columns.iter().map(|(_, _, text)| text(item)).collect();
        Self { columns: columns.iter().map(heading).collect(), rows: items.into_iter().map(row).collect() }
    }

    /// This table without the columns of these names.
    pub fn without(self, names: &[&str]) -> Self {
        let stays: Vec<bool> = self.columns.iter().map(|column| !names.contains(&column.name.as_str())).collect();
        let rows = self.rows.into_iter().map(|row| kept(row, &stays)).collect();
        Self { columns: kept(self.columns, &stays), rows }
    }

    fn markdown(&self) -> String {
        let row = |fields: Vec<String>| format!("| {} |\n", fields.join(" | "));
        let names = self.columns.iter().map(|column| for_markdown(&column.name));
        let sides = self.columns.iter().map(|column| match column.align {
            Left => "---|",
            Right => "---:|",
        });
        let mut text = row(names.collect()) + "|" + &sides.collect::<String>() + "\n";
        text.extend(self.rows.iter().map(|fields| row(fields.iter().map(|field| for_markdown(field)).collect())));
        text
    }
}

fn kept<T>(all: Vec<T>, stays: &[bool]) -> Vec<T> {
    all.into_iter().zip(stays).filter_map(|(one, stays)| stays.then_some(one)).collect()
}

const TABLE_1: [TableColumn<Cell>; 14] = [
    ("cell", Left, |cell| cell.id.clone()),
    ("training", Left, |cell| cell.training.clone()),
    ("tested on", Left, Cell::test_sets),
    ("paper", Right, |cell| plus_minus(Some(cell.paper_mean), Some(cell.paper_std))),
    ("ours", Right, ours),
    ("n", Right, count),
    ("95 % interval", Right, |cell| interval(cell.interval)),
    ("difference", Right, |cell| signed(cell.difference)),
    ("in ±", Left, |cell| yes_no(cell.within_printed_std).to_owned()),
    ("detects", Right, |cell| plus_minus(cell.detectable_difference, None)),
    ("needs s", Right, |cell| plus_minus(cell.equivalence_std, None)),
    ("images, vote", Right, |cell| plus_minus(cell.image_accuracy, None)),
    ("B passes", Right, |cell| passing(cell.passing)),
    ("verdict", Left, verdict),
];

/// Table I, the paper beside this study, with a column for each other protocol.
pub fn table_1(results: &Results) -> Table {
    let mut table = Table::of(&TABLE_1, &results.cells);
    let others = results.others.iter().map(|other| Heading { name: format!("{} (n)", other.protocol), align: Right });
    table.columns.extend(others);
    for (row, cell) in table.rows.iter_mut().zip(&results.cells) {
        row.extend(by_others(results, cell));
    }
    table
}

/// What a line of `table.csv` is made of.
struct CellLine<'a> {
    results: &'a Results,
    protocol: Protocol,
    spread: &'a str,
    cell: &'a Cell,
}

type CellColumn = (&'static str, fn(&CellLine<'_>) -> String);

const TABLE_CSV: &[CellColumn] = &[
    ("id", |line| line.cell.id.clone()),
    ("view", |line| line.cell.view.to_string()),
    ("row", |line| line.cell.row.to_string()),
    ("step", |line| line.cell.step.to_string()),
    ("training", |line| line.cell.training.clone()),
    ("config", |line| line.cell.config.clone()),
    ("tested_on", |line| line.cell.test_sets()),
    ("paper_mean", |line| line.cell.paper_mean.to_string()),
    ("paper_std", |line| line.cell.paper_std.to_string()),
    ("mean", |line| number(line.cell.mean)),
    ("std", |line| number(line.cell.std)),
    ("n", |line| line.cell.n.to_string()),
    ("n_asked", |line| line.cell.n_asked.to_string()),
    ("std_over_classes", |line| number(line.cell.std_over_classes)),
    ("verdict", |line| line.cell.verdict.words().to_owned()),
    ("std_pooled", |line| number(line.cell.std_pooled)),
    ("missing", |line| line.cell.missing.join("; ")),
    ("ci_low", |line| low(line.cell.interval)),
    ("ci_high", |line| high(line.cell.interval)),
    ("difference", |line| number(line.cell.difference)),
    ("p_equivalent", |line| number(line.cell.p_equivalent)),
    ("image_accuracy", |line| number(line.cell.image_accuracy)),
    ("image_accuracy_by_score", |line| number(line.cell.image_accuracy_by_score)),
    ("image_ci_low", |line| low(line.cell.image_interval)),
    ("image_ci_high", |line| high(line.cell.image_interval)),
    ("macro_f1", |line| number(line.cell.macro_f1)),
    ("train_images", |line| line.cell.train_images.to_string()),
    ("test_images", |line| line.cell.test_images.to_string()),
    ("seed", |line| line.results.seed.to_string()),
    ("spread", |line| line.spread.to_owned()),
    ("stand_ins", |line| line.results.stand_ins.join("; ")),
    ("protocol", |line| line.protocol.to_string()),
    ("leaks", |line| line.cell.leaks.iter().map(|leak| leak.image.as_str()).collect::<Vec<_>>().join("; ")),
    ("detectable_difference", |line| number(line.cell.detectable_difference)),
    ("equivalence_std", |line| number(line.cell.equivalence_std)),
    ("within_printed_std", |line| line.cell.within_printed_std.map(|within| within.to_string()).unwrap_or_default()),
    ("p", |line| number(line.cell.p)),
    ("p_adjusted", |line| number(line.cell.p_adjusted)),
    ("p_equivalent_adjusted", |line| number(line.cell.p_equivalent_adjusted)),
    ("mean_of_full_runs", |line| number(line.cell.mean_of_full_runs)),
    ("varied", |line| line.protocol.varied().words().to_owned()),
    ("correction", |line| match line.results.correction {
        Correction::Holm => "holm".to_owned(),
        Correction::None => "none".to_owned(),
    }),
    ("b_passing", |line| number(line.cell.passing)),
    ("readings", |line| line.results.readings.join("; ")),
];

/// Table I with a line for each cell of each protocol; a field is empty where there is no
/// number. CSV knows no footnotes: `spread` and `stand_ins` stand in every line.
pub fn table_csv(results: &Results) -> String {
    let own = results.cells.iter().map(|cell| (results.protocol, results.spread.as_str(), cell));
    let others = results
        .others
        .iter()
        .flat_map(|other| other.cells.iter().map(|cell| (other.protocol, other.spread.as_str(), cell)));
    let lines = own.chain(others).map(|(protocol, spread, cell)| CellLine { results, protocol, spread, cell });
    csv(TABLE_CSV, lines)
}

/// Table I and the claims for a README or an issue.
pub fn markdown(results: &Results) -> String {
    let remarks = |text: &mut String, remarks: Vec<String>| {
        text.extend(remarks.iter().map(|remark| format!("- {}\n", for_markdown(remark))));
    };
    let mut text = format!("# Table I: the paper and this run\n\n{}\n", table_1(results).markdown());
    remarks(&mut text, notes(results));
    if !results.claims.is_empty() {
        text += &format!("\n## Claims, on pairs of runs\n\n{}\n", claims(results).markdown());
        remarks(&mut text, claim_notes(results));
        text += &format!("\n{}", false_claims(results).markdown());
    }
    text
}

/// Table I for a LaTeX document; it needs no package.
pub fn latex(results: &Results) -> String {
    let row = |fields: Vec<String>| format!("{} \\\\\n", fields.join(" & "));
    let table = table_1(results);
    let sides = table.columns.iter().map(|column| match column.align {
        Left => 'l',
        Right => 'r',
    });
    let sides: String = sides.collect();
    let mut text = format!("\\begin{{table}}\n\\centering\\footnotesize\n\\begin{{tabular}}{{{sides}}}\n\\hline\n");
    text += &row(table.columns.iter().map(|column| for_latex(&column.name)).collect());
    text += "\\hline\n";
    text.extend(table.rows.iter().map(|fields| row(fields.iter().map(|field| for_latex(field)).collect())));
    text += "\\hline\n\\end{tabular}\n\n\\smallskip\n\\begin{minipage}{\\linewidth}\n";
    for note in notes(results) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}\\par", for_latex(&note));
    }
    text + "\\end{minipage}\n\\end{table}\n"
}

#[cfg(test)]
mod tests;
