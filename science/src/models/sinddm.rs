//! The denoiser of SinDDM (Kulikov et al., ICML 2023, arXiv 2211.16582), which
//! sees small patches only: four convolution blocks, no down-sampling, told the
//! time step and the scale (ALGORITHM 2.4).

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::layers::activation::Gelu;
use crate::layers::conv::{Conv2d, conv, depthwise};
use crate::layers::linear::{Linear, linear};

/// Features of the time step, of the scale and of both together.
const CONDITION: usize = 32;

/// Base of the slowest frequency of the embeddings.
const SLOWEST: f64 = 10_000.0;

/// Depthwise filter, shift by the condition, two 3×3 convolutions, short cut.
#[derive(Module, Debug)]
pub struct Block {
    mlp: (Gelu, Linear),
    time_reshape: Conv2d,
    ds_conv: Conv2d,
    net: (Conv2d, Gelu, Conv2d),
    res_conv: Option<Conv2d>,
}

impl Block {
    fn new(input: usize, output: usize, device: &Device) -> Self {
        Self {
            mlp: (Gelu, linear(CONDITION, CONDITION, device)),
            time_reshape: conv(CONDITION, input, 1, 0, device),
            ds_conv: depthwise(input, 5, device),
            net: (conv(input, output, 3, 1, device), Gelu, conv(output, output, 3, 1, device)),
            res_conv: (input != output).then(|| conv(input, output, 1, 0, device)),
        }
    }

    /// # Shapes
    /// - `x`: `[batch, input, height, width]`
    /// - `condition`: `[batch, 32]`
    /// - output: `[batch, output, height, width]`
    pub(crate) fn forward(&self, x: Tensor<4>, condition: Tensor<2>) -> Tensor<4> {
        let [batch, _] = condition.dims();
        let shift = self.mlp.1.forward(self.mlp.0.forward(condition)).reshape([batch, CONDITION, 1, 1]);
        let shift = self.time_reshape.forward(shift); // [batch, input, 1, 1], the same at every pixel
        let h = self.ds_conv.forward(x.clone()) + shift; // [batch, input, height, width]
        let h = self.net.1.forward(self.net.0.forward(h)); // [batch, output, height, width]
        let h = self.net.2.forward(h);
        match &self.res_conv {
            Some(project) => h + project.forward(x),
            None => h + x,
        }
    }
}

/// The network that predicts the noise in a picture.
#[derive(Module, Debug)]
pub struct SinDdm {
    time_mlp: (Linear, Gelu, Linear),
    pub(crate) l1: Block,
    pub(crate) l2: Block,
    pub(crate) l3: Block,
    pub(crate) l4: Block,
    final_conv: Vec<Conv2d>,
}

impl SinDdm {
    /// A blank network whose widest layer has `dim` channels; `dim` is even.
    pub fn new(dim: usize, device: &Device) -> Self {
        let half = dim / 2;
        Self {
            time_mlp: (linear(2 * CONDITION, 4 * CONDITION, device), Gelu, linear(4 * CONDITION, CONDITION, device)),
            l1: Block::new(3, half, device),
            l2: Block::new(half, dim, device),
            l3: Block::new(dim, dim, device),
            l4: Block::new(dim, half, device),
            final_conv: vec![conv(half, 3, 1, 0, device)],
        }
    }

    /// # Shapes
    /// - `x`, output: `[batch, 3, height, width]`, pixels about −1..1
    /// - `times`: one step per item, from 0
    pub fn forward(&self, x: Tensor<4>, times: &[u32], scale: usize) -> Tensor<4> {
        let (outside, inside) = (x.dtype(), self.dtype());
        let condition = self.condition(times, scale, &x.device()); // [batch, 32]
        let h = self.l1.forward(x.cast(inside), condition.clone()); // [batch, dim/2, height, width]
        let h = self.l2.forward(h, condition.clone()); // [batch, dim, height, width]
        let h = self.l3.forward(h, condition.clone());
        let h = self.l4.forward(h, condition); // [batch, dim/2, height, width]
        let h = self.final_conv.iter().fold(h, |h, conv| conv.forward(h)); // [batch, 3, height, width]
        h.cast(outside)
    }

    /// The kind of number that the weights are, and so what is computed in.
    fn dtype(&self) -> DType {
        self.time_mlp.0.weight.val().dtype()
    }

    /// The condition that the blocks are told: `[batch, 32]`.
    pub(crate) fn condition(&self, times: &[u32], scale: usize, device: &Device) -> Tensor<2> {
        let values = times.iter().flat_map(|&time| embedding(time).into_iter().chain(embedding(scale as u32)));
        let data = TensorData::new(values.collect::<Vec<f32>>(), [times.len(), 2 * CONDITION]);
        let h = self.time_mlp.0.forward(Tensor::<2>::from_data(data, (device, self.dtype())));
        self.time_mlp.2.forward(self.time_mlp.1.forward(h))
    }
}

/// Sines, then cosines, of 16 frequencies from 1 down to 1/10 000.
pub(crate) fn embedding(value: u32) -> [f32; CONDITION] {
    let half = CONDITION / 2;
    let angle = |i: usize| f64::from(value) * (-(i as f64) * SLOWEST.ln() / (half as f64 - 1.0)).exp();
    std::array::from_fn(|i| if i < half { angle(i).sin() } else { angle(i - half).cos() } as f32)
}

#[cfg(test)]
mod tests {
    use burn::optim::{AdamConfig, GradientsParams};
    use domain::seed::Seed;

    use super::*;
    use crate::{random, weights};

    fn noise(shape: [usize; 4], purpose: &str, device: &Device) -> Tensor<4> {
        let values = random::normals(&mut random::stream(Seed(5), purpose, 0), shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    #[test]
    fn has_as_many_parameters_as_the_reference() {
        assert_eq!(weights::parameters(&SinDdm::new(160, &Device::flex())), 1_106_772);
    }

    #[test]
    fn names_are_the_reference_names() {
        let arrays = weights::collect(&SinDdm::new(16, &Device::flex()));
        assert_eq!(arrays.len(), 52);
        for (name, shape) in [
            ("time_mlp.0.weight", vec![128, 64]),
            ("l1.mlp.1.weight", vec![32, 32]),
            ("l1.ds_conv.weight", vec![3, 1, 5, 5]),
            ("l4.net.2.bias", vec![8]),
            ("final_conv.0.weight", vec![3, 8, 1, 1]),
        ] {
            assert_eq!(arrays[name].shape, shape, "{name}");
        }
        assert!(!arrays.contains_key("l3.res_conv.weight"));
    }

    #[test]
    fn embeds_numbers_as_the_reference_does() {
        let seven = embedding(7);
        for (i, expected) in [(0, 0.656987), (1, -0.602471), (15, 7.0e-4), (16, 0.753902), (17, -0.798140)] {
            assert!((seven[i] - expected).abs() < 1e-6, "{i}: {}", seven[i]);
        }
    }

    #[test]
    fn first_loss_is_that_of_a_blind_guess_and_one_batch_can_be_learnt() {
        let device = Device::flex().autodiff();
        let mut net = weights::initialise(SinDdm::new(8, &device), Seed(1));
        let (x, target) = (noise([2, 3, 9, 7], "x", &device), noise([2, 3, 9, 7], "target", &device));
        let mut adam = AdamConfig::new().with_epsilon(1e-8).init();
        let mut losses = Vec::new();
        for _ in 0..150 {
            let loss = (net.forward(x.clone(), &[3, 50], 1) - target.clone()).abs().mean();
            losses.push(loss.clone().into_scalar::<f32>());
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = adam.step(0.01, net, gradients);
        }
        let blind = (2.0 / std::f32::consts::PI).sqrt(); // mean |N(0, 1)|
        assert!((losses[0] - blind).abs() < 0.15, "{}", losses[0]);
        assert!(losses[149] < 0.6 * losses[0], "{losses:?}");
    }

    #[test]
    fn gradients_reach_every_parameter() {
        let device = Device::flex().autodiff();
        let net = weights::initialise(SinDdm::new(8, &device), Seed(1));
        let x = noise([2, 3, 9, 7], "x", &device);
        let loss = net.forward(x, &[3, 50], 1).square().mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &net);
        assert_eq!(gradients.len(), 52);
    }
}
