use domain::study::experiment::{DriftMethod, StdOver, Varied};
use domain::study::paper::{Printed, Row};
use domain::study::results::{
    Claim, ComparedScore, DriftScore, Evidence, HeatmapScore, Leak, OtherTable, SCHEMA_VERSION, SifidScore, Untested,
    Verdict, Votes,
};
use domain::study::stone::{Class, Dataset, View};
use domain::study::system::System;

use super::*;
use crate::format::p_value;

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
        claims: Claim::all(&Evidence { cells: &cells, votes: &Votes::new(), margin: 2.0, scores: None, comparable }),
        cells,
        others: vec![],
        drift: vec![],
        sifid: vec![],
        heatmap: vec![],
        generators: vec![],
        compared: vec![],
        trainings: vec![],
    }
}

#[test]
fn every_table_says_what_plus_minus_means_and_what_stands_in() {
    let results = results(&["drawn pictures"]);
    for table in [table_csv(&results), markdown(&results), latex(&results)] {
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
    let csv = table_csv(&results);
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
    assert_eq!(table_csv(&results).lines().count(), 53);
    assert!(latex(&results).contains("{lllrrrrrlrrrrlr}"));
    std::mem::swap(&mut results.cells, &mut results.others[0].cells);
    assert!(notes(&results).iter().any(|note| note.starts_with("SUR-4-2: REFUSED, for it leaks")));
}

#[test]
fn text_from_elsewhere_is_never_markup() {
    let mut hostile = results(&["\\input{x} 50% & more_ $1 #2 ^~ [h] 🪨\n|"]);
    hostile.cells[0].training = "<b>,\"|".to_owned();
    assert!(table_csv(&hostile).contains("SUR-1-1,SUR,1,1,\"<b>,\"\"|\",Baseline"));
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
    assert!(table_csv(&results).lines().nth(3).unwrap().ends_with(",78.25,other pictures and other seeds,holm,,"));
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
    results.compared = vec![ComparedScore {
        passing: None,
        system: System::Ddpm,
        view: View::Sur,
        class: Some(Class::Iva),
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
    for expected in ["SUR-8-2 > SUR-7-2 + 6", "SUR-4-2 < SUR-2-1 + 2", "SUR-1-1 = SUR-2-1 ± 2", "SUR-2-1 > SUR-3-1"] {
        assert!(says.iter().any(|says| says == expected), "{says:?}");
    }
    let csv = claims_csv(&results);
    assert_eq!(csv.lines().count(), 1 + results.claims.len());
    assert!(csv.contains("paper, test pictures: 0."), "{csv}");
    assert!(false_claims(&results).rows.iter().filter(|row| row[0] == "SUR-8-2 > SUR-7-2").count() == 2);
}
