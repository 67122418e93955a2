//! The numbers that an attempt tells of while it runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Numbers by name, for instance `loss`. They are bounded wherever they come from: names are
/// plain and at most [`Values::NAME_MAX`] bytes long, and numbers are finite; of these, the
/// first [`Values::MAX`] by name are kept. The rest is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, f64>")]
pub struct Values(BTreeMap<String, f64>);

impl Values {
    /// Most numbers that are kept.
    pub const MAX: usize = 16;

    /// Most bytes of a name.
    pub const NAME_MAX: usize = 32;

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>> FromIterator<(N, f64)> for Values {
    fn from_iter<I: IntoIterator<Item = (N, f64)>>(values: I) -> Self {
        let mut kept = BTreeMap::new();
        for (name, value) in values {
            let name = name.into();
            if is_plain(&name) && value.is_finite() {
                kept.insert(name, value);
                if kept.len() > Self::MAX {
                    kept.pop_last();
                }
            }
        }
        Self(kept)
    }
}

impl From<BTreeMap<String, f64>> for Values {
    fn from(values: BTreeMap<String, f64>) -> Self {
        values.into_iter().collect()
    }
}

impl From<Values> for BTreeMap<String, f64> {
    fn from(values: Values) -> Self {
        values.0
    }
}

/// Whether a name has 1 to [`Values::NAME_MAX`] letters and digits of ASCII, `_`, `-`, `.` and `/`.
fn is_plain(name: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    (1..=Values::NAME_MAX).contains(&name.len()) && name.bytes().all(is_usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_under_a_plain_name_only() {
        let longest = "x".repeat(Values::NAME_MAX);
        let plain = ["Top-1_error", "loss", "loss.0", "val/accuracy", &longest];
        let others = ["", &format!("{longest}x"), "learning rate", "größe", "\u{1b}[2J", "a\n", "a\"b"];
        let values = Values::from_iter(plain.into_iter().chain(others).map(|name| (name, 1.0)));
        assert_eq!(values.0.keys().collect::<Vec<_>>(), plain);
    }

    #[test]
    fn what_is_no_finite_number_is_left_out() {
        let told = [("a", f64::NAN), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY), ("d", f64::MAX), ("e", -0.5)];
        assert!(Values::from_iter(told).0.into_values().eq([f64::MAX, -0.5]));
    }

    #[test]
    fn the_first_by_name_are_kept_in_whatever_order_they_come() {
        let told = |number: usize| (format!("{number:03}"), 1.0);
        let values: Values = (0..100).map(|number| told(number * 7 % 100)).collect();
        assert!(values.0.into_iter().eq((0..Values::MAX).map(told)));
    }

    #[test]
    fn values_that_are_read_are_bounded_as_others_are() {
        let values: Values = serde_json::from_str(r#"{"a b":1,"loss":0.1,"steps":3}"#).unwrap();
        assert_eq!(values, Values::from_iter([("loss", 0.1), ("steps", 3.0)]));
    }
}
