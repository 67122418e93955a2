//! Seeds of named random streams.

use serde::{Deserialize, Serialize};

/// Root of random numbers. Everything random in a task is a pure function of (seed, purpose,
/// step), so a task that resumes at step n draws what it would have drawn without the
/// interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed of a separate stream, identified by purpose and step.
    pub fn derive(self, purpose: &str, step: u64) -> Seed {
        let bytes = self.bytes(purpose, step);
        Seed(u64::from_le_bytes(bytes[..8].try_into().expect("eight of 32 bytes")))
    }

    /// 32 bytes to key a random generator with.
    pub fn bytes(self, purpose: &str, step: u64) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("lithogen v1 random stream");
        hasher.update(&self.0.to_le_bytes());
        hasher.update(&step.to_le_bytes());
        hasher.update(purpose.as_bytes());
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_purpose_and_step() {
        let base = Seed(3407).derive("noise", 0);
        assert_eq!(base, Seed(3407).derive("noise", 0));
        for other in [Seed(3408).derive("noise", 0), Seed(3407).derive("order", 0), Seed(3407).derive("noise", 1)] {
            assert_ne!(base, other);
        }
    }
}
