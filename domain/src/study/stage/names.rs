//! What tasks are about and what their inputs are called: composed here for the plan, which
//! writes the names, and for the stages, which look for them. Nothing reads them back.

use std::fmt;

use super::StageKind;
use crate::study::stone::{Class, Dataset, View};
use crate::study::system::{Model, System};
use crate::study::trial::{Split, Training, Trial};

/// What a task of the study is about. Printed as the subject that people see behind the
/// stage's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The whole study: printed as nothing.
    Study,
    /// One half of a data set: `A/SUR`.
    Half(Dataset, View),
    /// The same cut into patches: `A/SUR split 0 fold 1`.
    Split(Dataset, View, Split),
    /// A network that draws or enlarges pictures, or what it is made from: `SUR/IVa`.
    Model(Model),
    /// All pictures of a class, learnt from or not: `SUR/IVa all`.
    Whole(View, Class),
    /// What another system than SinDDM has drawn, as it is scored: `SUR/IVa ddpm`.
    Scored(System, Model),
    /// One training of a classifier: `SUR A+B-C repeat 0 fold 1`.
    Training(Trial, Training),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Study => Ok(()),
            Subject::Half(dataset, view) => write!(f, "{dataset}/{view}"),
            Subject::Split(dataset, view, split) => write!(f, "{dataset}/{view} {split}"),
            Subject::Model(model) | Subject::Scored(System::Sinddm, model) => write!(f, "{model}"),
            Subject::Whole(view, class) => write!(f, "{view}/{class} all"),
            Subject::Scored(System::Ddpm, model) => write!(f, "{model} ddpm"),
            Subject::Training(trial, training) => write!(f, "{} {training} {}", trial.view, trial.words()),
        }
    }
}

impl StageKind {
    /// The label of a task of this stage: stage and subject, for people.
    pub fn label(self, subject: &str) -> String {
        let name = self.name();
        if subject.is_empty() { name.to_owned() } else { format!("{name} {subject}") }
    }
}

/// The path of a numbered picture in an artifact, for instance `images/000.png`.
pub fn picture_path(number: usize) -> String {
    format!("images/{number:03}.png")
}

/// The path of the samples that a network drew at a milestone of its training, for instance
/// `milestones/000500.png`.
pub fn milestone_path(step: u32) -> String {
    format!("milestones/{step:06}.png")
}

/// The name of an input of a stage of the study. It is part of the task's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InputName {
    /// Pictures as given, of the stage's class or of one of several: `raw`, `raw.<class>`.
    Raw(Option<Class>),
    /// Where the stone is in them: `masks.<class>`.
    Masks(Class),
    /// The list of a view's images: `ingest`.
    Ingest,
    /// Padded pictures: `pad`, `pad.<class>`.
    Pad(Option<Class>),
    /// A trained network, or one of several: `model`, `model.<number>`.
    Model(Option<u32>),
    /// Published weights: `weights`.
    Weights,
    /// The network of a first step: `init`.
    Init,
    /// What a network has drawn: `samples`.
    Samples,
    /// Pictures that others are compared with: `real`, `real.<class>`.
    Real(Option<Class>),
    /// Pictures that were drawn: `synthetic`, `synthetic.<class>`.
    Synthetic(Option<Class>),
    /// Patches to learn from and to test: `patches.<dataset>`.
    Patches(Dataset),
    /// The results document: `results`.
    Results,
    /// Of the whole study, the metrics of one training: `classify.SUR.A+B-C.r0.f1`.
    MetricsOf(Trial, Training),
    /// What a task says of how its result came about: `pad.SUR.IVa`, `patches.A.SUR.split.0`,
    /// `sinddm.train.SUR.IVa`.
    RecordOf(StageKind, Subject),
    /// What a network has drawn: `samples.SUR.IVa`, `ddpm-samples.SUR`.
    SamplesOf(System, Model),
    /// What a network drew on its way: `milestones.SUR.IVa`.
    MilestonesOf(Model),
    /// Drift scores: `drift.SUR`, `ddpm-drift.SUR`.
    DriftOf(System, Model),
    /// Heat maps: `heatmap.SUR`, `ddpm-heatmap.SUR`.
    HeatmapOf(System, Model),
    /// Fréchet distances: `sifid.SUR.IVa`, `ddpm-sifid.SUR`.
    SifidOf(System, Model),
}

impl fmt::Display for InputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn one_of(f: &mut fmt::Formatter<'_>, name: &str, which: Option<impl fmt::Display>) -> fmt::Result {
            match which {
                None => f.write_str(name),
                Some(which) => write!(f, "{name}.{which}"),
            }
        }
        // A name is also that of a folder.
        fn dotted(text: impl fmt::Display) -> String {
            text.to_string().replace([' ', '/'], ".")
        }
        fn of(f: &mut fmt::Formatter<'_>, what: &str, system: System, model: Model) -> fmt::Result {
            let system = match system {
                System::Sinddm => "",
                System::Ddpm => "ddpm-",
            };
            write!(f, "{system}{what}.{}", model.dotted())
        }
        match *self {
            InputName::Raw(class) => one_of(f, "raw", class),
            InputName::Masks(class) => write!(f, "masks.{class}"),
            InputName::Ingest => f.write_str("ingest"),
            InputName::Pad(class) => one_of(f, "pad", class),
            InputName::Model(number) => one_of(f, "model", number),
            InputName::Weights => f.write_str("weights"),
            InputName::Init => f.write_str("init"),
            InputName::Samples => f.write_str("samples"),
            InputName::Real(class) => one_of(f, "real", class),
            InputName::Synthetic(class) => one_of(f, "synthetic", class),
            InputName::Patches(dataset) => write!(f, "patches.{dataset}"),
            InputName::Results => f.write_str("results"),
            InputName::MetricsOf(trial, training) => {
                write!(f, "classify.{}.{training}.{}", trial.view, dotted(trial.name()))
            }
            InputName::RecordOf(stage, subject) => f.write_str(&dotted(stage.label(&subject.to_string()))),
            InputName::SamplesOf(system, model) => of(f, "samples", system, model),
            InputName::MilestonesOf(model) => write!(f, "milestones.{}", model.dotted()),
            InputName::DriftOf(system, model) => of(f, "drift", system, model),
            InputName::HeatmapOf(system, model) => of(f, "heatmap", system, model),
            InputName::SifidOf(system, model) => of(f, "sifid", system, model),
        }
    }
}
