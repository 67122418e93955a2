//! Scores of synthetic pictures.

use serde::{Deserialize, Serialize};

/// `drift.json` of `evaluate.drift`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftRecord {
    /// Real pictures.
    pub n_real: u32,
    /// Synthetic pictures.
    pub n_synthetic: u32,
    /// In the order of `crate::study::paper::DRIFT_PROPERTIES`.
    pub properties: Vec<PropertyDrift>,
}

/// One property of [`DriftRecord`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PropertyDrift {
    /// Its name.
    pub property: String,
    /// Kolmogorov–Smirnov statistic; absent where there are too few pictures.
    pub ks: Option<f64>,
    /// Earth mover's distance; absent likewise.
    pub emd: Option<f64>,
    /// 5th, 50th and 95th percentile of the statistic for two samples of these
    /// sizes from one distribution.
    pub ks_null: [f64; 3],
    /// Value of each real picture.
    pub real: Vec<f64>,
    /// Value of each synthetic picture.
    pub synthetic: Vec<f64>,
    /// Why there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What an evaluation leaves in place of its record if there is nothing that can be scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// Why there is no score.
    pub absent: String,
}

/// `heatmap.json` of `evaluate.heatmap`; grey levels 0..255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeatmapRecord {
    /// Width and height of the maps.
    pub size: [u32; 2],
    /// Mean absolute difference of the two mean pictures.
    pub mean_difference: f64,
    /// Share of pixels brighter than the background in the mean real picture.
    pub foreground_real: f64,
    /// The same of the mean synthetic picture.
    pub foreground_synthetic: f64,
}

/// `sifid.json` of `evaluate.sifid`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SifidRecord {
    /// Channels of the feature map.
    pub block: u32,
    /// Mean over synthetic pictures.
    pub mean: f64,
    /// Distance of each synthetic picture, by the spec's pairing.
    pub per_image: Vec<f64>,
}
