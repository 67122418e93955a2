//! Sampling from a diffusion model, coarse to fine and step by step, so that it
//! can stop between any two steps (ALGORITHM 2.6).

use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::study::experiment::Sampling;
use image::RgbImage;
use rand_chacha::ChaCha8Rng;

use super::guide::Guide;
use super::schedule::{Reblurring, Schedule};
use crate::data::tensors;
use crate::models::sinddm::SinDdm;
use crate::random;

/// A model and how to sample from it.
pub struct Sampler<'a> {
    /// The network that predicts the noise.
    pub net: &'a SinDdm,
    /// The schedule of its training.
    pub schedule: &'a Schedule,
    /// Width and height of each scale, coarsest first.
    pub sizes: Vec<[u32; 2]>,
    /// Sampling lengths t*, one per scale.
    pub lengths: &'a [u32],
    /// The knobs of sampling.
    pub sampling: &'a Sampling,
    /// The pictures that samples hold on to.
    pub guide: &'a Guide,
}

/// One step of sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begins a scale at the noise of time `t`.
    Enter {
        /// The scale that begins.
        scale: usize,
        /// The time whose noise it begins with; its first prediction is at `t − 1`.
        t: u32,
    },
    /// Takes the noise of time `t` off.
    Denoise {
        /// The scale of the step.
        scale: usize,
        /// The time, counted down.
        t: u32,
    },
}

impl Step {
    /// Tells the noise of this step from that of others.
    pub fn purpose(self) -> String {
        match self {
            Step::Enter { scale: 0, .. } => "sample.s0.init".to_owned(),
            Step::Enter { scale, .. } => format!("sample.s{scale}.q"),
            Step::Denoise { scale, t } => format!("sample.s{scale}.t{t}"),
        }
    }
}

/// Samples in the making.
#[derive(Clone, Debug)]
pub struct Canvas {
    /// `[samples, 3, height, width]`
    pub x: Tensor<4>,
    /// The coarser scale's samples, or the picture that sampling starts from, at this
    /// scale's size; absent at the coarsest scale.
    pub coarser: Option<Tensor<4>>,
}

impl Sampler<'_> {
    /// All steps in order.
    pub fn steps(&self) -> Vec<Step> {
        let start = self.guide.start.as_ref();
        let first = start.map_or(0, |start| start.scale);
        let of_scale = |scale: usize| {
            let t = start.filter(|start| start.scale == scale).map_or(self.lengths[scale], |start| start.t);
            let next = self.lengths.get(scale + 1).copied().unwrap_or(0);
            let last = if self.sampling.sample_limited_t { next } else { 0 };
            // On purpose one step noisier than the first prediction, as the reference does.
            std::iter::once(Step::Enter { scale, t }).chain((last..t).rev().map(move |t| Step::Denoise { scale, t }))
        };
        (first..self.sizes.len()).flat_map(of_scale).collect()
    }

    /// The canvas after a step; before the first there is none. `noise` gives
    /// independent normal numbers of a shape `[samples, 3, height, width]`.
    pub fn step(
        &self,
        canvas: Option<Canvas>,
        step: Step,
        samples: usize,
        noise: &mut dyn FnMut([usize; 4]) -> Tensor<4>,
    ) -> Canvas {
        match (step, canvas) {
            (Step::Enter { scale, t }, canvas) => {
                let [width, height] = self.sizes[scale];
                let shape = [samples, 3, height as usize, width as usize];
                let noise = noise(shape);
                let coarser = match (canvas, &self.guide.start) {
                    (Some(canvas), _) => Some(enlarged(&canvas.x, [width, height])),
                    (None, Some(start)) => Some(start.at([width, height], &noise.device()).repeat_dim(0, samples)),
                    (None, None) => None,
                };
                let x = match &coarser {
                    Some(coarser) => self.schedule.renoise(coarser.clone(), t as usize, noise),
                    None => noise,
                };
                Canvas { x, coarser: coarser.filter(|_| scale > 0) }
            }
            (Step::Denoise { scale, t }, Some(Canvas { x, coarser })) => {
                let predicted = self.net.forward(x.clone(), &vec![t; samples], scale);
                let keep =
                    |clean: Tensor<4>| if scale + 1 < self.sizes.len() { self.guide.keep(clean, scale) } else { clean };
                let reblurred = coarser.clone().filter(|_| self.sampling.reblurring);
                let wants_noise = t > 0 && (reblurred.is_none() || self.sampling.omega > 0.0);
                let noise = wants_noise.then(|| noise(x.dims()));
                let t = t as usize;
                let x = match reblurred {
                    Some(coarser) => {
                        // What sampling starts from is no coarser scale's picture: nothing is mixed in.
                        let starts = self.guide.start.as_ref().is_some_and(|start| start.scale == scale);
                        let gamma_clip = if starts { 0.0 } else { self.sampling.gamma_clip };
                        let omega = self.sampling.omega;
                        let at = Reblurring { scale, t, omega, gamma_clip };
                        self.schedule.reblurring_step(x, predicted, coarser, noise, at, keep)
                    }
                    None => self.schedule.ancestral_step(x, predicted, t, noise, keep),
                };
                Canvas { x, coarser }
            }
            (Step::Denoise { .. }, None) => unreachable!("a scale is entered before it is sampled"),
        }
    }

    /// The samples of a canvas after the last step.
    pub fn pictures(&self, canvas: &Canvas) -> Vec<RgbImage> {
        let size = self.sizes.last().copied().unwrap_or_default();
        let values: Vec<f32> = canvas.x.to_data().iter::<f32>().collect();
        let each = 3 * (size[0] * size[1]) as usize;
        values.chunks_exact(each.max(1)).map(|sample| self.guide.finish(tensors::to_image(sample, size))).collect()
    }

    /// Takes all steps at once, for as many samples as there are numbers.
    pub fn sample(&self, seed: Seed, purpose: &str, numbers: &[u64], device: &Device) -> Vec<RgbImage> {
        let canvas = self.steps().into_iter().fold(None, |canvas, step| {
            let purpose = format!("{purpose}{}", step.purpose());
            Some(self.step(canvas, step, numbers.len(), &mut |shape| normals(seed, &purpose, numbers, shape, device)))
        });
        canvas.map_or_else(Vec::new, |canvas| self.pictures(&canvas))
    }
}

/// Noise for each sample from a stream of its own.
pub fn normals(seed: Seed, purpose: &str, numbers: &[u64], shape: [usize; 4], device: &Device) -> Tensor<4> {
    let each = shape[1] * shape[2] * shape[3];
    let streams = numbers.iter().map(|&number| random::stream(seed, purpose, number));
    let values: Vec<f32> = streams.flat_map(|mut stream: ChaCha8Rng| random::normals(&mut stream, each)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Samples at a finer scale's size.
fn enlarged(x: &Tensor<4>, to: [u32; 2]) -> Tensor<4> {
    let [samples, channels, height, width] = x.dims();
    let values: Vec<f32> = x.to_data().iter::<f32>().collect();
    let values = tensors::upsample(&values, [width as u32, height as u32], to);
    Tensor::from_data(TensorData::new(values, [samples, channels, to[1] as usize, to[0] as usize]), &x.device())
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::diffusion::guide::Start;
    use crate::weights;

    /// ᾱ of the cosine schedule over 20 steps.
    fn alpha_bar(t: u32) -> f64 {
        let cosine = |share: f64| (((share + 0.008) / 1.008) * std::f64::consts::FRAC_PI_2).cos().powi(2);
        cosine(f64::from(t + 1) / 20.0) / cosine(0.0)
    }

    /// What is left of the picture that a scale begins with, where neither the network nor
    /// anything else adds noise, by the recursion of ALGORITHM 2.6.
    fn left(t_star: u32, gamma: impl Fn(u32) -> f64) -> f64 {
        let mut x = alpha_bar(t_star).sqrt();
        for t in (0..t_star).rev() {
            let clean = (x / alpha_bar(t).sqrt() - gamma(t)) / (1.0 - gamma(t));
            if t == 0 {
                return clean;
            }
            x = alpha_bar(t - 1).sqrt() * (gamma(t - 1) + (1.0 - gamma(t - 1)) * clean);
        }
        x
    }

    #[test]
    fn nothing_is_mixed_in_at_the_scale_that_a_picture_starts_and_the_coarser_one_at_later_scales() {
        let device = Device::flex();
        let blank = SinDdm::new(8, &device);
        let mut zeros = weights::collect(&blank);
        zeros.values_mut().for_each(|array| array.values.fill(0.0));
        let net = weights::apply(blank, zeros).unwrap();
        let losses = [0.5, 0.4];
        let schedule = Schedule::new(20, &losses);
        let image = RgbImage::from_fn(16, 12, |x, y| Rgb([(9 * x + 3 * y) as u8, 200 - 4 * x as u8, 60 + 9 * y as u8]));
        let guide = Guide { start: Some(Start { image: image.clone(), scale: 1, t: 5 }), ..Guide::default() };
        let sampler = Sampler {
            net: &net,
            schedule: &schedule,
            sizes: vec![[11, 8], [16, 12], [22, 17]],
            lengths: &[20, 9, 4],
            sampling: &Sampling::default(),
            guide: &guide,
        };
        let mut canvases = vec![];
        for step in sampler.steps() {
            let before: Option<Canvas> = canvases.last().cloned();
            canvases.push(sampler.step(before, step, 1, &mut |shape| Tensor::zeros(shape, &device)));
        }
        // The times 4 to 0 at scale 1, then 3 to 0 at scale 2, after entering each.
        assert_eq!(canvases.len(), 6 + 5);
        let distance = |one: Tensor<4>, other: Tensor<4>| (one - other).abs().max().into_scalar::<f32>();
        let given = tensors::signed(&[image], &device);
        let started = left(5, |_| 0.0);
        assert!((started - (alpha_bar(5) / alpha_bar(4)).sqrt()).abs() < 1e-12);
        assert!(distance(canvases[5].x.clone(), given * started) < 1e-5);

        let gamma = |t: u32| ((1.0 / alpha_bar(t) - 1.0).sqrt() / losses[1]).min(0.55);
        let next = left(4, gamma);
        assert!((next - left(4, |_| 0.0)).abs() > 0.01, "{next}");
        let enlarged = enlarged(&canvases[5].x, [22, 17]);
        assert!(distance(canvases[10].x.clone(), enlarged * next) < 1e-5);
    }
}
