//! The systems that draw pictures, which the study compares by the same scores.

use std::fmt;

use crate::stone::{Class, View};

/// A method that learns from pictures and draws new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// The study's own: diffusion over scales of few pictures.
    Sinddm,
    /// Plain diffusion.
    Ddpm,
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
    /// The network of a view, of a class or of a picture of it, by what is known.
    pub fn new(view: View, class: Option<Class>, picture: Option<u32>) -> Self {
        match (class, picture) {
            (None, _) => Model::View(view),
            (Some(class), None) => Model::Class(view, class),
            (Some(class), Some(picture)) => Model::Picture(view, class, picture),
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
