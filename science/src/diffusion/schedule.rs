//! The diffusion process of SinDDM: cosine schedule, blur schedule per scale,
//! and one step of sampling (ALGORITHM 2.2, 2.3, 2.5, 2.6).

use burn::tensor::{Device, Tensor, TensorData};

use crate::weights::Array;

/// Offset of the cosine schedule, in shares of the whole.
const COSINE_OFFSET: f64 = 0.008;

/// First and last β of the linear schedule of 1000 steps.
const LINEAR: (f64, f64) = (1e-4, 0.02);

/// Least variance whose logarithm the reference keeps.
const VARIANCE_MIN: f64 = 1e-20;

/// The largest noise variance that one step may add.
const BETA_MAX: f64 = 0.999;

/// The noise and blur that each step holds.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// ᾱ, the share of signal variance left at each step.
    pub(crate) alpha_bar: Vec<f64>,
    /// β, the noise variance that each step adds.
    pub(crate) beta: Vec<f64>,
    /// γ, the weight of the blurred picture at each step, 0..1: one row per scale but the coarsest.
    pub(crate) gammas: Vec<Vec<f64>>,
}

impl Schedule {
    /// `timesteps` is at least 1; one rescale loss per scale but the coarsest.
    pub fn new(timesteps: u32, rescale_losses: &[f64]) -> Self {
        let steps = f64::from(timesteps) + 1.0;
        // The reference spaces steps + 1 points over [0, steps] as if they were one fewer.
        let share = |k: u32| f64::from(k) / (steps - 1.0);
        let cosine = |k: u32| {
            let angle = (share(k) + COSINE_OFFSET) / (1.0 + COSINE_OFFSET) * std::f64::consts::FRAC_PI_2;
            angle.cos().powi(2)
        };
        let beta: Vec<f64> = (0..timesteps).map(|t| (1.0 - cosine(t + 1) / cosine(t)).clamp(0.0, BETA_MAX)).collect();
        let mut schedule = Self::from_beta(beta);
        schedule.gammas = rescale_losses
            .iter()
            .map(|loss| (0..timesteps as usize).map(|t| (schedule.noise(t) / loss).clamp(0.0, 1.0)).collect())
            .collect();
        schedule
    }

    /// The linear schedule of the plain diffusion model (arXiv 2006.11239), whose
    /// noise is in proportion where there are not 1000 steps.
    pub fn linear(timesteps: u32) -> Self {
        let share = |t: u32| f64::from(t) / (f64::from(timesteps) - 1.0).max(1.0);
        let beta = |t: u32| (LINEAR.0 + (LINEAR.1 - LINEAR.0) * share(t)) * 1000.0 / f64::from(timesteps);
        Self::from_beta((0..timesteps).map(|t| beta(t).min(BETA_MAX)).collect())
    }

    fn from_beta(beta: Vec<f64>) -> Self {
        let product = |left: &mut f64, beta: &f64| {
            *left *= 1.0 - beta;
            Some(*left)
        };
        Self { alpha_bar: beta.iter().scan(1.0, product).collect(), beta, gammas: Vec::new() }
    }

    /// Number of steps.
    pub fn timesteps(&self) -> u32 {
        self.beta.len() as u32
    }

    /// σ, the ratio of noise to signal at a step.
    fn noise(&self, t: usize) -> f64 {
        (1.0 - self.alpha_bar[t]).sqrt() / self.alpha_bar[t].sqrt()
    }

    /// Sampling lengths t*, one per scale: all steps at the coarsest, then the
    /// first step noisier than the rescale loss, 0 if there is none.
    pub fn sampling_steps(&self, rescale_losses: &[f64]) -> Vec<u32> {
        let first_above = |loss: &f64| (0..self.beta.len()).find(|&t| self.noise(t) > *loss).unwrap_or(0) as u32;
        std::iter::once(self.timesteps()).chain(rescale_losses.iter().map(first_above)).collect()
    }

    /// The rescale loss behind a row of γ. A row that is 1 throughout tells only
    /// that the loss is below the noise of the first step.
    pub fn rescale_loss(&self, gammas: &[f32]) -> f64 {
        let clear = gammas.iter().rposition(|gamma| *gamma < 1.0);
        clear.map_or(self.noise(0) / 2.0, |t| self.noise(t) / f64::from(gammas[t]))
    }

    /// The tensors that the reference keeps beside the weights, under its names.
    pub fn buffers(&self) -> Vec<(String, Array)> {
        let steps = 0..self.beta.len();
        let of = |value: &dyn Fn(usize) -> f64| steps.clone().map(value).collect::<Vec<f64>>();
        let (share, posterior) = (|t: usize| self.alpha_bar[t], |t: usize| self.posterior(t));
        let buffers = [
            ("betas", self.beta.clone()),
            ("alphas_cumprod", self.alpha_bar.clone()),
            ("alphas_cumprod_prev", of(&|t| t.checked_sub(1).map_or(1.0, share))),
            ("sqrt_alphas_cumprod", of(&|t| share(t).sqrt())),
            ("sqrt_one_minus_alphas_cumprod", of(&|t| (1.0 - share(t)).sqrt())),
            ("log_one_minus_alphas_cumprod", of(&|t| (1.0 - share(t)).ln())),
            ("sqrt_recip_alphas_cumprod", of(&|t| (1.0 / share(t)).sqrt())),
            ("sqrt_recipm1_alphas_cumprod", of(&|t| (1.0 / share(t) - 1.0).sqrt())),
            ("posterior_variance", of(&|t| posterior(t).variance)),
            ("posterior_log_variance_clipped", of(&|t| posterior(t).variance.max(VARIANCE_MIN).ln())),
            ("posterior_mean_coef1", of(&|t| posterior(t).clean)),
            ("posterior_mean_coef2", of(&|t| posterior(t).noisy)),
            ("gammas", self.gammas.concat()),
        ];
        let array = |(name, values): (&str, Vec<f64>)| {
            let shape = if name == "gammas" { vec![self.gammas.len(), self.beta.len()] } else { vec![values.len()] };
            (name.to_owned(), Array { shape, values: values.into_iter().map(|value| value as f32).collect() })
        };
        buffers.into_iter().map(array).collect()
    }

    /// Training input: the picture, blurred as much and as noisy as at each
    /// item's step.
    ///
    /// # Shapes
    /// - `image`, `noise`, output: `[batch, 3, height, width]`
    /// - `blurred`: the same; absent at the coarsest scale, which is not blurred
    /// - `times`: one step per item
    pub fn diffuse(
        &self,
        image: Tensor<4>,
        blurred: Option<Tensor<4>>,
        scale: usize,
        times: &[u32],
        noise: Tensor<4>,
    ) -> Tensor<4> {
        let device = image.device();
        let each = |value: &dyn Fn(usize) -> f64| per_item(times, value, &device);
        let mixed = match blurred {
            Some(blurred) => {
                let gamma = each(&|t| self.gammas[scale - 1][t]);
                blurred * gamma.clone() + image * (gamma * -1.0 + 1.0)
            }
            None => image,
        };
        mixed * each(&|t| self.alpha_bar[t].sqrt()) + noise * each(&|t| (1.0 - self.alpha_bar[t]).sqrt())
    }

    /// The picture at noise level `t`, from which the sampling of a finer scale starts.
    pub fn renoise(&self, image: Tensor<4>, t: usize, noise: Tensor<4>) -> Tensor<4> {
        image * self.alpha_bar[t].sqrt() + noise * (1.0 - self.alpha_bar[t]).sqrt()
    }

    /// One step from `t` to `t − 1` by ancestral sampling (arXiv 2006.11239): at
    /// the coarsest scale, and at all where blur is left alone. `keep` may change
    /// the estimate of the finished picture.
    ///
    /// # Shapes
    /// - all tensors: `[batch, 3, height, width]`; `noise` counts for nothing at `t = 0`
    pub fn ancestral_step(
        &self,
        x: Tensor<4>,
        predicted: Tensor<4>,
        t: usize,
        noise: Option<Tensor<4>>,
        keep: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let clean = keep(self.denoised(&x, predicted, t)).clamp(-1.0, 1.0);
        let posterior = self.posterior(t);
        let mean = clean * posterior.clean + x * posterior.noisy;
        match noise {
            Some(noise) if t > 0 => mean + noise * posterior.variance.sqrt(),
            _ => mean,
        }
    }

    /// The step from `t` to `earlier`, or to the finished picture, without noise
    /// (arXiv 2010.02502).
    ///
    /// # Shapes
    /// - all tensors: `[batch, 3, height, width]`
    pub fn implicit_step(&self, x: Tensor<4>, predicted: Tensor<4>, t: usize, earlier: Option<usize>) -> Tensor<4> {
        let clean = self.denoised(&x, predicted, t).clamp(-1.0, 1.0);
        let Some(earlier) = earlier else { return clean };
        let noise = (x - clean.clone() * self.alpha_bar[t].sqrt()) / (1.0 - self.alpha_bar[t]).sqrt();
        clean * self.alpha_bar[earlier].sqrt() + noise * (1.0 - self.alpha_bar[earlier]).sqrt()
    }

    /// The distribution of step `t − 1`, given step `t` and the finished picture.
    pub(crate) fn posterior(&self, t: usize) -> Posterior {
        let before = if t == 0 { 1.0 } else { self.alpha_bar[t - 1] };
        let left = 1.0 - self.alpha_bar[t];
        Posterior {
            clean: self.beta[t] * before.sqrt() / left,
            noisy: (1.0 - before) * (1.0 - self.beta[t]).sqrt() / left,
            variance: self.beta[t] * (1.0 - before) / left,
        }
    }

    /// One step at a finer scale, from `t` to `t − 1`: takes the blur of step
    /// `t` off and puts that of step `t − 1` on. `keep` may change the estimate
    /// of the finished picture.
    ///
    /// # Shapes
    /// - all tensors: `[batch, 3, height, width]`; `upsampled` is the coarser scale's picture
    pub fn reblurring_step(
        &self,
        x: Tensor<4>,
        predicted: Tensor<4>,
        upsampled: Tensor<4>,
        noise: Option<Tensor<4>>,
        at: Reblurring,
        keep: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let gamma = |t: usize| self.gammas[at.scale - 1][t].min(at.gamma_clip);
        let mixed = self.denoised(&x, predicted, at.t);
        let clean = keep((mixed.clone() - upsampled.clone() * gamma(at.t)) / (1.0 - gamma(at.t)));
        let Some(earlier) = at.t.checked_sub(1) else {
            return clean.clamp(-1.0, 1.0);
        };
        let before = self.alpha_bar[earlier];
        let target = (upsampled * gamma(earlier) + clean * (1.0 - gamma(earlier))).clamp(-1.0, 1.0);
        let fresh = at.omega * (1.0 - before);
        let direction =
            (x - mixed.clamp(-1.0, 1.0) * self.alpha_bar[at.t].sqrt()) / (1.0 - self.alpha_bar[at.t]).sqrt();
        let x = target * before.sqrt() + direction * (1.0 - before - fresh).max(0.0).sqrt();
        match noise {
            Some(noise) if fresh > 0.0 => x + noise * fresh.sqrt(),
            _ => x,
        }
    }

    /// The picture that the predicted noise was added to.
    fn denoised(&self, x: &Tensor<4>, predicted: Tensor<4>, t: usize) -> Tensor<4> {
        x.clone() / self.alpha_bar[t].sqrt() - predicted * (1.0 / self.alpha_bar[t] - 1.0).sqrt()
    }
}

/// A normal distribution around a mixture of two pictures.
pub(crate) struct Posterior {
    /// Weight of the finished picture.
    pub(crate) clean: f64,
    /// Weight of the noisy picture.
    pub(crate) noisy: f64,
    pub(crate) variance: f64,
}

/// The position of sampling at a finer scale, and its knobs.
#[derive(Clone, Copy, Debug)]
pub struct Reblurring {
    /// Scale, at least 1.
    pub scale: usize,
    /// Step, counted down to 0.
    pub t: usize,
    /// Share of fresh noise.
    pub omega: f64,
    /// Upper bound of the blur weight.
    pub gamma_clip: f64,
}

/// A value per item, `[batch, 1, 1, 1]`.
fn per_item(times: &[u32], value: &dyn Fn(usize) -> f64, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = times.iter().map(|&t| value(t as usize) as f32).collect();
    Tensor::from_data(TensorData::new(values, [times.len(), 1, 1, 1]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_follows_the_printed_table() {
        let schedule = Schedule::new(100, &[]);
        for (t, alpha_bar, sigma) in [
            (0, 0.9993687184, 0.0251333),
            (1, 0.9982524865, 0.0418398),
            (10, 0.9667167049, 0.1855511),
            (25, 0.8356205770, 0.4435261),
            (50, 0.4782646329, 1.0444581),
            (75, 0.1334948104, 2.5477300),
            (98, 2.428572e-4, 64.161091),
            (99, 2.428572e-7, 2029.198),
        ] {
            assert!((schedule.alpha_bar[t] / alpha_bar - 1.0).abs() < 1e-6, "{t}: {}", schedule.alpha_bar[t]);
            assert!((schedule.noise(t) / sigma - 1.0).abs() < 3e-6, "{t}: {}", schedule.noise(t));
        }
        assert!((schedule.beta[50] - 3.154634e-2).abs() < 1e-8);
        assert_eq!(schedule.beta[99], 0.999);
    }

    #[test]
    fn the_linear_schedule_is_that_of_the_paper() {
        let schedule = Schedule::linear(1000);
        assert!((schedule.beta[0] - 1e-4).abs() < 1e-12 && (schedule.beta[999] - 0.02).abs() < 1e-12);
        assert!((schedule.alpha_bar[999] / 4.0358e-5 - 1.0).abs() < 1e-3, "{}", schedule.alpha_bar[999]);
        assert!(Schedule::linear(10).alpha_bar[9] < 1e-3);
    }

    #[test]
    fn sampling_lengths_are_those_of_public_checkpoints() {
        let lengths = |losses: &[f64]| Schedule::new(100, losses).sampling_steps(losses);
        assert_eq!(lengths(&[0.955583, 0.670427, 0.471568, 0.333163]), [100, 48, 37, 27, 19]);
        assert_eq!(lengths(&[1.848891, 1.285005, 0.848636, 0.484970]), [100, 68, 57, 44, 28]);
        assert_eq!(lengths(&[0.049364, 0.035869, 0.024980, 0.015187]), [100, 2, 1, 0, 0]);
        assert_eq!(lengths(&[1e9]), [100, 0]);
    }

    #[test]
    fn the_last_steps_give_the_picture_back_when_the_noise_is_known() {
        let device = Device::flex();
        let schedule = Schedule::new(100, &[0.5]);
        let ramp = |from: f32| {
            let values = (0..48).map(|i| from + i as f32 / 60.0).collect::<Vec<f32>>();
            Tensor::<4>::from_data(TensorData::new(values, [1, 3, 4, 4]), &device)
        };
        let (image, blurred, noise) = (ramp(-0.5), ramp(-0.4), ramp(-0.3));
        let distance = |a: Tensor<4>| (a - image.clone()).abs().max().into_scalar::<f32>();
        let x = schedule.diffuse(image.clone(), None, 0, &[0], noise.clone());
        assert!(distance(schedule.ancestral_step(x, noise.clone(), 0, None, |clean| clean)) < 1e-5);
        let x = schedule.diffuse(image.clone(), Some(blurred.clone()), 1, &[0], noise.clone());
        let at = Reblurring { scale: 1, t: 0, omega: 0.0, gamma_clip: 0.55 };
        assert!(distance(schedule.reblurring_step(x, noise, blurred, None, at, |clean| clean)) < 1e-5);
    }
}
