//! Milliseconds and GFLOP/s of each kernel on the shapes that the networks have, the median of
//! five runs. Multiplications and additions are counted as the operation is defined.
//!
//! LITHOGEN_CPU names the instructions. An argument keeps to kernels whose name contains it.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::hint::black_box;
use std::time::Instant;

use kernels::conv::{self, Conv};
use kernels::norm::{self, Maps};
use kernels::path::Path;
use kernels::{Finish, activation, memory};

const REPEATS: usize = 5;

/// What is measured: name, channels in and out, height and width, kernel, stride, groups.
type Case = (&'static str, [usize; 2], usize, [usize; 2], usize, usize, usize);

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

fn main() {
    memory::keep();
    let path = Path::asked().unwrap().unwrap_or(Path::current());
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!("{path} | ms | GFLOP/s");
    for &(name, [inputs, outputs], batch, size, kernel, stride, groups) in CASES {
        let padding = [kernel / 2; 2];
        let (kernel, stride, dilation) = ([kernel; 2], [stride; 2], [1; 2]);
        let conv = Conv { batch, inputs, outputs, size, kernel, stride, padding, dilation, groups };
        let [height, width] = conv.output_size();
        let taps = inputs / groups * kernel[0] * kernel[1];
        let x = noise(batch * inputs * size[0] * size[1]);
        let (weight, gradient) = (noise(outputs * taps), noise(batch * outputs * height * width));
        let gflop = 2e-9 * (gradient.len() * taps) as f64;
        let row = |what: &str, work: &dyn Fn() -> Vec<f32>| time(&part, &format!("{name} {what}"), gflop, work);
        row("forward", &|| conv::forward(path, &conv, &x, &weight, None, Finish::default()));
        row("input gradient", &|| conv::input_gradient(path, &conv, &gradient, &weight));
        row("weight gradient", &|| conv::weight_gradient(path, &conv, &x, &gradient));
    }
    let maps = Maps { batch: 8, channels: 160, pixels: 13_200 };
    let x = noise(8 * 160 * 13_200);
    let (weight, bias) = (vec![1.0; 160], vec![0.0; 160]);
    let known = norm::statistics(path, maps, &x);
    let row = |name: &str, work: &dyn Fn() -> Vec<f32>| time(&part, name, 0.0, work);
    row("gelu forward", &|| activation::gelu(path, &x));
    row("gelu gradient", &|| activation::gelu_gradient(path, &x, &x));
    row("batch norm forward", &|| {
        norm::batch_norm(path, maps, &x, &norm::statistics(path, maps, &x), [&weight, &bias], 1e-5, Finish::default())
    });
    row("batch norm gradients", &|| {
        let [by_input, ..] = norm::batch_norm_gradient(path, maps, [&x, &x], &known, &weight, 1e-5);
        by_input
    });
}

/// Values between −1 and 1.
fn noise(length: usize) -> Vec<f32> {
    (0..length).map(|i| (i * 7919 % 1013) as f32 / 506.0 - 1.0).collect()
}

/// Prints a row if its name contains `part`; the first run is not counted.
fn time(part: &str, name: &str, gflop: f64, work: &dyn Fn() -> Vec<f32>) {
    if !name.contains(part) {
        return;
    }
    let once = |_| {
        let began = Instant::now();
        black_box(work());
        began.elapsed().as_secs_f64()
    };
    let mut seconds: Vec<f64> = (0..=REPEATS).map(once).skip(1).collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[REPEATS / 2];
    println!("{name} | {:.1} | {:.0}", 1e3 * median, gflop / median);
}
