use super::*;
use crate::experiment::{DdpmModels, MultiImage, PatchSource, Protocol};
use crate::pretrained::Pretrained;
use crate::stone::Class;

fn paper_plan() -> Plan {
    plan(&Experiment::default(), &Data::of_the_paper()).unwrap()
}

#[test]
fn the_shape_of_the_study_is_the_papers() {
    let plan = paper_plan();
    let count = |name| plan.by_stage().into_iter().find(|(stage, _)| *stage == name).unwrap().1;
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
        let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.name() == name).count();
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

#[test]
fn a_key_changes_with_what_determines_the_result_and_with_nothing_else() {
    let keys = |experiment: &Experiment| -> BTreeMap<String, Digest> {
        let plan = plan(experiment, &Data::of_the_paper()).unwrap();
        plan.tasks.iter().map(|task| (task.label(), task.key)).collect()
    };
    let base = keys(&Experiment::default());
    let mut experiment = Experiment::default();
    experiment.sampling.omega = 0.1;
    let changed = keys(&experiment);
    for (label, key) in &base {
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
            before.key != after.key && !matches!(before.stage.name(), "classify.train" | "aggregate" | "report")
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
        let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.name() == name).count();
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
    let of = |name: &str| plan.tasks.iter().filter(|task| task.stage.name() == name).collect::<Vec<_>>();
    assert_eq!(
        (of("sinddm.train").len(), of("sinddm.sample").len()),
        (94, 12),
        "A/SEC/Va has 11 pictures, of which 5 are left for the folds"
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
    data.classes[0].masks = Some(Digest::of(b"masks"));
    data.classes[0].stones = [("1.png", 0), ("2.png", 0), ("3.png", 1)].map(|(name, n)| (name.to_owned(), n)).into();
    let json = serde_json::to_value(&data).unwrap();
    assert_eq!(serde_json::from_value::<Data>(json).unwrap(), data);
    let RawClass { dataset, view, class, images, .. } = data.classes[0].clone();
    assert_eq!(
        (dataset, view, data.classes[0].by_stone()),
        (Dataset::A, View::Sur, {
            let mut counts = vec![1; images as usize - 2];
            counts.push(2);
            counts
        })
    );
    let after = plan_of(&data);
    let of = |plan: &Plan, label: &str| plan.tasks.iter().find(|task| task.label() == label).unwrap().clone();
    for label in ["ingest A/SUR", "patches A/SUR split 0 fold 0"] {
        let task = of(&after, label);
        let masks = task.inputs.get(&format!("masks.{class}")).map(|input| input.from);
        assert_eq!(masks, Some(Source::Artifact(Digest::of(b"masks"))));
        assert_ne!(task.key, of(&before, label).key);
    }
    for label in ["ingest C/SUR", "patches A/SEC split 0 fold 0", "patches C/SUR split 1 fold 4"] {
        assert_eq!(of(&after, label).key, of(&before, label).key, "{label}");
    }
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
    data.classes[0].images += 1;
    assert_eq!(data.stand_ins().len(), 1);
    data.stand_in = Some("drawings".to_owned());
    assert_eq!(data.stand_ins(), ["stand-in data: drawings"]);
    data.unpublished.insert(Pretrained::Resnet50V2);
    assert_eq!(data.stand_ins()[1], "the weights resnet50-imagenet1k-v2 are not those of the published file");
}

#[test]
fn a_network_of_ones_own_is_trained_once_a_view_and_enlarges_all_its_samples() {
    let mut experiment = Experiment::default();
    experiment.upscale.weights = crate::experiment::UpscaleWeights::Trained;
    let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
    let of = |stage: &str| plan.tasks.iter().filter(|task| task.stage.name() == stage).collect::<Vec<_>>();
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
    let reads = |plan: &Plan| -> BTreeMap<String, Digest> {
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
    experiment.upscale.method = crate::experiment::UpscaleMethod::Lanczos;
    experiment.tl.init = crate::experiment::Init::Random;
    experiment.sifid.features = crate::experiment::Features::Random;
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
        let task = plan.tasks.iter().find(|task| task.stage.name() == stage).unwrap();
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
        inputs(|it| it.upscale.weights = crate::experiment::UpscaleWeights::Trained, "aggregate", "swin2sr.");
    assert_eq!(enlarging.into_keys().collect::<Vec<_>>(), ["swin2sr.train.SEC", "swin2sr.train.SUR"]);

    let sheets = inputs(|it| it.sinddm.milestones = vec![500, 0, 200, 120_001, 500], "report", "milestones.");
    let expected = ["milestones/000200.png", "milestones/000500.png"].map(str::to_owned);
    assert_eq!((sheets.len(), sheets["milestones.SUR.IVa"].as_slice()), (12, &expected[..]));
    assert_eq!(inputs(|it| it.sinddm.milestones.clear(), "report", "milestones.").len(), 0);
}
