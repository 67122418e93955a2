//! 3×3 convolutions with fewer products: Winograd's minimal filtering F(4×4, 3×3)
//! (Lavin and Gray, arXiv 1509.09308).
//!
//! A tile of 6×6 inputs, the kernel, and a tile of 4×4 outputs are polynomials in two
//! variables. They are evaluated at the points 0, ±[`NEAR`], ±[`FAR`] and infinity in each
//! direction, so that the convolution becomes 36 products of matrices: 2.25 products for each
//! pixel, input and output instead of 9. The gradients are the transposes of the same three
//! maps, so the weights' gradient is 36 products as well, and the input's is a convolution
//! with the kernel turned around.
//!
//! Rounding errors are about twice those of a plain sum of 160 channels, and a value that is no
//! finite number spreads over all tiles that reach it.
//!
//! Tiles are handled row by row, their columns side by side: a row of pixels is split by
//! `column mod 4` into four phases, after which every step is the same for all tiles of a row.

use rayon::prelude::*;

use super::Conv;
use crate::path::Path;
use crate::product::{Matrix, product};
use crate::{Finish, LANES, Lanes};

/// Pixels of an output tile in each direction.
const TILE: usize = 4;
/// Points of evaluation in each direction.
const POINTS: usize = 6;
/// Points of evaluation: as many products as that are made.
const PLANES: usize = POINTS * POINTS;
/// Tiles that are handled at once, about: enough for the products to be quick, and few enough
/// for the third level of cache.
const BLOCK: usize = 256;

/// The points of evaluation but 0 and infinity are ± these two. The reciprocal pair has half
/// the rounding errors of the usual 1 and 2.
const NEAR: f32 = std::f32::consts::FRAC_1_SQRT_2;
const FAR: f32 = std::f32::consts::SQRT_2;
const NEAR2: f32 = 0.5;
const FAR2: f32 = 2.0;
/// The products of the distances of each point to all others, inverted.
const SCALE_0: f32 = 1.0 / (NEAR2 * FAR2);
const SCALE_NEAR: f32 = 1.0 / (2.0 * NEAR2 * (NEAR2 - FAR2));
const SCALE_FAR: f32 = 1.0 / (2.0 * FAR2 * (FAR2 - NEAR2));

/// Whether a convolution that moves by one pixel is better computed this way.
pub(super) fn takes(conv: &Conv) -> bool {
    conv.kernel == [3, 3] && conv.padding.iter().all(|&padding| padding <= 2) && conv.inputs >= 8 && conv.outputs >= 8
}

/// Values of an input tile along one direction, at the six points.
#[inline(always)]
fn evaluate_input(d: [f32; 6]) -> [f32; 6] {
    let (even, odd) = (d[4] - FAR2 * d[2], NEAR * (d[3] - FAR2 * d[1]));
    let (even_far, odd_far) = (d[4] - NEAR2 * d[2], FAR * (d[3] - NEAR2 * d[1]));
    [
        NEAR2 * FAR2 * d[0] - (NEAR2 + FAR2) * d[2] + d[4],
        even + odd,
        even - odd,
        even_far + odd_far,
        even_far - odd_far,
        NEAR2 * FAR2 * d[1] - (NEAR2 + FAR2) * d[3] + d[5],
    ]
}

/// A kernel along one direction, at the six points.
#[inline(always)]
fn evaluate_kernel(g: [f32; 3]) -> [f32; 6] {
    let near = [SCALE_NEAR * (g[0] + NEAR2 * g[2]), SCALE_NEAR * NEAR * g[1]];
    let far = [SCALE_FAR * (g[0] + FAR2 * g[2]), SCALE_FAR * FAR * g[1]];
    [SCALE_0 * g[0], near[0] + near[1], near[0] - near[1], far[0] + far[1], far[0] - far[1], g[2]]
}

/// The transpose of [`evaluate_kernel`].
#[inline(always)]
fn gather_kernel(u: [f32; 6]) -> [f32; 3] {
    let (near, far) = (SCALE_NEAR * (u[1] + u[2]), SCALE_FAR * (u[3] + u[4]));
    [
        SCALE_0 * u[0] + near + far,
        SCALE_NEAR * NEAR * (u[1] - u[2]) + SCALE_FAR * FAR * (u[3] - u[4]),
        NEAR2 * near + FAR2 * far + u[5],
    ]
}

/// An output tile along one direction, from its values at the six points.
#[inline(always)]
fn gather_output(m: [f32; 6]) -> [f32; 4] {
    let (near, far) = ([m[1] + m[2], m[1] - m[2]], [m[3] + m[4], m[3] - m[4]]);
    [
        m[0] + near[0] + far[0],
        NEAR * near[1] + FAR * far[1],
        NEAR2 * near[0] + FAR2 * far[0],
        NEAR2 * NEAR * near[1] + FAR2 * FAR * far[1] + m[5],
    ]
}

/// The transpose of [`gather_output`].
#[inline(always)]
fn evaluate_output(y: [f32; 4]) -> [f32; 6] {
    let near = [y[0] + NEAR2 * y[2], NEAR * (y[1] + NEAR2 * y[3])];
    let far = [y[0] + FAR2 * y[2], FAR * (y[1] + FAR2 * y[3])];
    [y[0], near[0] + near[1], near[0] - near[1], far[0] + far[1], far[0] - far[1], y[3]]
}

/// How the maps of a batch are cut into tiles.
#[derive(Clone, Copy)]
struct Tiling {
    batch: usize,
    /// Height and width of a map.
    size: [usize; 2],
    /// Tiles of a map in each direction.
    tiles: [usize; 2],
    /// Rows of tiles that are handled at once.
    rows: usize,
    /// Values from one plane of a block to the next. Rows of tiles are written by whole
    /// [`Lanes`], so it is more than the tiles of a block.
    stride: usize,
}

/// A row of tiles of a block.
struct TileRow {
    /// The number of its picture in the batch.
    item: usize,
    /// Its first row of pixels.
    top: usize,
    /// Where its tiles begin in a plane of the block.
    at: usize,
}

impl Tiling {
    fn new(batch: usize, size: [usize; 2]) -> Self {
        let tiles = size.map(|length| length.div_ceil(TILE));
        let rows = (BLOCK / tiles[1]).clamp(1, batch * tiles[0]);
        let stride = ((rows - 1) * tiles[1] + tiles[1].next_multiple_of(LANES)).next_multiple_of(LANES);
        Self { batch, size, tiles, rows, stride }
    }

    /// The rows of tiles of each block. A block may hold the end of one picture and the
    /// beginning of the next.
    fn blocks(self) -> impl Iterator<Item = Vec<TileRow>> {
        let total = self.batch * self.tiles[0];
        (0..total).step_by(self.rows).map(move |first| {
            let row = |row: usize| TileRow {
                item: row / self.tiles[0],
                top: row % self.tiles[0] * TILE,
                at: (row - first) * self.tiles[1],
            };
            (first..total.min(first + self.rows)).map(row).collect()
        })
    }
}

/// Memory in which one channel of one row of tiles is evaluated.
struct Scratch {
    /// A row of pixels.
    line: Vec<f32>,
    /// Rows of values, each as four phases or as values at six points.
    rows: [Vec<f32>; POINTS],
    /// Values from one phase, or point, to the next.
    stride: usize,
}

#[inline(always)]
fn lanes(values: &[f32], at: usize) -> Lanes {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(&values[at..at + LANES]);
    lanes
}

/// Applies a map of `N` to `M` values in every lane.
#[inline(always)]
fn each<const N: usize, const M: usize>(map: impl Fn([f32; N]) -> [f32; M], values: [Lanes; N]) -> [Lanes; M] {
    let mut out = [[0.0; LANES]; M];
    for lane in 0..LANES {
        let column = map(std::array::from_fn(|i| values[i][lane]));
        for i in 0..M {
            out[i][lane] = column[i];
        }
    }
    out
}

impl Scratch {
    fn new(tiling: &Tiling) -> Self {
        // An input tile reaches two pixels into the next.
        let stride = (tiling.tiles[1] + 1).next_multiple_of(LANES) + LANES;
        Self { line: vec![0.0; stride * TILE], rows: std::array::from_fn(|_| vec![0.0; stride * POINTS]), stride }
    }

    /// Puts a row of pixels, from column `-left` on, into a row of values as four phases.
    /// Outside the map it is zero.
    #[inline(always)]
    fn split(&mut self, i: usize, map: &[f32], [height, width]: [usize; 2], row: Option<usize>, left: usize) {
        let out = &mut self.rows[i][..TILE * self.stride];
        let Some(row) = row.filter(|&row| row < height) else { return out.fill(0.0) };
        let copied = width.min(self.line.len() - left);
        self.line[..left].fill(0.0);
        self.line[left..left + copied].copy_from_slice(&map[row * width..][..copied]);
        self.line[left + copied..].fill(0.0);
        let (zero, rest) = out.split_at_mut(self.stride);
        let (one, rest) = rest.split_at_mut(self.stride);
        let (two, three) = rest.split_at_mut(self.stride);
        let phases = zero.iter_mut().zip(one).zip(two.iter_mut().zip(three));
        for (pixels, ((zero, one), (two, three))) in self.line.as_chunks::<TILE>().0.iter().zip(phases) {
            [*zero, *one, *two, *three] = *pixels;
        }
    }

    /// Applies a map to the columns of the first `N` rows, which become `POINTS`.
    #[inline(always)]
    fn evaluate_columns<const N: usize>(&mut self, map: impl Fn([f32; N]) -> [f32; POINTS]) {
        for start in (0..TILE * self.stride).step_by(LANES) {
            let column = each(&map, std::array::from_fn(|i| lanes(&self.rows[i], start)));
            for (row, values) in self.rows.iter_mut().zip(column) {
                row[start..start + LANES].copy_from_slice(&values);
            }
        }
    }

    /// Applies a map to the rows, `N` pixels of each tile, and writes the planes of a channel.
    #[inline(always)]
    fn evaluate_rows<const N: usize>(
        &self,
        map: impl Fn([f32; N]) -> [f32; POINTS],
        tiling: &Tiling,
        at: usize,
        planes: &mut [f32],
    ) {
        for (i, row) in self.rows.iter().enumerate() {
            for tile in (0..tiling.tiles[1]).step_by(LANES) {
                let pixel = |c| lanes(row, c % TILE * self.stride + c / TILE + tile);
                for (j, values) in each(&map, std::array::from_fn(pixel)).into_iter().enumerate() {
                    let to = (i * POINTS + j) * tiling.stride + at + tile;
                    planes[to..to + LANES].copy_from_slice(&values);
                }
            }
        }
    }

    /// Evaluates a row of input tiles of one channel; `padding` is that of the map.
    #[inline(always)]
    fn input(
        &mut self,
        map: &[f32],
        size: [usize; 2],
        padding: [usize; 2],
        tiling: &Tiling,
        row: &TileRow,
        planes: &mut [f32],
    ) {
        for i in 0..POINTS {
            self.split(i, map, size, (row.top + i).checked_sub(padding[0]), padding[1]);
        }
        self.evaluate_columns(evaluate_input);
        self.evaluate_rows(evaluate_input, tiling, row.at, planes);
    }

    /// Evaluates a row of output tiles of one channel.
    #[inline(always)]
    fn output_gradient(&mut self, map: &[f32], tiling: &Tiling, row: &TileRow, planes: &mut [f32]) {
        for i in 0..TILE {
            self.split(i, map, tiling.size, Some(row.top + i), 0);
        }
        self.evaluate_columns(evaluate_output);
        self.evaluate_rows(evaluate_output, tiling, row.at, planes);
    }

    /// Writes a row of output tiles of one channel to its map. Plane `p` begins at
    /// `p * between`.
    #[inline(always)]
    fn output(&mut self, planes: &[f32], between: usize, tiling: &Tiling, row: &TileRow, bias: f32, map: &mut [f32]) {
        for j in 0..POINTS {
            for tile in (0..tiling.tiles[1]).step_by(LANES) {
                let m = std::array::from_fn(|i| lanes(planes, (i * POINTS + j) * between + row.at + tile));
                for (row, values) in self.rows.iter_mut().zip(each(gather_output, m)) {
                    row[j * self.stride + tile..][..LANES].copy_from_slice(&values);
                }
            }
        }
        let [height, width] = tiling.size;
        for (values, y) in self.rows.iter().zip(row.top..height.min(row.top + TILE)) {
            for tile in (0..tiling.tiles[1]).step_by(LANES) {
                let m = std::array::from_fn(|j| lanes(values, j * self.stride + tile));
                let columns = each(gather_output, m);
                let line = &mut self.line[tile * TILE..][..LANES * TILE];
                for (lane, pixels) in line.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
                    *pixels = [0, 1, 2, 3].map(|c| columns[c][lane] + bias);
                }
            }
            map[y * width..][..width].copy_from_slice(&self.line[..width]);
        }
    }
}

/// Kernels at all points: of each output its planes, in each all inputs.
fn evaluate_kernels<'a>(
    path: Path,
    [outputs, inputs]: [usize; 2],
    kernel: impl Fn(usize, usize) -> [f32; 9] + Sync + 'a,
) -> Vec<f32> {
    let mut all = vec![0.0; outputs * PLANES * inputs];
    all.par_chunks_mut(PLANES * inputs).enumerate().for_each(|(output, planes)| {
        path.run(
            #[inline(always)]
            || {
                for first in (0..inputs).step_by(LANES) {
                    let count = LANES.min(inputs - first);
                    let mut taps = [[0.0; LANES]; 9];
                    for lane in 0..count {
                        let kernel = kernel(output, first + lane);
                        taps.iter_mut().zip(kernel).for_each(|(tap, value)| tap[lane] = value);
                    }
                    let columns: [[Lanes; POINTS]; 3] =
                        std::array::from_fn(|c| each(evaluate_kernel, [taps[c], taps[3 + c], taps[6 + c]]));
                    for i in 0..POINTS {
                        let row = each(evaluate_kernel, [columns[0][i], columns[1][i], columns[2][i]]);
                        for (j, values) in row.iter().enumerate() {
                            planes[(i * POINTS + j) * inputs + first..][..count].copy_from_slice(&values[..count]);
                        }
                    }
                }
            },
        );
    });
    all
}

/// The maps of a batch, convolved with kernels that are evaluated already.
struct Pass<'a> {
    path: Path,
    inputs: usize,
    outputs: usize,
    /// Height and width of the input.
    size: [usize; 2],
    padding: [usize; 2],
    kernels: &'a [f32],
    bias: Option<&'a [f32]>,
    finish: Finish<'a>,
}

impl Pass<'_> {
    fn of(&self, batch: usize, input: &[f32]) -> Vec<f32> {
        let tiling = Tiling::new(batch, [0, 1].map(|i| self.size[i] + 2 * self.padding[i] - 2));
        let pixels = tiling.size[0] * tiling.size[1];
        let mut output = vec![0.0; batch * self.outputs * pixels];
        let mut evaluated = vec![0.0; self.inputs * PLANES * tiling.stride];
        let mut products = vec![0.0; PLANES * self.outputs * tiling.stride];
        for rows in tiling.blocks() {
            evaluate_inputs(self.path, input, self.size, self.padding, &tiling, &rows, &mut evaluated);
            // By whole registers, which spares `gemm` a copy; what is beyond the tiles is not read.
            let tiles = (rows.len() * tiling.tiles[1]).next_multiple_of(LANES);
            products.par_chunks_mut(self.outputs * tiling.stride).enumerate().for_each(|(plane, out)| {
                let left = Matrix::rows(&self.kernels[plane * self.inputs..], PLANES * self.inputs);
                let right = Matrix::rows(&evaluated[plane * tiling.stride..], PLANES * tiling.stride);
                let size = [self.outputs, tiles, self.inputs];
                product(self.path, size, (out, tiling.stride), false, left, right);
            });
            let items = rows[0].item..=rows[rows.len() - 1].item;
            let maps = &mut output[items.start() * self.outputs * pixels..(items.end() + 1) * self.outputs * pixels];
            let write = |scratch: &mut Scratch, (map, values): (usize, &mut [f32])| {
                let (item, channel) = (items.start() + map / self.outputs, map % self.outputs);
                let bias = self.bias.map_or(0.0, |bias| bias[channel]);
                self.path.run(
                    #[inline(always)]
                    || {
                        for row in rows.iter().filter(|row| row.item == item) {
                            let planes = &products[channel * tiling.stride..];
                            scratch.output(planes, self.outputs * tiling.stride, &tiling, row, bias, values);
                            let [height, width] = tiling.size;
                            let written = row.top * width..height.min(row.top + TILE) * width;
                            let first = (item * self.outputs + channel) * pixels + written.start;
                            self.finish.apply(first, &mut values[written]);
                        }
                    },
                );
            };
            maps.par_chunks_mut(pixels).enumerate().for_each_init(|| Scratch::new(&tiling), write);
        }
        output
    }
}

/// Evaluates the input tiles of a block: of each channel its planes.
fn evaluate_inputs(
    path: Path,
    input: &[f32],
    size: [usize; 2],
    padding: [usize; 2],
    tiling: &Tiling,
    rows: &[TileRow],
    evaluated: &mut [f32],
) {
    let channels = evaluated.len() / (PLANES * tiling.stride);
    let pixels = size[0] * size[1];
    let evaluate = |scratch: &mut Scratch, (channel, planes): (usize, &mut [f32])| {
        path.run(
            #[inline(always)]
            || {
                for row in rows {
                    let map = &input[(row.item * channels + channel) * pixels..][..pixels];
                    scratch.input(map, size, padding, tiling, row, planes);
                }
            },
        );
    };
    evaluated.par_chunks_mut(PLANES * tiling.stride).enumerate().for_each_init(|| Scratch::new(tiling), evaluate);
}

pub(super) fn forward(
    path: Path,
    conv: &Conv,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    finish: Finish,
) -> Vec<f32> {
    let (weight, _) = weight.as_chunks::<9>();
    let kernels = evaluate_kernels(path, [conv.outputs, conv.inputs], |o, i| weight[o * conv.inputs + i]);
    let (inputs, outputs) = (conv.inputs, conv.outputs);
    Pass { path, inputs, outputs, size: conv.size, padding: conv.padding, kernels: &kernels, bias, finish }
        .of(conv.batch, input)
}

pub(super) fn input_gradient(path: Path, conv: &Conv, gradient: &[f32], weight: &[f32]) -> Vec<f32> {
    let (weight, _) = weight.as_chunks::<9>();
    let turned = |i: usize, o: usize| {
        let mut kernel = weight[o * conv.inputs + i];
        kernel.reverse();
        kernel
    };
    let kernels = evaluate_kernels(path, [conv.inputs, conv.outputs], turned);
    let pass = Pass {
        path,
        inputs: conv.outputs,
        outputs: conv.inputs,
        size: conv.output_size(),
        padding: conv.padding.map(|padding| 2 - padding),
        kernels: &kernels,
        bias: None,
        finish: Finish::default(),
    };
    pass.of(conv.batch, gradient)
}

pub(super) fn weight_gradient(path: Path, conv: &Conv, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    let tiling = Tiling::new(conv.batch, conv.output_size());
    let kernels = conv.outputs * conv.inputs;
    let mut sums = vec![0.0; PLANES * kernels];
    let mut inputs = vec![0.0; conv.inputs * PLANES * tiling.stride];
    let mut gradients = vec![0.0; conv.outputs * PLANES * tiling.stride];
    let pixels = conv.output_pixels();
    for (block, rows) in tiling.blocks().enumerate() {
        evaluate_inputs(path, input, conv.size, conv.padding, &tiling, &rows, &mut inputs);
        let evaluate = |scratch: &mut Scratch, (channel, planes): (usize, &mut [f32])| {
            path.run(
                #[inline(always)]
                || {
                    for row in &rows {
                        let map = &gradient[(row.item * conv.outputs + channel) * pixels..][..pixels];
                        scratch.output_gradient(map, &tiling, row, planes);
                    }
                },
            );
        };
        let chunks = gradients.par_chunks_mut(PLANES * tiling.stride).enumerate();
        chunks.for_each_init(|| Scratch::new(&tiling), evaluate);
        let tiles = rows.len() * tiling.tiles[1];
        sums.par_chunks_mut(kernels).enumerate().for_each(|(plane, out)| {
            let left = Matrix::rows(&gradients[plane * tiling.stride..], PLANES * tiling.stride);
            let right = Matrix::columns(&inputs[plane * tiling.stride..], PLANES * tiling.stride);
            product(path, [conv.outputs, conv.inputs, tiles], (out, conv.inputs), block > 0, left, right);
        });
    }
    gather_kernels(path, kernels, &sums)
}

/// Kernels from their values at all points, which are kept by planes.
fn gather_kernels(path: Path, count: usize, planes: &[f32]) -> Vec<f32> {
    let mut kernels = vec![0.0; count * 9];
    kernels.par_chunks_mut(9 * LANES).enumerate().for_each(|(chunk, out)| {
        path.run(
            #[inline(always)]
            || {
                let (first, count) = (chunk * LANES, out.len() / 9);
                let value = |i: usize, j: usize| {
                    let mut lanes = [0.0; LANES];
                    lanes[..count]
                        .copy_from_slice(&planes[(i * POINTS + j) * (planes.len() / PLANES) + first..][..count]);
                    lanes
                };
                let columns: [[Lanes; 3]; POINTS] =
                    std::array::from_fn(|j| each(gather_kernel, std::array::from_fn(|i| value(i, j))));
                for r in 0..3 {
                    let taps = each(gather_kernel, std::array::from_fn(|j| columns[j][r]));
                    for (lane, kernel) in out.as_chunks_mut::<9>().0.iter_mut().enumerate() {
                        kernel[3 * r..3 * r + 3].copy_from_slice(&taps.map(|tap| tap[lane]));
                    }
                }
            },
        );
    });
    kernels
}
