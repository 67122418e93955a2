//! Any convolution, as a product of the weights with a matrix of pixels: one row for each tap
//! of each input channel, one column for each output pixel.
//!
//! The matrix is made for [`COLUMNS`] output pixels at a time. A 1×1 kernel that moves by one
//! pixel needs none: the maps are the matrix.

use rayon::prelude::*;

use super::{Conv, parts};
use crate::Finish;
use crate::path::Path;
use crate::product::{Matrix, product};

/// Output pixels that are handled at once.
const COLUMNS: usize = 512;

/// Rows of the matrix of pixels that a task of the weights' gradient handles.
const ROWS: usize = 64;

impl Conv {
    /// Rows of the matrix of pixels of one group.
    fn rows(&self) -> usize {
        self.inputs / self.groups * self.taps()
    }

    /// Whether the maps themselves are the matrix of pixels.
    fn is_pointwise(&self) -> bool {
        [self.kernel, self.stride].iter().flatten().all(|&n| n == 1) && self.padding == [0, 0]
    }

    /// Channels of one group, cut for the threads: into more parts if there are few pictures.
    fn part(&self, channels: usize) -> usize {
        let parts = 8_usize.div_ceil(self.batch * self.groups);
        channels.div_ceil(parts).next_multiple_of(8).min(channels)
    }

    /// Calls `visit` with each run of output pixels from `first` on that lies in one row:
    /// where the run begins in the columns, its output row, first output column and length.
    #[inline(always)]
    fn runs(&self, first: usize, count: usize, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let [_, width] = self.output_size();
        let mut at = 0;
        while at < count {
            let (row, column) = ((first + at) / width, (first + at) % width);
            let length = (width - column).min(count - at);
            visit(at, row, column, length);
            at += length;
        }
    }

    /// Where an output row or column meets the input by a tap; none in the padding.
    #[inline(always)]
    fn meets(&self, direction: usize, output: usize, tap: usize) -> Option<usize> {
        let padded = output * self.stride[direction] + tap * self.dilation[direction];
        padded.checked_sub(self.padding[direction]).filter(|&at| at < self.size[direction])
    }

    /// Those of `length` output columns from `first` on that meet the input by a tap, and
    /// where the first of them does.
    #[inline(always)]
    fn span(&self, first: usize, length: usize, tap: usize) -> (std::ops::Range<usize>, usize) {
        let (stride, offset) = (self.stride[1], tap * self.dilation[1]);
        let begin = self.padding[1].saturating_sub(offset).div_ceil(stride).clamp(first, first + length);
        let end = (self.size[1] + self.padding[1]).saturating_sub(offset).div_ceil(stride).clamp(begin, first + length);
        (begin - first..end - first, (begin * stride + offset).saturating_sub(self.padding[1]))
    }

    /// Writes one row of the matrix of pixels, for the output pixels from `first` on.
    #[inline(always)]
    fn fill(&self, maps: &[f32], row: usize, first: usize, out: &mut [f32]) {
        let (channel, tap) = (row / self.taps(), row % self.taps());
        let map = &maps[channel * self.pixels()..][..self.pixels()];
        let (tap_y, tap_x) = (tap / self.kernel[1], tap % self.kernel[1]);
        self.runs(first, out.len(), |at, y, x, length| {
            let out = &mut out[at..at + length];
            let Some(y) = self.meets(0, y, tap_y) else { return out.fill(0.0) };
            let (met, from) = self.span(x, length, tap_x);
            out[..met.start].fill(0.0);
            out[met.end..].fill(0.0);
            let source = map[y * self.size[1]..][..self.size[1]].get(from..).unwrap_or_default();
            for (out, pixel) in out[met].iter_mut().zip(source.iter().step_by(self.stride[1])) {
                *out = *pixel;
            }
        });
    }

    /// Adds one row of a matrix of pixels to the map that [`Conv::fill`] takes it from.
    #[inline(always)]
    fn spread(&self, row: usize, first: usize, values: &[f32], maps: &mut [f32]) {
        let (channel, tap) = (row / self.taps(), row % self.taps());
        let map = &mut maps[channel * self.pixels()..][..self.pixels()];
        let (tap_y, tap_x) = (tap / self.kernel[1], tap % self.kernel[1]);
        self.runs(first, values.len(), |at, y, x, length| {
            let Some(y) = self.meets(0, y, tap_y) else { return };
            let (met, to) = self.span(x, length, tap_x);
            let target = map[y * self.size[1]..][..self.size[1]].get_mut(to..).unwrap_or_default();
            for (pixel, value) in target.iter_mut().step_by(self.stride[1]).zip(&values[at..at + length][met]) {
                *pixel += *value;
            }
        });
    }
}

pub(super) fn forward(
    path: Path,
    conv: &Conv,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    finish: Finish,
) -> Vec<f32> {
    let (pixels, depth) = (conv.output_pixels(), conv.rows());
    let (group_inputs, group_outputs) = (conv.inputs / conv.groups, conv.outputs / conv.groups);
    let part = conv.part(group_outputs);
    let mut output = vec![0.0; conv.output_len()];
    let work = |matrix: &mut Vec<f32>, (group, first, out): (usize, usize, &mut [f32])| {
        let maps = &input[group * group_inputs * conv.pixels()..][..group_inputs * conv.pixels()];
        let channel = group % conv.groups * group_outputs + first;
        let left = Matrix::rows(&weight[channel * depth..], depth);
        let outputs = out.len() / pixels;
        if conv.is_pointwise() {
            product(path, [outputs, pixels, depth], (out, pixels), false, left, Matrix::rows(maps, pixels));
        } else {
            for start in (0..pixels).step_by(COLUMNS) {
                let count = COLUMNS.min(pixels - start);
                path.run(
                    #[inline(always)]
                    || {
                        matrix
                            .chunks_mut(COLUMNS)
                            .enumerate()
                            .for_each(|(row, out)| conv.fill(maps, row, start, &mut out[..count]))
                    },
                );
                let right = Matrix::rows(matrix, COLUMNS);
                product(path, [outputs, count, depth], (&mut out[start..], pixels), false, left, right);
            }
        }
        path.run(
            #[inline(always)]
            || {
                for (index, map) in out.chunks_mut(pixels).enumerate() {
                    if let Some(bias) = bias {
                        map.iter_mut().for_each(|value| *value += bias[channel + index]);
                    }
                    finish.apply((group * group_outputs + first + index) * pixels, map);
                }
            },
        );
    };
    let scratch = || vec![0.0; if conv.is_pointwise() { 0 } else { depth * COLUMNS }];
    parts(&mut output, group_outputs, part, pixels).for_each_init(scratch, work);
    output
}

pub(super) fn input_gradient(path: Path, conv: &Conv, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
    let (pixels, depth, taps) = (conv.output_pixels(), conv.rows(), conv.taps());
    let (group_inputs, group_outputs) = (conv.inputs / conv.groups, conv.outputs / conv.groups);
    let part = conv.part(group_inputs);
    let mut input = vec![0.0; conv.input_len()];
    let work = |matrix: &mut Vec<f32>, (group, first, out): (usize, usize, &mut [f32])| {
        let maps = &gradient[group * group_outputs * pixels..][..group_outputs * pixels];
        let channel = group % conv.groups * group_outputs;
        let left = Matrix::columns(&weight[channel * depth + first * taps..], depth);
        let rows = out.len() / conv.pixels() * taps;
        if conv.is_pointwise() {
            return product(
                path,
                [rows, pixels, group_outputs],
                (out, pixels),
                false,
                left,
                Matrix::rows(maps, pixels),
            );
        }
        for start in (0..pixels).step_by(COLUMNS) {
            let count = COLUMNS.min(pixels - start);
            let right = Matrix::rows(&maps[start..], pixels);
            product(path, [rows, count, group_outputs], (matrix, COLUMNS), false, left, right);
            path.run(
                #[inline(always)]
                || {
                    for (row, values) in matrix.chunks(COLUMNS).take(rows).enumerate() {
                        conv.spread(row, start, &values[..count], out);
                    }
                },
            );
        }
    };
    let scratch = || vec![0.0; if conv.is_pointwise() { 0 } else { part * taps * COLUMNS }];
    parts(&mut input, group_inputs, part, conv.pixels()).for_each_init(scratch, work);
    input
}

pub(super) fn weight_gradient(path: Path, conv: &Conv, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let (pixels, depth) = (conv.output_pixels(), conv.rows());
    let (group_inputs, group_outputs) = (conv.inputs / conv.groups, conv.outputs / conv.groups);
    let blocks = depth.div_ceil(ROWS);
    let block = |matrix: &mut Vec<f32>, task: usize| {
        let (group, first) = (task / blocks, task % blocks * ROWS);
        let rows = ROWS.min(depth - first);
        let mut sums = vec![0.0; group_outputs * rows];
        for item in 0..conv.batch {
            let maps =
                &input[(item * conv.groups + group) * group_inputs * conv.pixels()..][..group_inputs * conv.pixels()];
            let gradient = &gradient[(item * conv.groups + group) * group_outputs * pixels..][..group_outputs * pixels];
            for start in (0..pixels).step_by(COLUMNS) {
                let count = COLUMNS.min(pixels - start);
                let right = if conv.is_pointwise() {
                    Matrix::columns(&maps[first * pixels + start..], pixels)
                } else {
                    path.run(
                        #[inline(always)]
                        || {
                            for (row, out) in matrix.chunks_mut(COLUMNS).take(rows).enumerate() {
                                conv.fill(maps, first + row, start, &mut out[..count]);
                            }
                        },
                    );
                    Matrix::columns(matrix, COLUMNS)
                };
                let left = Matrix::rows(&gradient[start..], pixels);
                product(path, [group_outputs, rows, count], (&mut sums, rows), true, left, right);
            }
        }
        sums
    };
    let scratch = || vec![0.0; if conv.is_pointwise() { 0 } else { ROWS * COLUMNS }];
    let sums: Vec<Vec<f32>> = (0..conv.groups * blocks).into_par_iter().map_init(scratch, block).collect();
    let mut weight = Vec::with_capacity(conv.weight_len());
    for group in sums.chunks(blocks) {
        for output in 0..group_outputs {
            for sums in group {
                let rows = sums.len() / group_outputs;
                weight.extend_from_slice(&sums[output * rows..][..rows]);
            }
        }
    }
    weight
}
