mod leaks;

use std::collections::BTreeSet;
use std::fs;

use domain::seed::Seed;
use domain::study::experiment::{Correction, Protocol, Varied};
use domain::study::lineage::Lineage;
use domain::study::paper::FirstStep;
use domain::study::records::gate::Limits;
use domain::study::records::{ImageOutcome, PropertyDrift};
use domain::study::results::{Fault, Untested};
use domain::study::stage::{InputName, Stage, Unwatched};
use domain::study::stats::classification;
use domain::study::stats::distance::kolmogorov_smirnov;
use domain::study::stone::{CLASSES, Class};
use image::RgbImage;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::data::gate::traits;

const TRIALS: Trials = Trials { protocol: Protocol::RepeatedCv, repeats: 2, folds: 2 };

fn params(stand_ins: &[&str]) -> Aggregate {
    Aggregate {
        scale: "tiny".to_owned(),
        seed: 7,
        trials: vec![TRIALS],
        allow_leak: false,
        lineage: Lineage::default(),
        stand_ins: stand_ins.iter().map(|reason| (*reason).to_owned()).collect(),
        readings: vec![],
        drift_threshold: 0.2,
        drift_method: Default::default(),
        drift_margin: 0.025,
        sifid_std_over: Default::default(),
        margin: 2.0,
        correction: Correction::Holm,
    }
}

/// Six labels of ten patches; `right` of each are recognised.
fn metrics(view: View, datasets: &[Dataset], right: [u32; CLASSES]) -> Metrics {
    let row = |label: usize| -> Vec<u32> {
        let mut counts = vec![0; CLASSES];
        counts[label] = right[label];
        counts[(label + 1) % CLASSES] = 10 - right[label];
        counts
    };
    let label = |index: usize| {
        let mut classes: Vec<Class> = datasets.iter().map(|dataset| dataset.classes()[index]).collect();
        classes.dedup();
        classes
    };
    Metrics {
        datasets: datasets.to_vec(),
        view,
        device: "cpu".to_owned(),
        epoch: 1,
        steps: 10,
        train_loss: 0.5,
        val_accuracy: None,
        test_patches: 60,
        test_images: 6,
        accuracy: 100.0 * f64::from(right.iter().sum::<u32>()) / 60.0,
        image_accuracy: 50.0,
        image_accuracy_by_score: 75.0,
        train: [24, 240],
        per_class: vec![],
        macro_average: classification::Score { precision: 0.5, recall: 0.5, f1: 0.625 },
        weighted_average: classification::Score::default(),
        images: (0..6).map(|id| outcome(datasets[0], id)).collect(),
        confusion: (0..6).map(row).collect(),
        labels: (0..6).map(label).collect(),
    }
}

/// The outcome of an image; the even ones are recognised.
fn outcome(dataset: Dataset, id: u32) -> ImageOutcome {
    let vote = if id.is_multiple_of(2) { id as u8 } else { 0 };
    ImageOutcome { dataset, id, label: id as u8, vote, by_score: 0, right: 0.5 }
}

/// Every input of a finished study.
fn study() -> TempDir {
    let root = TempDir::new().unwrap();
    let folder = Folder::new(root.path());
    for view in View::ALL {
        for training in Training::all() {
            for trial in Trial::of_view(TRIALS, view) {
                let name = InputName::MetricsOf(trial, training);
                let better = trial.repeat * 2 + trial.fold;
                let record = metrics(view, &training.datasets(), [5 + better, 5, 5, 5, 5, 5]);
                files::write(&folder.input(name).join("metrics.json"), &record).unwrap();
            }
        }
        // 2/15 apart: at 6, 7 of 50 and 1 of 150 are counted.
        let real: Vec<f64> = (0..50).map(f64::from).collect();
        let synthetic: Vec<f64> = (0..150).map(|i| 6.0 + f64::from(i) / 3.0).collect();
        let properties = paper::DRIFT_PROPERTIES
            .into_iter()
            .map(|property| PropertyDrift {
                property: property.to_owned(),
                ks: Some(kolmogorov_smirnov(&real, &synthetic)),
                emd: Some(0.1),
                ks_null: [0.1, 0.2, 0.3],
                real: real.clone(),
                synthetic: synthetic.clone(),
                why: None,
            })
            .collect();
        let drift = DriftRecord { n_real: 50, n_synthetic: 150, properties };
        files::write(&folder.input(InputName::DriftOf(System::Sinddm, Model::View(view))).join("drift.json"), &drift)
            .unwrap();
        let heatmap =
            HeatmapRecord { size: [4, 4], mean_difference: 3.0, foreground_real: 0.5, foreground_synthetic: 0.4 };
        files::write(
            &folder.input(InputName::HeatmapOf(System::Sinddm, Model::View(view))).join("heatmap.json"),
            &heatmap,
        )
        .unwrap();
        for (index, class) in Dataset::A.classes().into_iter().enumerate() {
            let sifid = SifidRecord { block: 192, mean: index as f64, per_image: vec![index as f64] };
            files::write(
                &folder.input(InputName::SifidOf(System::Sinddm, Model::Class(view, class))).join("sifid.json"),
                &sifid,
            )
            .unwrap();
            let samples = SamplesRecord {
                size: [4, 4],
                foreground: vec![0.25, 0.75],
                empty: 1,
                limits: Limits::of(&[traits(&RgbImage::new(4, 4))]),
                passed: vec![index > 1, true],
                faults: if index > 1 { [].into() } else { [(0, vec![Fault::Empty, Fault::Size])].into() },
                draws: if index > 0 { vec![] } else { vec![10, 2] },
                determinism: domain::study::records::Determinism::Bitwise,
            };
            let samples_path =
                folder.input(InputName::SamplesOf(System::Sinddm, Model::Class(view, class))).join("samples.json");
            files::write(&samples_path, &samples).unwrap();
        }
    }
    root
}

fn aggregate(root: &Path, params: &Aggregate) -> Result<Results, Failure> {
    let folder = Folder::new(root);
    let device = burn::tensor::Device::flex();
    let attempt = Attempt { seed: Seed(7), folder: &folder, monitor: &mut Unwatched, device: &device, memory: 0 };
    crate::run(&Stage::Aggregate(params.clone()), attempt)?;
    files::read(&folder.output("results.json"))
}

#[test]
fn plain_diffusion_models_are_scored_where_there_are_any() {
    let root = study();
    assert_eq!(aggregate(root.path(), &params(&[])).unwrap().compared, []);
    let folder = Folder::new(root.path());
    for (kind, from) in [("drift", "drift.SEC"), ("heatmap", "heatmap.SEC"), ("sifid", "sifid.SEC.IVc")] {
        let copy = folder.inputs().join(format!("ddpm-{kind}.SEC")).join(format!("{kind}.json"));
        let bytes = std::fs::read(folder.inputs().join(from).join(format!("{kind}.json"))).unwrap();
        files::write_bytes(&copy, &bytes).unwrap();
    }
    let ddpm = aggregate(root.path(), &params(&[])).unwrap().compared;
    let [score] = ddpm.as_slice() else { panic!("{ddpm:?}") };
    assert_eq!((score.title().as_str(), score.sifid, score.mean_difference), ("DDPM SEC", Some(2.0), Some(3.0)));
    assert!(score.drift.len() == 5 && (score.drift[0].1.unwrap() - 2.0 / 15.0).abs() < 1e-9 && score.why.is_empty());
    let claims = aggregate(root.path(), &params(&[])).unwrap().claims;
    let nearer = claims.iter().find(|claim| claim.id == "SIFID-DDPM").unwrap();
    assert_eq!((nearer.pairs, nearer.difference), (1, Some(-0.5)));
}

#[test]
fn losses_and_scores_of_trainings_reach_the_results() {
    let root = study();
    assert_eq!(aggregate(root.path(), &params(&[])).unwrap().trainings, []);
    let folder = Folder::new(root.path());
    let leave = |name: &str, record: &serde_json::Value, csv: &str| {
        files::write(&folder.inputs().join(name).join("training.json"), record).unwrap();
        files::write_bytes(&folder.inputs().join(name).join("loss.csv"), csv.as_bytes()).unwrap();
    };
    let diffusion = json!({
        "sinddm": domain::study::experiment::Sinddm::default(), "sizes": [[4, 3], [8, 6]], "scale_factor": 2.0,
        "rescale_losses": [0.5], "sampling_steps": [10, 4], "parameters": 9, "final_loss": 0.25,
        "loss_by_scale": { "0": 0.5, "1": 0.125 }, "determinism": "bitwise",
    });
    leave("sinddm.train.SUR.IVa", &diffusion, "step,scale,loss\n0,0,0.5\n1,1,0.25\n");
    leave("sinddm.train.SEC.IVa.picture.0", &diffusion, "step,scale,loss\n0,0,0.5\n");
    leave("sinddm.train.SEC.IVa.picture.1", &diffusion, "step,scale,loss\n0,0,0.75\n");
    let plain = json!({
        "training": domain::study::experiment::DdpmTraining::default(), "images": 48, "parameters": 9, "final_loss": 0.0625,
        "determinism": "bitwise",
    });
    leave("ddpm.train.SEC", &plain, "step,scale,loss\n0,0,0.0625\n");
    let swin = json!({
        "training": domain::study::experiment::Swin2srTraining::default(), "images": 42, "parameters": 9, "final_loss": 0.125,
        "held_out": 0, "ours": { "psnr": null, "ssim": null }, "bicubic": { "psnr": 30.5, "ssim": 0.875 },
        "determinism": "bitwise",
    });
    leave("swin2sr.train.SUR", &swin, "step,scale,loss\n0,0,0.125\n");

    let trainings = aggregate(root.path(), &params(&[])).unwrap().trainings;
    let names: Vec<String> = trainings.iter().map(|it| format!("{} {}", it.stage, it.model())).collect();
    assert_eq!(
        names,
        [
            "sinddm.train SUR/IVa",
            "sinddm.train SEC/IVa picture 0",
            "sinddm.train SEC/IVa picture 1",
            "ddpm.train SEC",
            "swin2sr.train SUR",
        ]
    );
    assert_eq!((trainings[0].steps, trainings[0].final_loss, trainings[0].curve.every), (2, 0.25, 1));
    assert_eq!((trainings[0].curve.mean.as_slice(), trainings[0].loss_by_scale[&1]), ([0.5, 0.25].as_slice(), 0.125));
    assert_eq!((trainings[2].curve.mean[0], trainings[3].final_loss), (0.75, 0.0625));
    // Without pictures held out there are no scores, which is no failed number.
    let enlarging = trainings[4].enlarging.as_ref().unwrap();
    assert_eq!((enlarging.held_out, enlarging.ours.psnr, enlarging.bicubic.psnr), (0, None, Some(30.5)));

    leave("ddpm.train.SEC", &plain, "step,scale,loss\n0,0,much\n");
    let failure = aggregate(root.path(), &params(&[])).unwrap_err();
    assert!(failure.message.ends_with("loss.csv: line 2 is not step, scale and loss"), "{failure}");
}

#[test]
fn a_finished_study_fills_every_cell_in_the_papers_order() {
    let root = study();
    let results = aggregate(root.path(), &params(&[])).unwrap();
    let ids: Vec<&str> = results.cells.iter().map(|cell| cell.id.as_str()).collect();
    assert_eq!(ids.len(), 26);
    assert_eq!(ids[..5], ["SUR-1-1", "SUR-2-1", "SUR-3-1", "SUR-4-1", "SUR-4-2"]);
    assert_eq!(ids[25], "SEC-8-2");
    assert!(results.cells.iter().all(|cell| cell.n == 4 && cell.n_asked == 4));
    assert_eq!(results.spread, "sample standard deviation (n - 1) over 2 repeats x 2 folds");

    let last = &results.cells[25];
    assert_eq!((last.training.as_str(), last.tested_on.as_slice()), ("A+B → C", &[Dataset::C][..]));
    assert_eq!(last.runs, [50.0, 100.0 * 31.0 / 60.0, 100.0 * 32.0 / 60.0, 55.0]);
    assert!((last.mean.unwrap() - 52.5).abs() < 1e-9);
    assert_eq!(last.per_class[0].mean, 65.0);
    assert_eq!(last.per_class[0].classes, [Class::Iiia]);
    assert!((last.std_over_classes.unwrap() - (37.5_f64).sqrt()).abs() < 1e-9);
    assert_eq!(last.verdict, Verdict::Lower);
    assert_eq!(results.cells[24].tested_on, [Dataset::A, Dataset::B]);

    assert_eq!(last.run_names, ["r0 f0", "r0 f1", "r1 f0", "r1 f1"]);
    assert_eq!(
        (last.image_accuracy, last.image_accuracy_by_score, last.macro_f1),
        (Some(50.0), Some(75.0), Some(62.5))
    );
    assert_eq!((last.train_images, last.test_images), (24.0, 6.0));
    // s² = 250/54 over 4 runs, times 1/4 + 6/24, by t = 3.182 of 3 degrees of freedom.
    let [low, high] = last.interval.unwrap();
    assert!((high - low - 2.0 * 3.182446 * (250.0_f64 / 54.0 / 2.0).sqrt()).abs() < 1e-4, "{low} {high}");
    assert!((last.difference.unwrap() - (52.5 - 80.76)).abs() < 1e-9);
    assert_eq!((last.within_printed_std, results.cells[0].within_printed_std), (Some(false), Some(false)));
    // Eighteen trainings of the same accuracies, each against another mean.
    let p = |cell: &domain::study::results::Cell| (cell.p.unwrap(), cell.p_adjusted.unwrap());
    let smallest = results.cells.iter().map(p).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert!((smallest.1 / smallest.0 - 18.0).abs() < 1e-9, "{smallest:?}");
    assert!(results.cells.iter().all(|cell| cell.p_adjusted >= cell.p && cell.detectable_difference.is_some()));
    let uncorrected = aggregate(root.path(), &Aggregate { correction: Correction::None, ..params(&[]) }).unwrap();
    assert!(uncorrected.cells.iter().all(|cell| cell.p_adjusted == cell.p));
    assert_eq!(last.p_by_paper_n.iter().map(|guess| guess.n).collect::<Vec<_>>(), [3, 5, 10, 30]);
    // Half of six images are right in every run.
    let [low, high] = last.image_interval.unwrap();
    assert!(low < 50.0 && high > 50.0 && low >= 0.0 && high <= 100.0);
    // Six recalls of four runs: 23 at 50 or the ones that grow.
    assert!(last.std_pooled.unwrap() > last.std.unwrap());
}

#[test]
fn a_field_that_a_cell_may_have_is_filled_by_some_study() {
    let filled = |cells: Value| -> BTreeSet<String> {
        let is_filled = |value: &Value| !value.is_null() && *value != json!([]);
        let cells = serde_json::from_value::<Vec<BTreeMap<String, Value>>>(cells).unwrap().into_iter().flatten();
        cells.filter(|(_, value)| is_filled(value)).map(|(name, _)| name).collect()
    };
    let root = study();
    let inputs = Folder::new(root.path()).inputs();
    for gone in ["B.r0.f0", "C.r0.f0", "C.r0.f1", "C.r1.f0"] {
        fs::remove_dir_all(inputs.join(format!("classify.SUR.{gone}"))).unwrap();
    }
    let path = inputs.join("classify.SUR.B.r0.f1/metrics.json");
    let mut record: Metrics = files::read(&path).unwrap();
    record.confusion[2] = vec![0; CLASSES];
    files::write(&path, &record).unwrap();
    let cells = filled(serde_json::to_value(aggregate(root.path(), &params(&[])).unwrap().cells).unwrap());
    let example: Value =
        serde_json::from_str(include_str!("../../../../domain/src/study/results/example.json")).unwrap();
    let lacking: Vec<String> = filled(example["cells"].clone()).difference(&cells).cloned().collect();
    // Tests of leaks have a study with one.
    assert_eq!(lacking, ["leaks"]);
}

#[test]
fn claims_are_checked_on_pairs_of_runs() {
    let root = study();
    let claims = aggregate(root.path(), &params(&[])).unwrap().claims;
    assert_eq!(claims.len(), 21);
    // All trainings have the same accuracies here: no difference, and no spread.
    assert_eq!((claims[0].pairs, claims[0].difference, claims[0].p), (4, Some(0.0), None));
    assert_eq!(claims[0].verdict.words(), "NOT SUPPORTED");
    let path = root.path().join("inputs/classify.SUR.A+B-C.r0.f0/metrics.json");
    files::write(&path, &metrics(View::Sur, &[Dataset::C], [6, 5, 5, 5, 5, 5])).unwrap();
    let claims = aggregate(root.path(), &params(&[])).unwrap().claims;
    assert!(claims[0].p.is_some_and(|p| p > 0.1));
    // Four differences of 0 to 2 points are surely not 6.
    assert_eq!((claims[3].id.as_str(), claims[3].verdict.words()), ("SUR-ccd", "CONTRADICTED"));
    let on_stand_ins = aggregate(root.path(), &params(&["drawn pictures"])).unwrap().claims;
    assert_eq!((on_stand_ins[3].verdict.words(), on_stand_ins[3].difference), ("NOT COMPARABLE", claims[3].difference));
}

#[test]
fn a_test_split_without_a_class_says_nothing_of_that_class() {
    let root = study();
    let path = root.path().join("inputs/classify.SUR.B.r0.f0/metrics.json");
    let mut record: Metrics = files::read(&path).unwrap();
    record.confusion[2] = vec![0; CLASSES];
    files::write(&path, &record).unwrap();
    let cell = &aggregate(root.path(), &params(&[])).unwrap().cells[0];
    assert_eq!((cell.per_class.len(), cell.per_class[2].mean), (6, 50.0));
    let untested = Untested { classes: vec![Dataset::B.classes()[2]], runs: vec!["r0 f0".to_owned()] };
    assert_eq!(cell.untested, [untested]);
    // The other three runs: 31, 32 and 33 of 60.
    assert!((cell.mean_of_full_runs.unwrap() - 100.0 * 32.0 / 60.0).abs() < 1e-9);
    assert!(cell.mean_of_full_runs > cell.mean);
    for run in ["r0.f1", "r1.f0", "r1.f1"] {
        fs::remove_dir_all(root.path().join(format!("inputs/classify.SUR.B.{run}"))).unwrap();
    }
    let cell = &aggregate(root.path(), &params(&[])).unwrap().cells[0];
    assert_eq!(cell.per_class.iter().map(|class| class.label).collect::<Vec<_>>(), [0, 1, 3, 4, 5]);
    assert_eq!((cell.n, cell.interval, cell.verdict), (1, None, Verdict::Consistent));
    assert_eq!(cell.why.as_deref(), Some("one run has no interval"));
    assert_eq!(cell.mean_of_full_runs, None);
}

#[test]
fn the_other_scores_are_per_view() {
    let root = study();
    let results = aggregate(root.path(), &params(&[])).unwrap();
    assert_eq!((results.drift.len(), results.sifid.len(), results.heatmap.len()), (10, 2, 2));
    assert_eq!(results.generators.len(), 12);
    assert_eq!(results.generators[0].foreground, 0.5);
    assert_eq!(results.sifid[0].mean, Some(2.5));
    assert!((results.sifid[0].std.unwrap() - 3.5_f64.sqrt()).abs() < 1e-9);
    // Five properties of the same values, of which the paper prints 0.142, 0.124, 0.06, 0.112 and 0.094.
    let score = &results.drift[0];
    assert!((score.ks.unwrap() - 2.0 / 15.0).abs() < 1e-9 && score.passed == Some(true));
    let [low, high] = score.interval.unwrap();
    // By an independent program: 2000 resamples, and all orders counted.
    assert!((low - 0.041).abs() < 0.02 && (high - 0.248).abs() < 0.02, "{low} {high}");
    assert!((score.p_null.unwrap() - 0.498_680_663).abs() < 1e-8, "{:?}", score.p_null);
    assert!((score.p_threshold.unwrap() - 0.26).abs() < 0.05, "{:?}", score.p_threshold);
    assert_eq!(score.verdict, Verdict::Consistent);
    // The paper's best score is one that chance hardly ever gives: 0.055 in view SEC.
    let best = results.drift.iter().find(|score| score.paper == 0.055).unwrap();
    assert!(best.p_null_paper.unwrap() < 0.002, "{:?}", best.p_null_paper);
}

#[test]
fn drift_is_judged_by_its_own_interval() {
    let root = study();
    let path = root.path().join("inputs/drift.SUR/drift.json");
    let mut record: DriftRecord = files::read(&path).unwrap();
    // Nothing in common, and all in common.
    record.properties[0].synthetic.iter_mut().for_each(|value| *value += 1000.0);
    record.properties[0].ks = Some(1.0);
    let count = record.properties[1].synthetic.len();
    record.properties[1].synthetic = record.properties[1].real.iter().copied().cycle().take(count).collect();
    record.properties[1].ks = Some(0.0);
    files::write(&path, &record).unwrap();
    let results = aggregate(root.path(), &params(&[])).unwrap();
    let of = |property: usize| (results.drift[property].verdict, results.drift[property].interval.unwrap());
    assert_eq!(of(0), (Verdict::Higher, [1.0, 1.0]));
    assert!(of(1).1[0] == 0.0 && results.drift[1].p_null == Some(1.0), "{:?}", of(1));
    let drift = results.claims.iter().find(|claim| claim.id == "drift").unwrap();
    assert_eq!((drift.pairs, drift.difference, drift.verdict.words()), (10, Some(1.0), "CONTRADICTED"));
}

#[test]
fn scores_that_cannot_be_had_are_absent_with_their_reason() {
    let root = study();
    let inputs = root.path().join("inputs");
    let absent = |name: &str, file: &str| {
        let why = Absent { absent: format!("no {name}") };
        files::write(&inputs.join(name).join(file), &why).unwrap();
    };
    absent("drift.SEC", "drift.json");
    absent("heatmap.SUR", "heatmap.json");
    absent("sifid.SUR.IVa", "sifid.json");
    // An older drift record of a view whose distance was not a number, and a newer one of few pictures.
    let path = inputs.join("drift.SUR/drift.json");
    let mut record: Value = files::value(&path).unwrap();
    record["properties"][0]["emd"] = json!(null);
    files::write(&path, &record).unwrap();
    (record["properties"][0]["ks"], record["properties"][0]["why"]) = (json!(null), json!("needs at least 10"));
    files::write(&inputs.join("ddpm-drift.SUR.IVa/drift.json"), &record).unwrap();
    absent("ddpm-sifid.SUR.IVa", "sifid.json");
    let heatmap: Value = files::value(&inputs.join("heatmap.SEC/heatmap.json")).unwrap();
    files::write(&inputs.join("ddpm-heatmap.SUR.IVa/heatmap.json"), &heatmap).unwrap();
    let mut not_a_number: Value = files::value(&inputs.join("sifid.SEC.Ia/sifid.json")).unwrap();
    not_a_number["mean"] = json!(null);
    files::write(&inputs.join("sifid.SEC.Ia/sifid.json"), &not_a_number).unwrap();

    let results = aggregate(root.path(), &params(&[])).unwrap();
    assert!(results.cells.iter().all(|cell| cell.mean.is_some()));
    assert_eq!(
        (results.drift[0].emd, results.drift[0].why.as_deref()),
        (None, Some("not a number; see drift.json of that task"))
    );
    assert!(results.drift[0].ks.is_some());
    let of_sec = &results.drift[5..];
    assert!(
        of_sec.iter().all(|score| score.ks.is_none() && score.passed.is_none() && score.verdict == Verdict::NotRun)
    );
    assert!(of_sec.iter().all(|score| score.why.as_deref() == Some("no drift.SEC")));
    let [sur, sec] = results.sifid.as_slice() else { panic!("{:?}", results.sifid) };
    assert_eq!((sur.mean, sur.std, sur.per_class.len()), (None, None, 5));
    assert_eq!(sur.why.as_deref(), Some("IVa: no sifid.SUR.IVa"));
    assert_eq!(sec.why.as_deref(), Some("Ia: mean is not a number; see sifid.json of that task"));
    assert_eq!((results.heatmap[0].mean_difference, results.heatmap[0].why.as_deref()), (None, Some("no heatmap.SUR")));
    let [ddpm] = results.compared.as_slice() else { panic!("{:?}", results.compared) };
    assert_eq!((ddpm.drift[0].1, ddpm.sifid, ddpm.mean_difference), (None, None, Some(3.0)));
    assert_eq!(
        (ddpm.why["drift"].as_str(), ddpm.why["sifid"].as_str()),
        ("needs at least 10", "no ddpm-sifid.SUR.IVa")
    );
    assert!(!ddpm.why.contains_key("heatmap"));
    let drift = results.claims.iter().find(|claim| claim.id == "drift").unwrap();
    assert_eq!((drift.verdict.words(), drift.note.is_some()), ("NOT RUN", true));
}

#[test]
fn beside_what_rests_on_synthetic_pictures_stands_the_share_that_passes() {
    let root = study();
    let folder = Folder::new(root.path());
    for (kind, from) in
        [("drift", "drift.SEC"), ("heatmap", "heatmap.SEC"), ("sifid", "sifid.SEC.IVc"), ("samples", "samples.SEC.IVa")]
    {
        let bytes = fs::read(folder.inputs().join(from).join(format!("{kind}.json"))).unwrap();
        files::write_bytes(&folder.inputs().join(format!("ddpm-{kind}.SEC.Ia")).join(format!("{kind}.json")), &bytes)
            .unwrap();
    }
    let results = aggregate(root.path(), &params(&[])).unwrap();
    let first = &results.generators[0];
    assert_eq!((first.samples, first.passed, first.drawn), (2, Some(1), Some(12)));
    assert_eq!(first.faults, [(Fault::Empty, 1), (Fault::Size, 1)].into());
    assert_eq!((results.generators[5].passed, results.generators[5].drawn), (Some(2), None));
    // Of six models of two samples, two have one that does not pass.
    let share = Some(10.0 / 12.0);
    let with: Vec<&str> =
        results.cells.iter().filter(|cell| cell.passing == share).map(|cell| cell.id.as_str()).take(8).collect();
    assert_eq!(with, ["SUR-1-1", "SUR-4-1", "SUR-4-2", "SUR-5-2", "SUR-6-1", "SUR-6-2", "SUR-8-1", "SUR-8-2"]);
    assert_eq!(results.cells.iter().filter(|cell| cell.passing.is_none()).count(), 26 - 16);
    assert!(results.drift.iter().all(|score| score.passing == share));
    assert!(results.sifid.iter().all(|score| score.passing == share));
    assert!(results.heatmap.iter().all(|score| score.passing == share));
    assert!(results.claims.iter().filter(|claim| claim.id.contains("synthetic")).all(|claim| claim.passing == share));
    assert_eq!(results.compared[0].passing, Some(0.5));
}

#[test]
fn samples_of_models_that_tell_nothing_of_what_they_learnt_from_are_not_judged() {
    let root = study();
    for view in View::ALL {
        for class in Dataset::A.classes() {
            let path = root.path().join(format!("inputs/samples.{view}.{class}/samples.json"));
            // As written before there was a gate.
            let old = json!({ "size": [4, 4], "foreground": [0.25, 0.75], "empty": 1, "determinism": "bitwise" });
            files::write(&path, &old).unwrap();
        }
    }
    let results = aggregate(root.path(), &params(&[])).unwrap();
    assert!(results.cells.iter().all(|cell| cell.passing.is_none()) && results.gate(View::Sur).is_none());
    assert_eq!((results.generators[0].passed, results.generators[0].faults.len()), (None, 0));
}

#[test]
fn stand_ins_are_never_judged_against_the_paper() {
    let root = study();
    let results = aggregate(root.path(), &params(&["drawn pictures"])).unwrap();
    assert!(!results.comparable);
    assert!(results.cells.iter().all(|cell| cell.verdict == Verdict::NotComparable));
    assert!(results.cells.iter().all(|cell| cell.p_equivalent.is_none() && cell.p_by_paper_n.is_empty()));
    assert!(results.drift.iter().all(|score| score.verdict == Verdict::NotComparable));
    assert!(results.sifid.iter().all(|score| score.verdict == Verdict::NotComparable));
}

#[test]
fn missing_runs_are_not_counted() {
    let root = study();
    let inputs = root.path().join("inputs");
    fs::remove_dir_all(inputs.join("classify.SUR.B.r0.f1")).unwrap();
    for run in ["r0.f0", "r0.f1", "r1.f0", "r1.f1"] {
        fs::remove_dir_all(inputs.join(format!("classify.SUR.C.{run}"))).unwrap();
    }
    fs::remove_dir_all(inputs.join("sifid.SUR.Ia")).unwrap();
    let results = aggregate(root.path(), &params(&[])).unwrap();
    assert_eq!((results.cells[0].n, results.cells[0].n_asked), (3, 4));
    assert_eq!((results.cells[0].missing.as_slice(), results.cells[0].runs.len()), (&["r0 f1".to_owned()][..], 3));
    assert_eq!(results.cells[2].missing, ["r0 f0", "r0 f1", "r1 f0", "r1 f1"]);
    let none = &results.cells[2];
    assert_eq!((none.n, none.mean, none.std, none.std_over_classes), (0, None, None, None));
    assert_eq!(none.verdict, Verdict::NotRun);
    assert_eq!((results.sifid[0].mean, results.sifid[0].why.as_deref()), (None, Some("Ia: not computed")));
}

#[test]
fn what_is_not_a_number_is_named() {
    let root = study();
    let path = root.path().join("inputs/classify.SEC.A+B-C.r1.f0/metrics.json");
    let mut record: Value = files::value(&path).unwrap();
    record["train_loss"] = json!(null);
    files::write(&path, &record).unwrap();
    let failure = aggregate(root.path(), &params(&[])).unwrap_err();
    assert_eq!(failure.code, FailureCode::NotANumber);
    assert!(failure.message.contains("classify.SEC.A+B-C.r1.f0: train_loss"), "{failure}");
}

#[test]
fn metrics_in_the_wrong_folder_are_refused() {
    let root = study();
    let path = root.path().join("inputs/classify.SUR.B.r0.f0/metrics.json");
    files::write(&path, &metrics(View::Sec, &[Dataset::B], [5; CLASSES])).unwrap();
    assert_eq!(aggregate(root.path(), &params(&[])).unwrap_err().code, FailureCode::Internal);
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let root = study();
    aggregate(root.path(), &params(&[])).unwrap();
    let path = root.path().join("outputs/results.json");
    let once = fs::read(&path).unwrap();
    aggregate(root.path(), &params(&[])).unwrap();
    assert_eq!(once, fs::read(&path).unwrap());
}

#[test]
fn several_protocols_make_a_table_each() {
    let root = study();
    let folder = Folder::new(root.path());
    let fixed = Trials { protocol: Protocol::FixedSplit, repeats: 3, folds: 1 };
    for trial in Trial::of_view(fixed, View::Sur).take(2) {
        let name = InputName::MetricsOf(trial, Training { first: FirstStep::One(Dataset::B), second: None });
        files::write(&folder.input(name).join("metrics.json"), &metrics(View::Sur, &[Dataset::B], [8; CLASSES]))
            .unwrap();
    }
    let results = aggregate(root.path(), &Aggregate { trials: vec![TRIALS, fixed], ..params(&[]) }).unwrap();
    assert_eq!((results.protocol, results.cells[0].n), (Protocol::RepeatedCv, 4));
    let [other] = results.others.as_slice() else { panic!("{:?}", results.others) };
    assert_eq!((other.protocol, other.cells[0].mean, other.cells[0].n), (Protocol::FixedSplit, Some(80.0), 2));
    assert_eq!(
        (other.cells[0].run_names.as_slice(), &other.cells[0].missing[..]),
        (&["r0 s0".to_owned(), "r1 s0".to_owned()][..], &["r2 s0".to_owned()][..])
    );
    assert!(other.spread.ends_with("over 3 trainings on one split: seeds only"));
    assert_eq!((results.varied, other.varied), (Varied::PicturesAndSeeds, Varied::SeedsOnly));
    // What no protocol changes is told once.
    assert_eq!((results.claims.len(), other.claims.len()), (21, 18));
}

#[test]
fn a_spread_of_seeds_has_no_correction_for_splits() {
    let root = study();
    let folder = Folder::new(root.path());
    let fixed = Trials { protocol: Protocol::FixedSplit, repeats: 3, folds: 1 };
    for trial in Trial::of_view(fixed, View::Sur) {
        let repeat = trial.repeat;
        for (dataset, right) in [(Dataset::B, 5), (Dataset::A, 6)] {
            let name = InputName::MetricsOf(trial, Training { first: FirstStep::One(dataset), second: None });
            let record = metrics(View::Sur, &[dataset], [right + repeat, 5, 5, 5, 5, 5 + (repeat * right) % 2]);
            files::write(&folder.input(name).join("metrics.json"), &record).unwrap();
        }
    }
    let results = aggregate(root.path(), &Aggregate { trials: vec![fixed], ..params(&[]) }).unwrap();
    let cell = &results.cells[0];
    let [low, high] = cell.interval.unwrap();
    // t of 2 degrees of freedom is 4.303, and the variance that of three runs alone.
    assert_eq!(cell.split_correction, 0.0);
    assert!((high - low - 2.0 * 4.302_653 * cell.std.unwrap() / 3.0_f64.sqrt()).abs() < 1e-4);
    let claim = results.claims.iter().find(|claim| claim.id == "SUR-B-like-A").unwrap();
    let differences: Vec<f64> = cell.runs.iter().zip(&results.cells[1].runs).map(|(b, a)| b - a).collect();
    let [low, high] = claim.interval.unwrap();
    let width = 2.0 * 4.302_653 * sample_std(&differences).unwrap() / 3.0_f64.sqrt();
    assert!((high - low - width).abs() < 1e-4, "{low} {high} {width}");
    // Of repeated splits both stand in the correction.
    let results = aggregate(root.path(), &params(&[])).unwrap();
    assert_eq!(results.cells[0].split_correction, 0.25);
}
