//! The kernels against the operations of burn that they stand in for.

use burn::tensor::FloatDType;
use burn::tensor::activation::relu;
use burn::tensor::module::{batch_norm_train, conv2d};
use burn::tensor::ops::ConvOptions;
use domain::seed::Seed;

use super::*;
use crate::random;

fn noise<const D: usize>(shape: [usize; D], purpose: &str) -> Tensor<D> {
    let values = random::normals(&mut random::stream(Seed(3), purpose, 0), shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff()).require_grad()
}

/// The output, and the gradients of a loss of it by what it was made of.
fn all(output: Tensor<4>, inputs: &[Tensor<4>], vectors: &[Tensor<1>]) -> Vec<TensorData> {
    let probe = noise(output.dims(), "probe");
    let gradients = (output.clone() * probe).sum().backward();
    let maps = inputs.iter().map(|input| input.grad(&gradients).unwrap().into_data());
    let vectors = vectors.iter().map(|vector| vector.grad(&gradients).unwrap().into_data());
    [output.into_data()].into_iter().chain(maps).chain(vectors).collect()
}

fn check(ours: Vec<TensorData>, theirs: Vec<TensorData>, what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (which, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let (ours, theirs): (Vec<f32>, Vec<f32>) = (ours.iter().collect(), theirs.iter().collect());
        assert_eq!(ours.len(), theirs.len());
        let largest = theirs.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let off = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest > 0.1 && off < 2e-5 * largest, "{what}, {which}: {off} of {largest}");
    }
}

#[test]
fn convolutions_and_their_gradients_are_those_of_burn() {
    for (inputs, outputs, kernel, stride, padding, groups) in
        [(9, 10, 3, 1, 1, 1), (4, 4, 5, 1, 2, 4), (3, 6, 3, 2, 1, 1), (4, 6, 1, 1, 0, 2), (3, 5, 7, 2, 3, 1)]
    {
        let (x, weight) = (noise([2, inputs, 11, 13], "x"), noise([outputs, inputs / groups, kernel, kernel], "w"));
        let bias = noise([outputs], "b");
        let shapes = Conv {
            batch: 2,
            inputs,
            outputs,
            size: [11, 13],
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            dilation: [1; 2],
            groups,
        };
        for bias in [Some(bias), None] {
            let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], groups);
            let maps = [x.clone(), weight.clone()];
            let vectors: Vec<_> = bias.iter().cloned().collect();
            let ours = convolve(x.clone(), weight.clone(), bias.clone(), shapes);
            let theirs = conv2d(x.clone(), weight.clone(), bias, options);
            check(all(ours, &maps, &vectors), all(theirs, &maps, &vectors), &format!("{shapes:?}"));
        }
    }
}

#[test]
fn instructions_are_those_that_are_asked_for() {
    if let Ok(name) = std::env::var(kernels::path::VARIABLE) {
        assert_eq!(Path::current().name(), name);
    }
}

#[test]
fn gelu_and_its_gradient_are_those_of_burn() {
    let one = [noise([2, 3, 5, 7], "x")];
    let theirs = burn::tensor::activation::gelu(one[0].clone());
    check(all(gelu(one[0].clone()), &one, &[]), all(theirs, &one, &[]), "gelu");
}

#[test]
fn normalisations_and_their_gradients_are_those_of_burn() {
    let (x, other) = (noise([3, 4, 5, 7], "x"), noise([3, 4, 5, 7], "other"));
    let vectors = [noise([4], "weight"), noise([4], "bias")];
    let [weight, bias] = vectors.clone();
    let plain = || batch_norm_train(x.clone(), weight.clone(), bias.clone(), 1e-5).output;
    let ours = |after| batch_norm(x.clone(), weight.clone(), bias.clone(), 1e-5, after);
    let one = [x.clone()];
    check(all(ours(None).0, &one, &vectors), all(plain(), &one, &vectors), "normalised");
    let rectified = ours(Some(Rectifier { other: None })).0;
    check(all(rectified, &one, &vectors), all(relu(plain()), &one, &vectors), "rectified");
    let two = [x.clone(), other.clone()];
    let sum = ours(Some(Rectifier { other: Some(other.clone()) })).0;
    check(all(sum, &two, &vectors), all(relu(plain() + other), &two, &vectors), "added and rectified");
    let (_, [mean, variance]) = ours(None);
    let theirs = batch_norm_train(x.clone(), weight, bias, 1e-5);
    let statistics = |tensors: [Tensor<1>; 2]| tensors.map(Tensor::into_data).to_vec();
    check(statistics([mean, variance]), statistics([theirs.mean, theirs.variance]), "statistics");
}

#[test]
fn values_kept_in_16_bits_are_computed_with_in_32() {
    let narrow = |tensor: Tensor<4>| Tensor::from_inner(tensor.inner().cast(FloatDType::BF16)).require_grad();
    let wide = |tensor: &Tensor<4>| Tensor::from_inner(tensor.clone().inner().cast(FloatDType::F32)).require_grad();
    let [x, weight] = [noise([2, 9, 7, 8], "x"), noise([10, 9, 3, 3], "w")].map(narrow);
    let probe = narrow(noise([2, 10, 7, 8], "probe"));
    let shapes = Conv {
        batch: 2,
        inputs: 9,
        outputs: 10,
        size: [7, 8],
        kernel: [3; 2],
        stride: [1; 2],
        padding: [1; 2],
        dilation: [1; 2],
        groups: 1,
    };
    let all = |x: Tensor<4>, weight: Tensor<4>, probe: Tensor<4>| {
        let output = convolve(x.clone(), weight.clone(), None, shapes);
        assert_eq!(output.dtype(), x.dtype());
        let gradients = (output.clone() * probe.clone()).sum().backward();
        let of_conv = [x.grad(&gradients), weight.grad(&gradients)].map(Option::unwrap);
        let active = gelu(probe.clone());
        let gradients = active.clone().sum().backward();
        let of_gelu = [active.inner(), probe.grad(&gradients).unwrap()];
        let all = [output.inner()].into_iter().chain(of_conv).chain(of_gelu);
        all.map(|tensor| tensor.cast(FloatDType::BF16).into_data()).collect::<Vec<_>>()
    };
    let (ours, theirs) = (all(x.clone(), weight.clone(), probe.clone()), all(wide(&x), wide(&weight), wide(&probe)));
    assert_eq!(ours, theirs);
}
