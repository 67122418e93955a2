//! Whether the parameters of a stage are in range. Those of a plan are, since its spec
//! was checked; those that come from a file or from another process may be anything.

use crate::study::experiment::range::{FINEST_MAX, SIDE_MAX, size, within};
use crate::study::experiment::{Experiment, Finest, Init, InvalidKnob, Patch};
use crate::study::stage::{
    Aggregate, Choice, ClassifyTrain, EvaluateDrift, EvaluateHeatmap, EvaluateSifid, Mosaic, Seen, Stage,
};
use crate::study::trial::Split;

/// Most folds of one dealing of images.
const FOLDS_MAX: u32 = 10;

impl Stage {
    /// Whether its parameters are in the ranges that a spec has to keep.
    ///
    /// # Errors
    /// The first that is not, by the name of its knob or its own.
    pub fn check(&self) -> Result<(), InvalidKnob> {
        match self {
            Stage::Ingest(ingest) => {
                within("min_side", ingest.min_side, 0..=SIDE_MAX)?;
                ingest.choice.as_ref().map_or(Ok(()), choice)
            }
            Stage::Pad(canvases) => {
                knobs(|spec| spec.pad = canvases.pad.clone())?;
                canvases.frame.map_or(Ok(()), |frame| size("frame", frame, 1..=SIDE_MAX))?;
                canvases.choice.as_ref().map_or(Ok(()), choice)
            }
            Stage::SinddmTrain { sinddm } => knobs(|spec| spec.sinddm = sinddm.clone()),
            Stage::SinddmSample { sampling, reject_empty: _ } => knobs(|spec| spec.sampling = sampling.clone()),
            Stage::DdpmTrain { training } => knobs(|spec| spec.ddpm.training = training.clone()),
            Stage::DdpmSample { sampling } => knobs(|spec| spec.ddpm.sampling = sampling.clone()),
            Stage::Swin2srTrain { size, training } => {
                self::size("size", *size, 1..=SIDE_MAX)?;
                knobs(|spec| spec.upscale.training = training.clone())
            }
            Stage::Upscale { upscale } => knobs(|spec| spec.upscale = upscale.clone()),
            Stage::EvaluateDrift(EvaluateDrift { path: _, margin, seen, mosaic }) => {
                knobs(|spec| spec.drift.margin = *margin)?;
                seen.map_or(Ok(()), self::seen)?;
                self::mosaic(*mosaic)
            }
            Stage::EvaluateHeatmap(EvaluateHeatmap { size: _, mosaic }) => self::mosaic(*mosaic),
            Stage::EvaluateSifid(EvaluateSifid { features: _, block, pairing: _, size, mosaic }) => {
                knobs(|spec| (spec.sifid.block, spec.sifid.size) = (*block, *size))?;
                self::mosaic(*mosaic)
            }
            Stage::Patches(patches) => {
                split(patches.split)?;
                knobs(|spec| {
                    // As large as a patch may be.
                    spec.sinddm.finest = [FINEST_MAX; 2].into();
                    spec.patch = patches.patch.clone();
                    spec.pad = patches.pad.clone().unwrap_or_default();
                })
            }
            Stage::ClassifyTrain(training) => classify(training),
            Stage::Aggregate(aggregate) => totals(aggregate),
            Stage::Report | Stage::Command(_) => Ok(()),
        }
    }
}

/// A spec with some knobs set, in which none of the others stands in their way.
fn knobs(set: impl FnOnce(&mut Experiment)) -> Result<(), InvalidKnob> {
    let mut spec = Experiment { patch: Patch { size: 16, ..Patch::default() }, ..Experiment::default() };
    set(&mut spec);
    spec.check()
}

fn choice(choice: &Choice) -> Result<(), InvalidKnob> {
    within("choice.images", choice.images, 1..=u32::MAX)
}

fn mosaic(mosaic: Option<Mosaic>) -> Result<(), InvalidKnob> {
    mosaic.and_then(|mosaic| mosaic.frame).map_or(Ok(()), |frame| size("mosaic.frame", frame, 1..=SIDE_MAX))
}

fn seen(seen: Seen) -> Result<(), InvalidKnob> {
    within("seen.factor", seen.factor, 1..=16)?;
    if let Finest::Size(finest) = seen.finest { size("seen.finest", finest, 1..=SIDE_MAX) } else { Ok(()) }
}

fn split(split: Split) -> Result<(), InvalidKnob> {
    within("split.folds", split.folds, 1..=FOLDS_MAX)?;
    within("split.fold", split.fold, 0..=split.folds - 1)
}

/// Names every parameter, so that none is added without a word on its range.
fn classify(training: &ClassifyTrain) -> Result<(), InvalidKnob> {
    let ClassifyTrain {
        datasets: _,
        network,
        init,
        head: _,
        order: _,
        mix: _,
        whiten: _,
        batch,
        epochs,
        lr,
        momentum,
        lr_step,
        lr_gamma,
        augment: _,
        blur: _,
        val_fraction,
        val: _,
        select,
    } = training;
    knobs(|spec| {
        let tl = &mut spec.tl;
        tl.init = init.filter(|_| network.is_resnet50()).unwrap_or(Init::Random);
        tl.network = network.clone();
        (tl.batch, tl.epochs, tl.lr) = (*batch, [*epochs; 2], [*lr; 2]);
        (tl.momentum, tl.lr_step, tl.lr_gamma) = (*momentum, *lr_step, *lr_gamma);
        (tl.val_fraction, tl.select) = (*val_fraction, *select);
    })
}

fn totals(aggregate: &Aggregate) -> Result<(), InvalidKnob> {
    for trials in &aggregate.trials {
        within("rounds.repeats", trials.repeats, 1..=1000)?;
        within("rounds.folds", trials.folds, 1..=FOLDS_MAX)?;
    }
    knobs(|spec| {
        (spec.drift.threshold, spec.drift.margin) = (aggregate.drift_threshold, aggregate.drift_margin);
        // Studies from before it could be set have none.
        spec.tl.margin = if aggregate.margin == 0.0 { spec.tl.margin } else { aggregate.margin };
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::experiment::{DdpmTraining, Sampling, Sifid, SifidSize, Sinddm, Swin2srTraining, Upscale};
    use crate::study::stage::Patches;
    use crate::study::stone::{Dataset, View};

    #[test]
    fn parameters_out_of_range_are_named() {
        let named = |stage: Stage| stage.check().unwrap_err().to_string();
        let sinddm = |sinddm| named(Stage::SinddmTrain { sinddm });
        assert_eq!(sinddm(Sinddm { dim: 7, ..Sinddm::default() }), "sinddm.dim: is 7, has to be even");
        let sampling = Sampling { per_model: u32::MAX, ..Sampling::default() };
        assert!(named(Stage::SinddmSample { sampling, reject_empty: false }).starts_with("sampling.per_model: is 429"));
        let training = DdpmTraining { mults: vec![], ..DdpmTraining::default() };
        assert!(named(Stage::DdpmTrain { training }).starts_with("ddpm.training.mults: "));
        let training = Swin2srTraining { heads: 0, ..Swin2srTraining::default() };
        let train = |size, training| named(Stage::Swin2srTrain { size, training });
        assert!(train([8, 8], training.clone()).starts_with("upscale.training.heads: "));
        assert_eq!(train([8, 0], training), "size: is 0, has to lie between 1 and 32768");
        let upscale = Upscale { factor: 1 << 30, ..Upscale::default() };
        assert!(named(Stage::Upscale { upscale }).starts_with("upscale.factor: "));
        let drift = EvaluateDrift { margin: 0.5, ..EvaluateDrift::default() };
        assert!(named(Stage::EvaluateDrift(drift)).starts_with("drift.margin: "));
        let size = SifidSize::Size([23, 0]);
        let sifid = EvaluateSifid { size, ..EvaluateSifid::of(&Sifid::default()) };
        assert!(named(Stage::EvaluateSifid(sifid)).starts_with("sifid.size: "));
        let patches = |split, size| {
            let patch = Patch { size, ..Patch::default() };
            Stage::Patches(Patches { dataset: Dataset::A, view: View::Sur, split, patch, pad: None })
        };
        assert!(named(patches(Split { folds: 5, fold: 5, number: 0 }, 256)).starts_with("split.fold: is 5, "));
        assert!(named(patches(Split::default(), u32::MAX)).starts_with("patch.size: "));
        assert_eq!(patches(Split::default(), 4096).check(), Ok(()));
    }
}
