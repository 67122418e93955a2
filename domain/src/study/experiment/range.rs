//! Ranges of the knobs' values.
//!
//! Every number and every list has an upper bound: specs come from other people, and the
//! programs that plan, store and compute what a spec asks for have to keep running.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Value, json};

use super::InvalidKnob;

/// The outcome of a check.
pub(crate) type Checked = Result<(), InvalidKnob>;

/// Longest side of a picture, in pixels.
pub const SIDE_MAX: u32 = 32_768;

/// Longest side of a diffusion model's finest scale, in pixels.
pub(crate) const FINEST_MAX: u32 = 8192;

/// Most pictures in one step of training or sampling.
pub(super) const BATCH_MAX: u32 = 4_096;

/// Most steps of a training: years on any GPU.
pub(super) const STEPS_MAX: u32 = 100_000_000;

/// Most diffusion steps T.
pub(super) const TIMESTEPS_MAX: u32 = 10_000;

/// The error for a knob's value.
pub(super) fn refuse(key: &str, problem: impl Into<String>) -> Checked {
    Err(InvalidKnob { key: key.to_owned(), problem: problem.into() })
}

/// Checks that a number lies in a range. NaN lies in none.
pub(crate) fn within<T: PartialOrd + Display>(key: &str, value: T, range: RangeInclusive<T>) -> Checked {
    if !range.contains(&value) {
        return refuse(key, format!("is {value}, has to lie between {} and {}", range.start(), range.end()));
    }
    Ok(())
}

/// Checks width and height.
pub(crate) fn size(key: &str, sides: [u32; 2], range: RangeInclusive<u32>) -> Checked {
    sides.into_iter().try_for_each(|side| within(key, side, range.clone()))
}

/// Checks that a number is a multiple of another.
pub(super) fn multiple(key: &str, value: u64, of: u64) -> Checked {
    if value.is_multiple_of(of) {
        return Ok(());
    }
    let what = if of == 2 { "even".to_owned() } else { format!("a multiple of {of}") };
    refuse(key, format!("is {value}, has to be {what}"))
}

/// The values that a knob may have, whatever the other knobs are. If a knob has a fixed count
/// of numbers, each has to lie in the range; a word in place of a number is a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// Every value of the knob's type.
    Any,
    /// Whole numbers from `least` to `most`, both included.
    Whole {
        least: u32,
        most: u32,
        /// The number of which all values are multiples.
        of: u32,
    },
    /// Only these numbers.
    Among(&'static [u32]),
    /// Numbers from `least` to `most`, both included.
    Real { least: f64, most: f64 },
    /// Lists of whole numbers.
    List {
        /// Least and most entries.
        entries: [usize; 2],
        /// Smallest and largest number.
        each: [u32; 2],
    },
}

impl Range {
    /// Checks that a value, given as JSON, lies in the range.
    pub(super) fn check(self, key: &str, value: &Value) -> Checked {
        match (self, value) {
            (Range::Any, _) | (_, Value::String(_)) => Ok(()),
            (Range::List { entries: [least, most], each }, Value::Array(values)) => {
                if !(least..=most).contains(&values.len()) {
                    let count = values.len();
                    return refuse(key, format!("has {count} entries, has to have {least} to {most}"));
                }
                let each = Range::Whole { least: each[0], most: each[1], of: 1 };
                values.iter().try_for_each(|value| each.check(key, value))
            }
            (_, Value::Array(values)) => values.iter().try_for_each(|value| self.check(key, value)),
            (Range::Whole { least, most, of }, value) => {
                let number = value.as_u64().unwrap_or(u64::MAX);
                within(key, number, u64::from(least)..=u64::from(most))?;
                multiple(key, number, u64::from(of))
            }
            (Range::Among(values), value) => {
                if values.iter().any(|known| value.as_u64() == Some(u64::from(*known))) {
                    return Ok(());
                }
                refuse(key, format!("is {value}, has to be {}", alternatives(values)))
            }
            // JSON has neither infinite numbers nor what is none.
            (Range::Real { least, most }, value) => match value.as_f64() {
                Some(number) => within(key, number, least..=most),
                None => refuse(key, format!("is no finite number, has to lie between {least} and {most}")),
            },
            (Range::List { .. }, _) => refuse(key, "has to be a list"),
        }
    }

    /// The range in words; none if the type says everything.
    pub fn words(self) -> Option<String> {
        match self {
            Range::Any => None,
            Range::Whole { least, most, of: 1 } => Some(format!("{least} to {most}")),
            Range::Whole { least, most, of } => Some(format!("multiples of {of} from {least} to {most}")),
            Range::Among(values) => Some(alternatives(values)),
            Range::Real { least, most } => Some(format!("{least} to {most}")),
            Range::List { entries, each } => {
                Some(format!("{} to {} entries of {} to {}", entries[0], entries[1], each[0], each[1]))
            }
        }
    }

    /// Adds the range to the JSON Schema of a knob.
    pub(super) fn describe(self, schema: &mut Value) {
        // A fixed count of numbers, or a number beside a rule in words.
        for inner in ["items", "anyOf", "prefixItems"] {
            match schema.get_mut(inner) {
                Some(Value::Array(each)) => return each.iter_mut().for_each(|each| self.describe(each)),
                Some(each) => {
                    if let Range::List { entries, each: [least, most] } = self {
                        Range::Whole { least, most, of: 1 }.describe(each);
                        schema["minItems"] = entries[0].into();
                        schema["maxItems"] = entries[1].into();
                    } else {
                        self.describe(each);
                    }
                    return;
                }
                None => {}
            }
        }
        let is_number = |kind: &Value| kind == "integer" || kind == "number";
        let kind = schema.get("type").cloned().unwrap_or_default();
        if !is_number(&kind) && !kind.as_array().is_some_and(|kinds| kinds.iter().any(is_number)) {
            return;
        }
        match self {
            Range::Any | Range::List { .. } => {}
            Range::Whole { least, most, of } => {
                (schema["minimum"], schema["maximum"]) = (least.into(), most.into());
                if of > 1 {
                    schema["multipleOf"] = of.into();
                }
            }
            Range::Real { least, most } => (schema["minimum"], schema["maximum"]) = (json!(least), json!(most)),
            Range::Among(values) => schema["enum"] = json!(values),
        }
    }
}

fn alternatives(values: &[u32]) -> String {
    values.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ")
}
