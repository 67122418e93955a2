//! How fast this machine computes, and what of that each kernel gets.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::Finish;
use crate::activation;
use crate::conv::{self, Conv};
use crate::norm::{self, Maps};
use crate::path::Path;
use crate::product::{Matrix, product};

/// Runs of each kernel that count, after one that does not.
const REPEATS: usize = 5;

/// Runs of which the fastest counts.
const ATTEMPTS: usize = 10;

/// Rows, columns and depth of the matrices that show the peak: large enough that nothing but
/// products counts.
const SIDE: usize = 1024;

/// Values of each array that shows the bandwidth: 128 MiB, more than caches hold.
const LONG: usize = 32 << 20;

/// Values of an array that a thread takes at a time.
const PART: usize = 1 << 16;

/// Threads that compute.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// What a machine can do at best, with all threads.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Multiplications and additions a second, in 10⁹, of a product of large matrices on each
    /// thread.
    pub gflops: f64,
    /// Bytes a second, in 10⁹, that `a[i] = b[i] + c · d[i]` reads and writes in long arrays.
    pub gigabytes: f64,
}

impl Machine {
    /// Measures this one.
    pub fn measure(path: Path) -> Self {
        Self { gflops: peak(path), gigabytes: bandwidth(path) }
    }

    /// The least seconds that so much work can take here, as it is defined: a kernel that gets
    /// by with less arithmetic may take less.
    pub fn least_seconds(&self, gflop: f64, gigabytes: f64) -> f64 {
        (gflop / self.gflops).max(gigabytes / self.gigabytes)
    }
}

fn peak(path: Path) -> f64 {
    let (left, right) = (noise(SIDE * SIDE), noise(SIDE * SIDE));
    let seconds = least(|| {
        rayon::broadcast(|_| {
            let mut out = vec![0.0; SIDE * SIDE];
            let [left, right] = [&left, &right].map(|values| Matrix::rows(values, SIDE));
            product(path, [SIDE; 3], (&mut out, SIDE), false, left, right);
            black_box(out);
        });
    });
    threads() as f64 * 2e-9 * (SIDE as f64).powi(3) / seconds
}

fn bandwidth(path: Path) -> f64 {
    let (mut sum, left, right) = (vec![0.0f32; LONG], vec![1.0f32; LONG], vec![2.0f32; LONG]);
    let factor = black_box(3.0);
    let seconds = least(|| {
        let parts = sum.par_chunks_mut(PART).zip(left.par_chunks(PART)).zip(right.par_chunks(PART));
        parts.for_each(|((sum, left), right)| {
            path.run(
                #[inline(always)]
                || {
                    for ((sum, left), right) in sum.iter_mut().zip(left).zip(right) {
                        *sum = left + factor * right;
                    }
                },
            );
        });
    });
    3e-9 * (LONG * size_of::<f32>()) as f64 / seconds
}

/// The seconds of the fastest run.
fn least(mut work: impl FnMut()) -> f64 {
    (0..ATTEMPTS).map(|_| seconds(&mut work)).fold(f64::INFINITY, f64::min)
}

fn seconds(work: &mut impl FnMut()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// What a kernel took.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Layer and what of it: its output or a gradient.
    pub name: String,
    /// The median of several runs.
    pub seconds: f64,
    /// Multiplications and additions of a convolution as it is defined, in 10⁹; of others, which
    /// wait for memory, none are counted.
    pub gflop: f64,
    /// Bytes that have to be read and written, in 10⁹.
    pub gigabytes: f64,
}

/// A convolution: name, channels in and out, batch, height and width, kernel, stride, groups.
type Case = (&'static str, [usize; 2], usize, [usize; 2], usize, usize, usize);

/// The layers of the networks.
#[rustfmt::skip]
const CASES: &[Case] = &[
    ("3>80 3x3", [3, 80], 8, [100, 132], 3, 1, 1),
    ("80>80 3x3", [80, 80], 8, [100, 132], 3, 1, 1),
    ("80>160 3x3", [80, 160], 8, [100, 132], 3, 1, 1),
    ("160>160 3x3", [160, 160], 8, [100, 132], 3, 1, 1),
    ("160>160 3x3, one picture", [160, 160], 1, [200, 264], 3, 1, 1),
    ("160 5x5 depthwise", [160, 160], 8, [100, 132], 5, 1, 160),
    ("80>160 1x1", [80, 160], 8, [100, 132], 1, 1, 1),
    ("3>64 7x7 by 2", [3, 64], 8, [256, 256], 7, 2, 1),
    ("64>256 1x1", [64, 256], 8, [64, 64], 1, 1, 1),
    ("256>64 1x1", [256, 64], 8, [64, 64], 1, 1, 1),
    ("64>64 3x3", [64, 64], 8, [64, 64], 3, 1, 1),
    ("128>128 3x3 by 2", [128, 128], 8, [64, 64], 3, 2, 1),
    ("128>128 3x3", [128, 128], 8, [32, 32], 3, 1, 1),
    ("256>256 3x3", [256, 256], 8, [16, 16], 3, 1, 1),
    ("512>512 3x3", [512, 512], 8, [8, 8], 3, 1, 1),
    ("1024>2048 1x1 by 2", [1024, 2048], 8, [16, 16], 1, 2, 1),
    ("512>2048 1x1", [512, 2048], 8, [8, 8], 1, 1, 1),
];

/// Measures each kernel whose name contains `part`, on the shapes that the networks have, and
/// tells of it.
pub fn kernels(path: Path, part: &str, tell: &mut dyn FnMut(Measured)) {
    let mut row = |name: String, gflop: f64, values: usize, work: &dyn Fn() -> Vec<f32>| {
        if name.contains(part) {
            let gigabytes = 1e-9 * (values * size_of::<f32>()) as f64;
            tell(Measured { name, seconds: median(work), gflop, gigabytes });
        }
    };
    for &(name, [inputs, outputs], batch, size, kernel, stride, groups) in CASES {
        let padding = [kernel / 2; 2];
        let (kernel, stride, dilation) = ([kernel; 2], [stride; 2], [1; 2]);
        let conv = Conv { batch, inputs, outputs, size, kernel, stride, padding, dilation, groups };
        let [height, width] = conv.output_size();
        let taps = inputs / groups * kernel[0] * kernel[1];
        let x = noise(batch * inputs * size[0] * size[1]);
        let (weight, gradient) = (noise(outputs * taps), noise(batch * outputs * height * width));
        let gflop = 2e-9 * (gradient.len() * taps) as f64;
        let mut row = |what: &str, work: &dyn Fn() -> Vec<f32>| {
            row(format!("{name} {what}"), gflop, x.len() + weight.len() + gradient.len(), work);
        };
        row("forward", &|| conv::forward(path, &conv, &x, &weight, None, Finish::default()));
        row("input gradient", &|| conv::input_gradient(path, &conv, &gradient, &weight));
        row("weight gradient", &|| conv::weight_gradient(path, &conv, &x, &gradient));
    }
    let maps = Maps { batch: 8, channels: 160, pixels: 13_200 };
    let x = noise(8 * 160 * 13_200);
    let (weight, bias) = (vec![1.0; 160], vec![0.0; 160]);
    let known = norm::statistics(path, maps, &x);
    // How often a map is read or written: what is known of all of it comes before what is
    // computed of each value.
    let mut row = |name: &str, times: usize, work: &dyn Fn() -> Vec<f32>| {
        row(name.to_owned(), 0.0, times * x.len(), work);
    };
    row("gelu forward", 2, &|| activation::gelu(path, &x));
    row("gelu gradient", 3, &|| activation::gelu_gradient(path, &x, &x));
    row("batch norm forward", 3, &|| {
        let known = norm::statistics(path, maps, &x);
        norm::batch_norm(path, maps, &x, &known, [&weight, &bias], 1e-5, Finish::default())
    });
    row("batch norm gradients", 5, &|| {
        let [by_input, ..] = norm::batch_norm_gradient(path, maps, [&x, &x], &known, &weight, 1e-5);
        by_input
    });
}

fn median(work: &dyn Fn() -> Vec<f32>) -> f64 {
    let mut run = || drop(black_box(work()));
    let mut all: Vec<f64> = (0..=REPEATS).map(|_| seconds(&mut run)).skip(1).collect();
    all.sort_by(f64::total_cmp);
    all[REPEATS / 2]
}

/// Values between −1 and 1.
fn noise(length: usize) -> Vec<f32> {
    (0..length).map(|i| (i * 7919 % 1013) as f32 / 506.0 - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_measured_if_its_name_is_asked_for() {
        let mut all = vec![];
        kernels(Path::current(), "512>2048 1x1 weight", &mut |measured| all.push(measured));
        let [one] = &all[..] else { panic!("{all:?}") };
        assert_eq!(
            (one.name.as_str(), one.gflop),
            ("512>2048 1x1 weight gradient", 2e-9 * 8.0 * 64.0 * 512.0 * 2048.0)
        );
        assert_eq!(one.gigabytes, 4e-9 * (512.0 * 2048.0 + 8.0 * 64.0 * (512.0 + 2048.0)));
        assert!(one.seconds > 0.0);
    }

    #[test]
    fn what_takes_longer_bounds_the_time() {
        let machine = Machine { gflops: 100.0, gigabytes: 10.0 };
        assert_eq!([machine.least_seconds(50.0, 1.0), machine.least_seconds(50.0, 20.0)], [0.5, 2.0]);
    }
}
