//! Pictures at several scales, for SinDDM (ALGORITHM 2.1, 2.7).

use domain::study::experiment::{Geometry, LossPool, MultiImage, RescaleLoss, Sinddm};
use domain::study::stage::{Failure, Mosaic};
use image::RgbImage;

use super::canvas;
use super::resize::{Filter, resize};

/// The pictures of one model.
#[derive(Clone, Debug)]
pub struct Pyramid {
    pub geometry: Geometry,
    /// The scales, coarsest first.
    pub scales: Vec<Scale>,
    /// The detail that is lost from each scale to the next coarser one, pooled over pictures:
    /// one fewer than scales.
    pub rescale_losses: Vec<f64>,
}

/// All pictures at one scale.
#[derive(Clone, Debug)]
pub struct Scale {
    /// The pictures at this scale.
    pub images: Vec<RgbImage>,
    /// The coarser scale's pictures, enlarged; empty at the coarsest scale.
    pub blurred: Vec<RgbImage>,
}

impl Pyramid {
    /// Shrinks each picture to every scale directly from the original. Pictures are as
    /// [`learnt`] gives them.
    ///
    /// # Errors
    /// `InvalidInput` if there is no picture or one is smaller than the coarsest scale.
    pub fn new(images: &[RgbImage], sinddm: &Sinddm) -> Result<Self, Failure> {
        let canvas = images.first().map(RgbImage::dimensions);
        let (width, height) = canvas.ok_or_else(|| Failure::invalid_input("there is no picture to learn from"))?;
        let sinddm = &sinddm.on([width, height]);
        let finest = sinddm.finest.size([width, height]);
        let geometry = Geometry::new(finest, sinddm.scale_factor, sinddm.coarsest);
        large_enough(images, geometry.sizes[0])?;
        let mut scales: Vec<Scale> = Vec::new();
        let mut rescale_losses = Vec::new();
        for &[width, height] in &geometry.sizes {
            let images: Vec<RgbImage> =
                images.iter().map(|image| resize(image, width, height, Filter::Lanczos)).collect();
            let blurred: Vec<RgbImage> = scales.last().map_or_else(Vec::new, |coarser| {
                coarser.images.iter().map(|image| resize(image, width, height, Filter::Bilinear)).collect()
            });
            if !blurred.is_empty() {
                let pairs = images.iter().zip(&blurred);
                let losses: Vec<f64> =
                    pairs.map(|(image, blurred)| rescale_loss(image, blurred, sinddm.rescale_loss)).collect();
                rescale_losses.push(pool(&losses, sinddm.loss_pool));
            }
            scales.push(Scale { images, blurred });
        }
        Ok(Self { geometry, scales, rescale_losses })
    }
}

/// The pictures that one model learns from, out of canvases with padding of that colour:
/// all, the first, or all as one.
pub fn learnt(mut canvases: Vec<RgbImage>, sinddm: &Sinddm, color: [u8; 3]) -> Vec<RgbImage> {
    match sinddm.multi_image {
        MultiImage::Pooled => canvases,
        MultiImage::FirstOnly | MultiImage::PerImage => {
            canvases.truncate(1);
            canvases
        }
        MultiImage::Mosaic => {
            canvas::laid_out(&canvases, Mosaic { frame: sinddm.frame() }, color).into_iter().collect()
        }
    }
}

/// Nothing can be learnt from pictures that would have to be enlarged even for
/// the coarsest scale.
fn large_enough(images: &[RgbImage], [width, height]: [u32; 2]) -> Result<(), Failure> {
    match images.iter().position(|image| image.width() < width || image.height() < height) {
        Some(number) => Err(Failure::invalid_input(format!(
            "picture {number} has {}x{} pixels, less than the coarsest scale's {width}x{height}: \
             replace it by a larger one or lower sinddm.coarsest",
            images[number].width(),
            images[number].height()
        ))),
        None => Ok(()),
    }
}

/// Euclidean norm of the difference, divided by the number of values. The
/// reference subtracts unsigned bytes, so that small negative differences count
/// as large ones; the sampling lengths rest on that.
fn rescale_loss(image: &RgbImage, blurred: &RgbImage, how: RescaleLoss) -> f64 {
    let pairs = image.as_raw().iter().zip(blurred.as_raw());
    let squares: f64 = match how {
        RescaleLoss::U8Wrap => pairs.map(|(a, b)| f64::from(a.wrapping_sub(*b)).powi(2)).sum(),
        RescaleLoss::Signed => pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum(),
    };
    squares.sqrt() / image.as_raw().len() as f64
}

fn pool(losses: &[f64], how: LossPool) -> f64 {
    match how {
        LossPool::Mean => losses.iter().sum::<f64>() / losses.len() as f64,
        LossPool::Max => losses.iter().copied().fold(0.0, f64::max),
        LossPool::First => losses[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_reference() {
        let sizes = |finest| Geometry::new(finest, 1.411, None);
        assert_eq!(sizes([248, 186]).sizes, [[64, 48], [90, 67], [126, 94], [177, 133], [248, 186]]);
        assert_eq!(sizes([298, 167]).sizes, [[75, 42], [106, 59], [149, 84], [211, 118], [298, 167]]);
        assert_eq!(sizes([264, 200]).sizes, [[65, 49], [92, 70], [131, 99], [186, 141], [264, 200]]);
        assert!((sizes([264, 200]).factor - 1.421374).abs() < 1e-6);
        assert!((sizes([250, 167]).factor - 1.380351).abs() < 1e-6);
    }

    #[test]
    fn small_pictures_name_their_coarsest_scale() {
        let geometry = Geometry::new([33, 25], 1.411, Some(12));
        assert_eq!(geometry.sizes, [[16, 12], [23, 17], [33, 25]]);
        assert_eq!(Geometry::new([33, 25], 1.411, Some(25)).sizes, [[33, 25]]);
    }

    #[test]
    fn bytes_below_zero_wrap() {
        let dark = RgbImage::from_pixel(2, 1, image::Rgb([1; 3]));
        let bright = RgbImage::from_pixel(2, 1, image::Rgb([3; 3]));
        let six = 6.0f64;
        assert!((rescale_loss(&dark, &bright, RescaleLoss::U8Wrap) - 254.0 / six.sqrt()).abs() < 1e-9);
        assert!((rescale_loss(&dark, &bright, RescaleLoss::Signed) - 2.0 / six.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn every_scale_has_every_picture_and_losses_are_pooled() {
        let texture = |k: u32| RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * y * k % 251) as u8; 3]));
        let sinddm = Sinddm { finest: [32, 24].into(), coarsest: Some(12), ..Sinddm::default() };
        let pyramid = Pyramid::new(&[texture(3), texture(7)], &sinddm).unwrap();
        assert_eq!(pyramid.scales.len(), 3);
        assert_eq!(pyramid.rescale_losses.len(), 2);
        assert!(pyramid.scales[0].blurred.is_empty());
        assert_eq!(pyramid.scales[2].blurred[1].dimensions(), (32, 24));
        let single = |k| Pyramid::new(&[texture(k)], &sinddm).unwrap().rescale_losses[1];
        assert!((pyramid.rescale_losses[1] - (single(3) + single(7)) / 2.0).abs() < 1e-12);
        let pooled = |loss_pool| {
            let sinddm = Sinddm { loss_pool, ..sinddm.clone() };
            Pyramid::new(&[texture(3), texture(7)], &sinddm).unwrap().rescale_losses[1]
        };
        assert_eq!(pooled(LossPool::Max), single(3).max(single(7)));
        assert_eq!(pooled(LossPool::First), single(3));
    }

    #[test]
    fn several_pictures_are_learnt_as_the_knob_says() {
        let flat = |level| RgbImage::from_pixel(40, 30, image::Rgb([level; 3]));
        let images = [flat(10), flat(20), flat(30)];
        let finest = |multi_image| {
            let sinddm = Sinddm { finest: [32, 24].into(), coarsest: Some(12), multi_image, ..Sinddm::default() };
            let images = learnt(images.to_vec(), &sinddm, [0; 3]);
            Pyramid::new(&images, &sinddm).unwrap().scales.pop().unwrap().images
        };
        let levels = |images: Vec<RgbImage>| images.iter().map(|image| image[(3, 3)].0[0]).collect::<Vec<_>>();
        assert_eq!(levels(finest(MultiImage::Pooled)), [10, 20, 30]);
        assert_eq!(levels(finest(MultiImage::FirstOnly)), [10]);
        let mosaic = finest(MultiImage::Mosaic);
        let corners = [(3, 3), (28, 3), (3, 20), (28, 20)].map(|place| mosaic[0][place].0[0]);
        assert_eq!((mosaic.len(), corners), (1, [10, 20, 30, 0]));
    }

    #[test]
    fn pictures_below_the_coarsest_scale_are_refused() {
        let sinddm = Sinddm { finest: [32, 24].into(), coarsest: Some(12), ..Sinddm::default() };
        let images = [RgbImage::new(40, 30), RgbImage::new(15, 11)];
        let failure = Pyramid::new(&images, &sinddm).unwrap_err();
        assert!(
            failure.message.contains("picture 1 has 15x11 pixels, less than the coarsest scale's 16x12"),
            "{failure}"
        );
        assert!(Pyramid::new(&[], &sinddm).unwrap_err().message.contains("no picture"));
    }
}
