//! The scores of synthetic pictures beside real ones.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::study::experiment::{DriftMethod, StdOver};
use crate::study::stone::{Class, View};
use crate::study::system::{Model, System};

/// The drift of one image property between real and synthetic pictures. Both distances
/// lie in 0..1, and smaller is better. Where there is no score, `why` says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftScore {
    /// The half of the study.
    pub view: View,
    /// The name of the property.
    pub property: String,
    /// The distance that `interval`, `passed` and `verdict` are about.
    #[serde(default)]
    pub method: DriftMethod,
    /// The largest gap between the two empirical distribution functions.
    pub ks: Option<f64>,
    /// The earth mover's distance of the trimmed samples on their common range.
    pub emd: Option<f64>,
    /// The 5th, 50th and 95th percentile of `ks` for two samples of these sizes from one
    /// distribution.
    pub ks_null: [f64; 3],
    /// The probability of a `ks` at least as large for two samples from one distribution. A
    /// small probability shows a drift.
    #[serde(default)]
    pub p_null: Option<f64>,
    /// The range of `ks` for as many other pictures of either kind: the middle 95 % of
    /// 10 000 bootstrap samples of both, moved to have the mean `ks`.
    #[serde(default)]
    pub interval: Option<[f64; 2]>,
    /// The two-sided p-value of a `ks` equal to the threshold, by the same bootstrap samples.
    #[serde(default)]
    pub p_threshold: Option<f64>,
    /// The number of real pictures.
    pub n_real: u32,
    /// The number of synthetic pictures.
    pub n_synthetic: u32,
    /// Whether `ks` is below the threshold.
    pub passed: Option<bool>,
    /// The paper's score.
    pub paper: f64,
    /// The probability of a score as small as the paper's for samples of these sizes from
    /// one distribution. If it is small, not even a perfect generator has such a score.
    #[serde(default)]
    pub p_null_paper: Option<f64>,
    /// The verdict on the score. CONSISTENT: the paper's score lies in `interval`. HIGHER or
    /// LOWER: the whole interval lies above or below the paper's score. Less drift is no fault.
    pub verdict: Verdict,
    /// The reason why there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The share, 0 to 1, of the synthetic pictures behind the score that pass the gate, which
    /// means that they show one central object as the real ones do. Absent if the score rests on
    /// no synthetic pictures or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

impl DriftScore {
    /// The distance that `method` names.
    pub fn score(&self) -> Option<f64> {
        match self.method {
            DriftMethod::Ks => self.ks,
            DriftMethod::Emd => self.emd,
        }
    }
}

/// The single-image Fréchet distance of one view; smaller is better. Where there is no
/// score, `why` says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SifidScore {
    /// The half of the study.
    pub view: View,
    /// What the mean and ± are over.
    #[serde(default)]
    pub std_over: StdOver,
    /// The mean over classes, or over synthetic pictures; absent unless every class has a score.
    pub mean: Option<f64>,
    /// The sample standard deviation over what the mean is over.
    pub std: Option<f64>,
    /// The mean of each class that has a score.
    pub per_class: Vec<(Class, f64)>,
    /// The paper's mean.
    pub paper_mean: f64,
    /// The paper's ±.
    pub paper_std: f64,
    /// The verdict on the mean beside the paper's.
    pub verdict: Verdict,
    /// The reason why there is no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The share, 0 to 1, of the synthetic pictures behind the score that pass the gate, which
    /// means that they show one central object as the real ones do. Absent if the score rests on
    /// no synthetic pictures or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

/// The scores of where pictures are bright, real against synthetic, in grey levels
/// 0..255. Where there are no scores, `why` says why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeatmapScore {
    /// The half of the study.
    pub view: View,
    /// The mean absolute difference of the two mean pictures.
    pub mean_difference: Option<f64>,
    /// The share of pixels brighter than the background in the mean real picture.
    pub foreground_real: Option<f64>,
    /// The share of pixels brighter than the background in the mean synthetic picture.
    pub foreground_synthetic: Option<f64>,
    /// The reason why there are no scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The share, 0 to 1, of the synthetic pictures behind the scores that pass the gate, which
    /// means that they show one central object as the real ones do. Absent if the scores rest on
    /// no synthetic pictures or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

/// The scores of the samples of one network of a compared system, against the pictures as
/// the network learnt from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedScore {
    /// The system that drew the samples.
    pub system: System,
    /// The half of the study.
    pub view: View,
    /// The class; absent for a network of all classes of the view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The drift of each image property: the name of the property, the Kolmogorov–Smirnov
    /// statistic, and the earth mover's distance.
    pub drift: Vec<(String, Option<f64>, Option<f64>)>,
    /// The mean single-image Fréchet distance over samples; smaller is better.
    pub sifid: Option<f64>,
    /// The mean absolute difference of the two mean pictures, in grey levels 0..255.
    pub mean_difference: Option<f64>,
    /// The reasons why scores are absent, by kind of score: `drift`, `sifid`, `heatmap`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub why: BTreeMap<String, String>,
    /// The share, 0 to 1, of the synthetic pictures behind the scores that pass the gate, which
    /// means that they show one central object as the real ones do. Absent if the scores rest on
    /// no synthetic pictures or none was judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passing: Option<f64>,
}

impl ComparedScore {
    /// The network that drew the samples.
    pub fn model(&self) -> Model {
        Model::new(self.view, self.class, None)
    }

    /// System and network as people read them, for instance `DDPM SUR.IVa`.
    pub fn title(&self) -> String {
        format!("{} {}", self.system.name(), self.model().dotted())
    }
}
