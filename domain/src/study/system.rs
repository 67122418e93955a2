//! The systems that draw pictures, which the study compares by the same scores.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::VariantArray;

use crate::study::stone::{Class, Dataset, View};

/// A method that learns from pictures and draws new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, VariantArray)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// The study's own: diffusion over scales of few pictures.
    Sinddm,
    /// Plain diffusion.
    Ddpm,
}

impl System {
    /// The systems that SinDDM is compared with, where a study asks for them.
    pub fn compared() -> impl Iterator<Item = System> {
        System::VARIANTS.iter().copied().filter(|system| *system != System::Sinddm)
    }

    /// The name that the field knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            System::Sinddm => "SinDDM",
            System::Ddpm => "DDPM",
        }
    }
}

/// What one network of a system learns from. Printed as the subject of its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Model {
    /// The pictures of all classes of a view: `SUR`.
    View(View),
    /// Those of one class: `SUR/IVa`.
    Class(View, Class),
    /// One picture of a class, counted from 0: `SUR/IVa picture 3`.
    Picture(View, Class, u32),
}

impl Model {
    /// Every network of a view that a study may have of a compared system: of the view,
    /// then of each class.
    pub fn of_view(view: View) -> impl Iterator<Item = Model> {
        let of_classes = Dataset::A.classes().into_iter().map(move |class| Model::Class(view, class));
        std::iter::once(Model::View(view)).chain(of_classes)
    }

    /// The network of a view, of a class or of a picture of it, by what is known.
    pub fn new(view: View, class: Option<Class>, picture: Option<u32>) -> Self {
        match (class, picture) {
            (None, _) => Model::View(view),
            (Some(class), None) => Model::Class(view, class),
            (Some(class), Some(picture)) => Model::Picture(view, class, picture),
        }
    }

    /// The view whose pictures the network learns from.
    pub fn view(self) -> View {
        match self {
            Model::View(view) | Model::Class(view, _) | Model::Picture(view, ..) => view,
        }
    }

    /// The class of these pictures; none for a network of all classes.
    pub fn class(self) -> Option<Class> {
        match self {
            Model::View(_) => None,
            Model::Class(_, class) | Model::Picture(_, class, _) => Some(class),
        }
    }

    /// The picture, where the network learns from one alone.
    pub fn picture(self) -> Option<u32> {
        match self {
            Model::View(_) | Model::Class(..) => None,
            Model::Picture(_, _, picture) => Some(picture),
        }
    }

    /// The model as part of a name, for instance `SUR.IVa`.
    pub fn dotted(self) -> String {
        self.to_string().replace([' ', '/'], ".")
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Model::View(view) => write!(f, "{view}"),
            Model::Class(view, class) => write!(f, "{view}/{class}"),
            Model::Picture(view, class, picture) => write!(f, "{view}/{class} picture {picture}"),
        }
    }
}
