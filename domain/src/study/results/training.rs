//! The trainings of the networks that draw pictures or enlarge them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::study::stone::{Class, View};
use crate::study::system::Model;

/// The largest number of points of a loss curve.
const POINTS: usize = 100;

/// The training of one network that draws pictures or enlarges them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelTraining {
    /// The stage: `sinddm.train`, `ddpm.train` or `swin2sr.train`.
    pub stage: String,
    /// The half of the study.
    pub view: View,
    /// The class; absent for a network of all classes of the view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The picture of the class, counted from 0; absent for a network of all its pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<u32>,
    /// The number of optimiser steps.
    pub steps: u32,
    /// The mean loss of the last tenth of the steps.
    pub final_loss: f64,
    /// The mean loss of the last 50 steps at each scale, counted from 0, the coarsest; empty
    /// for networks of one scale.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub loss_by_scale: BTreeMap<usize, f64>,
    /// The loss over the steps.
    pub curve: LossCurve,
    /// The similarity of held-out pictures to the true ones, for networks that enlarge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enlarging: Option<Enlarging>,
}

impl ModelTraining {
    /// The name of the model for people: `SUR`, `SUR/IVa` or `SUR/IVa picture 3`.
    pub fn model(&self) -> String {
        Model::new(self.view, self.class, self.picture).to_string()
    }
}

/// The loss of a training, at most 100 points.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossCurve {
    /// The number of steps behind each point; there may be fewer behind the last.
    pub every: u32,
    /// The mean loss of each `every` steps.
    pub mean: Vec<f32>,
}

impl LossCurve {
    /// The curve of the losses of all steps.
    pub fn of(losses: &[f32]) -> Self {
        let every = losses.len().div_ceil(POINTS).max(1);
        let mean = |steps: &[f32]| steps.iter().map(|loss| f64::from(*loss)).sum::<f64>() / steps.len() as f64;
        Self { every: every as u32, mean: losses.chunks(every).map(|steps| mean(steps) as f32).collect() }
    }
}

/// The similarity of pictures that were held out, made smaller and enlarged again to what
/// they were before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Enlarging {
    /// The number of pictures held out. Without any, there are no scores.
    pub held_out: u32,
    /// The scores of the network.
    pub ours: Nearness,
    /// The scores of bicubic interpolation.
    pub bicubic: Nearness,
}

/// The average similarity of enlarged pictures to the true ones; higher is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nearness {
    /// The peak signal-to-noise ratio of luma, in dB.
    pub psnr: Option<f64>,
    /// The structural similarity of luma, at most 1.
    pub ssim: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_a_hundred_points_at_most_and_leaves_no_step_out() {
        let few = LossCurve::of(&[3.0, 1.0]);
        assert_eq!((few.every, few.mean.as_slice()), (1, [3.0, 1.0].as_slice()));
        // 250 steps by three: 83 points of three steps, and the last of one.
        let losses: Vec<f32> = (0..250).map(|step| step as f32).collect();
        let many = LossCurve::of(&losses);
        assert_eq!((many.every, many.mean.len()), (3, 84));
        assert_eq!((many.mean[0], many.mean[82], many.mean[83]), (1.0, 247.0, 249.0));
        assert_eq!(LossCurve::of(&vec![0.5; 120_001]).mean.len(), 100);
        assert!(LossCurve::of(&[]).mean.is_empty());
    }
}
