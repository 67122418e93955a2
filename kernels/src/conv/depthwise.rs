//! Convolutions with one filter per channel that keep the size of the map.

use rayon::prelude::*;

use super::Conv;
use crate::Finish;
use crate::path::Path;

/// Pixels of a row that are handled at once.
const WIDTH: usize = 32;

/// Whether a convolution that keeps the size of its maps can be computed this way.
pub(super) fn takes(conv: &Conv) -> bool {
    conv.groups == conv.inputs && conv.inputs == conv.outputs && matches!(conv.kernel, [3, 3] | [5, 5] | [7, 7])
}

/// A map with zeros around it.
struct Padded {
    values: Vec<f32>,
    stride: usize,
}

impl Padded {
    fn new([height, width]: [usize; 2], kernel: usize) -> Self {
        // Rows are read by whole runs.
        let stride = width.next_multiple_of(WIDTH) + kernel - 1;
        Self { values: vec![0.0; stride * (height + kernel - 1)], stride }
    }

    /// Takes over a map; what is around it stays zero.
    fn fill(&mut self, map: &[f32], width: usize, kernel: usize) {
        let (edge, stride) = (kernel / 2, self.stride);
        for (row, pixels) in map.chunks_exact(width).enumerate() {
            self.values[(row + edge) * stride + edge..][..width].copy_from_slice(pixels);
        }
    }
}

/// Applies a filter of `K`×`K` taps to a map.
#[inline(always)]
fn filter<const K: usize>(padded: &Padded, taps: &[f32], bias: f32, width: usize, out: &mut [f32]) {
    let taps: [[f32; K]; K] = std::array::from_fn(|y| std::array::from_fn(|x| taps[y * K + x]));
    for (y, row) in out.chunks_exact_mut(width).enumerate() {
        for (run, out) in row.chunks_mut(WIDTH).enumerate() {
            let mut sums = [bias; WIDTH];
            for (tap_y, taps) in taps.iter().enumerate() {
                let line = &padded.values[(y + tap_y) * padded.stride + run * WIDTH..][..WIDTH + K - 1];
                for (tap_x, tap) in taps.iter().enumerate() {
                    let pixels: [f32; WIDTH] = std::array::from_fn(|i| line[tap_x..tap_x + WIDTH][i]);
                    for i in 0..WIDTH {
                        sums[i] += tap * pixels[i];
                    }
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// The products of a map with a shifted one, summed: one sum for each tap of a filter.
#[inline(always)]
fn correlate<const K: usize>(padded: &Padded, gradient: &Padded, [height, width]: [usize; 2], totals: &mut [f64]) {
    for tap_y in 0..K {
        let mut sums = [[0.0; WIDTH]; K];
        for y in 0..height {
            for run in 0..width.div_ceil(WIDTH) {
                let line = &padded.values[(y + tap_y) * padded.stride + run * WIDTH..][..WIDTH + K - 1];
                // Columns beyond the map are zero.
                let values = &gradient.values[(y + K / 2) * gradient.stride + K / 2 + run * WIDTH..][..WIDTH];
                for (tap_x, sums) in sums.iter_mut().enumerate() {
                    for ((sum, pixel), value) in sums.iter_mut().zip(&line[tap_x..]).zip(values) {
                        *sum += pixel * value;
                    }
                }
            }
        }
        for (total, sums) in totals[tap_y * K..][..K].iter_mut().zip(sums) {
            *total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        }
    }
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
    let (pixels, width, kernel) = (conv.pixels(), conv.size[1], conv.kernel[0]);
    let mut output = vec![0.0; maps.len()];
    let work = |padded: &mut Padded, ((index, out), map): ((usize, &mut [f32]), &[f32])| {
        let channel = index % conv.inputs;
        let (taps, bias) = (taps(channel), bias.map_or(0.0, |bias| bias[channel]));
        padded.fill(map, width, kernel);
        path.run(
            #[inline(always)]
            || {
                match kernel {
                    3 => filter::<3>(padded, &taps, bias, width, out),
                    5 => filter::<5>(padded, &taps, bias, width, out),
                    _ => filter::<7>(padded, &taps, bias, width, out),
                }
                finish.apply(index * pixels, out);
            },
        );
    };
    let all = output.par_chunks_mut(pixels).enumerate().zip(maps.par_chunks(pixels));
    all.for_each_init(|| Padded::new(conv.size, kernel), work);
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
    let (pixels, width, kernel, taps) = (conv.pixels(), conv.size[1], conv.kernel[0], conv.taps());
    let mut weight = vec![0.0; conv.weight_len()];
    let work = |(padded, values): &mut (Padded, Padded), (channel, out): (usize, &mut [f32])| {
        let mut totals = vec![0.0; taps];
        for item in 0..conv.batch {
            let map = (item * conv.inputs + channel) * pixels..(item * conv.inputs + channel + 1) * pixels;
            padded.fill(&input[map.clone()], width, kernel);
            values.fill(&gradient[map], width, kernel);
            path.run(
                #[inline(always)]
                || match kernel {
                    3 => correlate::<3>(padded, values, conv.size, &mut totals),
                    5 => correlate::<5>(padded, values, conv.size, &mut totals),
                    _ => correlate::<7>(padded, values, conv.size, &mut totals),
                },
            );
        }
        for (out, total) in out.iter_mut().zip(totals) {
            *out = total as f32;
        }
    };
    let scratch = || (Padded::new(conv.size, kernel), Padded::new(conv.size, kernel));
    weight.par_chunks_mut(taps).enumerate().for_each_init(scratch, work);
    weight
}
