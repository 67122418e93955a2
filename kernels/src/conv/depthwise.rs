//! Convolutions with one filter per channel that keep the size of the map.

use rayon::prelude::*;

use super::Conv;
use super::lines::{Block, Layout, Products, Sums};
use crate::Finish;
use crate::path::Path;

/// Whether a convolution that keeps the size of its maps can be computed this way.
pub(super) fn takes(conv: &Conv) -> bool {
    conv.groups == conv.inputs && conv.inputs == conv.outputs && matches!(conv.kernel, [3, 3] | [5, 5] | [7, 7])
}

/// Filters all maps, with the taps that `taps` gives for a channel.
fn filtered(
    path: Path,
    conv: &Conv,
    maps: &[f32],
    bias: Option<&[f32]>,
    finish: Finish,
    taps: impl Fn(usize) -> Vec<f32> + Sync,
) -> Vec<f32> {
    let (pixels, kernel) = (conv.pixels(), conv.kernel[0]);
    let layout = Layout::new(conv.size, conv.padding, kernel, Block::of_sums::<false>(path).places);
    let mut output = vec![0.0; maps.len()];
    let work = |(line, sums): &mut (Vec<f32>, Vec<f32>), ((index, out), map): ((usize, &mut [f32]), &[f32])| {
        let channel = index % conv.inputs;
        let (weights, bias) = (&taps(channel), bias.map_or(0.0, |bias| bias[channel]));
        layout.fill(map, line);
        match kernel {
            3 => path.dispatch(Sums::<3, false> { layout, lines: line, weights, out: sums }),
            5 => path.dispatch(Sums::<5, false> { layout, lines: line, weights, out: sums }),
            _ => path.dispatch(Sums::<7, false> { layout, lines: line, weights, out: sums }),
        }
        path.run(
            #[inline(always)]
            || {
                layout.gather(sums, bias, out);
                finish.apply(index * pixels, out);
            },
        );
    };
    let all = output.par_chunks_mut(pixels).enumerate().zip(maps.par_chunks(pixels));
    all.for_each_init(|| (vec![0.0; layout.line()], vec![0.0; layout.places]), work);
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
    let taps = conv.taps();
    filtered(path, conv, input, bias, finish, |channel| weight[channel * taps..][..taps].to_vec())
}

pub(super) fn input_gradient(path: Path, conv: &Conv, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
    let taps = conv.taps();
    let turned = |channel: usize| weight[channel * taps..][..taps].iter().rev().copied().collect();
    filtered(path, conv, gradient, None, Finish::default(), turned)
}

pub(super) fn weight_gradient(path: Path, conv: &Conv, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    match conv.kernel[0] {
        3 => correlated::<3>(path, conv, input, gradient),
        5 => correlated::<5>(path, conv, input, gradient),
        _ => correlated::<7>(path, conv, input, gradient),
    }
}

fn correlated<const K: usize>(path: Path, conv: &Conv, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let pixels = conv.pixels();
    let layout = Layout::new(conv.size, conv.padding, K, Block::of_products::<false>(path).places);
    let mut weight = vec![0.0; conv.weight_len()];
    let work = |(lines, gradients): &mut (Vec<f32>, Vec<f32>), (channel, out): (usize, &mut [f32])| {
        let items = lines.chunks_mut(layout.line()).zip(gradients.chunks_mut(layout.places));
        for (item, (line, values)) in items.enumerate() {
            let map = (item * conv.inputs + channel) * pixels..(item * conv.inputs + channel + 1) * pixels;
            layout.fill(&input[map.clone()], line);
            layout.fill_output(&gradient[map], values);
        }
        let (lines, gradients) = ((&lines[..], layout.line()), (&gradients[..], layout.places));
        let sums = path.dispatch(Products::<K, false> { layout, lines, gradients, batch: conv.batch });
        out.copy_from_slice(sums.as_flattened().as_flattened());
    };
    let scratch = || (vec![0.0; conv.batch * layout.line()], vec![0.0; conv.batch * layout.places]);
    weight.par_chunks_mut(K * K).enumerate().for_each_init(scratch, work);
    weight
}
