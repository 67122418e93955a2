//! Table I, the paper's numbers beside ours, as text.

use std::fmt::Write as _;

use domain::results::{Cell, Results};

/// `82.82 ± 8.72`; without ± where there is no spread; a dash where there is nothing.
pub(super) fn plus_minus(mean: Option<f64>, std: Option<f64>) -> String {
    match (mean, std) {
        (None, _) => "–".to_owned(),
        (Some(mean), None) => format!("{mean:.2}"),
        (Some(mean), Some(std)) => format!("{mean:.2} ± {std:.2}"),
    }
}

/// `4`, or `3 of 4` where runs are missing.
pub(super) fn count(cell: &Cell) -> String {
    match cell.n == cell.n_asked {
        true => cell.n.to_string(),
        false => format!("{} of {}", cell.n, cell.n_asked),
    }
}

/// The data sets that score a cell, for instance `A+B`.
pub(super) fn tested_on(cell: &Cell) -> String {
    let names: Vec<String> = cell.tested_on.iter().map(ToString::to_string).collect();
    names.join("+")
}

/// One line per cell; an empty field where there is no number.
pub(super) fn csv(results: &Results) -> String {
    let mut text = String::from(
        "id,view,row,step,training,config,tested_on,paper_mean,paper_std,mean,std,n,n_asked,std_over_classes,verdict\n",
    );
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    for cell in &results.cells {
        let fields = [
            cell.id.clone(),
            cell.view.to_string(),
            cell.row.to_string(),
            cell.step.to_string(),
            cell.training.clone(),
            cell.config.clone(),
            tested_on(cell),
            cell.paper_mean.to_string(),
            cell.paper_std.to_string(),
            number(cell.mean),
            number(cell.std),
            cell.n.to_string(),
            cell.n_asked.to_string(),
            number(cell.std_over_classes),
            cell.verdict.words().to_owned(),
        ];
        text += &fields.map(|field| quote(&field)).join(",");
        text.push('\n');
    }
    text
}

/// A field as RFC 4180 wants it.
fn quote(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// The table for a README or an issue.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = String::from("# Table I: the paper and this run\n\n");
    if !results.comparable {
        text += "**STAND-IN: NOT COMPARABLE WITH THE PAPER**\n\n";
        for reason in &results.stand_ins {
            text += &format!("- {}\n", escape(reason));
        }
        text.push('\n');
    }
    text += "| cell | training | tested on | paper | ours | n | verdict |\n";
    text += "|---|---|---|---:|---:|---:|---|\n";
    for cell in &results.cells {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            escape(&cell.id),
            escape(&cell.training),
            tested_on(cell),
            plus_minus(Some(cell.paper_mean), Some(cell.paper_std)),
            plus_minus(cell.mean, cell.std),
            count(cell),
            cell.verdict.words(),
        );
    }
    let _ = writeln!(
        text,
        "\nAccuracy in percent; chance is {:.1}. Ours: ± is the {}; n counts finished runs. \
         Over what the paper's ± is, it does not say.",
        results.chance,
        escape(&results.spread)
    );
    text
}

/// Text that cannot end a table's cell, be markup or start a new line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => escaped.push(' '),
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            '|' | '\\' | '*' | '_' | '`' | '[' | ']' => escaped.extend(['\\', letter]),
            other => escaped.push(other),
        }
    }
    escaped
}
