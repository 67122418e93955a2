//! The tasks of a study, put together.

use std::collections::{BTreeMap, BTreeSet};

use super::{Data, Input, Missing, Plan, Run, Source, TaskSpec, WEIGHTS_FILE, stand_ins, training_name, trainings};
use crate::digest::Digest;
use crate::experiment::{
    Canvas, DdpmModels, DdpmSampling, DriftReference, Experiment, HeadStart, Mix, MultiImage, PatchSource, Whiten,
};
use crate::lineage::{self, Lineage};
use crate::pretrained::Pretrained;
use crate::seed::Seed;
use crate::stage::{
    Aggregate, Canvases, Choice, ClassifyTrain, EvaluateDrift, EvaluateHeatmap, EvaluateSifid, Ingest, Mosaic, Patches,
    Seen, Split, Stage,
};
use crate::stone::{Class, Dataset, View};

/// The whole study for these data.
///
/// # Errors
/// Names the first class folder that is missing, or the weights.
pub fn plan(experiment: &Experiment, data: &Data) -> Result<Plan, Missing> {
    let experiment = &experiment.effective();
    let mut study =
        Study { experiment, data, seed: Seed(experiment.seed), plan: Plan { tasks: vec![] }, known: BTreeSet::new() };
    let mut report = Report::default();
    let mut patches = BTreeMap::new();
    let mut ingests = Vec::new();
    let runs: Vec<Run> = experiment.tl.rounds().into_iter().flat_map(Run::all).collect();
    let splits: BTreeSet<Split> = runs.iter().map(|run| run.split()).collect();
    for view in View::ALL {
        ingests.push((view, study.ingest(Dataset::A, view)?, study.ingest(Dataset::C, view)?));
    }
    for (view, ingest_a, ingest_c) in ingests {
        let (real, synthetic) = study.generate(view, &mut report)?;
        study.evaluate(view, &real, &synthetic, &mut report)?;
        study.compare(view, &real, &mut report)?;
        for split in &splits {
            patches.insert((view, *split, Dataset::A), study.patches_of_raw(Dataset::A, view, *split, ingest_a)?);
            patches.insert((view, *split, Dataset::B), study.patches_of_synthetic(view, *split, &synthetic));
            patches.insert((view, *split, Dataset::C), study.patches_of_raw(Dataset::C, view, *split, ingest_c)?);
        }
    }
    for run in runs {
        study.classify(run, |dataset| patches[&(run.view, run.split(), dataset)], &mut report)?;
    }
    study.conclude(report);
    study.plan.weigh();
    Ok(study.plan)
}

/// The files of a training that make up its model.
const MODEL: [&str; 2] = ["model.safetensors", "training.json"];

/// A plan in the making.
struct Study<'a> {
    experiment: &'a Experiment,
    data: &'a Data,
    seed: Seed,
    plan: Plan,
    /// The keys of its tasks.
    known: BTreeSet<Digest>,
}

/// What the last two tasks read.
#[derive(Default)]
struct Report {
    results: BTreeMap<String, Input>,
    pictures: BTreeMap<String, Input>,
}

type InputMap = BTreeMap<String, Input>;

fn all_of(task: Digest) -> Input {
    Input { from: Source::Task(task), only: vec![] }
}

fn only(task: Digest, files: &[&str]) -> Input {
    Input { from: Source::Task(task), only: files.iter().map(|file| (*file).to_owned()).collect() }
}

impl Study<'_> {
    /// Adds a task; its random numbers are told apart by `stream`.
    fn add(&mut self, subject: String, stage: Stage, inputs: InputMap, stream: &str) -> Digest {
        let seed = self.seed.derive(&format!("{} {stream}", stage.kind().name()), 0);
        let task = TaskSpec::new(subject, stage, inputs, seed);
        let key = task.key;
        // Two protocols may ask for the same.
        if self.known.insert(key) {
            self.plan.tasks.push(task);
        }
        key
    }

    fn ingest(&mut self, dataset: Dataset, view: View) -> Result<Digest, Missing> {
        let stage = Stage::Ingest(Ingest {
            dataset,
            view,
            choice: (dataset == Dataset::A).then(|| self.choice(view)),
            min_side: self.experiment.patch.size,
            stones: self.stones(dataset, view)?,
        });
        let inputs = self.raw_inputs(dataset, view)?;
        Ok(self.add(format!("{dataset}/{view}"), stage, inputs, &format!("{dataset} {view}")))
    }

    /// Which pictures of a view of A its diffusion models learn from.
    fn choice(&self, view: View) -> Choice {
        let sinddm = &self.experiment.sinddm;
        let seed = sinddm.pick_seed.map_or(self.seed, Seed).derive(&format!("pick A {view}"), 0);
        Choice { images: sinddm.images_per_model, pick: sinddm.pick, seed }
    }

    /// Brings pictures of one class to the frame that its diffusion model learns: those
    /// chosen, or all.
    fn pad(&mut self, view: View, class: Class, choice: Option<Choice>) -> Result<Digest, Missing> {
        let sinddm = &self.experiment.sinddm;
        let raw = self.data.get(Dataset::A, view, class)?;
        let stage = Stage::Pad(Canvases {
            class,
            pad: self.experiment.pad.clone(),
            // A mosaic is extended as a whole.
            frame: sinddm.frame().filter(|_| sinddm.multi_image != MultiImage::Mosaic),
            choice,
            stones: if choice.is_some() { raw.stones.clone() } else { BTreeMap::new() },
        });
        let raw = Input { from: Source::Artifact(raw.artifact), only: vec![] };
        let subject = if choice.is_some() { format!("{view}/{class}") } else { format!("{view}/{class} all") };
        Ok(self.add(subject, stage, InputMap::from([("raw".to_owned(), raw)]), ""))
    }

    /// Pictures and masks of each class.
    fn raw_inputs(&self, dataset: Dataset, view: View) -> Result<InputMap, Missing> {
        let given = |artifact| Input { from: Source::Artifact(artifact), only: vec![] };
        let mut inputs = InputMap::new();
        for class in dataset.classes() {
            let raw = self.data.get(dataset, view, class)?;
            inputs.insert(format!("raw.{class}"), given(raw.artifact));
            inputs.extend(raw.masks.map(|masks| (format!("masks.{class}"), given(masks))));
        }
        Ok(inputs)
    }

    fn stones(&self, dataset: Dataset, view: View) -> Result<BTreeMap<Class, BTreeMap<String, u32>>, Missing> {
        let mut stones = BTreeMap::new();
        for class in dataset.classes() {
            let raw = self.data.get(dataset, view, class)?;
            if !raw.stones.is_empty() {
                stones.insert(class, raw.stones.clone());
            }
        }
        Ok(stones)
    }

    /// Padded pictures and enlarged samples of each class.
    #[allow(clippy::type_complexity, reason = "two lists of the same shape, used at once")]
    fn generate(
        &mut self,
        view: View,
        report: &mut Report,
    ) -> Result<(Vec<(Class, Digest)>, Vec<(Class, Digest)>), Missing> {
        let experiment = self.experiment;
        let (mut real, mut samples) = (vec![], vec![]);
        for class in Dataset::A.classes() {
            let subject = format!("{view}/{class}");
            let pad = self.pad(view, class, Some(self.choice(view)))?;
            let models = self.train_generator(view, class, pad, report)?;
            let (sampling, reject_empty) = (experiment.sampling.clone(), experiment.sinddm.reject_empty);
            let stage = Stage::SinddmSample { sampling, reject_empty };
            let sample = self.add(subject.clone(), stage, models, &subject);
            real.push((class, pad));
            samples.push((class, sample));
            report.results.insert(format!("samples.{view}.{class}"), only(sample, &["samples.json"]));
            report.pictures.insert(format!("samples.{view}.{class}"), only(sample, &["sheet.png"]));
        }
        let network = self.upscaler(view, &real)?;
        let enlarge = |(class, sample): (Class, Digest)| {
            let mut inputs = InputMap::from([("samples".to_owned(), all_of(sample))]);
            inputs.extend(network.clone());
            let stage = Stage::Upscale { upscale: experiment.upscale.clone() };
            (class, self.add(format!("{view}/{class}"), stage, inputs, ""))
        };
        let synthetic = samples.into_iter().map(enlarge).collect();
        Ok((real, synthetic))
    }

    /// What enlarges the samples of a view, as an input of that; none for filters.
    fn upscaler(&mut self, view: View, real: &[(Class, Digest)]) -> Result<InputMap, Missing> {
        let upscale = &self.experiment.upscale;
        if !upscale.is_trained() {
            return self.with_weights(InputMap::new(), upscale.pretrained());
        }
        let pads = real.iter().map(|(class, pad)| (format!("pad.{class}"), all_of(*pad))).collect();
        let canvas = self.experiment.pad.target.nominal();
        let size = self.experiment.sampling.size(self.experiment.sinddm.finest.size(canvas));
        let size = size.map(|side| side * upscale.factor);
        let stage = Stage::Swin2srTrain { size, training: upscale.training.clone() };
        let train = self.add(view.to_string(), stage, pads, view.code());
        Ok(InputMap::from([("model".to_owned(), only(train, &MODEL))]))
    }

    /// The diffusion models of one class, as inputs of sampling.
    fn train_generator(
        &mut self,
        view: View,
        class: Class,
        pad: Digest,
        report: &mut Report,
    ) -> Result<InputMap, Missing> {
        let subject = format!("{view}/{class}");
        let sinddm = match self.experiment.pad.target {
            Canvas::Size(canvas) => self.experiment.sinddm.on(canvas),
            // Known when the pictures are.
            Canvas::Rule(_) => self.experiment.sinddm.clone(),
        };
        let stage = Stage::SinddmTrain { sinddm: sinddm.clone() };
        if sinddm.multi_image != MultiImage::PerImage {
            let pad = InputMap::from([("pad".to_owned(), all_of(pad))]);
            let train = self.add(subject.clone(), stage, pad, &subject);
            let sheets: Vec<String> = sinddm.sheets().iter().map(|step| format!("milestones/{step:06}.png")).collect();
            if !sheets.is_empty() {
                let sheets = Input { from: Source::Task(train), only: sheets };
                report.pictures.insert(format!("milestones.{view}.{class}"), sheets);
            }
            return Ok(InputMap::from([("model".to_owned(), only(train, &MODEL))]));
        }
        // A small class may have fewer pictures than asked for.
        let learnable = self.data.get(Dataset::A, view, class)?.learnable(sinddm.pick);
        let model = |image: u32| {
            let pad = only(pad, &[&format!("images/{image:03}.png"), "pad.json"]);
            let subject = format!("{subject} picture {image}");
            let train = self.add(subject.clone(), stage.clone(), InputMap::from([("pad".to_owned(), pad)]), &subject);
            (format!("model.{image}"), only(train, &MODEL))
        };
        Ok((0..sinddm.images_per_model.min(learnable.max(1))).map(model).collect())
    }

    /// Inputs with the published weights that a task reads, if it reads any.
    fn with_weights(&self, mut inputs: InputMap, which: Option<Pretrained>) -> Result<InputMap, Missing> {
        if let Some(which) = which {
            let artifact = *self.data.weights.get(&which).ok_or(Missing::Weights(which))?;
            let weights = Input { from: Source::Artifact(artifact), only: vec![WEIGHTS_FILE.to_owned()] };
            inputs.insert("weights".to_owned(), weights);
        }
        Ok(inputs)
    }

    fn evaluate(
        &mut self,
        view: View,
        real: &[(Class, Digest)],
        synthetic: &[(Class, Digest)],
        report: &mut Report,
    ) -> Result<(), Missing> {
        let experiment = self.experiment;
        let mosaic = self.mosaic();
        let both = |real: &[(Class, Digest)]| {
            let named = |prefix: &'static str, list: &[(Class, Digest)]| -> Vec<(String, Input)> {
                list.iter().map(|(class, task)| (format!("{prefix}.{class}"), all_of(*task))).collect()
            };
            InputMap::from_iter(named("real", real).into_iter().chain(named("synthetic", synthetic)))
        };
        let reference = match experiment.drift.reference {
            DriftReference::SinddmTrain => real.to_vec(),
            DriftReference::AllA => {
                let all = |(class, _): &(Class, Digest)| Ok((*class, self.pad(view, *class, None)?));
                real.iter().map(all).collect::<Result<_, Missing>>()?
            }
        };
        let stream = view.to_string();
        let stage = Stage::EvaluateDrift(EvaluateDrift {
            path: experiment.drift.path,
            margin: experiment.drift.margin,
            seen: Some(Seen {
                finest: experiment.sinddm.finest,
                factor: experiment.upscale.factor,
                method: experiment.upscale.method,
            }),
            mosaic,
        });
        let drift = self.add(stream.clone(), stage, both(&reference), &stream);
        report.results.insert(format!("drift.{view}"), only(drift, &["drift.json"]));
        let stage = Stage::EvaluateHeatmap(EvaluateHeatmap { size: experiment.heatmap.size, mosaic });
        let heatmap = self.add(stream.clone(), stage, both(real), &stream);
        report.results.insert(format!("heatmap.{view}"), only(heatmap, &["heatmap.json"]));
        let maps = only(heatmap, &["difference.png", "real.png", "synthetic.png"]);
        report.pictures.insert(format!("heatmap.{view}"), maps);
        for ((class, real), (_, synthetic)) in real.iter().zip(synthetic) {
            let inputs =
                InputMap::from([("real".to_owned(), all_of(*real)), ("synthetic".to_owned(), all_of(*synthetic))]);
            let inputs = self.with_weights(inputs, experiment.sifid.weights())?;
            let stage = Stage::EvaluateSifid(EvaluateSifid { mosaic, ..EvaluateSifid::of(&experiment.sifid) });
            let sifid = self.add(format!("{view}/{class}"), stage, inputs, "");
            report.results.insert(format!("sifid.{view}.{class}"), only(sifid, &["sifid.json"]));
        }
        Ok(())
    }

    /// How real pictures are laid out where diffusion models learn from all as one.
    fn mosaic(&self) -> Option<Mosaic> {
        let sinddm = &self.experiment.sinddm;
        (sinddm.multi_image == MultiImage::Mosaic).then(|| Mosaic { frame: sinddm.frame() })
    }

    /// The plain diffusion models of one view, evaluated as the others are.
    fn compare(&mut self, view: View, real: &[(Class, Digest)], report: &mut Report) -> Result<(), Missing> {
        let ddpm = &self.experiment.ddpm;
        let samples = ddpm.sampling.per_class_view;
        let models: Vec<(String, InputMap, u32)> = match ddpm.models {
            DdpmModels::None => return Ok(()),
            DdpmModels::PerView => {
                let pads = real.iter().map(|(class, pad)| (format!("pad.{class}"), all_of(*pad))).collect();
                vec![(view.to_string(), pads, samples * real.len() as u32)]
            }
            DdpmModels::PerClassView => {
                let one = |(class, pad): &(Class, Digest)| {
                    (format!("{view}/{class}"), InputMap::from([("pad".to_owned(), all_of(*pad))]), samples)
                };
                real.iter().map(one).collect()
            }
        };
        for (subject, pads, per_class_view) in models {
            let training = self.experiment.ddpm.training.clone();
            let train = self.add(subject.clone(), Stage::DdpmTrain { training }, pads, &subject);
            let sampling = DdpmSampling { per_class_view, ..self.experiment.ddpm.sampling.clone() };
            let model = InputMap::from([("model".to_owned(), only(train, &["model.safetensors", "training.json"]))]);
            let sample = self.add(subject.clone(), Stage::DdpmSample { sampling }, model, &subject);
            let name = subject.replace('/', ".");
            report.results.insert(format!("ddpm-samples.{name}"), only(sample, &["samples.json"]));
            let subject = format!("{subject} ddpm");
            let both = InputMap::from([("real".to_owned(), all_of(train)), ("synthetic".to_owned(), all_of(sample))]);
            let Experiment { drift, heatmap, sifid, .. } = self.experiment;
            let (path, margin, seen, mosaic) = (drift.path, drift.margin, None, None);
            for (stage, score, weights) in [
                (Stage::EvaluateDrift(EvaluateDrift { path, margin, seen, mosaic }), "drift", None),
                (Stage::EvaluateHeatmap(EvaluateHeatmap { size: heatmap.size, mosaic }), "heatmap", None),
                (Stage::EvaluateSifid(EvaluateSifid::of(sifid)), "sifid", sifid.weights()),
            ] {
                let inputs = self.with_weights(both.clone(), weights)?;
                let task = self.add(subject.clone(), stage, inputs, &subject);
                report.results.insert(format!("ddpm-{score}.{name}"), only(task, &[&format!("{score}.json")]));
            }
        }
        Ok(())
    }

    fn patches_stage(&self, dataset: Dataset, view: View, split: Split) -> Stage {
        let mut patch = self.experiment.patch.clone();
        // What a stage does not look at must not tell its tasks apart.
        patch.whiten = Whiten::None;
        if dataset != Dataset::A {
            patch.source_a = PatchSource::Original;
        }
        let pad = (patch.source_a == PatchSource::Padded).then(|| self.experiment.pad.clone());
        Stage::Patches(Patches { dataset, view, split, patch, pad })
    }

    /// The stream leaves the split out: the images of all folds are dealt by it.
    fn patches_of_raw(
        &mut self,
        dataset: Dataset,
        view: View,
        split: Split,
        ingest: Digest,
    ) -> Result<Digest, Missing> {
        let mut inputs = self.raw_inputs(dataset, view)?;
        inputs.insert("ingest".to_owned(), all_of(ingest));
        let stage = self.patches_stage(dataset, view, split);
        Ok(self.add(patches_subject(dataset, view, split), stage, inputs, &format!("{dataset} {view}")))
    }

    fn patches_of_synthetic(&mut self, view: View, split: Split, synthetic: &[(Class, Digest)]) -> Digest {
        let named = |(class, task): &(Class, Digest)| (format!("synthetic.{class}"), all_of(*task));
        let inputs = synthetic.iter().map(named).collect();
        let stage = self.patches_stage(Dataset::B, view, split);
        self.add(patches_subject(Dataset::B, view, split), stage, inputs, &format!("B {view}"))
    }

    /// The nine trainings of one run.
    fn classify(&mut self, run: Run, patches: impl Fn(Dataset) -> Digest, report: &mut Report) -> Result<(), Missing> {
        let (first_steps, second_steps) = trainings();
        let patches = &patches;
        let named = |dataset: &Dataset| (format!("patches.{dataset}"), all_of(patches(*dataset)));
        let mut models = BTreeMap::new();
        for first in first_steps {
            let inputs = first.datasets().iter().map(named).collect();
            let inputs = self.with_weights(inputs, self.experiment.tl.pretrained())?;
            let stage = self.classify_stage(first.datasets(), 0);
            let model = self.add_training(run, &training_name(first, None), stage, inputs, report);
            models.insert(first, model);
        }
        for (first, second) in second_steps {
            let mut inputs = InputMap::from([named(&second)]);
            inputs.insert("init".to_owned(), only(models[&first], &["model.safetensors"]));
            let stage = self.classify_stage(vec![second], 1);
            self.add_training(run, &training_name(first, Some(second)), stage, inputs, report);
        }
        Ok(())
    }

    fn classify_stage(&self, datasets: Vec<Dataset>, step: usize) -> Stage {
        let tl = &self.experiment.tl;
        Stage::ClassifyTrain(ClassifyTrain {
            network: tl.network.clone(),
            init: (step == 0).then_some(tl.init),
            // As above.
            head: if step == 1 { tl.head } else { HeadStart::Keep },
            order: self.experiment.labels.order,
            mix: if datasets.len() > 1 { tl.mix } else { Mix::Concat },
            whiten: self.experiment.patch.whiten,
            datasets,
            batch: tl.batch,
            epochs: tl.epochs[step],
            lr: tl.lr[step],
            momentum: tl.momentum,
            lr_step: tl.lr_step,
            lr_gamma: tl.lr_gamma,
            augment: tl.augment,
            blur: tl.blur_step1 && step == 0,
            val_fraction: tl.val_fraction,
            val: tl.val,
            select: tl.select,
        })
    }

    fn add_training(&mut self, run: Run, name: &str, stage: Stage, inputs: InputMap, report: &mut Report) -> Digest {
        let stream = format!("{} {name} repeat {} fold {}", run.view, run.repeat, run.fold);
        let task = self.add(run.subject(name), stage, inputs, &stream);
        report.results.insert(run.input(name), only(task, &["metrics.json"]));
        task
    }

    fn conclude(&mut self, mut report: Report) {
        let experiment = self.experiment;
        for task in &self.plan.tasks {
            let records: &[&str] = match &task.stage {
                Stage::Pad(canvases) if canvases.choice.is_some() => &["pad.json"],
                Stage::Patches(_) => &["patches.json"],
                Stage::SinddmTrain { .. } | Stage::DdpmTrain { .. } | Stage::Swin2srTrain { .. } => {
                    &["training.json", "loss.csv"]
                }
                _ => continue,
            };
            report.results.insert(lineage::input_of(&task.label()), only(task.key, records));
        }
        let stage = Stage::Aggregate(Aggregate {
            scale: experiment.scale.name().to_owned(),
            seed: experiment.seed,
            rounds: experiment.tl.rounds(),
            allow_leak: experiment.tl.allow_leak,
            lineage: Lineage::of(&self.plan.tasks),
            stand_ins: stand_ins(experiment, self.data),
            readings: experiment.readings(),
            drift_threshold: experiment.drift.threshold,
            drift_method: experiment.drift.method,
            drift_margin: experiment.drift.margin,
            sifid_std_over: experiment.sifid.std_over,
            margin: experiment.tl.margin,
            correction: experiment.tl.correction,
        });
        let aggregate = self.add(String::new(), stage, report.results, "");
        let mut inputs = report.pictures;
        inputs.insert("results".to_owned(), all_of(aggregate));
        self.add(String::new(), Stage::Report, inputs, "");
    }
}

fn patches_subject(dataset: Dataset, view: View, split: Split) -> String {
    let Split { number, folds, fold } = split;
    match folds {
        1 => format!("{dataset}/{view} split {number}"),
        _ => format!("{dataset}/{view} split {number} fold {fold}"),
    }
}
