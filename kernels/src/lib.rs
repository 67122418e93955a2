//! Kernels of neural networks for processors: 32-bit numbers, the layout of PyTorch, and the
//! gradients of each by its side.
//!
//! | module | what it computes |
//! |---|---|
//! | [`conv`] | convolutions of maps, and their gradients by input, weight and bias |
//! | [`activation`] | functions of single values |
//! | [`norm`] | normalisations |
//! | [`bf16`] | numbers of 16 bits |
//! | [`path`] | which instructions all of it uses |
//! | [`memory`] | what becomes of memory that is no longer used |
//! | [`measure`] | how fast all of it is here |
//!
//! All functions take and give whole slices in row-major order, the batch first. They use the
//! threads of the current pool of `rayon`, and give the same bytes whatever their number: work
//! is cut by the shape of what is computed alone, and no sum is cut between threads. Different
//! [paths](path::Path) round differently.

pub mod activation;
pub mod bf16;
pub mod conv;
mod finish;
pub mod measure;
pub mod memory;
pub mod norm;
pub mod path;
mod product;

pub use finish::Finish;

/// Values that are handled side by side: a register of AVX-512, two of AVX2, four of NEON.
const LANES: usize = 16;

/// As many values as fit side by side.
type Lanes = [f32; LANES];

/// Values whose 32-bit sums are added up by 64 bits.
const RUN: usize = 4096;

/// The sum of `term` over the values of all slices, which are of one length.
#[inline(always)]
fn total<const N: usize>(slices: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f64 {
    let length = slices[0].len();
    assert!(slices.iter().all(|slice| slice.len() == length));
    let mut total = 0.0;
    for first in (0..length).step_by(RUN) {
        let run = slices.map(|slice| &slice[first..length.min(first + RUN)]);
        let chunks = run.map(|slice| slice.as_chunks::<{ 2 * LANES }>());
        let mut sums = [0.0; 2 * LANES];
        for chunk in 0..chunks[0].0.len() {
            let values = chunks.map(|(whole, _)| &whole[chunk]);
            for lane in 0..2 * LANES {
                sums[lane] += term(values.map(|values| values[lane]));
            }
        }
        for rest in 0..chunks[0].1.len() {
            sums[rest] += term(chunks.map(|(_, values)| values[rest]));
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
    }
    total
}

/// The sum of the values.
#[inline(always)]
fn sum(values: &[f32]) -> f64 {
    total([values], |[value]| value)
}
