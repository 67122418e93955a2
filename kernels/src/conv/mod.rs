//! Convolutions of maps in two dimensions, and their gradients.
//!
//! | way | for |
//! |---|---|
//! | [`direct`] | 3×3 kernels that move by one pixel, of few channels on small maps |
//! | [`winograd`] | other 3×3 kernels that move by one pixel |
//! | [`depthwise`] | one filter per channel, 3×3, 5×5 or 7×7, that moves by one pixel and keeps the size |
//! | [`columns`] | everything else |

mod columns;
mod depthwise;
mod direct;
mod lines;
#[cfg(test)]
mod tests;
mod winograd;

use rayon::prelude::*;

use crate::Finish;
use crate::path::Path;

/// The shapes of a convolution. Pairs are height, then width.
///
/// - input: `[batch, inputs, size]`
/// - weight: `[outputs, inputs / groups, kernel]`
/// - bias: `[outputs]`
/// - output: `[batch, outputs, output_size()]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub size: [usize; 2],
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    /// Zeros on either side.
    pub padding: [usize; 2],
    pub dilation: [usize; 2],
    /// Divides `inputs` and `outputs`.
    pub groups: usize,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Winograd,
    Depthwise,
    Columns,
}

impl Conv {
    /// Height and width of the output; 0 where the kernel does not fit into the padded input.
    pub fn output_size(&self) -> [usize; 2] {
        [0, 1].map(|i| {
            let padded = self.size[i] + 2 * self.padding[i];
            let reach = self.dilation[i] * (self.kernel[i] - 1) + 1;
            if padded < reach { 0 } else { (padded - reach) / self.stride[i] + 1 }
        })
    }

    /// Values of one channel of the input.
    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Values of one channel of the output.
    fn output_pixels(&self) -> usize {
        let [height, width] = self.output_size();
        height * width
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn input_len(&self) -> usize {
        self.batch * self.inputs * self.pixels()
    }

    fn output_len(&self) -> usize {
        self.batch * self.outputs * self.output_pixels()
    }

    fn weight_len(&self) -> usize {
        self.outputs * self.inputs / self.groups * self.taps()
    }

    fn way(&self) -> Way {
        let steps_by_one = self.stride == [1, 1] && self.dilation == [1, 1];
        let keeps_size = (0..2).all(|i| self.kernel[i] == 2 * self.padding[i] + 1);
        if steps_by_one && keeps_size && self.groups > 1 && depthwise::takes(self) {
            Way::Depthwise
        } else if steps_by_one && self.groups == 1 && direct::takes(self) {
            Way::Direct
        } else if steps_by_one && self.groups == 1 && winograd::takes(self) {
            Way::Winograd
        } else {
            Way::Columns
        }
    }

    fn check(&self) {
        assert!(self.groups > 0 && self.inputs.is_multiple_of(self.groups) && self.outputs.is_multiple_of(self.groups));
        assert!([self.kernel, self.stride, self.dilation].iter().flatten().all(|&n| n > 0));
    }
}

/// The output of a convolution, finished.
///
/// # Panics
/// If a slice has another length than its shape.
pub fn forward(
    path: Path,
    conv: &Conv,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    finish: Finish,
) -> Vec<f32> {
    conv.check();
    finish.check(conv.output_len());
    assert_eq!([input.len(), weight.len()], [conv.input_len(), conv.weight_len()]);
    assert!(bias.is_none_or(|bias| bias.len() == conv.outputs));
    match conv.way() {
        _ if conv.output_len() == 0 => Vec::new(),
        Way::Direct => direct::forward(path, conv, input, weight, bias, finish),
        Way::Winograd => winograd::forward(path, conv, input, weight, bias, finish),
        Way::Depthwise => depthwise::forward(path, conv, input, weight, bias, finish),
        Way::Columns => columns::forward(path, conv, input, weight, bias, finish),
    }
}

/// The gradient by the input, from that by the output.
///
/// # Panics
/// If a slice has another length than its shape.
pub fn input_gradient(path: Path, conv: &Conv, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
    conv.check();
    assert_eq!([gradient.len(), weight.len()], [conv.output_len(), conv.weight_len()]);
    match conv.way() {
        _ if conv.output_len() == 0 || conv.input_len() == 0 => vec![0.0; conv.input_len()],
        Way::Direct => direct::input_gradient(path, conv, gradient, weight),
        Way::Winograd => winograd::input_gradient(path, conv, gradient, weight),
        Way::Depthwise => depthwise::input_gradient(path, conv, gradient, weight),
        Way::Columns => columns::input_gradient(path, conv, gradient, weight),
    }
}

/// The gradient by the weight, from that by the output.
///
/// # Panics
/// If a slice has another length than its shape.
pub fn weight_gradient(path: Path, conv: &Conv, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    conv.check();
    assert_eq!([input.len(), gradient.len()], [conv.input_len(), conv.output_len()]);
    match conv.way() {
        _ if conv.output_len() == 0 || conv.input_len() == 0 => vec![0.0; conv.weight_len()],
        Way::Direct => direct::weight_gradient(path, conv, input, gradient),
        Way::Winograd => winograd::weight_gradient(path, conv, input, gradient),
        Way::Depthwise => depthwise::weight_gradient(path, conv, input, gradient),
        Way::Columns => columns::weight_gradient(path, conv, input, gradient),
    }
}

/// The gradient by the bias, from that by the output.
///
/// # Panics
/// If the slice has another length than its shape.
pub fn bias_gradient(path: Path, conv: &Conv, gradient: &[f32]) -> Vec<f32> {
    conv.check();
    assert_eq!(gradient.len(), conv.output_len());
    let pixels = conv.output_pixels();
    let total = |channel: usize| {
        path.run(
            #[inline(always)]
            || {
                let mut total = 0.0;
                for item in 0..conv.batch {
                    total += crate::sum(&gradient[(item * conv.outputs + channel) * pixels..][..pixels]);
                }
                total as f32
            },
        )
    };
    (0..conv.outputs).into_par_iter().map(total).collect()
}

/// The parts of all groups of all pictures: the number of the group, the first channel of the
/// part within it, and the maps of the part.
fn parts(
    maps: &mut [f32],
    channels: usize,
    part: usize,
    pixels: usize,
) -> impl ParallelIterator<Item = (usize, usize, &mut [f32])> {
    maps.par_chunks_mut(channels * pixels).enumerate().flat_map(move |(group, maps)| {
        let parts = maps.par_chunks_mut(part * pixels).enumerate();
        parts.map(move |(index, maps)| (group, index * part, maps))
    })
}
