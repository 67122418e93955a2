//! Digests: names made from content.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes that a digest takes in a message, including its framing.
pub(crate) const DIGEST_BYTES: usize = 72;

/// A blake3 digest of 32 bytes, written as 64 lower-case hexadecimal digits.
///
/// Files, artifacts (by their manifests) and tasks (by everything that determines their
/// results) are all named by digests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a digest: expected 64 lower-case hexadecimal digits, got {0:?}")]
pub struct InvalidDigest(String);

impl Digest {
    /// The digest of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a value's JSON form. Structs and ordered maps always
    /// serialise in the same order, so equal values have equal digests.
    pub fn of_json<T: Serialize>(value: &T) -> Self {
        let bytes = serde_json::to_vec(value).expect("domain types serialise to JSON");
        Self::of(&bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight digits, for display.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Journals and messages are full of these: a formatter per byte would show.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let mut text = [0; 64];
        text.iter_mut().zip(digits).for_each(|(place, digit)| *place = DIGITS[usize::from(digit)]);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.short())
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits = text.as_bytes();
        let lower_hex = |d: &u8| d.is_ascii_digit() || (b'a'..=b'f').contains(d);
        if digits.len() != 64 || !digits.iter().all(lower_hex) {
            return Err(InvalidDigest(text.chars().take(80).collect()));
        }
        let value = |d: u8| if d.is_ascii_digit() { d - b'0' } else { d - b'a' + 10 };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The first digits of a digest, for people who do not type all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    first: Digest,
    last: Digest,
}

impl Prefix {
    /// All names of a kind that begin with the prefix.
    pub fn range<T>(&self, name: fn(Digest) -> T) -> RangeInclusive<T> {
        name(self.first)..=name(self.last)
    }
}

impl FromStr for Prefix {
    type Err = InvalidDigest;

    /// Parses up to 64 lower-case hexadecimal digits; the empty text matches all digests.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let filled = |digit| {
            if text.len() > 64 {
                return text.parse();
            }
            format!("{text}{}", String::from(digit).repeat(64 - text.len())).parse()
        };
        Ok(Self { first: filled('0')?, last: filled('f')? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Specs, orders and records are sent as JSON, and keys are digests of the JSON.
        #[test]
        fn numbers_keep_their_last_digit_on_their_way(small in 0.0..1.0f64, any in proptest::num::f64::NORMAL) {
            for number in [small, any, 0.000_900_721_743_240_368_7, 0.429_491e308] {
                let json = serde_json::to_string(&number).unwrap();
                prop_assert_eq!(serde_json::from_str::<f64>(&json).unwrap().to_bits(), number.to_bits());
                let value: Value = serde_json::from_str(&json).unwrap();
                prop_assert_eq!(Digest::of_json(&value), Digest::of_json(&number));
            }
        }
    }

    #[test]
    fn a_prefix_holds_what_begins_with_it() {
        let digest = Digest::of(b"stone");
        let text = digest.to_string();
        for digits in [0, 1, 7, 64] {
            assert!(text[..digits].parse::<Prefix>().unwrap().range(|digest| digest).contains(&digest), "{digits}");
        }
        let other = if text.starts_with('0') { "1" } else { "0" };
        assert!(!other.parse::<Prefix>().unwrap().range(|digest| digest).contains(&digest));
        for bad in ["g", "A", &"0".repeat(65), "é"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn text_round_trips() {
        let digest = Digest::of(b"stone");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn wrong_length_and_wrong_digits_are_refused() {
        let good = Digest::of(b"").to_string();
        for bad in ["", &good[1..], &good.to_uppercase(), &good.replace('a', "g"), &"é".repeat(32)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
