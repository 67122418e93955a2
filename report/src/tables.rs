//! Table I as text that leaves the program. Every table says what ± means and
//! what stands in for the paper's data and methods, every number which cell it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use domain::experiment::{Correction, Varied};
use domain::results::{Cell, Results};
use domain::stone::View;

mod claims;
mod scores;

pub use claims::{claim_difference, claim_interval, claim_notes, claimed, claims_csv, false_claims, pairs_for_power};
pub use scores::scores_csv;

use claims::claim_line;
use scores::absent;

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
        intervals(results.varied),
        format!(
            "EQUIVALENT: nearer than {} points (TOST); CONSISTENT: inconclusive; HIGHER, LOWER: a difference is shown. {} \
             Detects: the smallest true difference, in points, that such a test finds with a power of 80 %. Needs s: the \
             largest ± with which as many runs can be EQUIVALENT. In ±: whether the difference is at most the paper's ±.",
            results.margin,
            correction(results)
        ),
    ];
    let short = results.cells.iter().filter(|cell| !cell.missing.is_empty());
    notes.extend(short.map(|cell| format!("{}: {} runs, without {}", cell.id, count(cell), cell.missing.join(", "))));
    notes.extend(results.cells.iter().flat_map(untested));
    notes.extend(leaking.map(leak));
    notes.extend(
        results
            .others
            .iter()
            .map(|other| format!("± of {} is the {}. {}", other.protocol, other.spread, intervals(other.varied))),
    );
    notes.extend(absent(results).into_iter().map(|(score, why)| format!("{score} is absent: {why}")));
    notes.extend(View::ALL.into_iter().filter_map(|view| gate(results, view)));
    notes.extend(results.readings.iter().map(|reading| format!("reading of the paper, with the default: {reading}")));
    if !results.comparable {
        notes.push("STAND-IN: NOT COMPARABLE WITH THE PAPER".to_owned());
        notes.extend(results.stand_ins.iter().map(|reason| format!("not comparable: {reason}")));
    }
    notes
}

/// How many synthetic pictures of a view pass the gate, and what is wrong with the others.
fn gate(results: &Results, view: View) -> Option<String> {
    let gate = results.gate(view)?;
    let generators = || results.generators.iter().filter(|generator| generator.view == view);
    let mut faults = BTreeMap::new();
    for (fault, count) in generators().flat_map(|generator| &generator.faults) {
        *faults.entry(fault).or_insert(0) += count;
    }
    let faults: Vec<String> = faults.into_iter().map(|(fault, count)| format!("{count} {}", fault.words())).collect();
    let mut note = format!(
        "B of {view}: {} of {} synthetic pictures ({}) show one central object as the pictures that their models \
         learnt from do",
        gate.passed,
        gate.samples,
        passing(Some(gate.passing()))
    );
    if !faults.is_empty() {
        note += &format!("; of the others, {}", faults.join(", "));
    }
    let drawn: u32 = generators().filter_map(|generator| generator.drawn).sum();
    if drawn > 0 {
        note += &format!("; {drawn} were drawn, as those that did not were drawn again (sinddm.reject_empty)");
    }
    Some(note + ". The column “B passes” has this share beside every number that rests on them.")
}

/// A share that passes the gate for people: never 0 % or 100 % unless it is; nothing
/// where there is none.
pub fn passing(share: Option<f64>) -> String {
    match share {
        None => String::new(),
        Some(share) if share > 0.0 && share < 0.005 => "< 1 %".to_owned(),
        Some(share) if (0.995..1.0).contains(&share) => "> 99 %".to_owned(),
        Some(share) => format!("{:.0} %", 100.0 * share),
    }
}

/// What intervals are about.
fn intervals(varied: Varied) -> String {
    let words = varied.words();
    match varied {
        Varied::PicturesAndSeeds => format!(
            "95 % intervals hold for {words}; their variance is corrected for shared training images (Nadeau and Bengio \
             2003). They are cut at 0 and 100."
        ),
        Varied::SeedsOnly => format!(
            "95 % intervals hold for {words}: with other pictures the accuracy may lie far outside. They are cut at 0 and 100."
        ),
    }
}

/// How verdicts are corrected for their number.
fn correction(results: &Results) -> String {
    let tested = results.cells.iter().filter(|cell| cell.p_adjusted.is_some());
    let trainings: BTreeSet<(View, &str)> = tested.map(|cell| (cell.view, cell.training.as_str())).collect();
    match results.correction {
        Correction::Holm if trainings.is_empty() => "Verdicts are corrected for their number (Holm).".to_owned(),
        Correction::Holm => format!(
            "Verdicts are corrected for their number by Holm over {} trainings; intervals hold each for itself.",
            trainings.len()
        ),
        Correction::None => "Verdicts are not corrected for their number (tl.correction=none).".to_owned(),
    }
}

/// Classes that runs of a cell do not test.
fn untested(cell: &Cell) -> impl Iterator<Item = String> {
    cell.untested.iter().map(|untested| {
        let classes: Vec<&str> = untested.classes.iter().map(|class| class.code()).collect();
        let full = cell.mean_of_full_runs.map_or_else(
            || "no run tests all classes".to_owned(),
            |mean| format!("the mean of runs that test all classes is {mean:.2}"),
        );
        format!(
            "* {}: no picture of {} is tested in {}; their accuracy is over the other classes; {full}",
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

/// Our mean and ±, with an asterisk where some of its runs do not test every class.
pub fn ours(cell: &Cell) -> String {
    let mark = if cell.untested.is_empty() { "" } else { " *" };
    format!("{}{mark}", plus_minus(cell.mean, cell.std))
}

/// Yes or no; a dash where neither can be said.
pub fn yes_no(answer: Option<bool>) -> &'static str {
    match answer {
        None => "–",
        Some(true) => "yes",
        Some(false) => "no",
    }
}

/// A distance for people; a dash where there is none.
pub fn distance(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), significant)
}

/// A distance for people: two decimals where they say something, otherwise
/// three digits and a power of ten.
pub fn significant(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (0.1..1e4).contains(&size) => format!("{value:.2}"),
        _ => format!("{value:.2e}"),
    }
}

/// A score from 0 to 1 with three decimals; a dash where there is none.
pub fn score(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// `4`, or `3 of 4` where runs are missing.
pub fn count(cell: &Cell) -> String {
    match cell.n == cell.n_asked {
        true => cell.n.to_string(),
        false => format!("{} of {}", cell.n, cell.n_asked),
    }
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

/// The columns of Table I.
const HEADER: [&str; 14] = [
    "cell",
    "training",
    "tested on",
    "paper",
    "ours",
    "n",
    "95 % interval",
    "difference",
    "in ±",
    "detects",
    "needs s",
    "images, vote",
    "B passes",
    "verdict",
];

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
        cell.test_sets(),
        plus_minus(Some(cell.paper_mean), Some(cell.paper_std)),
        ours(cell),
        count(cell),
        interval(cell.interval),
        signed(cell.difference),
        yes_no(cell.within_printed_std).to_owned(),
        plus_minus(cell.detectable_difference, None),
        plus_minus(cell.equivalence_std, None),
        plus_minus(cell.image_accuracy, None),
        passing(cell.passing),
        verdict(cell),
    ];
    line.extend(by_others(results, cell));
    line
}

/// The columns of the CSV.
const COLUMNS: [&str; 44] = [
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
    "detectable_difference",
    "equivalence_std",
    "within_printed_std",
    "p",
    "p_adjusted",
    "p_equivalent_adjusted",
    "mean_of_full_runs",
    "varied",
    "correction",
    "b_passing",
    "readings",
];

/// One line per cell; an empty field where there is no number. CSV knows no
/// footnotes: `spread` and `stand_ins` stand in every line.
pub fn csv(results: &Results) -> String {
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
            cell.test_sets(),
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
            number(cell.detectable_difference),
            number(cell.equivalence_std),
            cell.within_printed_std.map(|within| within.to_string()).unwrap_or_default(),
            number(cell.p),
            number(cell.p_adjusted),
            number(cell.p_equivalent_adjusted),
            number(cell.mean_of_full_runs),
            protocol.varied().words().to_owned(),
            match results.correction {
                Correction::Holm => "holm".to_owned(),
                Correction::None => "none".to_owned(),
            },
            number(cell.passing),
            results.readings.join("; "),
        ]
    });
    csv_of(&COLUMNS, lines)
}

/// A number with all its digits, or nothing.
fn number(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
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
    text += "|---|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---|";
    text += &"---:|".repeat(results.others.len());
    text.push('\n');
    text.extend(results.cells.iter().map(|cell| row(&line(results, cell))));
    text.push('\n');
    text.extend(notes(results).iter().map(|note| format!("- {}\n", for_markdown(note))));
    if !results.claims.is_empty() {
        text += "\n## Claims, on pairs of runs\n\n| claim | says | paper | ours | 95 % interval | pairs | p (Holm) | detects | 80 % power | B passes | verdict |\n";
        text += "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n";
        text.extend(results.claims.iter().map(|claim| row(&claim_line(claim))));
        text.push('\n');
        text.extend(claim_notes(results).iter().map(|note| format!("- {}\n", for_markdown(note))));
        text += "\n| claim of outperformance | accuracies | cases | congruence | probability that it is false |\n";
        text += "|---|---|---:|---:|---:|\n";
        text.extend(false_claims(results).iter().map(|line| row(line)));
    }
    text
}

/// Table I for a LaTeX document; needs no package.
pub fn latex(results: &Results) -> String {
    let row = |cells: &[String]| {
        format!("{} \\\\\n", cells.iter().map(|cell| for_latex(cell)).collect::<Vec<_>>().join(" & "))
    };
    let others = "r".repeat(results.others.len());
    let mut text =
        format!("\\begin{{table}}\n\\centering\\footnotesize\n\\begin{{tabular}}{{lllrrrrrlrrrrl{others}}}\n\\hline\n");
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
mod tests {
    use super::*;
    use domain::experiment::Protocol;
    use domain::experiment::{DriftMethod, StdOver};
    use domain::paper::{Printed, Row};
    use domain::results::{
        Claim, DdpmScore, DriftScore, Evidence, HeatmapScore, Leak, OtherTable, SCHEMA_VERSION, SifidScore, Untested,
        Verdict, Votes,
    };
    use domain::stone::{Class, Dataset};

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
            detectable_difference: Some(6.5),
            equivalence_std: Some(1.25),
            difference: Some(80.0 - printed.mean),
            within_printed_std: Some((80.0 - printed.mean).abs() <= printed.std),
            p: comparable.then_some(0.25),
            p_adjusted: comparable.then_some(1.0),
            p_equivalent: comparable.then_some(0.4),
            p_equivalent_adjusted: comparable.then_some(1.0),
            verdict: if comparable { Verdict::Consistent } else { Verdict::NotComparable },
            passing: row.rests_on(second, Dataset::B).then_some(0.25),
            ..Cell::blank(row, second, printed)
        }
    }

    /// Results with a number in every place of Table I.
    fn results(stand_ins: &[&str]) -> Results {
        let comparable = stand_ins.is_empty();
        let cells = Cell::of_table_1(|row, second, printed| cell(row, second, printed, comparable));
        Results {
            schema_version: SCHEMA_VERSION,
            scale: "tiny".to_owned(),
            seed: 3407,
            comparable,
            stand_ins: stand_ins.iter().map(|reason| (*reason).to_owned()).collect(),
            readings: vec![],
            protocol: Protocol::RepeatedCv,
            repeats: 2,
            folds: 2,
            spread: "sample standard deviation (n - 1) over 2 repeats x 2 folds".to_owned(),
            varied: Varied::PicturesAndSeeds,
            chance: 100.0 / 6.0,
            margin: 2.0,
            correction: Correction::Holm,
            claims: Claim::all(&Evidence {
                cells: &cells,
                votes: &Votes::new(),
                margin: 2.0,
                scores: None,
                comparable,
            }),
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
             0.4,85,86,80,90,79,160,40,3407,sample standard deviation (n - 1) over 2 repeats x 2 folds,,repeated_cv,,\
             6.5,1.25,true,0.25,1,1,,other pictures and other seeds,holm,,"
        );
        let fields = csv.lines().map(|line| line.split(',').count());
        assert!(fields.clone().all(|count| count == 44), "{:?}", fields.collect::<Vec<_>>());
        assert!(markdown(&results).contains(
            "| SUR-4-2 | B → A | A | 83.81 ± 4.53 | 80.00 ± 3.25 | 4 | 75.00 to 85.00 | −3.81 | yes | 6.50 | 1.25 | 85.00 | 25 % | CONSISTENT |\n"
        ));
        assert!(latex(&results).contains(
            "SUR-4-2 & B $\\to$ A & A & 83.81 $\\pm$ 4.53 & 80.00 $\\pm$ 3.25 & 4 & 75.00 to 85.00 & $-$3.81 & yes & 6.50 & 1.25 & 85.00 & 25 \\% & CONSISTENT \\\\\n"
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
            varied: Varied::SeedsOnly,
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
        assert!(markdown.contains("- ± of resplit is the spread of five. 95 % intervals hold for other seeds only: "));
        assert_eq!(csv(&results).lines().count(), 53);
        assert!(latex(&results).contains("{lllrrrrrlrrrrlr}"));
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

    #[test]
    fn means_of_runs_without_a_class_are_marked() {
        let mut results = results(&[]);
        let untested = Untested { classes: vec![Class::Ivd], runs: vec!["r0 f4".to_owned(), "r1 f2".to_owned()] };
        (results.cells[2].untested, results.cells[2].mean_of_full_runs) = (vec![untested], Some(78.25));
        assert!(markdown(&results).contains("| 80.00 ± 3.25 \\* | 3 of 4 |"));
        let note = "* SUR-3-1: no picture of IVd is tested in r0 f4, r1 f2; their accuracy is over the other classes; \
                    the mean of runs that test all classes is 78.25";
        assert!(notes(&results).contains(&note.to_owned()), "{:?}", notes(&results));
        assert!(csv(&results).lines().nth(3).unwrap().ends_with(",78.25,other pictures and other seeds,holm,,"));
    }

    #[test]
    fn the_correction_and_the_number_of_trainings_are_said() {
        let mut results = results(&[]);
        let said = |results: &Results, words: &str| notes(results).iter().any(|note| note.contains(words));
        assert!(said(&results, "by Holm over 18 trainings"));
        results.correction = Correction::None;
        assert!(said(&results, "not corrected for their number (tl.correction=none)") && !said(&results, "Holm"));
    }

    #[test]
    fn absent_scores_are_told_with_their_reason() {
        let mut results = results(&[]);
        let too_few = Some("needs at least 10 values of each, has 2".to_owned());
        let drift = DriftScore {
            method: DriftMethod::Ks,
            passing: None,
            view: View::Sur,
            property: "Brightness".to_owned(),
            ks: None,
            emd: None,
            ks_null: [0.5, 0.5, 1.0],
            p_null: None,
            interval: None,
            p_threshold: None,
            n_real: 2,
            n_synthetic: 2,
            passed: None,
            paper: 0.142,
            p_null_paper: None,
            verdict: Verdict::NotRun,
            why: too_few.clone(),
        };
        results.drift = vec![drift.clone(), DriftScore { property: "RMS Contrast".to_owned(), ..drift }];
        results.sifid = vec![SifidScore {
            std_over: StdOver::Class,
            passing: None,
            view: View::Sec,
            mean: None,
            std: None,
            per_class: vec![(Class::Ia, 0.5)],
            paper_mean: 3.79,
            paper_std: 1.71,
            verdict: Verdict::NotRun,
            why: Some("IVa: too small".to_owned()),
        }];
        results.heatmap = vec![HeatmapScore {
            passing: None,
            view: View::Sec,
            mean_difference: None,
            foreground_real: None,
            foreground_synthetic: None,
            why: Some("no pictures".to_owned()),
        }];
        results.ddpm = vec![DdpmScore {
            passing: None,
            model: "SUR.IVa".to_owned(),
            drift: vec![("Brightness".to_owned(), None, None)],
            sifid: Some(0.25),
            mean_difference: Some(3.0),
            why: [("drift".to_owned(), "needs at least 10 values of each, has 2".to_owned())].into(),
        }];
        let told: Vec<String> = notes(&results).into_iter().filter(|note| note.contains("is absent")).collect();
        let expected = [
            "drift of SUR is absent: needs at least 10 values of each, has 2",
            "SIFID of SEC is absent: IVa: too small",
            "the heat map of SEC is absent: no pictures",
            "drift of the DDPM of SUR.IVa is absent: needs at least 10 values of each, has 2",
        ];
        assert_eq!(told, expected);
        let csv = scores_csv(&results);
        assert!(
            csv.contains(
                "SUR,\"Brightness drift, KS\",,,,0.142,,,NOT RUN,\"needs at least 10 values of each, has 2\",,,\n"
            ),
            "{csv}"
        );
        assert!(csv.contains("SEC,SIFID,,,,3.79,,,NOT RUN,IVa: too small,,,\nSEC.Ia,SIFID,0.5,"), "{csv}");
        assert!(csv.contains("DDPM SUR.IVa,SIFID,0.25,") && !csv.contains("NaN"), "{csv}");
        assert_eq!(csv.lines().count(), 1 + 4 + 2 + 1 + 4);
    }

    #[test]
    fn claims_say_what_they_are() {
        let results = results(&[]);
        let says: Vec<String> = results.claims.iter().map(claimed).collect();
        for expected in ["SUR-8-2 > SUR-7-2 + 6", "SUR-4-2 < SUR-2-1 + 2", "SUR-1-1 = SUR-2-1 ± 2", "SUR-2-1 > SUR-3-1"]
        {
            assert!(says.iter().any(|says| says == expected), "{says:?}");
        }
        let csv = claims_csv(&results);
        assert_eq!(csv.lines().count(), 1 + results.claims.len());
        assert!(csv.contains("paper, test pictures: 0."), "{csv}");
        assert!(false_claims(&results).iter().filter(|line| line[0] == "SUR-8-2 > SUR-7-2").count() == 2);
    }

    #[test]
    fn small_distances_keep_their_digits() {
        assert_eq!([3.456, 0.0, 0.00043065].map(significant), ["3.46", "0.00", "4.31e-4"]);
    }
}
