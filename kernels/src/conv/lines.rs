//! Maps as lines: the rows of a map one after another, with zeros in between.
//!
//! A tap of a kernel that moves by one pixel is then at the same distance from every output pixel,
//! so that a convolution is a sum of shifted lines, and registers are full whatever the width.

use pulp::{Simd, WithSimd};

use crate::path::{Path, multiply_add};

/// Where the pixels of a map are in its line, and those of the output in theirs: output pixel
/// `(y, x)` is at `y * stride + x`, and its first tap is at the same place.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Height and width of the input.
    size: [usize; 2],
    /// Zeros on either side, at most one fewer than the kernel is long.
    padding: [usize; 2],
    /// Length of the kernel in both directions.
    kernel: usize,
    /// From the beginning of one row to that of the next; zeros between rows are shared.
    stride: usize,
    /// Places of output pixels and of what is between their rows, by whole blocks.
    pub(super) places: usize,
}

impl Layout {
    pub(super) fn new(size: [usize; 2], padding: [usize; 2], kernel: usize, block: usize) -> Self {
        let mut layout = Self { size, padding, kernel, stride: size[1] + padding[1], places: 0 };
        layout.places = (layout.output_size()[0] * layout.stride).next_multiple_of(block);
        layout
    }

    /// Height and width of the output.
    pub(super) fn output_size(&self) -> [usize; 2] {
        [0, 1].map(|i| self.size[i] + 2 * self.padding[i] + 1 - self.kernel)
    }

    /// Values of a line of input.
    pub(super) fn line(&self) -> usize {
        self.places + self.tap(self.kernel - 1, self.kernel - 1)
    }

    /// How far a tap is from the first.
    fn tap(&self, y: usize, x: usize) -> usize {
        y * self.stride + x
    }

    /// Lays out a map of the input; what is around it stays zero.
    pub(super) fn fill(&self, map: &[f32], line: &mut [f32]) {
        self.rows(self.size[1], map, &mut line[self.padding[0] * self.stride + self.padding[1]..]);
    }

    /// Lays out a map of the output; what is between its rows stays zero.
    pub(super) fn fill_output(&self, map: &[f32], line: &mut [f32]) {
        self.rows(self.output_size()[1], map, line);
    }

    fn rows(&self, width: usize, map: &[f32], line: &mut [f32]) {
        let rows = line.chunks_mut(self.stride).zip(map.chunks_exact(width));
        rows.for_each(|(line, row)| line[..width].copy_from_slice(row));
    }

    /// Writes the map of an output channel from its line, with the bias added.
    #[inline(always)]
    pub(super) fn gather(&self, line: &[f32], bias: f32, map: &mut [f32]) {
        for (row, line) in map.chunks_exact_mut(self.output_size()[1]).zip(line.chunks(self.stride)) {
            row.iter_mut().zip(line).for_each(|(value, sum)| *value = sum + bias);
        }
    }
}

/// What is handled at once, so that sums stay in registers.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) outputs: usize,
    pub(super) places: usize,
}

impl Block {
    /// The block of [`Sums`] on a path: of `MANY` outputs or of one.
    pub(super) fn of_sums<const MANY: bool>(path: Path) -> Self {
        let (is_wide, lanes) = path.dispatch(Registers);
        let (outputs, registers) = match (MANY, is_wide) {
            (true, true) => (8, 3),
            (true, false) => (6, 2),
            (false, _) => (1, 8),
        };
        Self { outputs, places: registers * lanes }
    }

    /// The block of [`Products`] on a path: of `MANY` outputs or of one.
    pub(super) fn of_products<const MANY: bool>(path: Path) -> Self {
        let (is_wide, lanes) = path.dispatch(Registers);
        let outputs = match (MANY, is_wide) {
            (true, true) => 8,
            (true, false) => 4,
            (false, _) => 1,
        };
        Self { outputs, places: lanes }
    }
}

/// Tells whether a path is [`wide`], and how many values a register of it holds.
struct Registers;

impl WithSimd for Registers {
    type Output = (bool, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Self::Output {
        (wide::<S>(), S::F32_LANES)
    }
}

/// Whether there are registers for the larger blocks.
#[inline(always)]
fn wide<S: Simd>() -> bool {
    S::REGISTER_COUNT >= 32
}

/// `V` registers of values from `at` on.
#[inline(always)]
fn registers<S: Simd, const V: usize>(values: &[f32], at: usize) -> &[S::f32s; V] {
    let (registers, _) = S::as_simd_f32s(&values[at..at + V * S::F32_LANES]);
    registers.first_chunk().expect("as many values as that were taken")
}

/// Convolves lines with the kernels of a block of outputs: `MANY`, or one.
pub(super) struct Sums<'a, const K: usize, const MANY: bool> {
    pub(super) layout: Layout,
    /// The lines of all inputs.
    pub(super) lines: &'a [f32],
    /// `[inputs, K, K, outputs of a block]`
    pub(super) weights: &'a [f32],
    /// `[outputs of a block, places]`
    pub(super) out: &'a mut [f32],
}

impl<const K: usize, const MANY: bool> Sums<'_, K, MANY> {
    #[inline(always)]
    fn of<S: Simd, const O: usize, const V: usize>(self, simd: S) {
        let Self { layout, lines, weights, out } = self;
        let inputs = lines.len() / layout.line();
        assert_eq!([weights.len(), out.len()], [inputs * K * K * O, O * layout.places], "of another block");
        let offsets: [[usize; K]; K] = std::array::from_fn(|y| std::array::from_fn(|x| layout.tap(y, x)));
        for first in (0..layout.places).step_by(V * S::F32_LANES) {
            let mut sums = [[simd.splat_f32s(0.0); V]; O];
            let inputs = lines.chunks_exact(layout.line()).zip(weights.chunks_exact(K * K * O));
            for (line, weights) in inputs {
                for (offset, weights) in offsets.as_flattened().iter().zip(weights.as_chunks::<O>().0) {
                    let pixels = registers::<S, V>(line, first + offset);
                    for (sums, weight) in sums.iter_mut().zip(weights) {
                        let weight = simd.splat_f32s(*weight);
                        for (sum, pixels) in sums.iter_mut().zip(pixels) {
                            *sum = multiply_add(simd, *pixels, weight, *sum);
                        }
                    }
                }
            }
            for (sums, out) in sums.iter().zip(out.chunks_exact_mut(layout.places)) {
                S::as_mut_simd_f32s(&mut out[first..]).0[..V].copy_from_slice(sums);
            }
        }
    }
}

impl<const K: usize, const MANY: bool> WithSimd for Sums<'_, K, MANY> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (MANY, wide::<S>()) {
            (true, true) => self.of::<S, 8, 3>(simd),
            (true, false) => self.of::<S, 6, 2>(simd),
            (false, _) => self.of::<S, 1, 8>(simd),
        }
    }
}

/// The products of the gradients of a block of outputs with one input's pixels, summed over all
/// pictures: a sum for each tap.
pub(super) struct Products<'a, const K: usize, const MANY: bool> {
    pub(super) layout: Layout,
    /// The input's lines, the first of each picture so many values after that of the last.
    pub(super) lines: (&'a [f32], usize),
    /// `[outputs of a block, places]` of each picture, as far apart as that.
    pub(super) gradients: (&'a [f32], usize),
    pub(super) batch: usize,
}

/// Places whose products are summed up before they are added to the totals: few enough for the
/// first level of cache, and for the sums to keep their digits.
const PIECE: usize = 512;

impl<const K: usize, const MANY: bool> Products<'_, K, MANY> {
    #[inline(always)]
    fn of<S: Simd, const O: usize>(self, simd: S) -> Vec<[[f32; K]; K]> {
        let Self { layout, lines, gradients, batch } = self;
        let mut totals = [[[simd.splat_f32s(0.0); K]; O]; K];
        let at_once = (PIECE / layout.places).max(1);
        for items in (0..batch).step_by(at_once).map(|first| first..batch.min(first + at_once)) {
            for piece in (0..layout.places).step_by(PIECE).map(|first| first..layout.places.min(first + PIECE)) {
                for (y, totals) in totals.iter_mut().enumerate() {
                    let mut sums = [[simd.splat_f32s(0.0); K]; O];
                    for item in items.clone() {
                        let line = &lines.0[item * lines.1 + layout.tap(y, 0)..];
                        let gradients = &gradients.0[item * gradients.1..];
                        for place in piece.clone().step_by(S::F32_LANES) {
                            let pixels: [S::f32s; K] = std::array::from_fn(|x| registers::<S, 1>(line, place + x)[0]);
                            for (output, sums) in sums.iter_mut().enumerate() {
                                let [gradient] = *registers::<S, 1>(gradients, output * layout.places + place);
                                for (sum, pixels) in sums.iter_mut().zip(pixels) {
                                    *sum = multiply_add(simd, pixels, gradient, *sum);
                                }
                            }
                        }
                    }
                    for (total, sum) in totals.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                        *total = simd.add_f32s(*total, *sum);
                    }
                }
            }
        }
        // Loops, because a closure of an iterator might be compiled for other instructions.
        let mut kernels = vec![[[0.0; K]; K]; O];
        for (output, kernel) in kernels.iter_mut().enumerate() {
            for y in 0..K {
                for x in 0..K {
                    kernel[y][x] = simd.reduce_sum_f32s(totals[y][output][x]);
                }
            }
        }
        kernels
    }
}

impl<const K: usize, const MANY: bool> WithSimd for Products<'_, K, MANY> {
    type Output = Vec<[[f32; K]; K]>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        match (MANY, wide::<S>()) {
            (true, true) => self.of::<S, 8>(simd),
            (true, false) => self.of::<S, 4>(simd),
            (false, _) => self.of::<S, 1>(simd),
        }
    }
}
