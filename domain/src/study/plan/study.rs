//! The tasks of a study, put together.

use std::collections::{BTreeMap, BTreeSet};

use super::{Data, Input, Missing, Plan, Source, TaskSpec, WEIGHTS_FILE, lineage, stand_ins};
use crate::id::TaskKey;
use crate::seed::Seed;
use crate::study::experiment::{
    Canvas, DdpmModels, DdpmSampling, DriftReference, Experiment, HeadStart, Mix, MultiImage, PatchSource, Whiten,
};
use crate::study::pretrained::Pretrained;
use crate::study::records::{
    DriftRecord, HeatmapRecord, Metrics, PadRecord, PatchesRecord, Record, SamplesRecord, SifidRecord, SinddmRecord,
};
use crate::study::stage::{
    Aggregate, Canvases, Choice, ClassifyTrain, EvaluateDrift, EvaluateHeatmap, EvaluateSifid, Ingest, InputName,
    Mosaic, Patches, Seen, Stage, Subject, milestone_path, picture_path,
};
use crate::study::stone::{Class, Dataset, View};
use crate::study::system::{Model, System};
use crate::study::trial::{Split, Training, Trial};

/// The whole study for these data.
///
/// # Errors
/// Names the first class folder that is missing, or the weights.
pub fn plan(experiment: &Experiment, data: &Data) -> Result<Plan, Missing> {
    let experiment = &experiment.effective();
    let mut study = Study {
        experiment,
        data,
        seed: Seed(experiment.seed),
        plan: Plan { tasks: vec![] },
        known: BTreeSet::new(),
        records: InputMap::new(),
    };
    let mut report = Report::default();
    let mut patches = BTreeMap::new();
    let mut ingests = Vec::new();
    let trials: Vec<Trial> = experiment.tl.trials().into_iter().flat_map(Trial::all).collect();
    let splits: BTreeSet<Split> = trials.iter().map(|trial| trial.split()).collect();
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
    for trial in trials {
        study.classify(trial, |dataset| patches[&(trial.view, trial.split(), dataset)], &mut report)?;
    }
    study.conclude(report);
    study.plan.weigh();
    Ok(study.plan)
}

/// The files of a training that make up its model.
const MODEL: [&str; 2] = ["model.safetensors", SinddmRecord::FILE];

/// A plan in the making.
struct Study<'a> {
    experiment: &'a Experiment,
    data: &'a Data,
    seed: Seed,
    plan: Plan,
    /// The keys of its tasks.
    known: BTreeSet<TaskKey>,
    /// The records of how results came about, which `aggregate` reads.
    records: InputMap,
}

/// What the last two tasks read.
#[derive(Default)]
struct Report {
    results: InputMap,
    pictures: InputMap,
}

type InputMap = BTreeMap<InputName, Input>;

/// A network of a compared system: the tasks that leave the pictures as it learnt from them,
/// and those that it drew.
struct Drawn {
    model: Model,
    real: TaskKey,
    synthetic: TaskKey,
}

fn all_of(task: TaskKey) -> Input {
    Input { from: Source::Task(task), only: vec![] }
}

fn only(task: TaskKey, files: &[&str]) -> Input {
    Input { from: Source::Task(task), only: files.iter().map(|file| (*file).to_owned()).collect() }
}

/// The files in which a stage says how its result came about, if the study reads them.
fn records(stage: &Stage) -> Option<&'static [&'static str]> {
    match stage {
        Stage::Pad(canvases) => canvases.choice.is_some().then_some(&[PadRecord::FILE]),
        Stage::Patches(_) => Some(&[PatchesRecord::FILE]),
        Stage::SinddmTrain { .. } | Stage::DdpmTrain { .. } | Stage::Swin2srTrain { .. } => {
            Some(&[SinddmRecord::FILE, "loss.csv"])
        }
        // Of these the study reads results, or nothing.
        Stage::Ingest(_)
        | Stage::SinddmSample { .. }
        | Stage::DdpmSample { .. }
        | Stage::Upscale { .. }
        | Stage::EvaluateDrift(_)
        | Stage::EvaluateHeatmap(_)
        | Stage::EvaluateSifid(_)
        | Stage::ClassifyTrain(_)
        | Stage::Aggregate(_)
        | Stage::Report
        | Stage::Command(_) => None,
    }
}

/// The results of tasks of one class each, named by it.
fn by_class(name: fn(Option<Class>) -> InputName, tasks: &[(Class, TaskKey)]) -> InputMap {
    tasks.iter().map(|(class, task)| (name(Some(*class)), all_of(*task))).collect()
}

/// What is compared with each other.
fn pair(real: TaskKey, synthetic: TaskKey) -> InputMap {
    InputMap::from([(InputName::Real(None), all_of(real)), (InputName::Synthetic(None), all_of(synthetic))])
}

impl Study<'_> {
    /// Adds a task; its random numbers are told apart by `stream`.
    fn add(&mut self, subject: Subject, stage: Stage, inputs: InputMap, stream: &str) -> TaskKey {
        let seed = self.seed.derive(&format!("{} {stream}", stage.kind().name()), 0);
        let inputs = inputs.into_iter().map(|(name, input)| (name.to_string(), input)).collect();
        let task = TaskSpec::new(subject.to_string(), stage, inputs, seed);
        let key = task.key;
        // Two protocols may ask for the same.
        if self.known.insert(key) {
            if let Some(files) = records(&task.stage) {
                self.records.insert(InputName::RecordOf(task.stage.kind(), subject), only(key, files));
            }
            self.plan.tasks.push(task);
        }
        key
    }

    fn ingest(&mut self, dataset: Dataset, view: View) -> Result<TaskKey, Missing> {
        let stage = Stage::Ingest(Ingest {
            dataset,
            view,
            choice: (dataset == Dataset::A).then(|| self.choice(view)),
            min_side: self.experiment.patch.size,
            stones: self.stones(dataset, view)?,
        });
        let inputs = self.raw_inputs(dataset, view)?;
        Ok(self.add(Subject::Half(dataset, view), stage, inputs, &format!("{dataset} {view}")))
    }

    /// Which pictures of a view of A its diffusion models learn from.
    fn choice(&self, view: View) -> Choice {
        let sinddm = &self.experiment.sinddm;
        let seed = sinddm.pick_seed.map_or(self.seed, Seed).derive(&format!("pick A {view}"), 0);
        Choice { images: sinddm.images_per_model, pick: sinddm.pick, seed }
    }

    /// Brings pictures of one class to the frame that its diffusion model learns: those
    /// chosen, or all.
    fn pad(&mut self, view: View, class: Class, choice: Option<Choice>) -> Result<TaskKey, Missing> {
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
        let subject = match choice {
            Some(_) => Subject::Model(Model::Class(view, class)),
            None => Subject::Whole(view, class),
        };
        Ok(self.add(subject, stage, InputMap::from([(InputName::Raw(None), raw)]), ""))
    }

    /// Pictures and masks of each class.
    fn raw_inputs(&self, dataset: Dataset, view: View) -> Result<InputMap, Missing> {
        let given = |artifact| Input { from: Source::Artifact(artifact), only: vec![] };
        let mut inputs = InputMap::new();
        for class in dataset.classes() {
            let raw = self.data.get(dataset, view, class)?;
            inputs.insert(InputName::Raw(Some(class)), given(raw.artifact));
            inputs.extend(raw.masks.map(|masks| (InputName::Masks(class), given(masks))));
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
    ) -> Result<(Vec<(Class, TaskKey)>, Vec<(Class, TaskKey)>), Missing> {
        let experiment = self.experiment;
        let (mut real, mut samples) = (vec![], vec![]);
        for class in Dataset::A.classes() {
            let model = Model::Class(view, class);
            let pad = self.pad(view, class, Some(self.choice(view)))?;
            let models = self.train_generator(view, class, pad, report)?;
            let (sampling, reject_empty) = (experiment.sampling.clone(), experiment.sinddm.reject_empty);
            let stage = Stage::SinddmSample { sampling, reject_empty };
            let sample = self.add(Subject::Model(model), stage, models, &model.to_string());
            real.push((class, pad));
            samples.push((class, sample));
            let name = InputName::SamplesOf(System::Sinddm, model);
            report.results.insert(name, only(sample, &[SamplesRecord::FILE]));
            report.pictures.insert(name, only(sample, &["sheet.png"]));
        }
        let network = self.upscaler(view, &real)?;
        let enlarge = |(class, sample): (Class, TaskKey)| {
            let mut inputs = InputMap::from([(InputName::Samples, all_of(sample))]);
            inputs.extend(network.clone());
            let stage = Stage::Upscale { upscale: experiment.upscale.clone() };
            (class, self.add(Subject::Model(Model::Class(view, class)), stage, inputs, ""))
        };
        let synthetic = samples.into_iter().map(enlarge).collect();
        Ok((real, synthetic))
    }

    /// What enlarges the samples of a view, as an input of that; none for filters.
    fn upscaler(&mut self, view: View, real: &[(Class, TaskKey)]) -> Result<InputMap, Missing> {
        let upscale = &self.experiment.upscale;
        if !upscale.is_trained() {
            return self.with_weights(InputMap::new(), upscale.pretrained());
        }
        let pads = by_class(InputName::Pad, real);
        let canvas = self.experiment.pad.target.nominal();
        let size = self.experiment.sampling.size(self.experiment.sinddm.finest.size(canvas));
        let size = size.map(|side| side * upscale.factor);
        let stage = Stage::Swin2srTrain { size, training: upscale.training.clone() };
        let train = self.add(Subject::Model(Model::View(view)), stage, pads, view.code());
        Ok(InputMap::from([(InputName::Model(None), only(train, &MODEL))]))
    }

    /// The diffusion models of one class, as inputs of sampling.
    fn train_generator(
        &mut self,
        view: View,
        class: Class,
        pad: TaskKey,
        report: &mut Report,
    ) -> Result<InputMap, Missing> {
        let sinddm = match self.experiment.pad.target {
            Canvas::Size(canvas) => self.experiment.sinddm.on(canvas),
            // Known when the pictures are.
            Canvas::Rule(_) => self.experiment.sinddm.clone(),
        };
        let stage = Stage::SinddmTrain { sinddm: sinddm.clone() };
        if sinddm.multi_image != MultiImage::PerImage {
            let model = Model::Class(view, class);
            let pad = InputMap::from([(InputName::Pad(None), all_of(pad))]);
            let train = self.add(Subject::Model(model), stage, pad, &model.to_string());
            let mut sheets: Vec<String> = sinddm.sheets().into_iter().map(milestone_path).collect();
            if !sheets.is_empty() {
                sheets.push(SinddmRecord::FILE.to_owned());
                let sheets = Input { from: Source::Task(train), only: sheets };
                report.pictures.insert(InputName::MilestonesOf(model), sheets);
            }
            return Ok(InputMap::from([(InputName::Model(None), only(train, &MODEL))]));
        }
        // A small class may have fewer pictures than asked for.
        let learnable = self.data.get(Dataset::A, view, class)?.learnable(sinddm.pick);
        let model = |image: u32| {
            let pad =
                InputMap::from([(InputName::Pad(None), only(pad, &[&picture_path(image as usize), PadRecord::FILE]))]);
            let model = Model::Picture(view, class, image);
            let train = self.add(Subject::Model(model), stage.clone(), pad, &model.to_string());
            (InputName::Model(Some(image)), only(train, &MODEL))
        };
        Ok((0..sinddm.images_per_model.min(learnable.max(1))).map(model).collect())
    }

    /// Inputs with the published weights that a task reads, if it reads any.
    fn with_weights(&self, mut inputs: InputMap, which: Option<Pretrained>) -> Result<InputMap, Missing> {
        if let Some(which) = which {
            let artifact = *self.data.weights.get(&which).ok_or(Missing::Weights(which))?;
            let weights = Input { from: Source::Artifact(artifact), only: vec![WEIGHTS_FILE.to_owned()] };
            inputs.insert(InputName::Weights, weights);
        }
        Ok(inputs)
    }

    fn evaluate(
        &mut self,
        view: View,
        real: &[(Class, TaskKey)],
        synthetic: &[(Class, TaskKey)],
        report: &mut Report,
    ) -> Result<(), Missing> {
        let experiment = self.experiment;
        let mosaic = self.mosaic();
        let both = |real: &[(Class, TaskKey)]| {
            let mut inputs = by_class(InputName::Real, real);
            inputs.extend(by_class(InputName::Synthetic, synthetic));
            inputs
        };
        let reference = match experiment.drift.reference {
            DriftReference::SinddmTrain => real.to_vec(),
            DriftReference::AllA => {
                let all = |(class, _): &(Class, TaskKey)| Ok((*class, self.pad(view, *class, None)?));
                real.iter().map(all).collect::<Result<_, Missing>>()?
            }
        };
        let (model, stream) = (Model::View(view), view.to_string());
        let subject = Subject::Scored(System::Sinddm, model);
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
        let drift = self.add(subject, stage, both(&reference), &stream);
        report.results.insert(InputName::DriftOf(System::Sinddm, model), only(drift, &[DriftRecord::FILE]));
        let stage = Stage::EvaluateHeatmap(EvaluateHeatmap { size: experiment.heatmap.size, mosaic });
        let heatmap = self.add(subject, stage, both(real), &stream);
        let name = InputName::HeatmapOf(System::Sinddm, model);
        report.results.insert(name, only(heatmap, &[HeatmapRecord::FILE]));
        report.pictures.insert(name, only(heatmap, &["difference.png", "real.png", "synthetic.png"]));
        for ((class, real), (_, synthetic)) in real.iter().zip(synthetic) {
            let inputs = self.with_weights(pair(*real, *synthetic), experiment.sifid.weights())?;
            let stage = Stage::EvaluateSifid(EvaluateSifid { mosaic, ..EvaluateSifid::of(&experiment.sifid) });
            let model = Model::Class(view, *class);
            let sifid = self.add(Subject::Scored(System::Sinddm, model), stage, inputs, "");
            report.results.insert(InputName::SifidOf(System::Sinddm, model), only(sifid, &[SifidRecord::FILE]));
        }
        Ok(())
    }

    /// How real pictures are laid out where diffusion models learn from all as one.
    fn mosaic(&self) -> Option<Mosaic> {
        let sinddm = &self.experiment.sinddm;
        (sinddm.multi_image == MultiImage::Mosaic).then(|| Mosaic { frame: sinddm.frame() })
    }

    /// The networks of compared systems of one view, evaluated as SinDDM's are.
    fn compare(&mut self, view: View, real: &[(Class, TaskKey)], report: &mut Report) -> Result<(), Missing> {
        let Experiment { drift, heatmap, sifid, .. } = self.experiment;
        for system in System::compared() {
            let networks = match system {
                System::Ddpm => self.ddpm(view, real),
                // Not compared with itself.
                System::Sinddm => vec![],
            };
            for Drawn { model, real, synthetic } in networks {
                report.results.insert(InputName::SamplesOf(system, model), only(synthetic, &[SamplesRecord::FILE]));
                let (path, margin, seen, mosaic) = (drift.path, drift.margin, None, None);
                let drift = Stage::EvaluateDrift(EvaluateDrift { path, margin, seen, mosaic });
                let heatmap = Stage::EvaluateHeatmap(EvaluateHeatmap { size: heatmap.size, mosaic });
                let distance = Stage::EvaluateSifid(EvaluateSifid::of(sifid));
                for (stage, name, file, weights) in [
                    (drift, InputName::DriftOf(system, model), DriftRecord::FILE, None),
                    (heatmap, InputName::HeatmapOf(system, model), HeatmapRecord::FILE, None),
                    (distance, InputName::SifidOf(system, model), SifidRecord::FILE, sifid.weights()),
                ] {
                    let subject = Subject::Scored(system, model);
                    let inputs = self.with_weights(pair(real, synthetic), weights)?;
                    let task = self.add(subject, stage, inputs, &subject.to_string());
                    report.results.insert(name, only(task, &[file]));
                }
            }
        }
        Ok(())
    }

    /// Trains the plain diffusion models of one view and draws from them.
    fn ddpm(&mut self, view: View, real: &[(Class, TaskKey)]) -> Vec<Drawn> {
        let ddpm = &self.experiment.ddpm;
        let samples = ddpm.sampling.per_class_view;
        let models: Vec<(Model, InputMap, u32)> = match ddpm.models {
            DdpmModels::None => vec![],
            DdpmModels::PerView => {
                vec![(Model::View(view), by_class(InputName::Pad, real), samples * real.len() as u32)]
            }
            DdpmModels::PerClassView => {
                let one = |(class, pad): &(Class, TaskKey)| {
                    (Model::Class(view, *class), InputMap::from([(InputName::Pad(None), all_of(*pad))]), samples)
                };
                real.iter().map(one).collect()
            }
        };
        let drawn = |(model, pads, per_class_view): (Model, InputMap, u32)| {
            let training = ddpm.training.clone();
            let (subject, stream) = (Subject::Model(model), model.to_string());
            let train = self.add(subject, Stage::DdpmTrain { training }, pads, &stream);
            let sampling = DdpmSampling { per_class_view, ..ddpm.sampling.clone() };
            let network = InputMap::from([(InputName::Model(None), only(train, &MODEL))]);
            let synthetic = self.add(subject, Stage::DdpmSample { sampling }, network, &stream);
            Drawn { model, real: train, synthetic }
        };
        models.into_iter().map(drawn).collect()
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
        ingest: TaskKey,
    ) -> Result<TaskKey, Missing> {
        let mut inputs = self.raw_inputs(dataset, view)?;
        inputs.insert(InputName::Ingest, all_of(ingest));
        let stage = self.patches_stage(dataset, view, split);
        Ok(self.add(Subject::Split(dataset, view, split), stage, inputs, &format!("{dataset} {view}")))
    }

    fn patches_of_synthetic(&mut self, view: View, split: Split, synthetic: &[(Class, TaskKey)]) -> TaskKey {
        let inputs = by_class(InputName::Synthetic, synthetic);
        let stage = self.patches_stage(Dataset::B, view, split);
        self.add(Subject::Split(Dataset::B, view, split), stage, inputs, &format!("B {view}"))
    }

    /// The nine trainings of one trial.
    fn classify(
        &mut self,
        trial: Trial,
        patches: impl Fn(Dataset) -> TaskKey,
        report: &mut Report,
    ) -> Result<(), Missing> {
        let mut models = BTreeMap::new();
        for training in Training::all() {
            let named = |dataset| (InputName::Patches(dataset), all_of(patches(dataset)));
            let mut inputs: InputMap = training.datasets().into_iter().map(named).collect();
            let step = match training.second {
                None => {
                    inputs = self.with_weights(inputs, self.experiment.tl.pretrained())?;
                    0
                }
                Some(_) => {
                    inputs.insert(InputName::Init, only(models[&training.first], &["model.safetensors"]));
                    1
                }
            };
            let stage = self.classify_stage(training.datasets(), step);
            let Trial { view, repeat, fold, .. } = trial;
            let stream = format!("{view} {training} repeat {repeat} fold {fold}");
            let task = self.add(Subject::Training(trial, training), stage, inputs, &stream);
            report.results.insert(InputName::MetricsOf(trial, training), only(task, &[Metrics::FILE]));
            if training.second.is_none() {
                models.insert(training.first, task);
            }
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

    fn conclude(&mut self, mut report: Report) {
        let experiment = self.experiment;
        report.results.append(&mut self.records);
        let stage = Stage::Aggregate(Aggregate {
            scale: experiment.scale.name().to_owned(),
            seed: experiment.seed,
            trials: experiment.tl.trials(),
            allow_leak: experiment.tl.allow_leak,
            lineage: lineage(&self.plan.tasks),
            stand_ins: stand_ins(experiment, self.data),
            readings: experiment.readings(),
            drift_threshold: experiment.drift.threshold,
            drift_method: experiment.drift.method,
            drift_margin: experiment.drift.margin,
            sifid_std_over: experiment.sifid.std_over,
            margin: experiment.tl.margin,
            correction: experiment.tl.correction,
        });
        let aggregate = self.add(Subject::Study, stage, report.results, "");
        let mut inputs = report.pictures;
        inputs.insert(InputName::Results, all_of(aggregate));
        self.add(Subject::Study, Stage::Report, inputs, "");
    }
}
