//! Resizing of 8-bit pictures as Pillow does it, byte for byte.
//!
//! The rescale losses of a diffusion model count single grey levels with
//! wrap-around (ALGORITHM 2.1, step 7), so a resizer that is off by one here
//! and there changes the length of sampling. Hence fixed point: coefficients
//! are normalised in f64 and rounded to 22 fractional bits, and the result of
//! the first pass is rounded to 8 bits before the second. The pass along x comes
//! first unless the picture loses more than twice as many rows as columns, as
//! Pillow 13 has it; this was found by comparing sizes.

use std::borrow::Cow;

use image::{ImageBuffer, Pixel, RgbImage};
use rayon::prelude::*;

/// Fractional bits of a coefficient: a product with 8 bits and the sum of a
/// few, signed, fit in 32.
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Bytes of a pixel.
const CHANNELS: usize = 3;

/// The kernel of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = −0.5, support 2.
    Bicubic,
    /// Windowed sinc with three lobes, support 3.
    Lanczos,
}

impl Filter {
    /// Half the width of the kernel, in pixels of the smaller picture.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    /// The kernel at distance `x` from its centre.
    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear if x < 1.0 => 1.0 - x,
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            _ => 0.0,
        }
    }
}

/// sin(πx) / (πx).
fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// One output pixel of a pass: a run of input pixels with their weights.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes to `width` × `height` pixels. Shrinking averages over all pixels
/// covered (the kernel grows with the factor). A picture without pixels gives
/// a black one.
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let mut result = RgbImage::new(width, height);
    if image.is_empty() || result.is_empty() {
        return result;
    }
    let [from_width, from_height] = [image.width() as usize, image.height() as usize];
    let [to_width, to_height] = [width as usize, height as usize];
    let horizontal = (from_width != to_width).then(|| taps(from_width, to_width, filter));
    let vertical = (from_height != to_height).then(|| taps(from_height, to_height, filter));
    let columns_first = to_height < from_height && from_height + 2 * to_width > to_height + 2 * from_width;
    let mut pixels = Cow::Borrowed(image.as_raw());
    if let (true, Some(taps)) = (columns_first, &vertical) {
        pixels = Cow::Owned(columns(&pixels, from_width, taps));
    }
    if let Some(taps) = &horizontal {
        pixels = Cow::Owned(rows(&pixels, from_width, taps));
    }
    if let (false, Some(taps)) = (columns_first, &vertical) {
        pixels = Cow::Owned(columns(&pixels, to_width, taps));
    }
    result.copy_from_slice(&pixels);
    result
}

/// The taps of a pass from `from` to `to` pixels.
fn taps(from: usize, to: usize, filter: Filter) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let narrow = 1.0 / stretch;
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            // Truncation towards zero, then the picture's bounds.
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end).map(|x| filter.weight((x as f64 - centre + 0.5) * narrow)).collect();
            let sum: f64 = weights.iter().sum();
            let norm = if sum == 0.0 { 1.0 } else { sum };
            let fixed = |weight: &f64| (weight / norm * f64::from(1u32 << PRECISION_BITS)).round() as i32;
            Tap { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

/// The pass along x: every row to as many pixels as there are taps.
fn rows(pixels: &[u8], from: usize, taps: &[Tap]) -> Vec<u8> {
    let mut result = vec![0; pixels.len() / from * taps.len()];
    let lines = result.par_chunks_mut(taps.len() * CHANNELS);
    lines.zip(pixels.par_chunks(from * CHANNELS)).for_each(|(to, line)| {
        for (pixel, tap) in to.chunks_exact_mut(CHANNELS).zip(taps) {
            let mut sums = [1i32 << (PRECISION_BITS - 1); CHANNELS];
            let run = line[tap.first * CHANNELS..].chunks_exact(CHANNELS);
            for (source, weight) in run.zip(&tap.weights) {
                for (sum, value) in sums.iter_mut().zip(source) {
                    *sum += i32::from(*value) * weight;
                }
            }
            for (value, sum) in pixel.iter_mut().zip(sums) {
                *value = clip(sum);
            }
        }
    });
    result
}

/// The pass along y: one output row per tap.
fn columns(pixels: &[u8], width: usize, taps: &[Tap]) -> Vec<u8> {
    let stride = width * CHANNELS;
    let mut result = vec![0; stride * taps.len()];
    result.par_chunks_mut(stride).zip(taps).for_each_init(
        || vec![0i32; stride],
        |sums, (to, tap)| {
            sums.fill(1 << (PRECISION_BITS - 1));
            for (line, weight) in pixels[tap.first * stride..].chunks_exact(stride).zip(&tap.weights) {
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum += i32::from(*value) * weight;
                }
            }
            for (value, sum) in to.iter_mut().zip(sums) {
                *value = clip(*sum);
            }
        },
    );
    result
}

/// A sum in fixed point as a byte.
fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes by averaging over the area of each output pixel; where the picture
/// has to grow in either direction, by mixing neighbours instead, as OpenCV's
/// INTER_AREA does.
pub fn resize_area<P: Pixel<Subpixel = u8>>(
    picture: &ImageBuffer<P, Vec<u8>>,
    width: u32,
    height: u32,
) -> ImageBuffer<P, Vec<u8>> {
    if picture.dimensions() == (width, height) || picture.is_empty() {
        return picture.clone();
    }
    let channels = usize::from(P::CHANNEL_COUNT);
    let shrinks = picture.width() >= width && picture.height() >= height;
    let taps = |from: u32, to: u32| -> Vec<Vec<(usize, f64)>> {
        (0..to).map(|i| if shrinks { area(from, to, i) } else { mix(from, to, i) }).collect()
    };
    let (across, down) = (taps(picture.width(), width), taps(picture.height(), height));
    let stride = width as usize * channels;
    let mut wide = Vec::with_capacity(stride * picture.height() as usize);
    for line in picture.chunks_exact(picture.width() as usize * channels) {
        for tap in &across {
            wide.extend((0..channels).map(|channel| {
                tap.iter().map(|(x, weight)| f64::from(line[x * channels + channel]) * weight).sum::<f64>()
            }));
        }
    }
    let mut levels = Vec::with_capacity(stride * height as usize);
    let mut sums = vec![0.0; stride];
    for tap in &down {
        sums.fill(0.0);
        for (y, weight) in tap {
            let line = &wide[y * stride..(y + 1) * stride];
            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += value * weight);
        }
        levels.extend(sums.iter().map(|sum| sum.round_ties_even().clamp(0.0, 255.0) as u8));
    }
    ImageBuffer::from_raw(width, height, levels).unwrap_or_default()
}

/// The input pixels under output pixel `i`, by the share they cover of it.
fn area(from: u32, to: u32, i: u32) -> Vec<(usize, f64)> {
    let scale = f64::from(from) / f64::from(to);
    let (start, end) = (f64::from(i) * scale, (f64::from(i + 1) * scale).min(f64::from(from)));
    let (first, last) = (start.floor() as usize, (end.ceil() as usize).min(from as usize));
    (first..last)
        .map(|x| (x, ((end.min(x as f64 + 1.0) - start.max(x as f64)) / (end - start)).max(0.0)))
        .filter(|(_, weight)| *weight > 1e-9)
        .collect()
}

/// The two input pixels that output pixel `i` is mixed from.
fn mix(from: u32, to: u32, i: u32) -> Vec<(usize, f64)> {
    let scale = f64::from(from) / f64::from(to);
    let left = (f64::from(i) * scale).floor();
    let share = (f64::from(i) + 1.0) - (left + 1.0) / scale;
    let share = if share <= 0.0 { 0.0 } else { share.fract() };
    let last = from as usize - 1;
    let left = (left as usize).min(last);
    vec![(left, 1.0 - share), ((left + 1).min(last), share)]
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, Rgb};

    use super::*;

    fn row(values: &[u8]) -> RgbImage {
        RgbImage::from_fn(values.len() as u32, 1, |x, _| Rgb([values[x as usize]; 3]))
    }

    fn reds(image: &RgbImage) -> Vec<u8> {
        image.pixels().map(|pixel| pixel[0]).collect()
    }

    #[test]
    fn halving_with_a_triangle_weighs_1_3_3_1() {
        // The outer pixel loses the tap beyond the border: (3a + 3b + c) / 7.
        let half = resize(&row(&[0, 70, 140, 210]), 2, 1, Filter::Bilinear);
        assert_eq!(reds(&half), [50, 160]);
    }

    #[test]
    fn doubling_with_a_triangle_keeps_the_ends_and_mixes_3_to_1() {
        assert_eq!(reds(&resize(&row(&[0, 100]), 4, 1, Filter::Bilinear)), [0, 25, 75, 100]);
    }

    #[test]
    fn lobes_are_clipped_at_black_and_white() {
        for filter in [Filter::Bicubic, Filter::Lanczos] {
            let wide = reds(&resize(&row(&[0, 0, 0, 0, 255, 255, 255, 255]), 32, 1, filter));
            assert_eq!((wide[13], wide[18]), (0, 255), "{wide:?}"); // the lobes beside the edge
            assert!(wide.is_sorted() || filter == Filter::Lanczos, "{wide:?}");
        }
    }

    #[test]
    fn equal_sizes_and_flat_pictures_stay_as_they_are() {
        let flat = RgbImage::from_pixel(7, 5, Rgb([3, 128, 255]));
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            assert_eq!(resize(&flat, 7, 5, filter), flat);
            assert!(resize(&flat, 3, 11, filter).pixels().all(|pixel| *pixel == Rgb([3, 128, 255])));
        }
        assert_eq!(resize(&RgbImage::new(0, 4), 2, 2, Filter::Lanczos), RgbImage::new(2, 2));
    }

    #[test]
    fn areas_are_averaged_and_growth_mixes_neighbours() {
        let picture = GrayImage::from_fn(4, 1, |x, _| Luma([[0, 100, 50, 200][x as usize]]));
        assert_eq!(resize_area(&picture, 2, 1).as_raw(), &[50, 125]);
        let flat = GrayImage::from_pixel(3, 5, Luma([77]));
        for (width, height) in [(1, 1), (2, 3), (7, 9), (9, 2)] {
            assert_eq!(resize_area(&flat, width, height), GrayImage::from_pixel(width, height, Luma([77])));
        }
    }

    #[test]
    fn each_channel_is_averaged_by_itself() {
        let picture = RgbImage::from_fn(4, 2, |x, y| Rgb([10 * x as u8, 100, if y == 0 { 0 } else { 60 }]));
        let small = resize_area(&picture, 2, 1);
        assert_eq!((small[(0, 0)].0, small[(1, 0)].0), ([5, 100, 30], [25, 100, 30]));
    }
}
