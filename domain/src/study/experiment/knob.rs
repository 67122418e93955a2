//! A knob: its name, the values that it may have, and what a change means for a comparison
//! with the paper.

use super::Experiment;
use super::range::Range;

/// One knob of the spec.
#[derive(Debug)]
pub struct Knob {
    /// The full name as in `--set`, for instance `sinddm.finest`.
    pub name: &'static str,
    /// What a changed value means for a comparison with the paper's numbers.
    pub kind: Kind,
    /// The values that the knob may have, as far as they do not depend on other knobs.
    pub range: Range,
}

/// What a changed value of a knob means for a comparison with the paper's numbers.
#[derive(Debug)]
pub enum Kind {
    /// The knob says where, how fast or from which random numbers a study is computed. A change
    /// cannot alter what is measured on given pictures.
    Execution,
    /// The paper leaves the choice open. Results stay comparable, and the reading is stated
    /// beside their verdicts.
    Reading(Reading),
    /// The paper settles the choice. A changed value makes results incomparable.
    Deviation,
}

/// A choice that the paper leaves open.
#[derive(Debug)]
pub struct Reading {
    /// Section, table or figure of the paper that the choice rests on.
    pub section: &'static str,
    /// What the paper says there, paraphrased.
    pub paper: &'static str,
    /// The other values that the paper's words allow.
    pub alternatives: &'static str,
    /// The reason for the default.
    pub reason: &'static str,
    /// Whether the paper's words allow the value that a spec has.
    pub(super) allows: fn(&Experiment) -> bool,
}

impl Knob {
    pub(super) const fn execution(name: &'static str) -> Self {
        Self { name, kind: Kind::Execution, range: Range::Any }
    }

    pub(super) const fn deviation(name: &'static str) -> Self {
        Self { name, kind: Kind::Deviation, range: Range::Any }
    }

    pub(super) const fn reading(name: &'static str, reading: Reading) -> Self {
        Self { name, kind: Kind::Reading(reading), range: Range::Any }
    }

    /// The same knob with a range of whole numbers, for one number or a fixed count of them.
    pub(super) const fn whole(self, least: u32, most: u32) -> Self {
        self.multiples(1, least, most)
    }

    /// The same knob with a range of whole numbers that are multiples of `of`.
    pub(super) const fn multiples(self, of: u32, least: u32, most: u32) -> Self {
        Self { range: Range::Whole { least, most, of }, ..self }
    }

    /// The same knob with a few allowed whole numbers.
    pub(super) const fn among(self, values: &'static [u32]) -> Self {
        Self { range: Range::Among(values), ..self }
    }

    /// The same knob with a range of numbers, for one number or a fixed count of them.
    pub(super) const fn real(self, least: f64, most: f64) -> Self {
        Self { range: Range::Real { least, most }, ..self }
    }

    /// The same knob for a list of whole numbers: least and most entries, least and largest
    /// number.
    pub(super) const fn list(self, entries: [usize; 2], each: [u32; 2]) -> Self {
        Self { range: Range::List { entries, each }, ..self }
    }
}

impl Kind {
    /// The kind's name in documents.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Execution => "execution",
            Kind::Reading(_) => "reading",
            Kind::Deviation => "deviation",
        }
    }
}
