//! Normalisations.

use rayon::prelude::*;

use crate::path::Path;
use crate::{Finish, RUN, sum, total};

/// Maps of a batch: `[batch, channels, pixels]`.
#[derive(Clone, Copy, Debug)]
pub struct Maps {
    pub batch: usize,
    pub channels: usize,
    /// Values of one map.
    pub pixels: usize,
}

/// Mean and variance of each channel of a batch; the variance is that of the values at hand,
/// not an estimate of others'.
#[derive(Clone, Debug)]
pub struct Statistics {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

impl Maps {
    /// Where the maps of a channel are.
    fn of(self, channel: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.batch).map(move |item| {
            let first = (item * self.channels + channel) * self.pixels;
            first..first + self.pixels
        })
    }

    fn check(self, values: &[f32]) {
        assert_eq!(values.len(), self.batch * self.channels * self.pixels);
    }
}

/// Mean and variance of each channel, in one pass over the memory: each run of values has its
/// own, and they are put together (Chan, Golub and LeVeque 1983).
///
/// # Panics
/// If the slice has another length than its shape.
pub fn statistics(path: Path, maps: Maps, input: &[f32]) -> Statistics {
    maps.check(input);
    let channel = |channel: usize| {
        path.run(
            #[inline(always)]
            || {
                let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
                for map in maps.of(channel) {
                    for run in input[map].chunks(RUN) {
                        let own_count = run.len() as f64;
                        let own_mean = sum(run) / own_count;
                        let centre = own_mean as f32;
                        let around = total([run], |[x]| (x - centre) * (x - centre));
                        let off = own_mean - f64::from(centre);
                        let apart = own_mean - mean;
                        let all = count + own_count;
                        squares += around - own_count * off * off + apart * apart * count * own_count / all;
                        mean += apart * own_count / all;
                        count = all;
                    }
                }
                // Of equal values, rounding may leave less than nothing.
                let squares = if squares < 0.0 { 0.0 } else { squares };
                (mean as f32, (squares / f64::max(count, 1.0)) as f32)
            },
        )
    };
    let (mean, variance) = (0..maps.channels).into_par_iter().map(channel).unzip();
    Statistics { mean, variance }
}

/// Normalises each channel by the statistics, then scales, shifts and finishes it.
///
/// # Panics
/// If a slice has another length than its shape.
pub fn batch_norm(
    path: Path,
    maps: Maps,
    input: &[f32],
    statistics: &Statistics,
    [weight, bias]: [&[f32]; 2],
    epsilon: f32,
    finish: Finish,
) -> Vec<f32> {
    maps.check(input);
    finish.check(input.len());
    assert!(weight.len() == maps.channels && bias.len() == maps.channels);
    let mut output = vec![0.0; input.len()];
    if output.is_empty() {
        return output;
    }
    output.par_chunks_mut(maps.pixels).zip(input.par_chunks(maps.pixels)).enumerate().for_each(
        |(index, (out, map))| {
            let channel = index % maps.channels;
            let scale = weight[channel] / (statistics.variance[channel] + epsilon).sqrt();
            let shift = bias[channel] - statistics.mean[channel] * scale;
            path.run(
                #[inline(always)]
                || {
                    out.iter_mut().zip(map).for_each(|(out, x)| *out = x * scale + shift);
                    finish.apply(index * maps.pixels, out);
                },
            );
        },
    );
    output
}

/// The gradients of [`batch_norm`] by its input, weight and bias, where the statistics are
/// those of the input.
///
/// # Panics
/// If a slice has another length than its shape.
pub fn batch_norm_gradient(
    path: Path,
    maps: Maps,
    [input, gradient]: [&[f32]; 2],
    statistics: &Statistics,
    weight: &[f32],
    epsilon: f32,
) -> [Vec<f32>; 3] {
    maps.check(input);
    maps.check(gradient);
    assert_eq!(weight.len(), maps.channels);
    let inverse = |channel: usize| 1.0 / (statistics.variance[channel] + epsilon).sqrt();
    let sums = |channel: usize| {
        let mean = statistics.mean[channel];
        path.run(
            #[inline(always)]
            || {
                let (mut along, mut all) = (0.0, 0.0);
                for map in maps.of(channel) {
                    let (x, dy) = (&input[map.clone()], &gradient[map]);
                    along += total([x, dy], |[x, dy]| dy * (x - mean));
                    all += sum(dy);
                }
                (along, all)
            },
        )
    };
    let sums: Vec<(f64, f64)> = (0..maps.channels).into_par_iter().map(sums).collect();
    let by_weight = sums.iter().enumerate().map(|(channel, sums)| sums.0 as f32 * inverse(channel)).collect();
    let by_bias = sums.iter().map(|sums| sums.1 as f32).collect();
    let mut by_input = vec![0.0; input.len()];
    if by_input.is_empty() {
        return [by_input, by_weight, by_bias];
    }
    let count = (maps.batch * maps.pixels) as f32;
    let pairs = input.par_chunks(maps.pixels).zip(gradient.par_chunks(maps.pixels));
    by_input.par_chunks_mut(maps.pixels).zip(pairs).enumerate().for_each(|(index, (out, (x, dy)))| {
        let channel = index % maps.channels;
        let (inverse, mean, (along, all)) = (inverse(channel), statistics.mean[channel], sums[channel]);
        let scale = weight[channel] * inverse;
        let slope = -scale * inverse * inverse * along as f32 / count;
        let shift = -scale * all as f32 / count;
        path.run(
            #[inline(always)]
            || {
                for ((out, x), dy) in out.iter_mut().zip(x).zip(dy) {
                    *out = scale * dy + slope * (x - mean) + shift;
                }
            },
        );
    });
    [by_input, by_weight, by_bias]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPSILON: f32 = 1e-5;

    /// Mean and variance of a channel, in 64 bits.
    fn exact(maps: Maps, input: &[f32], channel: usize) -> (f64, f64) {
        let values: Vec<f64> = maps.of(channel).flat_map(|map| &input[map]).map(|&x| f64::from(x)).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
    }

    fn values(length: usize, seed: u32, offset: f32) -> Vec<f32> {
        let value =
            |i: usize| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 12) as f32 / 524_288.0 - 1.0;
        (0..length).map(|i| value(i) + offset).collect()
    }

    /// `sum(gradient × batch_norm(…))`, in 64 bits, of which the gradients are those.
    fn loss(maps: Maps, input: &[f64], gradient: &[f32], weight: &[f32]) -> f64 {
        (0..maps.channels)
            .map(|channel| {
                let places: Vec<usize> = maps.of(channel).flatten().collect();
                let mean = places.iter().map(|&i| input[i]).sum::<f64>() / places.len() as f64;
                let squares = places.iter().map(|&i| (input[i] - mean).powi(2)).sum::<f64>();
                let scale = f64::from(weight[channel]) / (squares / places.len() as f64 + f64::from(EPSILON)).sqrt();
                places.iter().map(|&i| f64::from(gradient[i]) * (input[i] - mean) * scale).sum::<f64>()
            })
            .sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn a_batch_is_normalised_with_its_own_statistics(
            (batch, channels) in (1..4_usize, 1..6_usize),
            pixels in prop_oneof![1..40_usize, Just(RUN + 3)],
            offset in prop_oneof![Just(0.0_f32), Just(1000.0)],
            seed in any::<u32>(),
        ) {
            let maps = Maps { batch, channels, pixels };
            let x = values(batch * channels * pixels, seed, offset);
            let (weight, bias) = (values(channels, 1, 1.0), values(channels, 2, 0.0));
            for path in Path::all() {
                let known = statistics(path, maps, &x);
                let output = batch_norm(path, maps, &x, &known, [&weight, &bias], EPSILON, Finish::default());
                let finish = Finish { residual: Some(&x), rectifies: true };
                let finished = batch_norm(path, maps, &x, &known, [&weight, &bias], EPSILON, finish);
                let expected: Vec<f32> = output.iter().zip(&x).map(|(value, more)| (value + more).max(0.0)).collect();
                prop_assert_eq!(finished, expected);
                for channel in 0..channels {
                    let (mean, variance) = exact(maps, &x, channel);
                    let rounding = f64::from(offset) * 1e-7 + 1e-6;
                    prop_assert!((f64::from(known.mean[channel]) - mean).abs() < rounding);
                    prop_assert!((f64::from(known.variance[channel]) - variance).abs() < 1e-5 * variance + rounding * rounding);
                    let scale = f64::from(weight[channel]) / (variance + f64::from(EPSILON)).sqrt();
                    for i in maps.of(channel).flatten() {
                        let expected = (f64::from(x[i]) - mean) * scale + f64::from(bias[channel]);
                        let bound = 2e-5 * (1.0 + expected.abs()) + 2.0 * rounding * scale.abs();
                        prop_assert!((f64::from(output[i]) - expected).abs() < bound, "{} for {expected}", output[i]);
                    }
                }
            }
        }

        #[test]
        fn gradients_are_the_slopes_of_a_loss(
            (batch, channels, pixels) in (1..4_usize, 1..4_usize, 2..20_usize),
            seed in any::<u32>(),
        ) {
            let maps = Maps { batch, channels, pixels };
            let length = batch * channels * pixels;
            let (x, gradient) = (values(length, seed, 0.5), values(length, seed ^ 7, 0.0));
            let weight = values(channels, 3, 1.0);
            let exact_input: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            for path in Path::all() {
                let known = statistics(path, maps, &x);
                let [by_x, by_weight, by_bias] =
                    batch_norm_gradient(path, maps, [&x, &gradient], &known, &weight, EPSILON);
                for i in 0..length {
                    let at = |step: f64| {
                        let mut moved = exact_input.clone();
                        moved[i] += step;
                        loss(maps, &moved, &gradient, &weight)
                    };
                    let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
                    prop_assert!((slope - f64::from(by_x[i])).abs() < 1e-3 * (1.0 + slope.abs()), "{slope}, {}", by_x[i]);
                }
                let along: f64 = by_weight.iter().zip(&weight).map(|(g, w)| f64::from(g * w)).sum();
                prop_assert!((along - loss(maps, &exact_input, &gradient, &weight)).abs() < 1e-3);
                for (channel, by_bias) in by_bias.into_iter().enumerate() {
                    let sum: f64 = maps.of(channel).flatten().map(|i| f64::from(gradient[i])).sum();
                    prop_assert!((sum - f64::from(by_bias)).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn a_channel_of_equal_values_has_no_variance_and_one_with_no_number_has_none() {
        for length in [33, 237, 411, 1500] {
            let maps = Maps { batch: 1, channels: 1, pixels: length };
            for value in [0.1, 246_526.0, 584_205.0, 1e6] {
                for path in Path::all() {
                    let known = statistics(path, maps, &vec![value; length]);
                    let rounding = value * value * 1e-12;
                    assert!((0.0..=rounding).contains(&known.variance[0]), "{path}, {length} of {value}: {known:?}");
                }
            }
            let known = statistics(Path::current(), maps, &vec![f32::NAN; length]);
            assert!(known.mean[0].is_nan() && known.variance[0].is_nan());
        }
    }

    #[test]
    fn an_empty_batch_gives_nothing() {
        let maps = Maps { batch: 0, channels: 2, pixels: 5 };
        let known = statistics(Path::Portable, maps, &[]);
        let [by_x, by_weight, by_bias] =
            batch_norm_gradient(Path::Portable, maps, [&[], &[]], &known, &[1.0, 1.0], EPSILON);
        assert!(
            by_x.is_empty()
                && batch_norm(Path::Portable, maps, &[], &known, [&[1.0; 2]; 2], EPSILON, Finish::default()).is_empty()
        );
        assert_eq!([by_weight, by_bias], [[0.0; 2]; 2]);
    }
}
