//! What the values of knobs have to lie between.
//!
//! Every number and every list has an upper bound: a spec comes from others, and what
//! it asks for is planned, kept and computed by programs that have to go on.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::InvalidKnob;

/// What a check says.
pub(crate) type Checked = Result<(), InvalidKnob>;

/// Longest side of a picture, in pixels.
pub const SIDE_MAX: u32 = 32_768;

/// Longest side of a diffusion model's finest scale, in pixels.
pub(crate) const FINEST_MAX: u32 = 8192;

/// Most pictures that a step takes or that are drawn at once.
pub(super) const BATCH_MAX: u32 = 4_096;

/// Most steps of a training: years on any GPU.
pub(super) const STEPS_MAX: u32 = 100_000_000;

/// Most diffusion steps T.
pub(super) const TIMESTEPS_MAX: u32 = 10_000;

/// The refusal of a knob.
pub(super) fn refuse(key: &str, problem: impl Into<String>) -> Checked {
    Err(InvalidKnob { key: key.to_owned(), problem: problem.into() })
}

/// A number has to lie in its range. What is not a number lies in none.
pub(crate) fn within<T: PartialOrd + Display>(key: &str, value: T, range: RangeInclusive<T>) -> Checked {
    match range.contains(&value) {
        true => Ok(()),
        false => refuse(key, format!("is {value}, has to lie between {} and {}", range.start(), range.end())),
    }
}

/// Width and height.
pub(crate) fn size(key: &str, sides: [u32; 2], range: RangeInclusive<u32>) -> Checked {
    sides.into_iter().try_for_each(|side| within(key, side, range.clone()))
}

/// A list has to have so many entries, each in the range.
pub(super) fn list(key: &str, values: &[u32], entries: RangeInclusive<usize>, range: RangeInclusive<u32>) -> Checked {
    if !entries.contains(&values.len()) {
        let (count, least, most) = (values.len(), entries.start(), entries.end());
        return refuse(key, format!("has {count} entries, has to have {least} to {most}"));
    }
    values.iter().try_for_each(|value| within(key, *value, range.clone()))
}

/// A number has to be a multiple of another.
pub(super) fn multiple(key: &str, value: u32, of: u32) -> Checked {
    match value.is_multiple_of(of) {
        true => Ok(()),
        false => refuse(key, format!("is {value}, has to be a multiple of {of}")),
    }
}
