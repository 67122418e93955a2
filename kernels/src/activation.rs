//! Functions of single values.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E};

use rayon::prelude::*;

use crate::LANES;
use crate::path::Path;

/// Values that a task handles.
const PART: usize = 1 << 15;

/// Where the error function is as good as 1.
const ERF_END: f32 = 3.832_507;

/// The density of a normal distribution at its mean: 1 / √(2π).
const PEAK: f32 = 0.398_942_3;

/// A polynomial, its highest coefficient first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for coefficient in &coefficients[1..] {
        sum = sum * x + coefficient;
    }
    sum
}

/// The error function, within 2e-7.
///
/// A quotient of polynomials; the coefficients are those that XLA has for 32-bit numbers.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let square = x * x;
    let over = [2.290_506_6e-4, 0.003_408_291, 0.050_955_694, 0.185_208_33, FRAC_2_SQRT_PI];
    let under = [-1.179_160_3e-7, 2.354_796_6e-5, 1.017_962_5e-3, 0.014_070_47, 0.110_985_05, 0.497_469_25, 1.0];
    let quotient = x * polynomial(square, over) / polynomial(square, under);
    // Comparisons with what is no number are false.
    if x >= ERF_END {
        1.0
    } else if x <= -ERF_END {
        -1.0
    } else {
        quotient
    }
}

/// The exponential of a number that is at most 0; 1.6e-38 below −87.
#[inline(always)]
fn exp_negative(x: f32) -> f32 {
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 × 2²³: what is added to it is rounded
    let low = if x < -87.0 { -87.0 } else { x };
    let shifted = low * LOG2_E + TO_INTEGER;
    let whole = shifted - TO_INTEGER;
    let rest = low - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let terms = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let value = polynomial(rest, terms) * rest * rest + rest + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    value * power
}

/// Half of 1 + erf(x / √2): the part of a normal distribution below `x`.
#[inline(always)]
fn below(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * FRAC_1_SQRT_2)
}

/// The Gaussian error linear unit, by the error function (arXiv 1606.08415).
pub fn gelu(path: Path, input: &[f32]) -> Vec<f32> {
    map(
        path,
        [input],
        #[inline(always)]
        |[x]| x * below(x),
    )
}

/// The gradient of [`gelu`] by its input, from that by its output.
///
/// # Panics
/// If the slices are not of one length.
pub fn gelu_gradient(path: Path, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    map(
        path,
        [input, gradient],
        #[inline(always)]
        |[x, gradient]| gradient * (below(x) + x * PEAK * exp_negative(-0.5 * x * x)),
    )
}

/// The gradient of a rectifier by its input, from its output and the gradient by that. It passes
/// where the output is no number.
///
/// # Panics
/// If the slices are not of one length.
pub fn rectifier_gradient(path: Path, output: &[f32], gradient: &[f32]) -> Vec<f32> {
    map(
        path,
        [output, gradient],
        #[inline(always)]
        |[y, gradient]| if y <= 0.0 { 0.0 } else { gradient },
    )
}

/// Applies a function to the values of all slices.
fn map<const N: usize>(path: Path, slices: [&[f32]; N], function: impl Fn([f32; N]) -> f32 + Sync + Copy) -> Vec<f32> {
    let length = slices[0].len();
    assert!(slices.iter().all(|slice| slice.len() == length));
    let mut output = vec![0.0; length];
    output.par_chunks_mut(PART).enumerate().for_each(|(part, out)| {
        let first = part * PART;
        let slices = slices.map(|slice| &slice[first..first + out.len()]);
        path.run(
            #[inline(always)]
            || apply(slices, out, function),
        );
    });
    output
}

/// Writes the function of the values of all slices, a register at a time.
#[inline(always)]
fn apply<const N: usize>(slices: [&[f32]; N], out: &mut [f32], function: impl Fn([f32; N]) -> f32) {
    let chunks = slices.map(|slice| slice.as_chunks::<LANES>());
    let (whole, rest) = out.as_chunks_mut::<LANES>();
    for (i, out) in whole.iter_mut().enumerate() {
        let values = chunks.map(|(whole, _)| whole[i]);
        for lane in 0..LANES {
            out[lane] = function(std::array::from_fn(|i| values[i][lane]));
        }
    }
    for (i, out) in rest.iter_mut().enumerate() {
        *out = function(chunks.map(|(_, rest)| rest[i]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from −12 to 12, and those at which functions tend to break.
    fn values() -> Vec<f32> {
        let grid = (-12_000..12_000).map(|i| i as f32 / 1000.0);
        grid.chain([0.0, -0.0, 1e-30, -1e-30]).collect()
    }

    fn exact(x: f64) -> [f64; 2] {
        let below = 0.5 * statrs::function::erf::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        [x * below, below + x * density]
    }

    #[test]
    fn gelu_and_its_slope_are_exact_to_rounding() {
        let x = values();
        for path in Path::all() {
            let (ours, slopes) = (gelu(path, &x), gelu_gradient(path, &x, &vec![1.0; x.len()]));
            for ((&x, ours), slope) in x.iter().zip(ours).zip(slopes) {
                let [value, exact_slope] = exact(x.into());
                let bound = 3e-7 * f64::from(x).abs().max(0.1);
                assert!((f64::from(ours) - value).abs() < bound, "{path}, gelu({x}): {ours} for {value}");
                assert!((f64::from(slope) - exact_slope).abs() < 6e-7, "{path}, slope({x}): {slope} for {exact_slope}");
            }
        }
    }

    #[test]
    fn far_from_zero_gelu_is_zero_or_the_identity_and_what_is_no_number_stays_so() {
        for path in Path::all() {
            for (x, value, slope) in [(1e30, 1e30, 1.0), (-1e30, 0.0, 0.0)] {
                assert_eq!(gelu(path, &[x]), [value], "{path}");
                let ours = gelu_gradient(path, &[x], &[1.0])[0];
                assert!((ours - slope).abs() < 1e-6, "{path}: {ours}");
            }
            assert_eq!(gelu(path, &[f32::INFINITY]), [f32::INFINITY], "{path}");
            assert!(gelu(path, &[f32::NEG_INFINITY])[0].is_nan(), "{path}");
            for length in [1, 40] {
                let numbers = gelu(path, &vec![f32::NAN; length]);
                assert!(numbers.iter().chain(&gelu_gradient(path, &numbers, &numbers)).all(|x| x.is_nan()));
            }
        }
    }

    #[test]
    fn a_rectifier_lets_gradients_through_where_its_output_is_above_zero() {
        for path in Path::all() {
            let output = [0.0, -0.0, 1e-40, 2.0, f32::INFINITY, f32::NAN].repeat(4);
            let expected = [0.0, 0.0, 3.0, 3.0, 3.0, 3.0].repeat(4);
            assert_eq!(rectifier_gradient(path, &output, &[3.0; 24]), expected, "{path}");
        }
    }

    #[test]
    fn a_slice_of_any_length_is_handled_to_its_end() {
        for length in [0, 1, 15, 16, 17, PART - 1, PART, PART + 5] {
            let x: Vec<f32> = (0..length).map(|i| (i % 77) as f32 / 11.0 - 3.0).collect();
            for path in Path::all() {
                let one: Vec<f32> = x.iter().map(|&x| gelu(path, &[x])[0]).collect();
                assert_eq!(gelu(path, &x), one, "{path}, {length}");
            }
        }
    }
}
