//! Sampling that holds on to given pictures: it starts from one, keeps what a
//! mask does not free, or puts regions where they are asked for. These are
//! SinDDM's harmonisation, style transfer and sampling guided by regions of
//! interest (Kulikov et al., ICML 2023, section 5), as its published code does them.

use burn::tensor::{Device, Tensor};
use image::{Rgb, RgbImage, imageops};

use crate::data::blur;
use crate::data::foreground::Mask;
use crate::data::resize::{Filter, resize};
use crate::data::tensors;

/// The share of a region that comes from the given picture; the rest comes from the model.
const REGION_WEIGHT: f64 = 0.8;

/// The number of pixels by which a mask is made larger.
const MASK_RADIUS: usize = 7;

/// Standard deviation, in pixels, of the blur of its edge.
const MASK_SIGMA: f64 = 5.0;

/// Standard deviations at which that blur ends.
const MASK_REACH: f64 = 4.0;

/// The pictures that samples hold on to, by default none.
#[derive(Clone, Debug, Default)]
pub struct Guide {
    /// The start of sampling, instead of noise at the coarsest scale.
    pub start: Option<Start>,
    /// The mask of where the samples may differ from the starting picture, which is where it is
    /// not black; of any size.
    pub mask: Option<RgbImage>,
    /// Regions to be shown.
    pub regions: Vec<Region>,
}

/// A picture to start from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The picture, of any size.
    pub image: RgbImage,
    /// The scale at which sampling starts: the coarser, the less is kept.
    pub scale: usize,
    /// The time at which it starts: the later, the less is kept; below the
    /// number of diffusion steps.
    pub t: u32,
}

impl Start {
    /// The picture at the size of a scale, `[1, 3, height, width]`.
    pub fn at(&self, [width, height]: [u32; 2], device: &Device) -> Tensor<4> {
        tensors::signed(&[resize(&self.image, width, height, Filter::Lanczos)], device)
    }
}

/// A picture to be shown at a place.
#[derive(Clone, Debug)]
pub struct Region {
    /// The picture to show at each scale, coarsest first, in about as many pixels.
    patches: Vec<RgbImage>,
    /// Left, top, width and height as shares of the sample's.
    place: [f64; 4],
}

impl Region {
    /// A part of a training picture, given at each scale as the model has learnt it.
    pub fn part(levels: &[RgbImage], part: [f64; 4], place: [f64; 4]) -> Self {
        let cut = |level: &RgbImage| {
            let [x, y, width, height] = pixels(part, level.dimensions().into());
            imageops::crop_imm(level, x, y, width, height).to_image()
        };
        Self { patches: levels.iter().map(cut).collect(), place }
    }

    /// A whole picture, for samples that have these sizes, coarsest scale first.
    pub fn whole(image: &RgbImage, sizes: &[[u32; 2]], place: [f64; 4]) -> Self {
        let at = |size: &[u32; 2]| {
            let [_, _, width, height] = pixels(place, *size);
            resize(image, width, height, Filter::Lanczos)
        };
        Self { patches: sizes.iter().map(at).collect(), place }
    }
}

/// Left, top, width and height in pixels of a frame, to the nearest.
fn pixels(shares: [f64; 4], [width, height]: [u32; 2]) -> [u32; 4] {
    let side = |share: f64, of: u32| ((share * f64::from(of)).round() as u32).min(of);
    let [left, top, wide, high] = shares;
    let (x, y) = (side(left, width), side(top, height));
    [x, y, side(wide, width).min(width - x), side(high, height).min(height - y)]
}

impl Guide {
    /// An estimate of the finished samples at a scale with the regions laid over it.
    pub fn keep(&self, clean: Tensor<4>, scale: usize) -> Tensor<4> {
        let [samples, channels, height, width] = clean.dims();
        self.regions.iter().fold(clean, |clean, region| {
            let [x, y, wide, high] = pixels(region.place, [width as u32, height as u32]);
            let patch = region.patches.get(scale).filter(|patch| !patch.is_empty() && wide > 0 && high > 0);
            let Some(patch) = patch else {
                return clean; // smaller than a pixel at this scale
            };
            let shown = tensors::signed(&[nearest(patch, wide, high)], &clean.device()).repeat_dim(0, samples);
            let [x, y, wide, high] = [x, y, wide, high].map(|side| side as usize);
            let place = [0..samples, 0..channels, y..y + high, x..x + wide];
            let there = clean.clone().slice(place.clone()) * (1.0 - REGION_WEIGHT) + shown * REGION_WEIGHT;
            clean.slice_assign(place, there)
        })
    }

    /// The sample, as the starting picture where the mask says so.
    pub fn finish(&self, sample: RgbImage) -> RgbImage {
        let (Some(start), Some(mask)) = (&self.start, &self.mask) else { return sample };
        let (width, height) = sample.dimensions();
        let kept = resize(&start.image, width, height, Filter::Lanczos);
        let free = freed(mask, [width, height]);
        RgbImage::from_fn(width, height, |x, y| {
            let free = free[(y * width + x) as usize];
            let (new, old) = (sample[(x, y)].0, kept[(x, y)].0);
            Rgb(std::array::from_fn(|c| (f32::from(new[c]) * free + f32::from(old[c]) * (1.0 - free) + 0.5) as u8))
        })
    }
}

/// The share of each pixel that is free, 0 to 1, row by row: the mask at that size, made
/// larger, its edge blurred, and brought back to all of 0 to 1.
fn freed(mask: &RgbImage, [width, height]: [u32; 2]) -> Vec<f32> {
    let mask = Mask::drawn(&resize(mask, width, height, Filter::Lanczos)).dilated(MASK_RADIUS);
    let mut free: Vec<f32> = mask.pixels().iter().map(|inside| f32::from(u8::from(*inside))).collect();
    // A mask of one colour has no edge, and nothing to bring it back to.
    if mask.count() > 0 && mask.count() < free.len() {
        blur::gaussian(&mut free, width as usize, MASK_SIGMA, (MASK_REACH * MASK_SIGMA).round() as usize);
        let (least, most) =
            free.iter().fold((1.0f32, 0.0f32), |(low, high), value| (low.min(*value), high.max(*value)));
        if most > least {
            free.iter_mut().for_each(|value| *value = (*value - least) / (most - least));
        }
    }
    free
}

/// A picture at another size, each pixel that of the source under its upper left corner.
fn nearest(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let from = |at: u32, of: u32, to: u32| (u64::from(at) * u64::from(of) / u64::from(to)) as u32;
    RgbImage::from_fn(width, height, |x, y| image[(from(x, image.width(), width), from(y, image.height(), height))])
}

/// The picture with the colours of another: each channel's levels are changed so
/// that they are distributed as the other's. Between the levels that the other has,
/// they are interpolated and rounded down. Style transfer starts from this.
pub fn with_colors_of(image: &RgbImage, other: &RgbImage) -> RgbImage {
    let maps: [[u8; 256]; 3] = std::array::from_fn(|channel| {
        let (own, wanted) = (shares(image, channel), shares(other, channel));
        // The levels that the other has, with the shares up to them.
        let above = |level: usize| if level == 0 { 0.0 } else { wanted[level - 1] };
        let steps: Vec<(f64, f64)> = (0..256)
            .filter(|level| wanted[*level] > above(*level))
            .map(|level| (wanted[level], level as f64))
            .collect();
        std::array::from_fn(|from| interpolated(&steps, own[from]) as u8)
    });
    let mut changed = image.clone();
    for pixel in changed.pixels_mut() {
        pixel.0 = std::array::from_fn(|channel| maps[channel][pixel.0[channel] as usize]);
    }
    changed
}

/// The value at `x` of a line through points with growing x; beyond them that of the
/// first or the last.
fn interpolated(points: &[(f64, f64)], x: f64) -> f64 {
    let next = points.partition_point(|(at, _)| *at <= x);
    let before = next.checked_sub(1).and_then(|before| points.get(before));
    match (before, points.get(next)) {
        (Some((x0, y0)), Some((x1, y1))) => (y1 - y0) / (x1 - x0) * (x - x0) + y0,
        (Some((_, y)), None) | (None, Some((_, y))) => *y,
        (None, None) => 0.0,
    }
}

/// The share of a channel's values that are not above each level.
fn shares(image: &RgbImage, channel: usize) -> [f64; 256] {
    let mut counts = [0u64; 256];
    image.pixels().for_each(|pixel| counts[pixel.0[channel] as usize] += 1);
    let mut below = 0;
    counts.map(|count| {
        below += count;
        below as f64 / image.pixels().len().max(1) as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(level: u8) -> RgbImage {
        RgbImage::from_pixel(8, 8, Rgb([level; 3]))
    }

    #[test]
    fn regions_are_laid_over_the_estimate_at_any_scale() {
        let device = Device::flex();
        let sizes = [[4, 4], [8, 8]];
        let guide = |place| Guide { regions: vec![Region::whole(&flat(255), &sizes, place)], ..Guide::default() };
        for (scale, side) in [(0, 4usize), (1, 8)] {
            let kept = guide([0.5, 0.0, 0.5, 0.25]).keep(Tensor::zeros([2, 3, side, side], &device), scale);
            let values: Vec<f32> = kept.into_data().iter::<f32>().collect();
            let at = |sample: usize, y: usize, x: usize| values[(sample * 3 * side + y) * side + x];
            assert!((at(0, 0, side - 1) - 0.8).abs() < 1e-6 && (at(1, 0, side / 2) - 0.8).abs() < 1e-6);
            assert_eq!((at(0, 0, 0), at(1, side - 1, side - 1)), (0.0, 0.0));
        }
        let speck = guide([0.0, 0.0, 0.01, 0.01]).keep(Tensor::<4>::zeros([1, 3, 4, 4], &device), 0);
        assert_eq!(speck.abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn parts_are_cut_from_the_picture_of_each_scale_and_not_interpolated() {
        let device = Device::flex();
        // Each level has levels of its own, so that one made of another would show.
        let level = |side: u32, from: u8| RgbImage::from_fn(side, side, |x, y| Rgb([from + (side * y + x) as u8; 3]));
        let levels = [level(4, 0), level(8, 100)];
        let region = Region::part(&levels, [0.5, 0.5, 0.5, 0.5], [0.0, 0.25, 0.75, 0.25]);
        let guide = Guide { regions: vec![region], ..Guide::default() };
        for (scale, side, rows) in [
            (0, 4, vec![[10u8, 10, 11]]),
            // Four columns to six: 0 0 1 2 2 3; four rows to two: 0 2.
            (1, 8, vec![[136, 136, 137], [138, 138, 139], [152, 152, 153], [154, 154, 155]]),
        ] {
            let kept = guide.keep(Tensor::<4>::zeros([1, 3, side, side], &device), scale);
            let values: Vec<f32> = kept.into_data().iter::<f32>().collect();
            let top = side / 4 * side;
            let wide = 3 * side / 4;
            let shown = (0..side / 4).flat_map(|y| values[top + y * side..][..wide].to_vec());
            let expected = rows.concat().into_iter().map(|level| 0.8 * (f32::from(level) / 255.0 * 2.0 - 1.0));
            let pairs: Vec<(f32, f32)> = shown.zip(expected).collect();
            assert_eq!(pairs.len(), wide * side / 4);
            assert!(pairs.iter().all(|(shown, expected)| (shown - expected).abs() < 1e-6), "{pairs:?}");
        }
    }

    #[test]
    fn what_the_mask_does_not_free_stays_as_it_was() {
        let of = |mask: RgbImage| {
            let start = Start { image: RgbImage::from_pixel(96, 64, Rgb([10; 3])), scale: 0, t: 1 };
            let guide = Guide { start: Some(start), mask: Some(mask), regions: vec![] };
            guide.finish(RgbImage::from_pixel(96, 64, Rgb([200; 3])))
        };
        let finished = of(RgbImage::from_fn(96, 64, |x, _| Rgb([if x < 20 { 255 } else { 0 }; 3])));
        // Seven pixels larger, it ends between columns 26 and 27. There the blurred edge is
        // half free, and a pixel further by the density of the kernel: 1/(5 √2π).
        let density = 1.0 / (5.0 * (2.0 * std::f64::consts::PI).sqrt());
        for (x, free) in
            [(0, 1.0), (6, 1.0), (26, 0.5 + density / 2.0), (27, 0.5 - density / 2.0), (47, 0.0), (95, 0.0)]
        {
            let expected = 10.0 + 190.0 * free;
            let found = finished[(x, 30)].0;
            assert!((f64::from(found[0]) - expected).abs() <= 0.6, "{x}: {found:?} {expected}");
        }
        assert!((0..95).all(|x| finished[(x, 9)].0[0] >= finished[(x + 1, 9)].0[0]));
        // Masks without an edge, and none.
        assert_eq!(of(RgbImage::new(96, 64)), RgbImage::from_pixel(96, 64, Rgb([10; 3])));
        assert_eq!(of(RgbImage::from_pixel(3, 3, Rgb([255; 3]))), RgbImage::from_pixel(96, 64, Rgb([200; 3])));
        assert_eq!(Guide::default().finish(flat(200)), flat(200));
    }

    #[test]
    fn a_dot_frees_a_soft_disc() {
        let mut mask = RgbImage::new(101, 101);
        mask[(50, 50)] = Rgb([255; 3]);
        let free = freed(&mask, [101, 101]);
        let at = |x: usize, y: usize| free[101 * y + x];
        // Brought back to all of 0 to 1, though the blur takes some of a disc of radius 7.
        assert_eq!((at(50, 50), at(10, 50)), (1.0, 0.0));
        // As much of it as the 149 pixels of the disc weigh at each place, by a sum over them.
        let weight = |x: f64, y: f64| (-(x * x + y * y) / 50.0).exp();
        let disc: Vec<(f64, f64)> = (-7..=7)
            .flat_map(|y| (-7..=7).map(move |x| (x, y)))
            .filter(|(x, y)| x * x + y * y <= 49)
            .map(|(x, y)| (f64::from(x), f64::from(y)))
            .collect();
        assert_eq!(disc.len(), 149);
        let sum = |dx: f64, dy: f64| disc.iter().map(|(x, y)| weight(x - dx, y - dy)).sum::<f64>();
        for (dx, dy) in [(0, 7), (7, 0), (5, 5), (10, 3), (12, 0)] {
            let expected = sum(f64::from(dx), f64::from(dy)) / sum(0.0, 0.0);
            let found = f64::from(at((50 + dx) as usize, (50 + dy) as usize));
            assert!((found - expected).abs() < 1e-3, "{dx} {dy}: {found} {expected}");
        }
    }

    #[test]
    fn colours_become_those_of_the_other_picture() {
        let ramp = RgbImage::from_fn(16, 16, |x, y| Rgb([(16 * y + x) as u8; 3]));
        let dark = RgbImage::from_fn(16, 16, |x, y| Rgb([(16 * y + x) as u8 / 4; 3]));
        // A share of (v + 1) of 256 lies up to level v of the ramp; in the other, (4 k + 4) of
        // 256 up to level k. Between them on a line, and rounded down.
        let expected = RgbImage::from_fn(16, 16, |x, y| Rgb([((16 * y + x + 1) / 4).saturating_sub(1) as u8; 3]));
        assert_eq!(with_colors_of(&ramp, &dark), expected);
        assert_eq!(with_colors_of(&dark, &dark), dark);
        assert_eq!(with_colors_of(&ramp, &flat(7)), RgbImage::from_pixel(16, 16, Rgb([7; 3])));
        // Levels that the other has none of: a quarter at 0, half up to 100, all up to 200.
        let steps = RgbImage::from_fn(4, 1, |x, _| Rgb([[0, 100, 200, 200][x as usize]; 3]));
        let mapped = with_colors_of(&RgbImage::from_fn(8, 1, |x, _| Rgb([x as u8; 3])), &steps);
        let levels: Vec<u8> = mapped.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(levels, [0, 0, 50, 100, 125, 150, 175, 200]);
    }
}
