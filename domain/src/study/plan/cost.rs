//! Estimates of the arithmetic of each task, from which durations are estimated. ALGORITHM 9.

use std::collections::BTreeMap;

use super::{Plan, TaskSpec};
use crate::id::TaskKey;
use crate::study::experiment::{
    DdpmMethod, DdpmTraining, Network, Patch, Sinddm, Stem, Swin2srTraining, Swin2srVariant, UpscaleMethod,
};
use crate::study::stage::Stage;
use crate::study::stone::CLASSES;

/// Floating-point operations of each task of a plan, in the plan's order; a multiply-add counts
/// as two.
///
/// Stages that move pictures rather than multiply get a flat number, which stands for their
/// time on a processor of 10 GFLOP/s.
pub fn flops(plan: &Plan) -> Vec<f64> {
    let made: Made<'_> = plan.tasks.iter().map(|task| (task.key, task)).collect();
    plan.tasks.iter().map(|task| flop(task, &made)).collect()
}

/// The tasks of a plan, by their keys.
type Made<'a> = BTreeMap<TaskKey, &'a TaskSpec>;

fn flop(task: &TaskSpec, made: &Made<'_>) -> f64 {
    const MOVING_PICTURES: f64 = 5e9;
    match &task.stage {
        Stage::SinddmTrain { sinddm } => {
            let scales = sinddm.planned_geometry().sizes.len() as f64;
            let shrink = sinddm.scale_factor.powi(-2);
            let mean_share = (1.0 - shrink.powf(scales)) / (1.0 - shrink) / scales;
            let pixels = pixels(sinddm) * mean_share;
            6.0 * diffusion_mac(sinddm) * pixels * f64::from(sinddm.batch) * f64::from(sinddm.steps)
        }
        Stage::SinddmSample { sampling, .. } => match trained_with(task, made) {
            // The coarsest scale takes all diffusion steps, each finer one about a third.
            Some(sinddm) => {
                let passes = 0.8 * f64::from(sinddm.timesteps);
                let share = sampling.scale_mul[0] * sampling.scale_mul[1];
                2.0 * diffusion_mac(sinddm) * pixels(sinddm) * share * passes * f64::from(sampling.per_model)
            }
            None => MOVING_PICTURES,
        },
        Stage::DdpmTrain { training } => {
            6.0 * unet_mac(training) * f64::from(training.batch) * f64::from(training.steps)
        }
        Stage::DdpmSample { sampling } => match needed(task, made).find_map(|task| match &task.stage {
            Stage::DdpmTrain { training } => Some(training),
            _ => None,
        }) {
            Some(training) => {
                let steps = match sampling.method {
                    DdpmMethod::Ancestral => training.timesteps,
                    DdpmMethod::Ddim => sampling.ddim_steps,
                };
                2.0 * unet_mac(training) * f64::from(steps) * f64::from(sampling.per_class_view)
            }
            None => MOVING_PICTURES,
        },
        Stage::Swin2srTrain { training, .. } => {
            let pixels = f64::from(training.crop).powi(2) * f64::from(training.batch);
            6.0 * small_swin2sr_mac(training) * pixels * f64::from(training.steps)
        }
        Stage::ClassifyTrain(training) => {
            let size = patch_size(task, made);
            let (train, test) = patch_quota(task, made);
            let [train, test] = [train, test].map(|each| CLASSES as f64 * f64::from(each));
            let sets = training.datasets.len() as f64;
            let validation = training.val_fraction * train;
            let epoch = 3.0 * (train - validation) + validation;
            2.0 * network_mac(&training.network, size) * sets * (f64::from(training.epochs) * epoch + test)
        }
        Stage::EvaluateSifid(_) => 10.0 * MOVING_PICTURES,
        Stage::Ingest(_) | Stage::Patches(_) => 4.0 * MOVING_PICTURES,
        Stage::Upscale { upscale } if upscale.method == UpscaleMethod::Swin2sr => {
            let trained = needed(task, made).find_map(|task| match &task.stage {
                Stage::Swin2srTrain { training, .. } => Some(small_swin2sr_mac(training)),
                _ => None,
            });
            let sampled = needed(task, made).find_map(|sample| match &sample.stage {
                Stage::SinddmSample { sampling, .. } => Some((sampling, trained_with(sample, made)?)),
                _ => None,
            });
            let pictures = sampled.map_or(0.0, |(sampling, sinddm)| {
                // The network sees the picture with the padding to whole windows.
                let padded = sampling.size(sinddm.planned_size()).map(|side| f64::from((side / 8 + 1) * 8));
                padded[0] * padded[1] * f64::from(sampling.per_model)
            });
            MOVING_PICTURES + 2.0 * trained.unwrap_or_else(|| swin2sr_mac(upscale.variant)) * pictures
        }
        Stage::Pad(_)
        | Stage::Upscale { .. }
        | Stage::EvaluateDrift(_)
        | Stage::EvaluateHeatmap(_)
        | Stage::Aggregate(_)
        | Stage::Report => MOVING_PICTURES,
        // Nobody knows.
        Stage::Command(_) => 0.0,
    }
}

/// Number of pixels of the finest scale.
fn pixels(sinddm: &Sinddm) -> f64 {
    sinddm.planned_size().map(f64::from).iter().product()
}

/// Multiply-adds per pixel of the diffusion network (ALGORITHM 2.4).
pub fn diffusion_mac(sinddm: &Sinddm) -> f64 {
    let wide = f64::from(sinddm.dim);
    let half = wide / 2.0;
    let block = |from: f64, to: f64| {
        let residual = if from == to { 0.0 } else { from * to };
        25.0 * from + 9.0 * from * to + 9.0 * to * to + residual
    };
    block(3.0, half) + block(half, wide) + block(wide, wide) + block(wide, half) + 3.0 * half
}

/// Multiply-adds of the plain diffusion model's network for one picture: those of the default
/// network (ALGORITHM 5), scaled in proportion.
pub fn unet_mac(training: &DdpmTraining) -> f64 {
    29.2e9 * (f64::from(training.size) / 128.0 * f64::from(training.dim) / 64.0).powi(2)
}

/// Multiply-adds of Swin2SR per pixel of the small picture (ALGORITHM 9).
pub fn swin2sr_mac(variant: Swin2srVariant) -> f64 {
    let picture = match variant {
        Swin2srVariant::CompressedX4 => 754.3e9,
        Swin2srVariant::ClassicalX4 => 752.6e9,
        Swin2srVariant::RealworldX4 => 785.9e9,
    };
    picture / (208.0 * 272.0)
}

/// Multiply-adds, per pixel of the small picture, of a Swin2SR that the study trains: its
/// blocks, the convolutions between them, and the enlarging layers.
fn small_swin2sr_mac(training: &Swin2srTraining) -> f64 {
    const TOKENS: f64 = 64.0;
    const HEAD: f64 = 64.0;
    let (width, stages) = (f64::from(training.embed_dim), training.depths.len() as f64);
    let blocks: f64 = training.depths.iter().map(|depth| f64::from(*depth)).sum();
    let body = blocks * (8.0 * width * width + 2.0 * TOKENS * width) + stages * 10.0 * width * width;
    body + 9.0 * HEAD * (width + 4.0 * HEAD + 4.0 * 4.0 * HEAD + 16.0 * 3.0)
}

/// Multiply-adds of the classifier for one patch of `size` × `size` pixels.
pub fn network_mac(network: &Network, size: u32) -> f64 {
    let mut side = f64::from(size);
    let width = f64::from(network.width);
    let mut mac = match network.stem {
        Stem::Imagenet => {
            side /= 2.0;
            let mac = side * side * 49.0 * 3.0 * width;
            side /= 2.0;
            mac
        }
        Stem::Small => side * side * 9.0 * 3.0 * width,
    };
    let mut from = width;
    for (stage, &blocks) in network.blocks.iter().enumerate() {
        let inner = width * f64::from(1 << stage.min(16));
        let to = 4.0 * inner;
        let before = side * side;
        if stage > 0 {
            side /= 2.0;
        }
        let area = side * side;
        let first = before * from * inner + area * from * to;
        let others = (f64::from(blocks) - 1.0) * area * to * inner;
        mac += first + others + f64::from(blocks) * area * (9.0 * inner * inner + inner * to);
        from = to;
    }
    for &to in network.head.iter().chain([&(CLASSES as u32)]) {
        mac += from * f64::from(to);
        from = f64::from(to);
    }
    mac
}

fn needed<'a>(task: &'a TaskSpec, made: &'a Made<'a>) -> impl Iterator<Item = &'a TaskSpec> {
    task.needs().filter_map(|need| made.get(&need).copied())
}

fn trained_with<'a>(task: &'a TaskSpec, made: &'a Made<'a>) -> Option<&'a Sinddm> {
    needed(task, made).find_map(|task| match &task.stage {
        Stage::SinddmTrain { sinddm } => Some(sinddm),
        _ => None,
    })
}

fn patches_of<'a>(task: &'a TaskSpec, made: &'a Made<'a>) -> Option<&'a Patch> {
    needed(task, made).find_map(|task| match &task.stage {
        Stage::Patches(patches) => Some(&patches.patch),
        _ => None,
    })
}

fn patch_size(task: &TaskSpec, made: &Made<'_>) -> u32 {
    patches_of(task, made).map_or(0, |patch| patch.size)
}

fn patch_quota(task: &TaskSpec, made: &Made<'_>) -> (u32, u32) {
    patches_of(task, made).map_or((0, 0), Patch::quota)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::experiment::{Experiment, Protocol};
    use crate::study::plan::{Data, plan};

    #[test]
    fn the_networks_cost_what_the_specification_counts() {
        assert_eq!(diffusion_mac(&Sinddm::default()), 1_075_115.0);
        let resnet = network_mac(&Network::default(), 256);
        assert!((resnet / 5.34e9 - 1.0).abs() < 0.01, "{resnet}");
    }

    #[test]
    fn blocks_are_counted_and_not_walked_through() {
        let of = |blocks: u32| network_mac(&Network { blocks: vec![blocks], ..Network::default() }, 256);
        let each = of(3) - of(2);
        assert!(((of(u32::MAX) - of(2)) / (f64::from(u32::MAX - 2) * each) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_network_of_ones_own_counts_as_the_published_one_in_its_size() {
        let published = Swin2srTraining { embed_dim: 180, depths: vec![6; 6], ..Swin2srTraining::default() };
        let ratio = small_swin2sr_mac(&published) / swin2sr_mac(Swin2srVariant::ClassicalX4);
        assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
    }

    #[test]
    fn the_studys_budget_is_that_of_the_specification() {
        let mut experiment = Experiment::default();
        // The paper's five trainings of each model.
        experiment.tl.protocol = vec![Protocol::FixedSplit];
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let flops = flops(&plan);
        let total = |stage: &str| -> f64 {
            let of_stage = plan.tasks.iter().zip(&flops).filter(|(task, _)| task.stage.kind().name() == stage);
            of_stage.map(|(_, flop)| flop).sum()
        };
        assert!((total("sinddm.train") / 6.04e18 - 1.0).abs() < 0.02, "{}", total("sinddm.train"));
        assert!((total("upscale") / 4.5e14 - 1.0).abs() < 0.02, "{}", total("upscale"));
        assert!((total("classify.train") / 4.32e17 - 1.0).abs() < 0.02, "{}", total("classify.train"));
    }
}
