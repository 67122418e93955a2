//! Stages without their parameters: what plans, offers, counts and progress name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::VariantArray;

use super::{Stage, StageKind};

/// A name that no stage of this program has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no stage {0:?}")]
pub struct UnknownStage(String);

impl StageKind {
    /// All of them, in the order in which a study runs them.
    pub const ALL: &[Self] = <Self as VariantArray>::VARIANTS;

    /// The name that people, files and other programs know it by.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The version of what the stage computes. It is part of each task's key.
    pub const fn version(self) -> u32 {
        self.row().1
    }

    /// Whether an attempt that is stopped can go on elsewhere from a checkpoint.
    pub const fn leaves_checkpoints(self) -> bool {
        self.row().2
    }

    /// The name with the version, as workers offer them.
    pub fn offered(self) -> (String, u32) {
        (self.name().to_owned(), self.version())
    }

    const fn row(self) -> (&'static str, u32, bool) {
        match self {
            Self::Ingest => ("ingest", 4, false),
            Self::Pad => ("pad", 4, false),
            Self::SinddmTrain => ("sinddm.train", 5, true),
            Self::SinddmSample => ("sinddm.sample", 5, true),
            Self::DdpmTrain => ("ddpm.train", 4, true),
            Self::DdpmSample => ("ddpm.sample", 4, true),
            Self::Swin2srTrain => ("swin2sr.train", 4, true),
            Self::Upscale => ("upscale", 5, false),
            Self::EvaluateDrift => ("evaluate.drift", 2, false),
            Self::EvaluateHeatmap => ("evaluate.heatmap", 2, false),
            Self::EvaluateSifid => ("evaluate.sifid", 7, false),
            Self::Patches => ("patches", 3, false),
            Self::ClassifyTrain => ("classify.train", 5, true),
            Self::Aggregate => ("aggregate", 5, false),
            Self::Report => ("report", 4, false),
            Self::Command => ("command", 1, false),
        }
    }
}

impl Stage {
    /// Which stage it is.
    pub fn kind(&self) -> StageKind {
        self.into()
    }
}

impl fmt::Display for StageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for StageKind {
    type Err = UnknownStage;

    fn from_str(name: &str) -> Result<Self, UnknownStage> {
        let named = Self::ALL.iter().find(|kind| kind.name() == name);
        named.copied().ok_or_else(|| UnknownStage(name.to_owned()))
    }
}

impl Serialize for StageKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for StageKind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_none_is_given_twice() {
        for kind in StageKind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(serde_json::from_str::<StageKind>(&json).unwrap(), *kind);
        }
        let unknown = "singan.train".parse::<StageKind>().unwrap_err();
        assert_eq!(unknown.to_string(), "there is no stage \"singan.train\"");
    }
}
