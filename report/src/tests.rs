use domain::digest::Digest;
use domain::study::experiment::{Correction, Varied};
use domain::study::paper::{self, Printed};
use domain::study::results::{
    Cell, Claim, ClassAccuracy, ComparedScore, DriftScore, Enlarging, Evidence, Fault, Generator, HeatmapScore,
    LossCurve, ModelTraining, Nearness, SifidScore, Verdict, Votes,
};
use domain::study::stone::{Class, Dataset, View};
use domain::study::system::System;

use super::*;
use crate::page::{Map, Milestones, Samples};

fn claims(cells: &[Cell], comparable: bool) -> Vec<Claim> {
    Claim::all(&Evidence { cells, votes: &Votes::new(), margin: 2.0, scores: None, comparable })
}

/// A cell with a number in every place.
fn cell(row: &paper::Row, second: Option<Dataset>, printed: Printed, comparable: bool) -> Cell {
    let tested_on = second.map_or_else(|| row.first.datasets(), |second| vec![second]);
    let mean = if second.is_some() { 81.0 - f64::from(row.row) } else { 70.0 + row.accuracy_1.mean / 10.0 };
    let classes = |label: usize| {
        let mut classes: Vec<Class> = tested_on.iter().map(|dataset| dataset.classes()[label]).collect();
        classes.dedup();
        classes
    };
    Cell {
        mean: Some(mean),
        std: Some(3.25),
        n: if row.row == 3 { 3 } else { 4 },
        n_asked: 4,
        std_over_classes: Some(11.0),
        per_class: (0..6)
            .map(|label| ClassAccuracy {
                label: label as u8,
                classes: classes(label),
                mean: mean - 18.0 + 7.0 * label as f64,
            })
            .collect(),
        runs: vec![mean; 4],
        run_names: ["r0 f0", "r0 f1", "r1 f0", "r1 f1"].map(str::to_owned).to_vec(),
        missing: if row.row == 3 { vec!["r1 f1".to_owned()] } else { Vec::new() },
        std_pooled: Some(12.0),
        image_accuracy: Some(mean + 5.0),
        image_accuracy_by_score: Some(mean + 6.0),
        image_interval: Some([mean - 4.0, mean + 12.0]),
        macro_f1: Some(mean - 1.0),
        train_images: 160.0,
        test_images: 40.0,
        interval: Some([mean - 5.0, mean + 5.0]),
        detectable_difference: Some(6.5),
        equivalence_std: Some(1.25),
        within_printed_std: Some((mean - printed.mean).abs() <= printed.std),
        difference: Some(mean - printed.mean),
        p_equivalent: comparable.then_some(0.4),
        verdict: Verdict::within(comparable, mean, printed),
        passing: row.rests_on(second, Dataset::B).then_some(0.84),
        ..Cell::blank(row, second, printed)
    }
}

/// Results with a number in every place.
#[expect(clippy::too_many_lines, reason = "one value, written out")]
fn results(stand_ins: &[&str]) -> Results {
    let comparable = stand_ins.is_empty();
    let cells = Cell::of_table_1(|row, second, printed| cell(row, second, printed, comparable));
    Results {
        schema_version: domain::study::results::SCHEMA_VERSION,
        scale: "tiny".to_owned(),
        seed: 3407,
        comparable,
        stand_ins: stand_ins.iter().map(|reason| (*reason).to_owned()).collect(),
        readings: vec![],
        protocol: domain::study::experiment::Protocol::RepeatedCv,
        others: vec![],
        repeats: 2,
        folds: 2,
        spread: "sample standard deviation (n - 1) over 2 repeats x 2 folds".to_owned(),
        varied: Varied::PicturesAndSeeds,
        chance: 100.0 / 6.0,
        margin: 2.0,
        correction: Correction::Holm,
        claims: claims(&cells, comparable),
        cells,
        drift: View::ALL
            .into_iter()
            .flat_map(|view| paper::DRIFT_PROPERTIES.into_iter().zip(paper::drift(view)).map(move |it| (view, it)))
            .map(|(view, (property, printed))| DriftScore {
                method: Default::default(),
                view,
                property: property.to_owned(),
                ks: Some(printed + 0.11),
                emd: Some(printed / 2.0),
                ks_null: [0.08, 0.13, 0.21],
                n_real: 48,
                n_synthetic: 150,
                passed: Some(printed + 0.11 < 0.2),
                paper: printed,
                p_null: Some(0.031),
                p_null_paper: Some(0.0004),
                p_threshold: Some(0.5),
                interval: Some([printed + 0.04, printed + 0.18]),
                verdict: Verdict::of_score(comparable, Some([printed + 0.04, printed + 0.18]), printed),
                why: None,
                passing: Some(0.84),
            })
            .collect(),
        sifid: View::ALL
            .into_iter()
            .map(|view| SifidScore {
                std_over: Default::default(),
                view,
                mean: Some(2.9),
                std: Some(0.8),
                per_class: Dataset::A.classes().into_iter().zip([2.1, 3.3, 2.8, 4.0, 2.5, 2.7]).collect(),
                paper_mean: paper::sifid(view).mean,
                paper_std: paper::sifid(view).std,
                verdict: Verdict::within(comparable, 2.9, paper::sifid(view)),
                why: None,
                passing: Some(0.84),
            })
            .collect(),
        heatmap: View::ALL
            .into_iter()
            .map(|view| HeatmapScore {
                view,
                mean_difference: Some(7.4),
                foreground_real: Some(0.47),
                foreground_synthetic: Some(0.44),
                why: None,
                passing: Some(0.84),
            })
            .collect(),
        generators: View::ALL
            .into_iter()
            .flat_map(|view| Dataset::A.classes().map(|class| (view, class)))
            .map(|(view, class)| Generator {
                view,
                class,
                samples: 25,
                empty: 1,
                foreground: 0.4,
                passed: Some(21),
                faults: [(Fault::Empty, 1), (Fault::Several, 3)].into(),
                drawn: None,
                learnt: None,
                black: None,
            })
            .collect(),
        compared: vec![ComparedScore {
            system: System::Ddpm,
            view: View::Sur,
            class: None,
            drift: vec![("Brightness".to_owned(), Some(0.123), Some(0.045))],
            sifid: Some(0.0625),
            mean_difference: Some(12.5),
            why: Default::default(),
            passing: Some(0.5),
        }],
        trainings: View::ALL
            .into_iter()
            .flat_map(|view| {
                let drawing = Dataset::A.classes().map(|class| training("sinddm.train", view, Some(class)));
                let nearness = |psnr, ssim| Nearness { psnr: Some(psnr), ssim: Some(ssim) };
                let (ours, bicubic) = (nearness(31.257, 0.9123), nearness(29.5, 0.87654));
                let enlarging = Some(Enlarging { held_out: 6, ours, bicubic });
                let enlarges = ModelTraining { enlarging, ..training("swin2sr.train", view, None) };
                drawing.into_iter().chain([enlarges])
            })
            .collect(),
    }
}

/// A loss that falls from 1 to 0.2.
fn training(stage: &str, view: View, class: Option<Class>) -> ModelTraining {
    let losses: Vec<f32> = (0..1000).map(|step| 0.2 + 0.8 / (1.0 + step as f32 / 30.0)).collect();
    ModelTraining {
        stage: stage.to_owned(),
        view,
        class,
        picture: None,
        steps: 1000,
        final_loss: 0.225,
        loss_by_scale: class.map(|_| [(0, 0.31), (1, 0.15)].into()).unwrap_or_default(),
        curve: LossCurve::of(&losses),
        enlarging: None,
    }
}

/// Every picture that a study can leave.
fn pictures() -> Pictures {
    let classes = || View::ALL.into_iter().flat_map(|view| Dataset::A.classes().map(|class| (view, class)));
    let map = |view| {
        ["real", "synthetic", "difference"].map(|caption| Map {
            view,
            caption,
            path: format!("pictures/heatmap-{view}-{caption}.png"),
        })
    };
    let samples = |(view, class)| Samples { view, class, path: format!("pictures/samples-{view}-{class}.png") };
    let milestones = |(view, class)| Milestones {
        view,
        class,
        steps: vec![200, 600],
        path: format!("pictures/milestones-{view}-{class}.png"),
    };
    Pictures {
        maps: View::ALL.into_iter().flat_map(map).collect(),
        samples: classes().map(samples).collect(),
        milestones: classes().map(milestones).collect(),
    }
}

fn page(results: &Results) -> String {
    page::render(results, &pictures()).unwrap()
}

fn page_without_pictures(results: &Results) -> String {
    page::render(results, &Pictures::default()).unwrap()
}

#[test]
fn the_page_has_every_cell_and_every_picture_and_loads_nothing_from_elsewhere() {
    let results = results(&["drawn pictures"]);
    let html = page(&results);
    for cell in &results.cells {
        assert!(html.contains(&cell.id), "{}", cell.id);
    }
    assert_eq!(html.matches("src=\"pictures/").count(), 2 * (3 + 6 + 6));
    assert_eq!(html.matches("src=").count(), 2 * (3 + 6 + 6));
    assert!(!html.contains("http") && !html.contains("<script"));
    assert!(html.contains("3 of 4") && html.contains("without r1 f1"));
    assert!(html.contains("only from 75 runs per arm on") && html.contains("p (Holm)"));
}

#[test]
fn the_page_shows_how_networks_were_trained() {
    let html = page(&results(&[]));
    assert_eq!(html.matches("<polyline class=\"ours loss\"").count(), 2 * (6 + 1));
    let caption = "<b>SinDDM SEC/IVc</b> · loss 0.2250 over the last tenth of 1000 steps; by scale, coarsest first: 0.3100, 0.1500";
    assert!(html.contains(caption));
    // The curve begins at its largest point and ends where its last is.
    let points = html.split("<polyline class=\"ours loss\" points=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(points.split(' ').count(), 100);
    assert!(
        points.starts_with("42.3,8.0 ") && points.split(' ').next_back().unwrap().starts_with("266.0,"),
        "{points}"
    );
    assert!(html.contains("Enlarging 6 pictures that were held out"));
    assert!(html.contains("<td>Swin2SR trained here</td><td class=\"num\">31.26</td><td class=\"num\">0.9123</td>"));
    assert!(html.contains("<td>Bicubic interpolation</td><td class=\"num\">29.50</td><td class=\"num\">0.8765</td>"));
    assert!(html.contains("rows from the top: after 200, 600 steps"));
}

#[test]
fn beside_every_number_that_rests_on_synthetic_pictures_stands_how_many_pass() {
    let results = results(&[]);
    let html = page(&results);
    let row = |start: &str| html.split(start).nth(1).unwrap().split("</tr>").next().unwrap().to_owned();
    for cell in &results.cells {
        let rests_on_b = cell.training.contains('B') || cell.tested_on.contains(&Dataset::B);
        assert_eq!(
            row(&format!("<td>{}</td>", cell.id)).contains("<td class=\"num\">84 %</td>"),
            rests_on_b,
            "{}",
            cell.id
        );
    }
    for property in paper::DRIFT_PROPERTIES {
        assert!(row(&format!("<td>{property}</td>")).contains("84 %"), "{property}");
    }
    assert_eq!(html.matches("126 of 150</b><span>synthetic pictures of S").count(), 2);
    assert_eq!(html.matches("25 pictures, 21 of which pass the gate, 1 all dark").count(), 12);
    let note = "B of SEC: 126 of 150 synthetic pictures (84 %) show one central object as the pictures that their \
                models learnt from do; of the others, 6 without an object that stands out, 18 in several pieces.";
    assert!(html.contains(note), "{html}");
    assert_eq!(html.matches("SUR</td><td>Brightness").count(), 1);
}

#[test]
fn stand_ins_are_named_in_page_chart_and_table() {
    let stand_in = results(&["drawn pictures"]);
    let html = page_without_pictures(&stand_in);
    assert!(html.contains("STAND-IN: NOT COMPARABLE WITH THE PAPER"));
    assert!(html.contains("<li>drawn pictures</li>"));
    assert_eq!(html.matches("STAND-IN: not comparable with the paper</text>").count(), 2);
    let table = tables::markdown(&stand_in);
    assert!(table.contains("STAND-IN") && table.contains("- not comparable: drawn pictures"));

    assert!(!page_without_pictures(&results(&[])).contains("STAND-IN"));
}

#[test]
fn text_from_the_data_is_never_markup() {
    let mut hostile = results(&["<script>alert('1')</script>|x"]);
    hostile.scale = "\"><img src=x>".to_owned();
    hostile.cells[0].training = "<b>,\"|".to_owned();
    hostile.drift[0].property = "\"><b>".to_owned();
    hostile.trainings[0].stage = "\"><b>".to_owned();
    let html = page_without_pictures(&hostile);
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<b>,") && !html.contains("\"><b>"));
    assert!(tables::table_csv(&hostile).contains("SUR-1-1,SUR,1,1,\"<b>,\"\"|\",Baseline"));
    let table = tables::markdown(&hostile);
    assert!(!table.contains("<script"));
    assert!(table.contains(r#"| SUR-1-1 | &lt;b&gt;,"\| | B |"#), "{table}");
}

#[test]
fn a_study_without_numbers_still_has_a_page() {
    let mut empty = results(&[]);
    for cell in &mut empty.cells {
        (cell.mean, cell.std, cell.std_over_classes, cell.n) = (None, None, None, 0);
        (cell.per_class, cell.runs, cell.verdict) = (Vec::new(), Vec::new(), Verdict::NotRun);
        (cell.interval, cell.difference, cell.image_accuracy) = (None, None, None);
        (cell.detectable_difference, cell.equivalence_std, cell.within_printed_std) = (None, None, None);
    }
    (empty.drift, empty.sifid, empty.heatmap, empty.generators) = Default::default();
    for training in &mut empty.trainings {
        (training.steps, training.final_loss, training.curve) = (0, 0.0, LossCurve::default());
    }
    empty.claims = claims(&empty.cells, true);
    let html = page_without_pictures(&empty);
    assert!(html.contains("0 of 72") && html.contains("NOT RUN") && !html.contains("NaN"));
    let table = tables::table_csv(&empty);
    assert!(table.contains("SEC-8-2,SEC,8,2,A+B → C,TwoStepTL,C,80.76,4.91,,,0,4,,NOT RUN,"));
    assert_eq!(table.lines().count(), 27);
}

#[test]
fn the_same_results_give_the_same_page() {
    let results = results(&["drawn pictures"]);
    assert_eq!(page(&results), page(&results));
}

#[test]
fn less_drift_is_no_fault_and_absent_scores_have_their_reason() {
    let mut results = results(&[]);
    results.cells.iter_mut().for_each(|cell| cell.verdict = Verdict::Consistent);
    results.drift[0].verdict = Verdict::Lower;
    results.sifid[0].verdict = Verdict::Lower;
    for score in &mut results.drift[5..] {
        (score.ks, score.emd, score.interval, score.passed) = (None, None, None, None);
        (score.verdict, score.why) = (Verdict::NotRun, Some("needs at least 10 values of each, has 2".to_owned()));
    }
    (results.sifid[1].mean, results.sifid[1].why) = (None, Some("IVa: too small".to_owned()));
    (results.heatmap[1].mean_difference, results.heatmap[1].why) = (None, Some("no pictures".to_owned()));
    results.compared[0].drift[0].1 = None;
    results.compared[0].why = [("drift".to_owned(), "has 2 of 10".to_owned())].into();
    let html = page_without_pictures(&results);
    assert_eq!(html.matches(r#"<td class="verdict good">LOWER"#).count(), 2, "{html}");
    assert!(!html.contains(r#"<td class="verdict off">LOWER"#));
    for said in [
        "needs at least 10 values of each, has 2",
        "No mean: IVa: too small",
        "No maps: no pictures",
        "drift is absent: has 2 of 10",
        "Brightness – (0.045)",
        "U-Nets after Ho et al. (2020), trained in this study",
        "would find it with a power of 80 % only from 152 on",
        "How probable it is that a claim of outperformance is false",
    ] {
        assert!(html.contains(said), "{said}");
    }
    assert!(!html.contains("NaN") && !html.contains("Trained by Ho"));
}

/// The document that `domain` keeps as an example, with most that results can hold.
fn example() -> Results {
    serde_json::from_str(include_str!("../../domain/src/study/results/example.json")).unwrap()
}

/// The example as it would be on other data, with text that looks like markup.
fn stand_in() -> Results {
    let mut results = Results {
        comparable: false,
        stand_ins: vec!["<script>alert('1')</script>|x & \\input{y}".to_owned()],
        scale: "\"><img src=x>'".to_owned(),
        correction: Correction::None,
        varied: Varied::SeedsOnly,
        ..example()
    };
    results.cells[0].training = "<b>,\"|".to_owned();
    results.drift[0].property = "\"><b>".to_owned();
    results.trainings[0].stage = "\"><b>".to_owned();
    results
}

/// The example if nothing had finished.
fn without_runs() -> Results {
    let mut results = Results { cells: Cell::of_table_1(Cell::blank), ..example() };
    results.cells.iter_mut().for_each(|cell| cell.n_asked = 4);
    (results.drift, results.sifid, results.heatmap, results.generators) = Default::default();
    (results.others, results.claims, results.readings, results.compared) = Default::default();
    for training in &mut results.trainings {
        (training.steps, training.final_loss, training.curve) = (0, 0.0, LossCurve::default());
    }
    results
}

#[test]
fn reports_keep_their_bytes_while_the_stage_keeps_its_version() {
    let studies = [("example", example(), pictures()), ("stand-in", stand_in(), pictures())];
    let mut digests = String::new();
    for (study, results, pictures) in studies.into_iter().chain([("without-runs", without_runs(), Pictures::default())])
    {
        for (file, text) in files(&results, &pictures).unwrap() {
            digests += &format!("{study}/{file} {}\n", Digest::of(text.as_bytes()));
        }
    }
    assert!(
        digests == include_str!("digests.txt"),
        "the bytes of reports changed: raise the version of the stage `report`, and let digests.txt be\n{digests}"
    );
}
