//! Numbers as people read them. A dash stands for a number that does not exist.

use domain::study::results::{Cell, Results};

const DASH: &str = "–";

/// `82.82 ± 8.72`, or `82.82` without a spread.
pub fn plus_minus(mean: Option<f64>, std: Option<f64>) -> String {
    match (mean, std) {
        (None, _) => DASH.to_owned(),
        (Some(mean), None) => format!("{mean:.2}"),
        (Some(mean), Some(std)) => format!("{mean:.2} ± {std:.2}"),
    }
}

/// `81.20 to 84.90`.
pub fn interval(interval: Option<[f64; 2]>) -> String {
    interval.map_or_else(|| DASH.to_owned(), |[low, high]| format!("{low:.2} to {high:.2}").replace('-', "−"))
}

/// A difference with its sign; the minus is as wide as the plus.
pub fn signed(difference: Option<f64>) -> String {
    difference.map_or_else(|| DASH.to_owned(), |value| format!("{value:+.2}").replace('-', "−"))
}

/// A p-value with three decimals.
pub fn p_value(p: Option<f64>) -> String {
    match p {
        None => DASH.to_owned(),
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        Some(p) => format!("{p:.3}"),
    }
}

/// A score from 0 to 1 with three decimals.
pub fn score(value: Option<f64>) -> String {
    value.map_or_else(|| DASH.to_owned(), |value| format!("{value:.3}"))
}

/// A distance as [`significant`] prints it.
pub fn distance(value: Option<f64>) -> String {
    value.map_or_else(|| DASH.to_owned(), significant)
}

/// A number with two decimals where these say something, otherwise with three digits and
/// a power of ten.
pub fn significant(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (0.1..1e4).contains(&size) => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

/// The share of pictures that pass the gate: never 0 % or 100 % unless it is exactly
/// that, and nothing where there is no share.
pub fn passing(share: Option<f64>) -> String {
    match share {
        None => String::new(),
        Some(share) if share > 0.0 && share < 0.005 => "< 1 %".to_owned(),
        Some(share) if (0.995..1.0).contains(&share) => "> 99 %".to_owned(),
        Some(share) => format!("{:.0} %", 100.0 * share),
    }
}

/// `yes` or `no`.
pub fn yes_no(answer: Option<bool>) -> &'static str {
    match answer {
        None => DASH,
        Some(true) => "yes",
        Some(false) => "no",
    }
}

/// Our mean and ± of a cell, with an asterisk if some of its runs do not test every class.
pub fn ours(cell: &Cell) -> String {
    let mark = if cell.untested.is_empty() { "" } else { " *" };
    format!("{}{mark}", plus_minus(cell.mean, cell.std))
}

/// The number of finished runs of a cell: `4`, or `3 of 4` if runs are missing.
pub fn count(cell: &Cell) -> String {
    if cell.n == cell.n_asked { cell.n.to_string() } else { format!("{} of {}", cell.n, cell.n_asked) }
}

/// The verdict on a cell, and whether the cell leaks.
pub fn verdict(cell: &Cell) -> String {
    match (cell.leaks.is_empty(), cell.mean) {
        (true, _) => cell.verdict.words().to_owned(),
        (false, None) => "REFUSED: LEAKS".to_owned(),
        (false, Some(_)) => format!("{}, LEAKS", cell.verdict.words()),
    }
}

/// What each other protocol gives for a cell: mean and ±, and the number of runs.
pub fn by_others(results: &Results, cell: &Cell) -> Vec<String> {
    let text = |cells: &[Cell]| match cells.iter().find(|other| other.id == cell.id) {
        Some(other) if other.mean.is_some() => format!("{} ({})", plus_minus(other.mean, other.std), count(other)),
        _ => DASH.to_owned(),
    };
    results.others.iter().map(|other| text(&other.cells)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_distances_keep_their_digits() {
        assert_eq!([3.456, 0.0, 0.00043065].map(significant), ["3.46", "0.00", "4.31e-4"]);
    }
}
