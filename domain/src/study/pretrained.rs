//! The published weights that a study can start from: their names, their sources, and how their
//! files are recognised.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One published set of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Pretrained {
    /// The newer ImageNet weights of ResNet50, which classifiers start from.
    #[serde(rename = "resnet50-imagenet1k-v2")]
    Resnet50V2,
    /// The older ImageNet weights of ResNet50, by the recipe of the network's paper.
    #[serde(rename = "resnet50-imagenet1k-v1")]
    Resnet50V1,
    /// The feature network of the single-image Fréchet distance.
    #[serde(rename = "inception-v3-imagenet1k")]
    InceptionV3,
    /// The feature network of the Fréchet distance between sets of pictures.
    #[serde(rename = "inception-v3-fid")]
    InceptionFid,
    /// Super-resolution of compressed pictures.
    #[serde(rename = "swin2sr-compressed-x4")]
    Swin2srCompressed,
    /// Super-resolution of pictures that were only made smaller.
    #[serde(rename = "swin2sr-classical-x4")]
    Swin2srClassical,
    /// Super-resolution of unprocessed photographs.
    #[serde(rename = "swin2sr-realworld-x4")]
    Swin2srRealworld,
}

/// What is known about a published set of weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The name in commands, folders and spec files.
    pub name: &'static str,
    /// Name of the network, for people.
    pub network: &'static str,
    /// Name of the published file.
    pub file: &'static str,
    /// Where the file is published.
    pub url: &'static str,
    /// SPDX identifier of the licence.
    pub licence: &'static str,
    /// Size of the published file in MiB, where known.
    pub mib: Option<u32>,
    /// Number of tensors of 32-bit numbers, including running statistics; buffers that follow
    /// from the configuration are not counted.
    pub tensors: u32,
    /// Number of learnt parameters.
    pub parameters: u64,
    /// The first digits of the published file's SHA-256, where the publisher states them.
    pub sha256: Option<&'static str>,
    /// The setting, as after `--set`, that makes these weights unnecessary; none if no study
    /// reads the weights.
    pub stand_in: Option<&'static str>,
}

impl Pretrained {
    /// All published weights.
    pub const ALL: [Pretrained; 7] = [
        Pretrained::Resnet50V2,
        Pretrained::Resnet50V1,
        Pretrained::InceptionV3,
        Pretrained::InceptionFid,
        Pretrained::Swin2srCompressed,
        Pretrained::Swin2srClassical,
        Pretrained::Swin2srRealworld,
    ];

    /// The entry in the catalogue.
    pub fn entry(self) -> &'static Entry {
        match self {
            Pretrained::Resnet50V2 => &RESNET50_V2,
            Pretrained::Resnet50V1 => &RESNET50_V1,
            Pretrained::InceptionV3 => &INCEPTION_V3,
            Pretrained::InceptionFid => &INCEPTION_FID,
            Pretrained::Swin2srCompressed => &SWIN2SR_COMPRESSED,
            Pretrained::Swin2srClassical => &SWIN2SR_CLASSICAL,
            Pretrained::Swin2srRealworld => &SWIN2SR_REALWORLD,
        }
    }

    /// The name in commands, folders and spec files.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Whether a file with that SHA-256 is the published one; `None` if the publisher states no
    /// digest.
    pub fn is_published(self, sha256: &str) -> Option<bool> {
        self.entry().sha256.map(|digits| sha256.starts_with(digits))
    }
}

const RESNET50_V2: Entry = Entry {
    name: "resnet50-imagenet1k-v2",
    network: "ResNet50, ImageNet (torchvision IMAGENET1K_V2)",
    file: "resnet50-11ad3fa6.pth",
    url: "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
    licence: "BSD-3-Clause",
    mib: Some(98),
    tensors: 267,
    parameters: 25_557_032,
    sha256: Some("11ad3fa6"),
    stand_in: Some("tl.init=random"),
};

const RESNET50_V1: Entry = Entry {
    name: "resnet50-imagenet1k-v1",
    network: "ResNet50, ImageNet (torchvision IMAGENET1K_V1)",
    file: "resnet50-0676ba61.pth",
    url: "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    sha256: Some("0676ba61"),
    ..RESNET50_V2
};

const INCEPTION_V3: Entry = Entry {
    name: "inception-v3-imagenet1k",
    network: "Inception-v3, ImageNet (torchvision)",
    file: "inception_v3_google-0cc3c7bd.pth",
    url: "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    licence: "BSD-3-Clause",
    mib: Some(104),
    tensors: 484,
    parameters: 27_161_264,
    sha256: Some("0cc3c7bd"),
    stand_in: Some("sifid.features=random"),
};

const INCEPTION_FID: Entry = Entry {
    name: "inception-v3-fid",
    network: "Inception-v3 of the Fréchet distance (pytorch-fid)",
    file: "pt_inception-2015-12-05-6726825d.pth",
    url: "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    licence: "Apache-2.0",
    mib: Some(91),
    tensors: 472,
    parameters: 23_850_960,
    sha256: Some("6726825d"),
    stand_in: None,
};

const SWIN2SR_COMPRESSED: Entry = Entry {
    name: "swin2sr-compressed-x4",
    network: "Swin2SR ×4, compressed input",
    file: "Swin2SR_CompressedSR_X4_48.pth",
    url: "https://github.com/mv-lab/swin2sr/releases/download/v0.0.1/Swin2SR_CompressedSR_X4_48.pth",
    licence: "Apache-2.0",
    mib: None,
    tensors: 660,
    parameters: 12_244_598,
    sha256: None,
    stand_in: Some("upscale.method=lanczos"),
};

const SWIN2SR_CLASSICAL: Entry = Entry {
    name: "swin2sr-classical-x4",
    network: "Swin2SR ×4, classical",
    file: "Swin2SR_ClassicalSR_X4_64.pth",
    url: "https://github.com/mv-lab/swin2sr/releases/download/v0.0.1/Swin2SR_ClassicalSR_X4_64.pth",
    tensors: 654,
    parameters: 12_239_283,
    ..SWIN2SR_COMPRESSED
};

const SWIN2SR_REALWORLD: Entry = Entry {
    name: "swin2sr-realworld-x4",
    network: "Swin2SR ×4, real-world",
    file: "Swin2SR_RealworldSR_X4_64_BSRGAN_PSNR.pth",
    url: "https://github.com/mv-lab/swin2sr/releases/download/v0.0.1/Swin2SR_RealworldSR_X4_64_BSRGAN_PSNR.pth",
    tensors: 656,
    parameters: 12_054_643,
    ..SWIN2SR_COMPRESSED
};

impl fmt::Display for Pretrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No published weights have that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no weights are called {name:?}; there are {}", Pretrained::ALL.map(Pretrained::name).join(", "))]
pub struct UnknownWeights {
    name: String,
}

impl FromStr for Pretrained {
    type Err = UnknownWeights;

    fn from_str(name: &str) -> Result<Self, UnknownWeights> {
        Self::ALL.into_iter().find(|which| which.name() == name).ok_or_else(|| UnknownWeights { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_the_same_in_commands_and_in_json_and_lead_back() {
        for which in Pretrained::ALL {
            assert_eq!(serde_json::to_value(which).unwrap(), which.name());
            assert_eq!(which.name().parse(), Ok(which));
            assert!(which.entry().url.starts_with("https://") && which.entry().url.ends_with(which.entry().file));
        }
        let names: BTreeSet<&str> = Pretrained::ALL.iter().map(|which| which.name()).collect();
        assert_eq!(names.len(), Pretrained::ALL.len());
        let told = "resnet".parse::<Pretrained>().unwrap_err().to_string();
        assert!(told.contains("resnet50-imagenet1k-v2"), "{told}");
    }

    #[test]
    fn a_digest_that_stands_in_the_files_name_is_the_one_that_is_checked() {
        for which in Pretrained::ALL {
            let Entry { file, sha256, .. } = which.entry();
            assert!(sha256.is_none_or(|digits| file.ends_with(&format!("-{digits}.pth"))), "{file}");
        }
        assert_eq!(Pretrained::Resnet50V1.is_published("0676ba61b6795bbe"), Some(true));
        assert_eq!(Pretrained::Resnet50V1.is_published("11ad3fa6"), Some(false));
        assert_eq!(Pretrained::Swin2srCompressed.is_published("11ad3fa6"), None);
    }
}
