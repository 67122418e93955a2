//! Table I as text that leaves the program. Every table says what ± means and
//! what stands in for the paper's data and methods, every number which cell it is.

use std::fmt::Write as _;

use super::{Cell, Claim, Results};

/// What every exported table says below it, one remark a line.
pub fn notes(results: &Results) -> Vec<String> {
    let asked = results.repeats * results.folds;
    let leaking = results.cells.iter().filter(|cell| !cell.leaks.is_empty());
    let mut notes = vec![
        format!(
            "Accuracy of patches in percent; chance is {:.1}. ± of ours is the {}, n = {asked} unless said \
             otherwise, all seeds derived from {}. Over what the paper's ± is, and over how many runs, it does not say.",
            results.chance, results.spread, results.seed
        ),
        format!(
            "95 % intervals hold for other runs of this kind; their variance is corrected for shared training images \
             (Nadeau and Bengio 2003). EQUIVALENT: nearer than {} points (TOST); CONSISTENT: inconclusive; HIGHER, \
             LOWER: the interval leaves the paper's mean out.",
            results.margin
        ),
    ];
    let short = results.cells.iter().filter(|cell| !cell.missing.is_empty());
    notes.extend(short.map(|cell| format!("{}: {} runs, without {}", cell.id, count(cell), cell.missing.join(", "))));
    notes.extend(results.cells.iter().flat_map(untested));
    notes.extend(leaking.map(leak));
    notes.extend(results.others.iter().map(|other| format!("± of {} is the {}.", other.protocol, other.spread)));
    if !results.comparable {
        notes.push("STAND-IN: NOT COMPARABLE WITH THE PAPER".to_owned());
        notes.extend(results.stand_ins.iter().map(|reason| format!("not comparable: {reason}")));
    }
    notes
}

/// Classes that runs of a cell do not test.
fn untested(cell: &Cell) -> impl Iterator<Item = String> {
    cell.untested.iter().map(|untested| {
        let classes: Vec<&str> = untested.classes.iter().map(|class| class.code()).collect();
        format!(
            "{}: no picture of {} is tested in {}; their accuracy is over the other classes",
            cell.id,
            classes.join(", "),
            untested.runs.join(", ")
        )
    })
}

/// What leaks into a cell and how.
fn leak(cell: &Cell) -> String {
    let first = cell.leaks.first().map_or_else(String::new, |leak| {
        let path = leak.path.join(" ← ");
        format!("{} is tested ({}) and was learnt from: {path}", leak.image, leak.runs.join(", "))
    });
    let more = match cell.leaks.len() {
        0 | 1 => String::new(),
        pictures => format!("; so were {} more pictures", pictures - 1),
    };
    let what = match cell.mean {
        None => "REFUSED, for it leaks (--allow-leak fills it)",
        Some(_) => "LEAKS, which was allowed",
    };
    format!("{}: {what}: {first}{more}", cell.id)
}

/// The verdict on a cell, and whether it leaks.
pub fn verdict(cell: &Cell) -> String {
    match (cell.leaks.is_empty(), cell.mean) {
        (true, _) => cell.verdict.words().to_owned(),
        (false, None) => "REFUSED: LEAKS".to_owned(),
        (false, Some(_)) => format!("{}, LEAKS", cell.verdict.words()),
    }
}

/// The number of the cell by each other protocol, with the number of its runs.
pub fn by_others(results: &Results, cell: &Cell) -> Vec<String> {
    let find = |cells: &[Cell]| {
        cells.iter().find(|other| other.id == cell.id).map(|other| (other.mean, other.std, count(other)))
    };
    let text = |found: Option<(Option<f64>, Option<f64>, String)>| match found {
        Some((mean @ Some(_), std, count)) => format!("{} ({count})", plus_minus(mean, std)),
        _ => plus_minus(None, None),
    };
    results.others.iter().map(|other| text(find(&other.cells))).collect()
}

/// `82.82 ± 8.72`; without ± where there is no spread; a dash where there is nothing.
pub fn plus_minus(mean: Option<f64>, std: Option<f64>) -> String {
    match (mean, std) {
        (None, _) => "–".to_owned(),
        (Some(mean), None) => format!("{mean:.2}"),
        (Some(mean), Some(std)) => format!("{mean:.2} ± {std:.2}"),
    }
}

/// `4`, or `3 of 4` where runs are missing.
pub fn count(cell: &Cell) -> String {
    match cell.n == cell.n_asked {
        true => cell.n.to_string(),
        false => format!("{} of {}", cell.n, cell.n_asked),
    }
}

/// The data sets that score a cell, for instance `A+B`.
pub fn tested_on(cell: &Cell) -> String {
    let names: Vec<String> = cell.tested_on.iter().map(ToString::to_string).collect();
    names.join("+")
}

/// `81.2 to 84.9`; a dash without an interval.
pub fn interval(interval: Option<[f64; 2]>) -> String {
    interval.map_or_else(|| "–".to_owned(), |[low, high]| format!("{low:.2} to {high:.2}").replace('-', "−"))
}

/// A difference with its sign, minus as wide as plus; a dash where there is none.
pub fn signed(difference: Option<f64>) -> String {
    difference.map_or_else(|| "–".to_owned(), |value| format!("{value:+.2}").replace('-', "−"))
}

/// A p-value with three decimals; a dash where there is none.
pub fn p_value(p: Option<f64>) -> String {
    match p {
        None => "–".to_owned(),
        Some(p) if p < 0.001 => "< 0.001".to_owned(),
        Some(p) => format!("{p:.3}"),
    }
}

/// What a claim says, for instance `SUR-8-2 > SUR-7-2 + 6`.
pub fn claimed(claim: &Claim) -> String {
    let by = if claim.by > 0.0 { format!(" + {}", claim.by) } else { String::new() };
    format!("{} > {}{by}", claim.better, claim.worse)
}

/// The columns of Table I.
const HEADER: [&str; 10] =
    ["cell", "training", "tested on", "paper", "ours", "n", "95 % interval", "difference", "images, vote", "verdict"];

/// The columns of Table I, and one for each other protocol.
fn header(results: &Results) -> Vec<String> {
    let others = results.others.iter().map(|other| format!("{} (n)", other.protocol));
    HEADER.into_iter().map(str::to_owned).chain(others).collect()
}

/// One line of Table I.
fn line(results: &Results, cell: &Cell) -> Vec<String> {
    let mut line = vec![
        cell.id.clone(),
        cell.training.clone(),
        tested_on(cell),
        plus_minus(Some(cell.paper_mean), Some(cell.paper_std)),
        plus_minus(cell.mean, cell.std),
        count(cell),
        interval(cell.interval),
        signed(cell.difference),
        plus_minus(cell.image_accuracy, None),
        verdict(cell),
    ];
    line.extend(by_others(results, cell));
    line
}

/// The columns of the CSV.
const COLUMNS: [&str; 33] = [
    "id",
    "view",
    "row",
    "step",
    "training",
    "config",
    "tested_on",
    "paper_mean",
    "paper_std",
    "mean",
    "std",
    "n",
    "n_asked",
    "std_over_classes",
    "verdict",
    "std_pooled",
    "missing",
    "ci_low",
    "ci_high",
    "difference",
    "p_equivalent",
    "image_accuracy",
    "image_accuracy_by_score",
    "image_ci_low",
    "image_ci_high",
    "macro_f1",
    "train_images",
    "test_images",
    "seed",
    "spread",
    "stand_ins",
    "protocol",
    "leaks",
];

/// One line per cell; an empty field where there is no number. CSV knows no
/// footnotes: `spread` and `stand_ins` stand in every line.
pub fn csv(results: &Results) -> String {
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let own = results.cells.iter().map(|cell| (results.protocol, &results.spread, cell));
    let others = results
        .others
        .iter()
        .flat_map(|other| other.cells.iter().map(move |cell| (other.protocol, &other.spread, cell)));
    let lines = own.chain(others).map(|(protocol, spread, cell)| {
        [
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
            number(cell.std_pooled),
            cell.missing.join("; "),
            number(cell.interval.map(|[low, _]| low)),
            number(cell.interval.map(|[_, high]| high)),
            number(cell.difference),
            number(cell.p_equivalent),
            number(cell.image_accuracy),
            number(cell.image_accuracy_by_score),
            number(cell.image_interval.map(|[low, _]| low)),
            number(cell.image_interval.map(|[_, high]| high)),
            number(cell.macro_f1),
            cell.train_images.to_string(),
            cell.test_images.to_string(),
            results.seed.to_string(),
            spread.clone(),
            results.stand_ins.join("; "),
            protocol.to_string(),
            cell.leaks.iter().map(|leak| leak.image.as_str()).collect::<Vec<_>>().join("; "),
        ]
    });
    csv_of(&COLUMNS, lines)
}

/// A text of comma-separated lines as RFC 4180 has them.
pub fn csv_of<const N: usize>(columns: &[&str; N], lines: impl IntoIterator<Item = [String; N]>) -> String {
    let mut writer = csv::Writer::from_writer(vec![]);
    // Neither writing to memory nor lines of one length can fail.
    let _ = writer.write_record(columns);
    lines.into_iter().for_each(|line| drop(writer.write_record(line)));
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

/// Table I and the claims for a README or an issue.
pub fn markdown(results: &Results) -> String {
    let mut text = String::from("# Table I: the paper and this run\n\n");
    let row = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(|cell| for_markdown(cell)).collect::<Vec<_>>().join(" | "))
    };
    text += &row(&header(results));
    text += "|---|---|---|---:|---:|---:|---:|---:|---:|---|";
    text += &"---:|".repeat(results.others.len());
    text.push('\n');
    text.extend(results.cells.iter().map(|cell| row(&line(results, cell))));
    text.push('\n');
    text.extend(notes(results).iter().map(|note| format!("- {}\n", for_markdown(note))));
    if !results.claims.is_empty() {
        text += "\n## Claims, on pairs of runs\n\n| claim | says | paper | ours | 95 % interval | pairs | p (Holm) | verdict |\n";
        text += "|---|---|---:|---:|---:|---:|---:|---|\n";
        text.extend(results.claims.iter().map(|claim| row(&claim_line(claim))));
    }
    text
}

/// One line of the table of claims.
fn claim_line(claim: &Claim) -> [String; 8] {
    [
        claim.id.clone(),
        claimed(claim),
        signed(Some(claim.paper_difference)),
        signed(claim.difference),
        interval(claim.interval),
        claim.pairs.to_string(),
        p_value(claim.p_holm),
        claim.verdict.words().to_owned(),
    ]
}

/// Table I for a LaTeX document; needs no package.
pub fn latex(results: &Results) -> String {
    let row = |cells: &[String]| {
        format!("{} \\\\\n", cells.iter().map(|cell| for_latex(cell)).collect::<Vec<_>>().join(" & "))
    };
    let others = "r".repeat(results.others.len());
    let mut text =
        format!("\\begin{{table}}\n\\centering\\footnotesize\n\\begin{{tabular}}{{lllrrrrrrl{others}}}\n\\hline\n");
    text += &row(&header(results));
    text += "\\hline\n";
    text.extend(results.cells.iter().map(|cell| row(&line(results, cell))));
    text += "\\hline\n\\end{tabular}\n\n\\smallskip\n\\begin{minipage}{\\linewidth}\n";
    for note in notes(results) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}\\par", for_latex(&note));
    }
    text + "\\end{minipage}\n\\end{table}\n"
}

/// Text that cannot end a table's cell, be markup or start a new line.
fn for_markdown(text: &str) -> String {
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

/// Text that LaTeX sets as it is. Letters that an old LaTeX does not know become
/// a question mark rather than an error.
fn for_latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', letter]),
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '<' => escaped += "$<$",
            '>' => escaped += "$>$",
            '|' => escaped += "$|$",
            '"' => escaped += "''",
            // An opening bracket after the end of a row would be its argument.
            '[' => escaped += "{[}",
            ']' => escaped += "{]}",
            '±' => escaped += "$\\pm$",
            '→' => escaped += "$\\to$",
            '←' => escaped += "$\\leftarrow$",
            '×' => escaped += "$\\times$",
            '−' => escaped += "$-$",
            '–' => escaped += "--",
            letter if letter.is_ascii_graphic() => escaped.push(letter),
            letter if letter.is_whitespace() => escaped.push(' '),
            _ => escaped.push('?'),
        }
    }
    escaped
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::experiment::Protocol;
    use crate::paper::{Printed, Row};
    use crate::results::{Leak, OtherTable, SCHEMA_VERSION, Verdict};
    use crate::stone::Dataset;

    fn cell(row: &Row, second: Option<Dataset>, printed: Printed, comparable: bool) -> Cell {
        Cell {
            mean: Some(80.0),
            std: Some(3.25),
            n: if row.row == 3 { 3 } else { 4 },
            n_asked: 4,
            std_over_classes: Some(11.0),
            runs: vec![80.0; 4],
            missing: if row.row == 3 { vec!["r1 f0".to_owned()] } else { vec![] },
            std_pooled: Some(12.0),
            image_accuracy: Some(85.0),
            image_accuracy_by_score: Some(86.0),
            image_interval: Some([80.0, 90.0]),
            macro_f1: Some(79.0),
            train_images: 160.0,
            test_images: 40.0,
            interval: Some([75.0, 85.0]),
            difference: Some(80.0 - printed.mean),
            p_equivalent: comparable.then_some(0.4),
            verdict: if comparable { Verdict::Consistent } else { Verdict::NotComparable },
            ..Cell::blank(row, second, printed)
        }
    }

    /// Results with a number in every place of Table I.
    pub(crate) fn results(stand_ins: &[&str]) -> Results {
        let comparable = stand_ins.is_empty();
        let cells = Cell::of_table_1(|row, second, printed| cell(row, second, printed, comparable));
        Results {
            schema_version: SCHEMA_VERSION,
            scale: "tiny".to_owned(),
            seed: 3407,
            comparable,
            stand_ins: stand_ins.iter().map(|reason| (*reason).to_owned()).collect(),
            protocol: Protocol::RepeatedCv,
            repeats: 2,
            folds: 2,
            spread: "sample standard deviation (n - 1) over 2 repeats x 2 folds".to_owned(),
            chance: 100.0 / 6.0,
            margin: 2.0,
            claims: Claim::all(&cells, comparable),
            cells,
            others: vec![],
            drift: vec![],
            sifid: vec![],
            heatmap: vec![],
            generators: vec![],
            ddpm: vec![],
            trainings: vec![],
        }
    }

    #[test]
    fn every_table_says_what_plus_minus_means_and_what_stands_in() {
        let results = results(&["drawn pictures"]);
        for table in [csv(&results), markdown(&results), latex(&results)] {
            assert!(table.contains("sample standard deviation (n - 1) over 2 repeats x 2 folds"), "{table}");
            assert!(table.contains("drawn pictures") && table.contains("3407"), "{table}");
            for cell in &results.cells {
                assert!(table.contains(&cell.id), "{}", cell.id);
            }
        }
        assert!(markdown(&results).contains("- SUR-3-1: 3 of 4 runs, without r1 f0\n"));
    }

    #[test]
    fn lines_look_like_this() {
        let results = results(&[]);
        let csv = csv(&results);
        assert_eq!(csv.lines().count(), 27);
        assert_eq!(
            csv.lines().nth(3).unwrap(),
            "SUR-3-1,SUR,3,1,C,Baseline,C,68.98,12.61,80,3.25,3,4,11,CONSISTENT,12,r1 f0,75,85,11.019999999999996,\
             0.4,85,86,80,90,79,160,40,3407,sample standard deviation (n - 1) over 2 repeats x 2 folds,,repeated_cv,"
        );
        let fields = csv.lines().map(|line| line.split(',').count());
        assert!(fields.clone().all(|count| count == 33), "{:?}", fields.collect::<Vec<_>>());
        assert!(markdown(&results).contains(
            "| SUR-4-2 | B → A | A | 83.81 ± 4.53 | 80.00 ± 3.25 | 4 | 75.00 to 85.00 | −3.81 | 85.00 | CONSISTENT |\n"
        ));
        assert!(latex(&results).contains(
            "SUR-4-2 & B $\\to$ A & A & 83.81 $\\pm$ 4.53 & 80.00 $\\pm$ 3.25 & 4 & 75.00 to 85.00 & $-$3.81 & 85.00 & CONSISTENT \\\\\n"
        ));
    }

    #[test]
    fn other_protocols_stand_beside_and_leaks_are_named() {
        let mut results = results(&[]);
        let mut cells = results.cells.clone();
        (cells[0].mean, cells[0].std, cells[0].n) = (Some(70.0), None, 5);
        let leak = Leak {
            image: "A/SUR/IVa/1.png".to_owned(),
            path: vec!["classify.train SUR B-A repeat 0 fold 1".to_owned(), "pad SUR/IVa".to_owned()],
            runs: vec!["r0 f1".to_owned()],
        };
        results.cells[4].leaks = vec![leak.clone(), leak.clone()];
        cells[4].leaks = vec![leak];
        (cells[4].mean, cells[4].n) = (None, 0);
        let other = |cells| OtherTable {
            protocol: Protocol::Resplit,
            repeats: 5,
            folds: 1,
            spread: "spread of five".to_owned(),
            cells,
            claims: vec![],
        };
        results.others = vec![other(cells)];
        let markdown = markdown(&results);
        assert!(markdown.contains("| verdict | resplit (n) |\n|---|"), "{markdown}");
        assert!(markdown.contains("| CONSISTENT | 70.00 (5 of 4) |\n"), "{markdown}");
        assert!(markdown.contains("| CONSISTENT, LEAKS | – |\n"), "{markdown}");
        let said = "- SUR-4-2: LEAKS, which was allowed: A/SUR/IVa/1.png is tested (r0 f1) and was learnt from: \
                    classify.train SUR B-A repeat 0 fold 1 ← pad SUR/IVa; so were 1 more pictures\n";
        assert!(markdown.contains(said), "{markdown}");
        assert!(markdown.contains("- ± of resplit is the spread of five.\n"), "{markdown}");
        assert_eq!(csv(&results).lines().count(), 53);
        assert!(latex(&results).contains("{lllrrrrrrlr}"));
        std::mem::swap(&mut results.cells, &mut results.others[0].cells);
        assert!(notes(&results).iter().any(|note| note.starts_with("SUR-4-2: REFUSED, for it leaks")));
    }

    #[test]
    fn text_from_elsewhere_is_never_markup() {
        let mut hostile = results(&["\\input{x} 50% & more_ $1 #2 ^~ [h] 🪨\n|"]);
        hostile.cells[0].training = "<b>,\"|".to_owned();
        assert!(csv(&hostile).contains("SUR-1-1,SUR,1,1,\"<b>,\"\"|\",Baseline"));
        assert!(markdown(&hostile).contains("| SUR-1-1 | &lt;b&gt;,\"\\| | B |"));
        let latex = latex(&hostile);
        assert!(latex.contains(
            "\\textbackslash{}input\\{x\\} 50\\% \\& more\\_ \\$1 \\#2 \\textasciicircum{}\\textasciitilde{} {[}h{]} ? $|$"
        ));
        assert!(latex.is_ascii());
    }

    #[test]
    fn small_p_values_are_not_zero_and_minus_is_as_wide_as_plus() {
        assert_eq!(interval(Some([-1.5, 2.25])), "−1.50 to 2.25");
        assert_eq!([Some(1.5), Some(-1.5), None].map(signed), ["+1.50", "−1.50", "–"]);
        assert_eq!([None, Some(0.0), Some(0.0312)].map(p_value), ["–", "< 0.001", "0.031"]);
    }
}
