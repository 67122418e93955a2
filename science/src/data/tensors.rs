//! Pictures as tensors and back.

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

/// Pictures of one size with bytes mapped to −1..1: `[pictures, 3, height, width]`.
pub fn signed(images: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = images.first().map_or((0, 0), RgbImage::dimensions);
    let mut values = Vec::with_capacity(images.len() * 3 * (width * height) as usize);
    for image in images {
        for channel in 0..3 {
            values.extend(image.pixels().map(|pixel| f32::from(pixel[channel]) / 255.0 * 2.0 - 1.0));
        }
    }
    Tensor::from_data(TensorData::new(values, [images.len(), 3, height as usize, width as usize]), device)
}

/// A picture `[3, height, width]` of values −1..1, rounded to the nearest byte
/// as the reference does; what lies outside is cut.
pub fn to_image(values: &[f32], [width, height]: [u32; 2]) -> RgbImage {
    let pixels = (width * height) as usize;
    RgbImage::from_fn(width, height, |x, y| {
        let at = (y * width + x) as usize;
        image::Rgb(std::array::from_fn(|channel| {
            let share = (values[channel * pixels + at] + 1.0) / 2.0;
            (share * 255.0 + 0.5).clamp(0.0, 255.0) as u8
        }))
    })
}

/// A picture with bytes mapped to 0..1: `[1, 3, height, width]`.
pub fn unsigned(image: &RgbImage, device: &Device) -> Tensor<4> {
    let (width, height) = image.dimensions();
    let channel = |channel: usize| image.pixels().map(move |pixel| f32::from(pixel[channel]) / 255.0);
    let values: Vec<f32> = (0..3).flat_map(channel).collect();
    Tensor::from_data(TensorData::new(values, [1, 3, height as usize, width as usize]), device)
}

/// A picture `[3, height, width]` of values 0..1, rounded to the nearest byte as
/// NumPy does, halves to the even one; what lies outside is cut.
pub fn from_unsigned(values: &[f32], [width, height]: [u32; 2]) -> RgbImage {
    let pixels = (width * height) as usize;
    RgbImage::from_fn(width, height, |x, y| {
        let at = (y * width + x) as usize;
        image::Rgb(std::array::from_fn(|channel| {
            (values[channel * pixels + at].clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
        }))
    })
}

/// Enlarges planes of `from` to `to` (width, height) by bilinear interpolation
/// between pixel centres, without antialiasing: where planes shrink, pixels are
/// passed over. Planes follow each other.
pub fn upsample(planes: &[f32], from: [u32; 2], to: [u32; 2]) -> Vec<f32> {
    let columns = taps(from[0], to[0]);
    let rows = taps(from[1], to[1]);
    let width = from[0] as usize;
    let mut enlarged = Vec::new();
    for plane in planes.chunks_exact(width * from[1] as usize) {
        for &(top, bottom, down) in &rows {
            let between = |row: usize, &(left, right, along): &(usize, usize, f32)| {
                plane[row * width + left] * (1.0 - along) + plane[row * width + right] * along
            };
            enlarged.extend(columns.iter().map(|tap| between(top, tap) * (1.0 - down) + between(bottom, tap) * down));
        }
    }
    enlarged
}

/// The two neighbours of each target pixel, and the weight of the second.
fn taps(from: u32, to: u32) -> Vec<(usize, usize, f32)> {
    let scale = f64::from(from) / f64::from(to);
    let last = from.saturating_sub(1) as usize;
    let tap = |target: u32| {
        let source = ((f64::from(target) + 0.5) * scale - 0.5).max(0.0);
        let first = (source as usize).min(last);
        (first, (first + 1).min(last), (source - first as f64) as f32)
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_to_tensors_and_back() {
        let image = RgbImage::from_fn(16, 16, |x, y| image::Rgb([(16 * y + x) as u8, x as u8, y as u8]));
        let tensor = signed(std::slice::from_ref(&image), &Device::flex());
        let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
        assert_eq!(to_image(&values, [16, 16]), image);
        assert_eq!(to_image(&[-3.0, 0.0, 2.0], [1, 1])[(0, 0)].0, [0, 128, 255]);
        let values: Vec<f32> = unsigned(&image, &Device::flex()).into_data().iter::<f32>().collect();
        assert_eq!(from_unsigned(&values, [16, 16]), image);
        assert_eq!(from_unsigned(&[-3.0, 0.5, 2.0], [1, 1])[(0, 0)].0, [0, 128, 255]);
    }

    #[test]
    fn enlarging_interpolates_between_pixel_centres() {
        assert_eq!(upsample(&[0.0, 4.0], [2, 1], [4, 1]), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(upsample(&[0.0, 4.0, 8.0, 12.0], [2, 2], [2, 2]), [0.0, 4.0, 8.0, 12.0]);
    }
}
