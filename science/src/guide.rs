//! Sampling that holds on to given pictures: it starts from one, keeps what a
//! mask does not free, or puts regions where they are asked for. These are
//! SinDDM's harmonisation, style transfer and sampling guided by regions of
//! interest (Kulikov et al., ICML 2023, section 5).

use burn::tensor::{Device, Tensor};
use image::{GrayImage, Rgb, RgbImage, imageops};

use crate::data::resize::{Filter, resize};
use crate::data::tensors;

/// How much of a region comes from the given picture, the rest from the model.
const REGION_WEIGHT: f64 = 0.8;

/// What samples are to hold on to. By default nothing.
#[derive(Clone, Debug, Default)]
pub struct Guide {
    /// Where sampling starts, instead of noise at the coarsest scale.
    pub start: Option<Start>,
    /// Where the samples may differ from the starting picture (255) and where
    /// they may not (0), of any size.
    pub mask: Option<GrayImage>,
    /// Regions to be shown.
    pub regions: Vec<Region>,
}

/// A picture to start from.
#[derive(Clone, Debug)]
pub struct Start {
    /// Of any size.
    pub image: RgbImage,
    /// The scale at which sampling starts: the coarser, the less is kept.
    pub scale: usize,
    /// The time at which it starts: the later, the less is kept; below the
    /// number of diffusion steps.
    pub t: u32,
}

impl Start {
    /// At the size of a scale, `[1, 3, height, width]`.
    pub fn at(&self, [width, height]: [u32; 2], device: &Device) -> Tensor<4> {
        tensors::signed(&[resize(&self.image, width, height, Filter::Lanczos)], device)
    }
}

/// A picture to be shown at a place.
#[derive(Clone, Debug)]
pub struct Region {
    /// What to show there.
    pub image: RgbImage,
    /// Left, top, width and height as shares of the sample's.
    pub place: [f64; 4],
}

impl Guide {
    /// An estimate of the finished samples with the regions laid over it.
    pub fn keep(&self, clean: Tensor<4>) -> Tensor<4> {
        let [samples, channels, height, width] = clean.dims();
        self.regions.iter().fold(clean, |clean, region| {
            let [left, top, wide, high] = region.place;
            let side = |share: f64, of: usize| ((share * of as f64).round() as usize).min(of);
            let (x, y) = (side(left, width), side(top, height));
            let (wide, high) = (side(wide, width).min(width - x), side(high, height).min(height - y));
            if wide == 0 || high == 0 {
                return clean; // smaller than a pixel at this scale
            }
            let place = [0..samples, 0..channels, y..y + high, x..x + wide];
            let shown = resize(&region.image, wide as u32, high as u32, Filter::Lanczos);
            let shown = tensors::signed(&[shown], &clean.device()).repeat_dim(0, samples);
            let there = clean.clone().slice(place.clone()) * (1.0 - REGION_WEIGHT) + shown * REGION_WEIGHT;
            clean.slice_assign(place, there)
        })
    }

    /// The sample, as the starting picture where the mask says so.
    pub fn finish(&self, sample: RgbImage) -> RgbImage {
        let (Some(start), Some(mask)) = (&self.start, &self.mask) else { return sample };
        let (width, height) = sample.dimensions();
        let kept = resize(&start.image, width, height, Filter::Lanczos);
        let mask = imageops::resize(mask, width, height, imageops::FilterType::Triangle);
        RgbImage::from_fn(width, height, |x, y| {
            let free = u32::from(mask[(x, y)].0[0]);
            let (new, old) = (sample[(x, y)].0, kept[(x, y)].0);
            Rgb(std::array::from_fn(|c| {
                ((u32::from(new[c]) * free + u32::from(old[c]) * (255 - free) + 127) / 255) as u8
            }))
        })
    }
}

/// The picture with the colours of another: each channel's levels are changed so
/// that they are distributed as the other's. Style transfer starts from this.
pub fn with_colors_of(image: &RgbImage, other: &RgbImage) -> RgbImage {
    let maps: [[u8; 256]; 3] = std::array::from_fn(|channel| {
        let (own, wanted) = (shares(image, channel), shares(other, channel));
        let mut level = 0;
        std::array::from_fn(|from| {
            while level < 255 && wanted[level] < own[from] {
                level += 1;
            }
            level as u8
        })
    });
    let mut changed = image.clone();
    for pixel in changed.pixels_mut() {
        pixel.0 = std::array::from_fn(|channel| maps[channel][pixel.0[channel] as usize]);
    }
    changed
}

/// For each level, the share of a channel's values that are not above it.
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
        let guide =
            Guide { regions: vec![Region { image: flat(255), place: [0.5, 0.0, 0.5, 0.25] }], ..Guide::default() };
        for side in [4usize, 8] {
            let kept = guide.keep(Tensor::zeros([2, 3, side, side], &device));
            let values: Vec<f32> = kept.into_data().iter::<f32>().collect();
            let at = |sample: usize, y: usize, x: usize| values[(sample * 3 * side + y) * side + x];
            assert!((at(0, 0, side - 1) - 0.8).abs() < 1e-6 && (at(1, 0, side / 2) - 0.8).abs() < 1e-6);
            assert_eq!((at(0, 0, 0), at(1, side - 1, side - 1)), (0.0, 0.0));
        }
        let speck =
            Guide { regions: vec![Region { image: flat(255), place: [0.0, 0.0, 0.01, 0.01] }], ..Guide::default() };
        assert_eq!(speck.keep(Tensor::<4>::zeros([1, 3, 4, 4], &device)).abs().max().into_scalar::<f32>(), 0.0);
    }

    #[test]
    fn what_the_mask_does_not_free_stays_as_it_was() {
        let start = Start { image: flat(10), scale: 0, t: 1 };
        let mask = GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 4 { 0 } else { 255 }]));
        let guide = Guide { start: Some(start), mask: Some(mask), regions: vec![] };
        let finished = guide.finish(flat(200));
        assert_eq!((finished[(0, 3)].0, finished[(7, 3)].0), ([10; 3], [200; 3]));
        assert_eq!(Guide::default().finish(flat(200)), flat(200));
    }

    #[test]
    fn colours_become_those_of_the_other_picture() {
        let ramp = RgbImage::from_fn(16, 16, |x, y| Rgb([(16 * y + x) as u8; 3]));
        let dark = RgbImage::from_fn(16, 16, |x, y| Rgb([(16 * y + x) as u8 / 4; 3]));
        assert_eq!(with_colors_of(&ramp, &dark), dark);
        assert_eq!(with_colors_of(&ramp, &flat(7)), RgbImage::from_pixel(16, 16, Rgb([7; 3])));
    }
}
