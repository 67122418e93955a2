//! Which knobs have no effect given the values of the others.

use serde_json::Value;

use super::{
    Canvas, DdpmMethod, DdpmModels, Experiment, Finest, Init, MultiImage, PatchSource, Protocol, Swin2srVariant,
    UpscaleMethod, knobs,
};

/// A knob without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Full name of the knob.
    pub knob: &'static str,
    /// Why no result depends on the knob.
    pub because: &'static str,
}

impl Experiment {
    /// The knobs without effect given the others, each with the reason. `drawn` says that no
    /// pictures are given, so that stand-ins are drawn.
    pub fn idle(&self, drawn: bool) -> Vec<Idle> {
        let Self { pad, sinddm, sampling, ddpm, upscale, patch, tl, .. } = self;
        let swin2sr = upscale.method == UpscaleMethod::Swin2sr;
        let published = swin2sr && !upscale.is_trained();
        let one_picture = sinddm.multi_image != MultiImage::Pooled || sinddm.images_per_model == 1;
        let cross_validated = tl.protocol.contains(&Protocol::RepeatedCv);
        let seeded = tl.protocol.iter().any(|protocol| *protocol != Protocol::RepeatedCv);
        let by_rule = matches!(sinddm.finest, Finest::Rule(_)) && sinddm.multi_image != MultiImage::Mosaic;
        let is_passed = sinddm.milestones.iter().any(|milestone| *milestone < sinddm.steps);
        // Patches of padded pictures have the canvas of the generators' pictures.
        let holds_all = matches!(pad.target, Canvas::Rule(_)) && patch.source_a == PatchSource::Original;
        let epochs = tl.epochs[0].max(tl.epochs[1]);
        let rules: [(bool, &[&str], &str); 21] = [
            (holds_all, &["pad.oversize"], "a canvas by rule holds every picture"),
            (!drawn, &["phantom"], "pictures are given, so no stand-ins are drawn"),
            (by_rule, &["sinddm.fit"], "a finest scale by rule has the shape of the canvas"),
            (one_picture, &["sinddm.loss_pool", "sinddm.batch_mix"], "each model learns from one picture"),
            (!is_passed, &["sinddm.lr_gamma"], "no step of sinddm.milestones lies before the last of sinddm.steps"),
            (!sampling.reblurring, &["sampling.omega", "sampling.gamma_clip"], "sampling.reblurring is false"),
            (ddpm.models == DdpmModels::None, &["ddpm.training", "ddpm.sampling"], "ddpm.models is none"),
            (
                ddpm.sampling.method != DdpmMethod::Ddim,
                &["ddpm.sampling.ddim_steps"],
                "ddpm.sampling.method is not ddim",
            ),
            (
                !swin2sr,
                &["upscale.weights", "upscale.tile", "upscale.overlap", "upscale.crop"],
                "upscale.method is not swin2sr",
            ),
            (!published, &["upscale.variant", "upscale.hf_compat"], "no published weights of Swin2SR are used"),
            (
                published && upscale.variant != Swin2srVariant::CompressedX4,
                &["upscale.hf_compat"],
                "upscale.variant is not compressed_x4, whose bicubic branch it is about",
            ),
            (!upscale.is_trained(), &["upscale.training"], "no Swin2SR is trained: see upscale.weights"),
            (upscale.tile == 0, &["upscale.overlap"], "upscale.tile is 0"),
            (tl.init == Init::Random, &["tl.weights"], "tl.init is random"),
            (tl.lr_step >= epochs, &["tl.lr_gamma"], "tl.lr_step is not below tl.epochs"),
            (tl.val_fraction == 0.0, &["tl.val"], "tl.val_fraction is 0"),
            (tl.network.head.is_empty(), &["tl.network.dropout"], "tl.network.head has no hidden layers"),
            (!cross_validated, &["tl.repeats", "tl.folds"], "tl.protocol does not name repeated_cv"),
            (!seeded, &["tl.seeds"], "tl.protocol names neither fixed_split nor resplit"),
            (sinddm.images_per_model == 1, &["sinddm.multi_image"], "sinddm.images_per_model is 1"),
            (sinddm.ema_start >= sinddm.steps, &["sinddm.ema"], "sinddm.ema_start is not below sinddm.steps"),
        ];
        let is_of = |knob: &str, prefix: &str| {
            knob.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let because = |knob: &'static str| {
            let rule = rules.iter().find(|(holds, of, _)| *holds && of.iter().any(|prefix| is_of(knob, prefix)));
            rule.map(|(_, _, because)| Idle { knob, because })
        };
        knobs::all().filter_map(|knob| because(knob.name)).collect()
    }

    /// The same study with each knob without effect at its default, which is what gets planned,
    /// so that such a knob is in no task's key. The knobs of stand-in pictures keep their
    /// values.
    pub fn effective(&self) -> Self {
        let (mut own, defaults) = (knobs::json(self), knobs::json(&Self::default()));
        for Idle { knob, .. } in self.idle(true) {
            let path = format!("/{}", knob.replace('.', "/"));
            let Some((section, name)) = path.rsplit_once('/') else { continue };
            let default = defaults.pointer(&path).cloned();
            if let Some(Value::Object(section)) = own.pointer_mut(section) {
                match default {
                    Some(default) => section.insert(name.to_owned(), default),
                    None => section.remove(name),
                };
            }
        }
        // Values of defaults and of a spec make a spec.
        serde_json::from_value(own).unwrap_or_else(|_| self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::experiment::Scale;
    use crate::study::overrides;

    fn of(sets: &[&str]) -> Experiment {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        overrides::resolve(Scale::Paper, None, &sets).unwrap()
    }

    #[test]
    fn a_set_knob_without_effect_is_told_with_the_reason() {
        for (sets, reason) in [
            (&["tl.seeds=9"][..], "tl.seeds = 9 has no effect: tl.protocol names neither fixed_split nor resplit"),
            (
                &["upscale.method=lanczos", "upscale.variant=classical_x4"],
                "upscale.variant = classical_x4 has no effect: no published weights of Swin2SR are used",
            ),
            (&["tl.init=random", "tl.weights=v1"], "tl.weights = imagenet1k_v1 has no effect: tl.init is random"),
            (&["ddpm.training.lr=1e-3"], "ddpm.training.lr = 0.001 has no effect: ddpm.models is none"),
            (
                &["sampling.reblurring=false", "sampling.omega=0.5"],
                "sampling.omega = 0.5 has no effect: sampling.reblurring is false",
            ),
            (
                &["sinddm.images_per_model=1", "sinddm.loss_pool=max"],
                "sinddm.loss_pool = max has no effect: each model learns from one picture",
            ),
            (
                &["pad.target=auto_max", "pad.oversize=crop"],
                "pad.oversize = crop has no effect: a canvas by rule holds every picture",
            ),
            (&["upscale.overlap=16"], "upscale.overlap = 16 has no effect: upscale.tile is 0"),
        ] {
            assert_eq!(overrides::without_effect(&of(sets), true), [reason]);
        }
        let phantom = of(&["phantom.share=0.5"]);
        assert_eq!(overrides::without_effect(&phantom, true), Vec::<String>::new());
        assert_eq!(overrides::without_effect(&phantom, false).len(), 1);
        // What a preset sets is not the person's doing.
        for scale in Scale::ALL {
            let preset = overrides::resolve(scale, None, &[]).unwrap();
            assert_eq!(overrides::without_effect(&preset, false), Vec::<String>::new());
        }
    }

    #[test]
    fn what_has_no_effect_is_planned_at_its_default_and_all_else_as_it_is() {
        let sets = ["upscale.method=lanczos", "upscale.tile=64", "upscale.factor=3", "seed=18446744073709551"];
        let experiment = of(&sets);
        let effective = experiment.effective();
        assert_eq!((effective.upscale.tile, effective.upscale.factor), (0, 3));
        assert_eq!(
            effective,
            Experiment {
                upscale: crate::study::experiment::Upscale { tile: 0, ..experiment.upscale.clone() },
                ..experiment
            }
        );
        let huge = Experiment { seed: u64::MAX, ..Experiment::default() };
        assert_eq!(huge.effective(), huge);
    }
}
