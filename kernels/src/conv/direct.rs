//! 3×3 convolutions of few channels, as the sums that they are defined by.
//!
//! Nothing is evaluated first, which takes most of the time where there are few channels.

use rayon::prelude::*;

use super::lines::{Block, Layout, Products, Sums};
use super::{Conv, parts};
use crate::Finish;
use crate::path::Path;

/// Length of the kernel in both directions, and its taps.
const K: usize = 3;
const TAPS: usize = K * K;

/// The largest product of the numbers of channels, and the most pixels of a map, up to which this is
/// the quickest way, about: at 32×32 on 25×33 it takes 0.7 of Winograd's time with AVX-512 and 1.25
/// with AVX2.
const CHANNELS: usize = 32 * 32;
const PIXELS: usize = 64 * 64;

/// Whether a convolution that moves by one pixel is better computed this way.
pub(super) fn takes(conv: &Conv) -> bool {
    let is_small = (1..=CHANNELS).contains(&(conv.inputs * conv.outputs)) && (1..=PIXELS).contains(&conv.pixels());
    conv.kernel == [K; 2] && conv.padding.iter().all(|&padding| padding < K) && is_small
}

/// Convolves all maps with kernels that `kernel` gives for an output and an input.
fn convolve(
    path: Path,
    [outputs, inputs]: [usize; 2],
    (maps, size, padding): (&[f32], [usize; 2], [usize; 2]),
    kernel: impl Fn(usize, usize) -> [f32; TAPS],
    bias: Option<&[f32]>,
    finish: Finish,
) -> Vec<f32> {
    let block = Block::of_sums::<true>(path);
    let layout = Layout::new(size, padding, K, block.places);
    let [height, width] = layout.output_size();
    let (pixels, each) = (height * width, inputs * size[0] * size[1]);
    let mut weights = vec![0.0; outputs.div_ceil(block.outputs) * inputs * TAPS * block.outputs];
    for (output, input) in (0..outputs).flat_map(|output| (0..inputs).map(move |input| (output, input))) {
        let first = (output / block.outputs * inputs + input) * TAPS * block.outputs + output % block.outputs;
        let of_taps = weights[first..].iter_mut().step_by(block.outputs);
        of_taps.zip(kernel(output, input)).for_each(|(weight, value)| *weight = value);
    }
    let mut output = vec![0.0; maps.len() / each * outputs * pixels];
    let work = |(lines, sums): &mut (Vec<f32>, Vec<f32>), (item, first, out): (usize, usize, &mut [f32])| {
        let maps = maps[item * each..][..each].chunks_exact(size[0] * size[1]);
        maps.zip(lines.chunks_exact_mut(layout.line())).for_each(|(map, line)| layout.fill(map, line));
        let weights = &weights[first * inputs * TAPS..][..block.outputs * inputs * TAPS];
        path.dispatch(Sums::<K, true> { layout, lines, weights, out: sums });
        path.run(
            #[inline(always)]
            || {
                for (index, (out, sums)) in out.chunks_mut(pixels).zip(sums.chunks(layout.places)).enumerate() {
                    layout.gather(sums, bias.map_or(0.0, |bias| bias[first + index]), out);
                    finish.apply((item * outputs + first + index) * pixels, out);
                }
            },
        );
    };
    let scratch = || (vec![0.0; inputs * layout.line()], vec![0.0; block.outputs * layout.places]);
    parts(&mut output, outputs, block.outputs, pixels).for_each_init(scratch, work);
    output
}

pub(super) fn forward(
    path: Path,
    conv: &Conv,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    finish: Finish,
) -> Vec<f32> {
    let (weight, _) = weight.as_chunks::<TAPS>();
    let kernel = |output: usize, input: usize| weight[output * conv.inputs + input];
    convolve(path, [conv.outputs, conv.inputs], (input, conv.size, conv.padding), kernel, bias, finish)
}

pub(super) fn input_gradient(path: Path, conv: &Conv, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
    let (weight, _) = weight.as_chunks::<TAPS>();
    let turned = |input: usize, output: usize| {
        let mut kernel = weight[output * conv.inputs + input];
        kernel.reverse();
        kernel
    };
    let padding = conv.padding.map(|padding| K - 1 - padding);
    let maps = (gradient, conv.output_size(), padding);
    convolve(path, [conv.inputs, conv.outputs], maps, turned, None, Finish::default())
}

pub(super) fn weight_gradient(path: Path, conv: &Conv, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let block = Block::of_products::<true>(path);
    let layout = Layout::new(conv.size, conv.padding, K, block.places);
    let pixels = conv.output_pixels();
    let mut lines = vec![0.0; conv.batch * conv.inputs * layout.line()];
    let maps = lines.par_chunks_mut(layout.line()).zip(input.par_chunks(conv.pixels()));
    maps.for_each(|(line, map)| layout.fill(map, line));

    // The last block may have places for more outputs than there are; they stay zero.
    let blocks = conv.outputs.div_ceil(block.outputs);
    let each = blocks * block.outputs * layout.places;
    let mut gradients = vec![0.0; conv.batch * each];
    let items = gradients.par_chunks_mut(each).zip(gradient.par_chunks(conv.outputs * pixels));
    items.for_each(|(lines, maps)| {
        let lines = lines.chunks_mut(layout.places).zip(maps.chunks(pixels));
        lines.for_each(|(line, map)| layout.fill_output(map, line));
    });

    let task = |task: usize| {
        let (first, input) = (task / conv.inputs * block.outputs, task % conv.inputs);
        let lines = (&lines[input * layout.line()..], conv.inputs * layout.line());
        let gradients = (&gradients[first * layout.places..], each);
        path.dispatch(Products::<K, true> { layout, lines, gradients, batch: conv.batch })
    };
    let sums: Vec<Vec<[[f32; K]; K]>> = (0..blocks * conv.inputs).into_par_iter().map(task).collect();
    let kernel =
        |output: usize, input: usize| &sums[output / block.outputs * conv.inputs + input][output % block.outputs];
    let kernels = (0..conv.outputs).flat_map(|output| (0..conv.inputs).map(move |input| kernel(output, input)));
    kernels.flat_map(|kernel| kernel.as_flattened()).copied().collect()
}
