//! Pictures of any size through the network, as the official test script does it
//! (ALGORITHM 3.4).

use burn::tensor::{Device, Int, Tensor, TensorData};
use domain::study::stage::Failure;
use image::RgbImage;

use super::{Enlarged, SCALE, Swin2Sr};
use crate::data::tensors;

/// The options of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script {
    /// True if the result is cut to four times the picture; it also shows what was mirrored
    /// otherwise, as the results of Hugging Face's port do.
    pub crop: bool,
    /// The tiles that a picture is enlarged in; absent: as a whole.
    pub tiling: Option<Tiling>,
}

impl Default for Script {
    fn default() -> Self {
        Self { crop: true, tiling: None }
    }
}

/// Square tiles that overlap; where they do, the result is their mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    tile: usize,
    overlap: usize,
}

impl Tiling {
    /// Tiles of `tile` pixels a side that share `overlap` pixels.
    ///
    /// # Errors
    /// `InvalidInput` unless tiles are longer than what they share.
    pub fn new(tile: usize, overlap: usize) -> Result<Self, Failure> {
        if overlap < tile {
            Ok(Self { tile, overlap })
        } else {
            Err(Failure::invalid_input(format!("tiles of {tile} pixels cannot share {overlap}")))
        }
    }

    /// The side of a tile in a picture of that size, and where tiles begin along
    /// height and width. The last one of each ends where the picture does.
    pub(crate) fn tiles(self, size: [usize; 2]) -> (usize, [Vec<usize>; 2]) {
        let tile = self.tile.min(size[0]).min(size[1]);
        let step = tile.saturating_sub(self.overlap).max(1);
        (tile, size.map(|side| (0..side - tile).step_by(step).chain([side - tile]).collect()))
    }
}

impl Swin2Sr {
    /// Enlarges pictures after mirroring one to a whole window of pixels to the
    /// right and below. With tiles there is no auxiliary picture.
    ///
    /// # Shapes
    /// - `x`: `[batch, 3, height, width]`, pixels 0..1
    pub fn script(&self, x: Tensor<4>, script: Script) -> Enlarged {
        let [_, _, height, width] = x.dims();
        let x = mirrored(x, [height, width].map(|side| (side / self.window + 1) * self.window), Mirror::AfterPixel);
        let Enlarged { picture, aux } = match script.tiling {
            None => self.forward(x),
            Some(tiling) => Enlarged { picture: self.tiled(x, tiling), aux: None },
        };
        if script.crop {
            Enlarged { picture: picture.narrow(2, 0, SCALE * height).narrow(3, 0, SCALE * width), aux }
        } else {
            Enlarged { picture, aux }
        }
    }

    fn tiled(&self, x: Tensor<4>, tiling: Tiling) -> Tensor<4> {
        let ([batch, channels, height, width], device) = (x.dims(), x.device());
        let (tile, [rows, columns]) = tiling.tiles([height, width]);
        let (wide, side) = (SCALE * width, SCALE * tile);
        let planes = batch * channels;
        let mut sums = vec![0.0f32; planes * SCALE * height * wide];
        let mut counts = vec![0.0f32; SCALE * height * wide];
        for (top, left) in rows.iter().flat_map(|row| columns.iter().map(move |column| (SCALE * row, SCALE * column))) {
            let part = x.clone().narrow(2, top / SCALE, tile).narrow(3, left / SCALE, tile);
            let values: Vec<f32> = self.forward(part).picture.into_data().iter::<f32>().collect();
            for (number, line) in values.chunks_exact(side).enumerate() {
                let start = (number / side * SCALE * height + top + number % side) * wide + left;
                sums[start..start + side].iter_mut().zip(line).for_each(|(sum, value)| *sum += value);
            }
            for line in top..top + side {
                counts[line * wide + left..][..side].iter_mut().for_each(|count| *count += 1.0);
            }
        }
        for plane in sums.chunks_exact_mut(counts.len()) {
            plane.iter_mut().zip(&counts).for_each(|(sum, count)| *sum /= count);
        }
        Tensor::from_data(TensorData::new(sums, [batch, channels, SCALE * height, wide]), &device)
    }

    /// [`Swin2Sr::script`] for a picture of bytes.
    pub fn enlarge(&self, image: &RgbImage, script: Script, device: &Device) -> RgbImage {
        let picture = self.script(tensors::unsigned(image, device), script).picture;
        let [_, _, height, width] = picture.dims();
        let values: Vec<f32> = picture.into_data().iter::<f32>().collect();
        tensors::from_unsigned(&values, [width as u32, height as u32])
    }
}

/// The place of the mirror that pictures are continued with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mirror {
    /// The mirror stands on the last pixel, which stays one.
    OnPixel,
    /// The mirror stands after the last pixel, which becomes two.
    AfterPixel,
}

impl Mirror {
    /// The pixel that is seen at a place, of `length` pixels in all.
    fn seen(self, place: usize, length: usize) -> usize {
        let period = match self {
            Mirror::OnPixel => (2 * length - 2).max(1),
            Mirror::AfterPixel => 2 * length,
        };
        let place = place % period;
        if place < length { place } else { period - place - usize::from(self == Mirror::AfterPixel) }
    }
}

/// A picture continued to the right and below to `[height, width]`.
pub(crate) fn mirrored(x: Tensor<4>, size: [usize; 2], mirror: Mirror) -> Tensor<4> {
    let device = x.device();
    (2..4).zip(size).fold(x, |x, (axis, side)| {
        let length = x.dims()[axis];
        if side == length {
            return x;
        }
        let seen: Vec<i32> = (0..side).map(|place| mirror.seen(place, length) as i32).collect();
        x.select(axis, Tensor::<1, Int>::from_ints(seen.as_slice(), &device))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_repeat_the_last_pixel_or_do_not() {
        let seen = |mirror: Mirror, length| (0..8).map(|place| mirror.seen(place, length)).collect::<Vec<_>>();
        assert_eq!(seen(Mirror::OnPixel, 5), [0, 1, 2, 3, 4, 3, 2, 1]);
        assert_eq!(seen(Mirror::AfterPixel, 5), [0, 1, 2, 3, 4, 4, 3, 2]);
        assert_eq!(seen(Mirror::OnPixel, 3), [0, 1, 2, 1, 0, 1, 2, 1]);
        assert_eq!(seen(Mirror::AfterPixel, 2), [0, 1, 1, 0, 0, 1, 1, 0]);
        assert_eq!(seen(Mirror::OnPixel, 1), [0; 8]);
    }

    #[test]
    fn tiles_end_with_the_picture_and_are_no_longer() {
        let tiling = Tiling::new(24, 8).unwrap();
        assert_eq!(tiling.tiles([40, 48]), (24, [vec![0, 16], vec![0, 16, 24]]));
        assert_eq!(tiling.tiles([16, 40]), (16, [vec![0], vec![0, 8, 16, 24]]));
        assert!(Tiling::new(8, 8).is_err());
    }
}
