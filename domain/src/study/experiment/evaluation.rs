//! The comparison of synthetic with real pictures (ALGORITHM 4).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::knob::{Knob, Reading};
use super::range::SIDE_MAX;
use crate::study::pretrained::Pretrained;

/// Image property drift (ALGORITHM 4.1). Both the Kolmogorov–Smirnov statistic
/// and the earth mover's distance are always reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drift {
    /// The distance that is compared with `threshold` and with the paper's scores.
    pub method: DriftMethod,
    /// The real pictures that synthetic ones are compared with.
    pub reference: DriftReference,
    /// The pixels of a picture that are measured.
    pub path: DriftPath,
    /// Share cut from each end of both samples before the earth mover's distance is taken.
    pub margin: f64,
    /// Score at and above which a property has drifted.
    pub threshold: f64,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            method: DriftMethod::Ks,
            reference: DriftReference::SinddmTrain,
            path: DriftPath::Full,
            margin: 0.025,
            threshold: 0.2,
        }
    }
}

/// A distance between distributions; see [`Drift::method`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriftMethod {
    /// The Kolmogorov–Smirnov statistic.
    #[default]
    #[serde(rename = "KS", alias = "ks")]
    Ks,
    /// The earth mover's distance.
    #[serde(rename = "EMD", alias = "emd")]
    Emd,
}

impl DriftMethod {
    /// The name in specs and tables.
    pub fn name(self) -> &'static str {
        match self {
            DriftMethod::Ks => "KS",
            DriftMethod::Emd => "EMD",
        }
    }
}

/// A choice of real pictures; see [`Drift::reference`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftReference {
    /// The pictures chosen for the diffusion models of the view.
    #[default]
    SinddmTrain,
    /// All pictures of A of the view.
    AllA,
}

/// A choice of pixels; see [`Drift::path`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftPath {
    /// All pixels.
    #[default]
    Full,
    /// 10 000 pixels drawn at random, each possibly more than once.
    Sampled10000,
}

/// Maps of the brightness of real and of synthetic pictures (ALGORITHM 4.2).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Heatmap {
    /// The size to which both are brought.
    pub size: HeatmapSize,
}

/// A common size of real and synthetic pictures; see [`Heatmap::size`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeatmapSize {
    /// The size of the synthetic pictures.
    #[default]
    Synthetic,
    /// The size of the first real picture on its canvas.
    Reference,
}

/// Single-image Fréchet distance (ALGORITHM 4.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sifid {
    /// Weights of the network whose features are compared.
    pub features: Features,
    /// Channels of the feature map: 64 or 192.
    pub block: u32,
    /// Which real picture a synthetic one is compared with.
    pub pairing: Pairing,
    /// The size at which pictures are looked at.
    pub size: SifidSize,
    /// The set over which mean and ± of a view are taken.
    pub std_over: StdOver,
}

impl Default for Sifid {
    fn default() -> Self {
        Self {
            features: Features::Imagenet,
            block: 192,
            pairing: Pairing::AllPairs,
            size: SifidSize::Rule(SifidRule::RealResizedToFake),
            std_over: StdOver::Class,
        }
    }
}

impl Sifid {
    /// The published weights that the distance needs.
    pub fn weights(&self) -> Option<Pretrained> {
        (self.features == Features::Imagenet).then_some(Pretrained::InceptionV3)
    }
}

/// Weights of the feature network; see [`Sifid::features`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// Weights learnt on ImageNet, as the paper's.
    #[default]
    Imagenet,
    /// Random numbers, the same in every study; stand in for the weights learnt on ImageNet.
    Random,
}

/// A pairing of synthetic with real pictures; see [`Sifid::pairing`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Each synthetic picture with each real one; the mean distance counts.
    #[default]
    AllPairs,
    /// Each synthetic picture with each real one; the smallest distance counts.
    Nearest,
    /// The i-th synthetic with the (i mod n)-th real picture.
    Index,
}

/// A size for the comparison; see [`Sifid::size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"real_resized_to_fake\", \"native\" or [width, height]")]
pub enum SifidSize {
    /// Width and height to which both pictures are brought, for instance `[264, 200]`.
    Size([u32; 2]),
    /// A size that follows from the pictures by a rule.
    Rule(SifidRule),
}

/// A rule for the size; see [`SifidSize::Rule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SifidRule {
    /// Real pictures are brought to the size of the synthetic ones.
    RealResizedToFake,
    /// Each picture keeps its size: textures are compared at two resolutions.
    Native,
}

/// A set of scores; see [`Sifid::std_over`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StdOver {
    /// The six means of the classes.
    #[default]
    Class,
    /// The scores of all synthetic pictures.
    Image,
}

/// The knobs of [`Drift`], [`Heatmap`] and [`Sifid`].
pub(super) const KNOBS: &[Knob] = &[
    Knob::reading(
        "drift.method",
        Reading {
            section: "V-A; Fig. 4",
            paper: "drift scores by a program whose distance depends on its version, with a limit of 0.2",
            alternatives: "EMD, of versions whose limit was 0.1",
            reason: "the limit is that of the versions that take the Kolmogorov–Smirnov statistic",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "drift.reference",
        Reading {
            section: "V-A",
            paper: "synthetic pictures are compared with the CCD pictures of their view; with all or with the 48 learnt from is not said",
            alternatives: "all_a",
            reason: "a generator can be judged by what it was shown only",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "drift.path",
        Reading {
            section: "V-A",
            paper: "five of the program's seven properties are shown; a list of one's own measures all pixels, the default list 10 000 drawn ones",
            alternatives: "sampled10000",
            reason: "five properties are a list of one's own",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "drift.margin",
        Reading {
            section: "V-A",
            paper: "the settings of the earth mover's distance are not said",
            alternatives: "any share",
            reason: "the program's default",
            allows: |_| true,
        },
    )
    .real(0.0, 0.4),
    Knob::deviation("drift.threshold").real(0.0, 1.0),
    Knob::reading(
        "heatmap.size",
        Reading {
            section: "V-A; Fig. 5",
            paper: "mean pictures of real and synthetic ones are compared; at which size is not said",
            alternatives: "reference, as the program does",
            reason: "nothing is enlarged before it is compared",
            allows: |_| true,
        },
    ),
    Knob::deviation("sifid.features"),
    Knob::reading(
        "sifid.block",
        Reading {
            section: "V-A",
            paper: "features from before the second pooling layer; an early version of the published code took those before the first",
            alternatives: "64",
            reason: "192 channels are what lies before the second pooling layer",
            allows: |_| true,
        },
    )
    .among(&[64, 192]),
    Knob::reading(
        "sifid.pairing",
        Reading {
            section: "V-A",
            paper: "SIFID compares one real with one synthetic picture; how 8 and 25 are paired is not said",
            alternatives: "nearest; index",
            reason: "no pair is preferred",
            allows: |_| true,
        },
    ),
    Knob::reading(
        "sifid.size",
        Reading {
            section: "V-A",
            paper: "real pictures have 4288×2848 pixels and synthetic ones 1056×800; at which size they are compared is not said",
            alternatives: "native; [264, 200]",
            reason: "textures are compared at one resolution",
            allows: |it| matches!(it.sifid.size, SifidSize::Rule(_) | SifidSize::Size([264, 200])),
        },
    )
    .whole(23, SIDE_MAX),
    Knob::reading(
        "sifid.std_over",
        Reading {
            section: "V-A",
            paper: "3.14 ± 0.93 and 3.79 ± 1.71; over what the ± is, is not said",
            alternatives: "image",
            reason: "one model per class is what varies",
            allows: |_| true,
        },
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_sifid_are_pixels_or_rules() {
        let read = |text: &str| serde_json::from_str::<Sifid>(text).map(|sifid| sifid.size);
        assert_eq!(read(r#"{"size": [264, 200]}"#).unwrap(), SifidSize::Size([264, 200]));
        assert_eq!(read(r#"{"size": "native"}"#).unwrap(), SifidSize::Rule(SifidRule::Native));
        let error = read(r#"{"size": "large"}"#).unwrap_err().to_string();
        assert!(error.contains(r#"expected "real_resized_to_fake", "native" or [width, height]"#), "{error}");
    }
}
