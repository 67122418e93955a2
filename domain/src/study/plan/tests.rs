use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::id::{ArtifactId, TaskKey};
use crate::study::experiment::{DdpmModels, MultiImage, PatchSource, Protocol};
use crate::study::pretrained::Pretrained;
use crate::study::stone::{Class, View};

fn paper_plan() -> Plan {
    plan(&Experiment::default(), &Data::of_the_paper()).unwrap()
}

#[test]
fn the_shape_of_the_study_is_the_papers() {
    let plan = paper_plan();
    let count = |name| plan.by_stage().into_iter().find(|(stage, _)| stage.name() == name).unwrap().1;
    assert_eq!(count("ingest"), 4);
    for stage in ["pad", "sinddm.train", "sinddm.sample", "upscale", "evaluate.sifid"] {
        assert_eq!(count(stage), 12, "{stage}");
    }
    assert_eq!(count("evaluate.drift"), 2);
    assert_eq!(count("evaluate.heatmap"), 2);
    assert_eq!(count("patches"), 6 * 2 * 5);
    assert_eq!(count("classify.train"), 9 * 2 * 2 * 5);
    assert_eq!(count("aggregate") + count("report"), 2);
}

#[test]
fn protocols_share_what_they_have_in_common() {
    let trainings = |protocols: &[Protocol]| {
        let mut experiment = Experiment::default();
        experiment.tl.protocol = protocols.to_vec();
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.kind().name() == name).count();
        (of("classify.train"), of("patches"), of("sinddm.train"))
    };
    assert_eq!(trainings(&[Protocol::FixedSplit]), (9 * 2 * 5, 6, 12));
    assert_eq!(trainings(&[Protocol::Resplit]), (9 * 2 * 5, 6 * 5, 12));
    // The first training of each is the same.
    assert_eq!(trainings(&[Protocol::FixedSplit, Protocol::Resplit]), (9 * 2 * 9, 6 * 5, 12));
    let all = [Protocol::RepeatedCv, Protocol::FixedSplit, Protocol::Resplit];
    assert_eq!(trainings(&all), (9 * 2 * (10 + 9), 6 * (10 + 5), 12));
}

#[test]
fn every_task_comes_after_what_it_needs_and_no_key_stands_twice() {
    let plan = paper_plan();
    let mut seen = BTreeSet::new();
    for task in &plan.tasks {
        assert!(task.needs().all(|key| seen.contains(&key)), "{}", task.label());
        assert!(task.key_is_right());
        assert!(seen.insert(task.key), "{} stands twice", task.label());
    }
}

/// Plans as they were released: for each change to the paper's study, digests of all keys,
/// and of what the tasks and their inputs are called. Whoever changes one of them makes
/// stored results unknown: a stage that computes something else has a new version instead.
#[test]
fn keys_and_names_of_planned_tasks_are_those_of_the_released_form() {
    type Change = fn(&mut Experiment);
    let changes: [(&str, Change); 8] = [
        ("the paper's", |_| {}),
        ("a plain model a view", |it| it.ddpm.models = DdpmModels::PerView),
        ("a plain model a class", |it| it.ddpm.models = DdpmModels::PerClassView),
        ("a model a picture", |it| it.sinddm.multi_image = MultiImage::PerImage),
        ("a mosaic", |it| it.sinddm.multi_image = MultiImage::Mosaic),
        ("a network of one's own", |it| it.upscale.weights = crate::study::experiment::UpscaleWeights::Trained),
        ("drift from all pictures", |it| it.drift.reference = crate::study::experiment::DriftReference::AllA),
        ("other protocols", |it| it.tl.protocol = vec![Protocol::FixedSplit, Protocol::Resplit]),
    ];
    let mut planned = BTreeSet::from([StageKind::Command]);
    let line = |(name, change): (&str, Change)| {
        let mut experiment = Experiment::default();
        change(&mut experiment);
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        for task in &plan.tasks {
            planned.insert(task.stage.kind());
            assert_eq!(serde_json::to_value(&task.stage).unwrap()["stage"], task.stage.kind().name());
        }
        let names: Vec<_> = plan.tasks.iter().map(|task| (task.label(), &task.inputs)).collect();
        let short = |digest: Digest| digest.to_string()[..12].to_owned();
        format!(
            "{name}: {} tasks, keys {}, names {}\n",
            names.len(),
            short(plan.id().0),
            short(Digest::of_json(&names))
        )
    };
    let computed: String = changes.into_iter().map(line).collect();
    assert_eq!(planned, StageKind::ALL.iter().copied().collect(), "a stage is in none of these plans");
    assert!(computed == include_str!("released.txt"), "released.txt is not what is computed:\n{computed}");
}

#[test]
fn a_key_changes_with_what_determines_the_result_and_with_nothing_else() {
    let keys = |experiment: &Experiment| -> BTreeMap<String, TaskKey> {
        let plan = plan(experiment, &Data::of_the_paper()).unwrap();
        plan.tasks.iter().map(|task| (task.label(), task.key)).collect()
    };
    let base = keys(&Experiment::default());
    let (mut other, mut gated) = (Experiment::default(), Experiment::default());
    other.sampling.omega = 0.1;
    // A knob of the section `sinddm` that only sampling reads.
    gated.sinddm.reject_empty = true;
    for (changed, (label, key)) in
        [keys(&other), keys(&gated)].iter().flat_map(|changed| base.iter().map(move |it| (changed, it)))
    {
        let same = ["ingest", "pad", "sinddm.train", "patches A", "patches C", "classify.train SUR A repeat"];
        let expect_same = same.iter().any(|prefix| label.starts_with(prefix))
            || label.starts_with("classify.train SUR C ")
            || label.starts_with("classify.train SUR A-C ")
            || label.starts_with("classify.train SEC A ")
            || label.starts_with("classify.train SEC C ")
            || label.starts_with("classify.train SEC A-C ");
        assert_eq!(changed[label] == *key, expect_same, "{label}");
    }
}

#[test]
fn how_patches_are_cut_changes_those_of_the_data_sets_concerned() {
    let changed = |change: fn(&mut Experiment)| {
        let mut experiment = Experiment::default();
        change(&mut experiment);
        let (before, after) = (paper_plan(), plan(&experiment, &Data::of_the_paper()).unwrap());
        let differs = |(before, after): &(&TaskSpec, &TaskSpec)| {
            before.key != after.key && !matches!(before.stage.kind().name(), "classify.train" | "aggregate" | "report")
        };
        let pairs = before.tasks.iter().zip(&after.tasks).filter(differs);
        // In each split alike.
        let names = pairs.map(|(task, _)| task.label().split(" split").next().unwrap().to_owned());
        names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
    };
    assert_eq!(changed(|it| it.patch.source_a = PatchSource::Padded), "patches A/SEC, patches A/SUR");
    // No diffusion model depends on who is tested.
    let all = "patches A/SEC, patches A/SUR, patches B/SEC, patches B/SUR, patches C/SEC, patches C/SUR";
    assert_eq!(changed(|it| it.patch.split_seed = Some(5)), all);
}

#[test]
fn plain_diffusion_models_are_planned_where_they_are_asked_for() {
    let count = |models| {
        let mut experiment = Experiment::default();
        experiment.ddpm.models = models;
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.kind().name() == name).count();
        assert_eq!(of("ddpm.train"), of("ddpm.sample"));
        let samples = plan.tasks.iter().map(|task| match &task.stage {
            Stage::DdpmSample { sampling } => sampling.per_class_view,
            _ => 0,
        });
        (of("ddpm.train"), of("evaluate.drift"), samples.sum::<u32>())
    };
    assert_eq!(count(DdpmModels::None), (0, 2, 0));
    assert_eq!(count(DdpmModels::PerView), (2, 4, 300));
    assert_eq!(count(DdpmModels::PerClassView), (12, 14, 300));
}

#[test]
fn each_picture_may_have_a_model_of_its_own() {
    let mut experiment = Experiment::default();
    experiment.sinddm.multi_image = MultiImage::PerImage;
    let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
    let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.kind().name() == name).collect::<Vec<_>>();
    assert_eq!(
        (of("sinddm.train").len(), of("sinddm.sample").len()),
        (96, 12),
        "A/SEC/Va has 11 pictures, of which one has to be left to test"
    );
    assert_eq!(of("sinddm.sample")[0].inputs.iter().len(), 8);
    let pad = of("sinddm.train")[3].inputs.get("pad").unwrap();
    assert_eq!(pad.only, ["images/003.png", "pad.json"]);
    assert_ne!(of("sinddm.train")[3].key, of("sinddm.train")[4].key);
}

#[test]
fn masks_and_stones_change_the_tasks_that_use_them_and_no_others() {
    let plan_of = |data: &Data| plan(&Experiment::default(), data).unwrap();
    let (before, mut data) = (paper_plan(), Data::of_the_paper());
    data.classes[0].masks = Some(ArtifactId(Digest::of(b"masks")));
    data.classes[0].stones = [("1.png", 0), ("2.png", 0), ("3.png", 1)].map(|(name, n)| (name.to_owned(), n)).into();
    let json = serde_json::to_value(&data).unwrap();
    assert_eq!(serde_json::from_value::<Data>(json).unwrap(), data);
    let RawClass { dataset, view, class, images, .. } = data.classes[0].clone();
    assert_eq!((dataset, view, data.classes[0].spare()), (Dataset::A, View::Sur, images - 1));
    let after = plan_of(&data);
    let of = |plan: &Plan, label: &str| plan.tasks.iter().find(|task| task.label() == label).unwrap().clone();
    for label in ["ingest A/SUR", "patches A/SUR split 0 fold 0"] {
        let task = of(&after, label);
        let masks = task.inputs.get(&format!("masks.{class}")).map(|input| input.from);
        assert_eq!(masks, Some(Source::Artifact(ArtifactId(Digest::of(b"masks")))));
        assert_ne!(task.key, of(&before, label).key);
    }
    // Of the generators, the one whose pictures the stones are of.
    assert_ne!(
        of(&after, &format!("sinddm.train SUR/{class}")).key,
        of(&before, &format!("sinddm.train SUR/{class}")).key
    );
    for label in [
        "ingest C/SUR",
        "patches A/SEC split 0 fold 0",
        "patches C/SUR split 1 fold 4",
        "pad SUR/Va",
        "sinddm.train SUR/IVd",
    ] {
        assert_eq!(of(&after, label).key, of(&before, label).key, "{label}");
    }
    data.classes[0].stones.clear();
    let masked = plan_of(&data);
    let label = format!("sinddm.train SUR/{class}");
    assert_eq!(of(&masked, &label).key, of(&before, &label).key, "masks say nothing to a generator");
}

#[test]
fn a_generator_depends_on_its_own_pictures_and_knobs_alone() {
    let keys = |change: fn(&mut Experiment, &mut Data)| {
        let (mut experiment, mut data) = (Experiment::default(), Data::of_the_paper());
        change(&mut experiment, &mut data);
        let plan = plan(&experiment, &data).unwrap();
        let of =
            |task: &&TaskSpec| matches!(task.stage.kind().name(), "pad" | "sinddm.train" | "sinddm.sample" | "upscale");
        plan.tasks.iter().filter(of).map(|task| (task.label(), task.key)).collect::<BTreeMap<_, _>>()
    };
    let base = keys(|_, _| {});
    let same: [fn(&mut Experiment, &mut Data); 8] = [
        |it, _| it.tl.protocol = vec![Protocol::FixedSplit],
        |it, _| it.tl.folds = 2,
        |it, _| it.patch.size = 64,
        |it, _| it.patch.split_seed = Some(1),
        |it, _| it.sampling.batch = 3,
        |it, _| it.sinddm.micro_batch = Some(2),
        |it, _| it.upscale.training.lr = 0.5,
        // A class of C.
        |_, data| data.classes.last_mut().unwrap().artifact = ArtifactId(Digest::of(b"other")),
    ];
    for (number, change) in same.into_iter().enumerate() {
        assert_eq!(keys(change), base, "change {number}");
    }
    let other_class = keys(|_, data| data.classes[0].artifact = ArtifactId(Digest::of(b"other")));
    let changed: Vec<&String> = base.keys().filter(|label| other_class[*label] != base[*label]).collect();
    assert_eq!(changed, ["pad SUR/IVa", "sinddm.sample SUR/IVa", "sinddm.train SUR/IVa", "upscale SUR/IVa"]);
}

#[test]
fn every_run_has_a_seed_of_its_own_and_views_differ_under_one_seed_for_the_pick() {
    let plan_of = |experiment: &Experiment| plan(experiment, &Data::of_the_paper()).unwrap();
    let mut experiment = Experiment::default();
    experiment.sinddm.pick_seed = Some(5);
    let plan = plan_of(&experiment);
    let trained = |task: &&TaskSpec| matches!(task.stage, Stage::ClassifyTrain(_));
    let seeds: BTreeSet<u64> = plan.tasks.iter().filter(trained).map(|task| task.seed.0).collect();
    assert_eq!(seeds.len(), 9 * 2 * 2 * 5);
    let choices = |plan: &Plan| -> BTreeSet<u64> {
        let of = |task: &TaskSpec| match &task.stage {
            Stage::Ingest(ingest) => ingest.choice.map(|choice| choice.seed.0),
            Stage::Pad(canvases) => canvases.choice.map(|choice| choice.seed.0),
            _ => None,
        };
        plan.tasks.iter().filter_map(of).collect()
    };
    // One for each view: the pad and the ingest of a view choose alike.
    assert_eq!(choices(&plan).len(), 2);
    assert!(choices(&plan).is_disjoint(&choices(&plan_of(&Experiment::default()))));
}

#[test]
fn classes_that_some_folds_do_not_test_are_named() {
    let of = |folds| {
        let mut experiment = Experiment::default();
        experiment.tl.folds = folds;
        untested(&experiment, &Data::of_the_paper())
    };
    assert_eq!(of(2), Vec::<String>::new());
    assert_eq!(
        of(5),
        [
            "A/SEC/Va: 3 of its pictures may be tested, so 2 of 5 folds do not test it",
            "C/SEC/IVd: 4 of its pictures may be tested, so 1 of 5 folds do not test it",
        ]
    );
}

#[test]
fn generators_that_get_too_few_pictures_are_named() {
    let mut data = Data::of_the_paper();
    assert_eq!(short_generators(&Experiment::default(), &data), Vec::<String>::new());
    let class = data.classes.iter_mut().find(|raw| raw.images == 11).unwrap();
    class.images = 7;
    let said = "the diffusion model of SEC/Va learns from 6 pictures, not 8: the class has 7";
    assert_eq!(short_generators(&Experiment::default(), &data), [said]);
    assert!(stand_ins(&Experiment::default(), &data).contains(&said.to_owned()));
    let class = data.classes.iter_mut().find(|raw| raw.images == 7).unwrap();
    class.stones = (0..7).map(|image| (format!("{image}.png"), image / 3)).collect();
    assert_eq!(class.spare(), 6);
    class.stones.insert("6.png".to_owned(), 1);
    assert_eq!(class.spare(), 4);
    let mut leaky = Experiment::default();
    leaky.sinddm.pick = crate::study::experiment::Pick::RandomFromAll;
    assert!(short_generators(&leaky, &data)[0].contains("learns from 7 pictures"));
}

/// The table of keys.txt, computed: knob, what is set beside it, its other value, and
/// what of the paper's plan is re-keyed.
#[test]
fn each_knob_rekeys_the_tasks_that_depend_on_it_and_no_others() {
    let resolve =
        |sets: &[String]| crate::study::overrides::resolve(crate::study::experiment::Scale::Paper, None, sets).unwrap();
    let plan_of = |sets: &[String]| plan(&resolve(sets), &Data::of_the_paper()).unwrap();
    let ledger = crate::study::experiment::knobs::ledger();
    let execution: BTreeSet<&str> =
        ledger.iter().filter(|entry| entry.kind == "execution").map(|entry| entry.knob).collect();
    let text = include_str!("keys.txt");
    let mut computed = String::new();
    let mut listed = BTreeSet::new();
    let mut bases: BTreeMap<Vec<String>, BTreeSet<TaskKey>> = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with('#') {
            computed += &format!("{line}\n");
            continue;
        }
        let [knob, with, other, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else { continue };
        listed.insert(knob.to_owned());
        let beside: Vec<String> = with.split_whitespace().map(str::to_owned).collect();
        let base =
            bases.entry(beside.clone()).or_insert_with(|| plan_of(&beside).tasks.iter().map(|task| task.key).collect());
        let changed = plan_of(&beside.into_iter().chain([format!("{knob}={other}")]).collect::<Vec<_>>());
        let mut counts: Vec<(StageKind, usize, usize)> = vec![];
        for (stage, all) in changed.by_stage() {
            let of_stage = changed.tasks.iter().filter(|task| task.stage.kind() == stage);
            counts.push((stage, of_stage.filter(|task| !base.contains(&task.key)).count(), all));
        }
        let rekeyed = counts.into_iter().filter(|(_, new, _)| *new > 0);
        let rekeyed: Vec<String> = rekeyed.map(|(stage, new, all)| format!("{stage} {new}/{all}")).collect();
        let rekeyed = if rekeyed.is_empty() { "nothing".to_owned() } else { rekeyed.join(", ") };
        let is_read = rekeyed != "nothing" || execution.contains(knob);
        assert!(is_read, "{knob} = {other} re-keys nothing: no stage has it among its parameters");
        computed += &format!("{knob} | {with} | {other} | {rekeyed}\n");
    }
    let pinned = paper_plan();
    for stage in ["pad", "sinddm.train", "upscale", "patches", "classify.train"] {
        let first = pinned.tasks.iter().find(|task| task.stage.kind().name() == stage).unwrap();
        computed += &format!("key of {}: {}\n", first.label(), first.key);
    }
    computed += &format!("key of the plan: {}\n", pinned.id());
    let knobs: BTreeSet<String> = crate::study::experiment::knobs::all().map(|knob| knob.name.to_owned()).collect();
    assert_eq!(listed, knobs, "keys.txt lists each knob");
    assert!(computed == text, "keys.txt is not what is computed:\n{computed}");
}

#[test]
fn a_missing_class_is_named() {
    let mut data = Data::of_the_paper();
    data.classes.retain(|raw| (raw.view, raw.class) != (View::Sec, Class::Ivd) || raw.dataset == Dataset::A);
    let error = plan(&Experiment::default(), &data).unwrap_err();
    assert_eq!(error.to_string(), "no pictures of class IVd in data set C, view SEC");
}

#[test]
fn data_with_the_papers_counts_may_be_compared_and_others_not() {
    assert_eq!(Data::of_the_paper().stand_ins(), Vec::<String>::new());
    let mut data = Data::of_the_paper();
    // The paper prints totals; counts by class come from elsewhere.
    data.classes[0].images += 1;
    data.classes[1].images -= 1;
    assert_eq!((data.stand_ins(), data.unlike_earlier_work().is_some()), (vec![], true));
    data.classes[1].images += 1;
    assert_eq!(data.stand_ins(), ["not the paper's data: A/SUR has 210 pictures, the paper's 209"]);
    data.stand_in = Some("drawings".to_owned());
    assert_eq!(data.stand_ins(), ["stand-in data: drawings"]);
    data.unpublished.insert(Pretrained::Resnet50V2);
    assert_eq!(data.stand_ins()[1], "the weights resnet50-imagenet1k-v2 are not those of the published file");
}

#[test]
fn a_network_of_ones_own_is_trained_once_a_view_and_enlarges_all_its_samples() {
    let mut experiment = Experiment::default();
    experiment.upscale.weights = crate::study::experiment::UpscaleWeights::Trained;
    let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
    let of = |stage: &str| plan.tasks.iter().filter(|task| task.stage.kind().name() == stage).collect::<Vec<_>>();
    let trained = of("swin2sr.train");
    assert_eq!(trained.iter().map(|task| task.inputs.iter().len()).collect::<Vec<_>>(), [6, 6]);
    assert!(matches!(trained[0].stage, Stage::Swin2srTrain { size: [1056, 800], .. }));
    let reads = |task: &&TaskSpec| task.inputs.get("model").map(|input| input.from);
    let read: Vec<_> = of("upscale").iter().map(reads).collect();
    assert_eq!((read[0], read[11]), (Some(Source::Task(trained[0].key)), Some(Source::Task(trained[1].key))));
    assert!(of("upscale").iter().all(|task| task.inputs.get("weights").is_none()));
}

#[test]
fn tasks_read_the_weights_that_they_start_from_and_no_others() {
    let of_the_paper = Data::of_the_paper();
    let plan_of = |experiment: &Experiment| plan(experiment, &of_the_paper).unwrap();
    let reads = |plan: &Plan| -> BTreeMap<String, ArtifactId> {
        let read = plan.tasks.iter().filter_map(|task| match task.inputs.get("weights")?.from {
            Source::Artifact(artifact) => Some((task.label(), artifact)),
            Source::Task(_) => None,
        });
        read.collect()
    };
    let read = reads(&paper_plan());
    // 12 upscale, 12 sifid, and the 4 first steps of 9 trainings.
    assert_eq!(read.len(), 12 + 12 + 4 * 2 * 2 * 5);
    assert_eq!(read["upscale SUR/IVa"], Data::unknown(Pretrained::Swin2srCompressed));
    assert_eq!(read["evaluate.sifid SUR/IVa"], Data::unknown(Pretrained::InceptionV3));
    assert_eq!(read["classify.train SUR A+B repeat 0 fold 0"], Data::unknown(Pretrained::Resnet50V2));
    let mut experiment = Experiment::default();
    experiment.upscale.method = crate::study::experiment::UpscaleMethod::Lanczos;
    experiment.tl.init = crate::study::experiment::Init::Random;
    experiment.sifid.features = crate::study::experiment::Features::Random;
    assert_eq!(reads(&plan_of(&experiment)), BTreeMap::new());
}

#[test]
fn missing_weights_are_named_and_data_of_before_there_were_any_are_read() {
    let mut data = Data::of_the_paper();
    data.weights.remove(&Pretrained::InceptionV3);
    assert_eq!(plan(&Experiment::default(), &data), Err(Missing::Weights(Pretrained::InceptionV3)));
    data.weights.clear();
    let json = serde_json::to_value(&data).unwrap();
    assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), ["classes", "stand_in"]);
    assert_eq!(serde_json::from_value::<Data>(json).unwrap(), data);
}

#[test]
fn losses_reach_the_results_and_sheets_of_milestones_the_report() {
    let inputs = |change: fn(&mut Experiment), stage: &str, beginning: &str| {
        let mut experiment = Experiment::default();
        change(&mut experiment);
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let task = plan.tasks.iter().find(|task| task.stage.kind().name() == stage).unwrap();
        let begins = task.inputs.iter().filter(|(name, _)| name.starts_with(beginning));
        begins.map(|(name, input)| (name.to_owned(), input.only.clone())).collect::<BTreeMap<_, _>>()
    };
    let losses = inputs(|_| {}, "aggregate", "sinddm.train.");
    assert_eq!(
        (losses.len(), losses["sinddm.train.SEC.Va"].as_slice()),
        (12, &["training.json", "loss.csv"].map(str::to_owned)[..])
    );
    let per_image = inputs(|it| it.sinddm.multi_image = MultiImage::PerImage, "aggregate", "sinddm.train.");
    assert!(per_image.contains_key("sinddm.train.SUR.Ia.picture.7"));
    let plain = inputs(|it| it.ddpm.models = DdpmModels::PerView, "aggregate", "ddpm.train.");
    assert_eq!(plain.into_keys().collect::<Vec<_>>(), ["ddpm.train.SEC", "ddpm.train.SUR"]);
    let enlarging =
        inputs(|it| it.upscale.weights = crate::study::experiment::UpscaleWeights::Trained, "aggregate", "swin2sr.");
    assert_eq!(enlarging.into_keys().collect::<Vec<_>>(), ["swin2sr.train.SEC", "swin2sr.train.SUR"]);

    let sheets = inputs(|it| it.sinddm.milestones = vec![500, 0, 200, 120_001, 500], "report", "milestones.");
    let expected = ["milestones/000200.png", "milestones/000500.png", "training.json"].map(str::to_owned);
    assert_eq!((sheets.len(), sheets["milestones.SUR.IVa"].as_slice()), (12, &expected[..]));
    assert_eq!(inputs(|it| it.sinddm.milestones.clear(), "report", "milestones.").len(), 0);
}

#[test]
fn the_parameters_of_every_planned_stage_are_in_range() {
    for scale in crate::study::experiment::Scale::ALL {
        for sets in [&[][..], &["ddpm.models=per_view".to_owned(), "sinddm.multi_image=mosaic".to_owned()]] {
            let experiment = crate::study::overrides::resolve(scale, None, sets).unwrap();
            for task in plan(&experiment, &Data::of_the_paper()).unwrap().tasks {
                assert_eq!(task.stage.check(), Ok(()), "{} of {}", task.label(), scale.name());
            }
        }
    }
}

/// Values at which sizes, counts and products change their nature.
fn edge() -> impl Strategy<Value = Value> {
    let whole = [0, 1, 2, 3, 4, 7, 8, 16, 24, 64, 100, 500, 1000, 4096, 10_000, 100_000, u32::MAX - 1, u32::MAX];
    prop_oneof![
        4 => prop::sample::select(whole.to_vec()).prop_map(Value::from),
        1 => prop::sample::select(vec![-1.0, 0.0, 1e-300, 0.05, 0.5, 0.99, 1.0, 1.05, 10.0, 1e300]).prop_map(Value::from),
        1 => prop::collection::vec(prop::sample::select(whole.to_vec()), 0..6).prop_map(Value::from),
        1 => prop::sample::select(vec![
            "per_image", "mosaic", "auto50000", "auto_max", "aspect:1000/1", "stretch", "small", "random", "lanczos",
            "trained", "per_view", "per_class_view", "ddim", "all_a", "padded", "resplit", "fixed_split",
        ])
        .prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Whatever is asked for, it is refused or planned, and nothing overflows on the way.
    #[test]
    fn any_spec_is_refused_or_planned(
        changes in prop::collection::vec((any::<prop::sample::Index>(), edge()), 1..8),
        images in prop::sample::select(vec![0u32, 1, 2, 8, 1000, 100_000, u32::MAX]),
    ) {
        let scale = crate::study::experiment::Scale::Smoke;
        let mut spec = serde_json::to_value(crate::study::overrides::resolve(scale, None, &[]).unwrap()).unwrap();
        let knobs: Vec<&str> = crate::study::experiment::knobs::all().map(|knob| knob.name).collect();
        for (place, value) in changes {
            let mut trial = spec.clone();
            let knob: &str = knobs[place.index(knobs.len())];
            let (section, name) = knob.rsplit_once('.').unwrap_or(("", knob));
            let way = if section.is_empty() { String::new() } else { format!("/{}", section.replace('.', "/")) };
            trial.pointer_mut(&way).unwrap()[name] = value;
            if serde_json::from_value::<Experiment>(trial.clone()).is_ok() {
                spec = trial;
            }
        }
        let experiment: Experiment = serde_json::from_value(spec).unwrap();
        let mut data = Data::of_the_paper();
        data.classes.iter_mut().for_each(|raw| raw.images = images);
        if experiment.check().is_ok() && data.check().is_ok() {
            let plan = plan(&experiment, &data).unwrap();
            prop_assert!(plan.tasks.len() < 20_000);
            prop_assert!(plan.tasks.iter().all(|task| task.told_bytes() < crate::runner::command::TASK_BYTES_MAX));
        }
    }
}
