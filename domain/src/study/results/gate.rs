//! The gate, which asks whether the samples of a generator show one central object as the
//! pictures that the generator learnt from do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Generator, Results};
use crate::study::stone::View;

/// A fault of a sample, measured against the pictures that its generator learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing stands out from the background as the objects in those pictures do.
    Empty,
    /// The object covers more or less of the frame.
    Size,
    /// There are more objects of about one size.
    Several,
    /// The object is farther from the middle, or cut off by the edge of the frame.
    OffCentre,
    /// What surrounds the object is brighter.
    Background,
}

impl Fault {
    /// The fault for people, to be read after a number of samples.
    pub fn words(self) -> &'static str {
        match self {
            Fault::Empty => "without an object that stands out",
            Fault::Size => "of another size",
            Fault::Several => "in several pieces",
            Fault::OffCentre => "off centre or cut off",
            Fault::Background => "on a bright background",
        }
    }
}

impl Generator {
    /// The share of the generator's samples that pass, 0 to 1; absent if none was judged.
    pub fn passing(&self) -> Option<f64> {
        self.passed.filter(|_| self.samples > 0).map(|passed| f64::from(passed) / f64::from(self.samples))
    }
}

impl Results {
    /// The gate of all samples of a view; absent if none was judged.
    pub fn gate(&self, view: View) -> Option<Gate> {
        Gate::of(&self.generators, view)
    }
}

/// Numbers of samples of several generators at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// The number of samples that were judged.
    pub samples: u32,
    /// The number of judged samples that pass.
    pub passed: u32,
}

impl Gate {
    /// The gate of the samples of a view; absent if none was judged.
    pub fn of(generators: &[Generator], view: View) -> Option<Gate> {
        let judged = generators.iter().filter(|generator| generator.view == view);
        let judged: Vec<Gate> = judged
            .filter_map(|generator| Some(Gate { samples: generator.samples, passed: generator.passed? }))
            .collect();
        let sum = |of: fn(&Gate) -> u32| judged.iter().map(of).sum();
        let gate = Gate { samples: sum(|gate| gate.samples), passed: sum(|gate| gate.passed) };
        (gate.samples > 0).then_some(gate)
    }

    /// The share of judged samples that pass, 0 to 1.
    pub fn passing(self) -> f64 {
        f64::from(self.passed) / f64::from(self.samples.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::stone::Class;

    #[test]
    fn a_view_counts_by_its_samples_and_not_by_its_models() {
        let generator = |view, samples, passed| Generator {
            view,
            class: Class::Ia,
            samples,
            empty: 0,
            foreground: 0.3,
            passed,
            faults: Default::default(),
            drawn: None,
            learnt: None,
            black: None,
        };
        let generators = [
            generator(View::Sur, 30, Some(0)),
            generator(View::Sur, 10, Some(10)),
            generator(View::Sur, 10, None),
            generator(View::Sec, 5, None),
        ];
        let gate = Gate::of(&generators, View::Sur).unwrap();
        assert_eq!((gate, gate.passing()), (Gate { samples: 40, passed: 10 }, 0.25));
        assert_eq!(Gate::of(&generators, View::Sec), None);
        assert_eq!([0, 1, 2].map(|at| generators[at].passing()), [Some(0.0), Some(1.0), None]);
    }
}
