//! Which pixels of a picture are in one window, and the picture in parts that
//! several cores work on. Parts have the same size however many cores there are,
//! so that all numbers are the same too.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

/// Tokens in one part of the body: what they need fits the caches of a processor.
const PART: usize = 2048;

/// Pixels in one band of rows.
const BAND: usize = 8192;

/// The score that is added to that of tokens that are neighbours by wrapping only.
const MASKED: f32 = -100.0;

/// The results of `work` for each part, in their order. On the CPU parts are
/// worked on at the same time, since burn does most element-wise operations on
/// one core.
pub(super) fn each<T: Send, R: Send>(device: &Device, parts: Vec<T>, work: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    if *device == Device::flex() {
        parts.into_par_iter().map(work).collect()
    } else {
        parts.into_iter().map(work).collect()
    }
}

/// A picture, `scale` times as large as the bands, from one of each band and the
/// rows around it.
pub(super) fn in_bands(
    device: &Device,
    bands: Vec<Band>,
    scale: usize,
    work: impl Fn(&Band) -> Tensor<4> + Sync + Send,
) -> Tensor<4> {
    Tensor::cat(each(device, bands, |band| band.trim(work(&band), scale)), 2)
}

/// Some rows of a picture, and up to `reach` around them that they depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Band {
    first: usize,
    rows: usize,
    reach: usize,
}

impl Band {
    /// The rows and those around them, of a picture `scale` times as large.
    pub(super) fn cut(&self, x: &Tensor<4>, scale: usize) -> Tensor<4> {
        let start = (self.first - self.above()) * scale;
        let end = ((self.first + self.rows + self.reach) * scale).min(x.dims()[2]);
        x.clone().narrow(2, start, end - start)
    }

    /// The rows without those around them.
    pub(super) fn trim(&self, x: Tensor<4>, scale: usize) -> Tensor<4> {
        x.narrow(2, self.above() * scale, self.rows * scale)
    }

    fn above(&self) -> usize {
        self.reach.min(self.first)
    }
}

/// The bands of a picture of `[height, width]`.
pub(super) fn bands([height, width]: [usize; 2], reach: usize) -> Vec<Band> {
    let rows = (BAND / width).max(1);
    (0..height).step_by(rows).map(|first| Band { first, rows: rows.min(height - first), reach }).collect()
}

/// A few windows that follow each other.
#[derive(Clone)]
pub(super) struct Part {
    /// The range of their tokens among all.
    pub(super) rows: Range<usize>,
    /// The mask that is added to the scores while windows are moved,
    /// `[windows, 1, tokens, tokens]`.
    pub(super) mask: Option<Tensor<4>>,
}

/// The windows of a picture.
pub(crate) struct Grid {
    size: [usize; 2],
    window: usize,
    parts: Vec<Part>,
}

impl Grid {
    /// # Panics
    /// If the size, `[height, width]`, is not one of whole windows.
    pub(crate) fn new(size: [usize; 2], window: usize, device: &Device) -> Self {
        assert!(size.iter().all(|side| side.is_multiple_of(window)), "whole windows");
        let tokens = window * window;
        let count = size[0] * size[1] / tokens;
        let part = (PART / tokens).max(1);
        let parts = (0..count).step_by(part).map(|first| {
            let windows = first..(first + part).min(count);
            let mask: Vec<Option<Vec<f32>>> = windows.clone().map(|number| mask(number, size, window)).collect();
            let masked = mask.iter().any(Option::is_some).then(|| {
                let blank = vec![0.0; tokens * tokens];
                let values = mask.into_iter().flat_map(|mask| mask.unwrap_or_else(|| blank.clone()));
                let data = TensorData::new(values.collect::<Vec<f32>>(), [windows.len(), 1, tokens, tokens]);
                Tensor::from_data(data, device)
            });
            Part { rows: windows.start * tokens..windows.end * tokens, mask: masked }
        });
        Self { size, window, parts: parts.collect() }
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    pub(super) fn bands(&self, reach: usize) -> Vec<Band> {
        bands(self.size, reach)
    }

    /// `[height * width, channels]` as `[1, channels, height, width]`.
    pub(super) fn map(&self, tokens: Tensor<2>) -> Tensor<4> {
        let channels = tokens.dims()[1];
        tokens.reshape([1, self.size[0], self.size[1], channels]).permute([0, 3, 1, 2])
    }

    /// All pixels, row after row.
    pub(super) fn rows(&self) -> Vec<i32> {
        (0..(self.size[0] * self.size[1]) as i32).collect()
    }

    /// All pixels, window after window. Moved windows begin half a window further
    /// down and to the right, and what is left over wraps around.
    pub(super) fn order(&self, moved: bool) -> Vec<i32> {
        let ([height, width], window) = (self.size, self.window);
        let shift = if moved { window / 2 } else { 0 };
        let across = width / window;
        let pixel = |number: usize, token: usize| {
            let y = (number / across * window + token / window + shift) % height;
            let x = (number % across * window + token % window + shift) % width;
            (y * width + x) as i32
        };
        let tokens = window * window;
        (0..height * width).map(|at| pixel(at / tokens, at % tokens)).collect()
    }
}

/// The place in the order `held` of each pixel of the order `wanted`.
pub(super) fn sources(held: &[i32], wanted: &[i32]) -> Vec<i32> {
    let mut places = vec![0; held.len()];
    held.iter().enumerate().for_each(|(place, pixel)| places[*pixel as usize] = place as i32);
    wanted.iter().map(|pixel| places[*pixel as usize]).collect()
}

/// The mask that is added to the scores between the tokens of a moved window, if that holds
/// pixels from opposite sides of the picture.
pub(crate) fn mask(number: usize, [height, width]: [usize; 2], window: usize) -> Option<Vec<f32>> {
    let across = width / window;
    let (bottom, right) = (number / across == height / window - 1, number % across == across - 1);
    let half = window / 2;
    let side = |token: usize| (bottom && token / window >= half, right && token % window >= half);
    let tokens = window * window;
    let score = |pair: usize| if side(pair / tokens) == side(pair % tokens) { 0.0 } else { MASKED };
    (bottom || right).then(|| (0..tokens * tokens).map(score).collect())
}

/// The distance down and right of each of the `(2 * window - 1)²` offsets between two tokens,
/// on a scale that grows with the logarithm.
pub(crate) fn offsets(window: usize) -> Vec<f32> {
    let side = 2 * window - 1;
    let far = |at: usize| {
        let offset = at as f64 - (window as f64 - 1.0);
        let share = 8.0 * offset.abs() / (window as f64 - 1.0);
        (offset.signum() * (share + 1.0).log2() / 8f64.log2()) as f32
    };
    (0..side * side).flat_map(|at| [far(at / side), far(at % side)]).collect()
}

/// The number of the offset between each two tokens of a window.
pub(crate) fn pairs(window: usize) -> Vec<i32> {
    let tokens = window * window;
    let pair = |pair: usize| {
        let (from, to) = (pair / tokens, pair % tokens);
        let down = from / window + window - 1 - to / window;
        let right = from % window + window - 1 - to % window;
        (down * (2 * window - 1) + right) as i32
    };
    (0..tokens * tokens).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_all_rows_with_those_around() {
        let (device, [height, width]) = (Device::flex(), [25, 1000]);
        let rows = Tensor::<1, burn::tensor::Int>::arange(0..height as i64, &device).float();
        let picture = rows.reshape([1, 1, height, 1]).repeat_dim(3, width);
        let bands = bands([height, width], 3);
        assert_eq!(bands.iter().map(|band| band.rows).collect::<Vec<_>>(), [8, 8, 8, 1]);
        let cut = |band: &Band| band.cut(&picture, 1).dims()[2];
        assert_eq!(bands.iter().map(cut).collect::<Vec<_>>(), [11, 14, 12, 4]);
        let whole = in_bands(&device, bands, 1, |band| band.cut(&picture, 1));
        assert_eq!(whole.into_data(), picture.into_data());
    }

    #[test]
    fn moved_windows_wrap_and_every_pixel_is_in_one() {
        let grid = Grid::new([16, 24], 8, &Device::flex());
        let (plain, moved) = (grid.order(false), grid.order(true));
        assert_eq!(plain[..9], [0, 1, 2, 3, 4, 5, 6, 7, 24]);
        assert_eq!(moved[0], 4 * 24 + 4);
        assert_eq!(moved[5 * 64 + 63], 3 * 24 + 3);
        for order in [&plain, &moved] {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, grid.rows());
        }
        let sources = sources(&plain, &moved);
        assert!(sources.iter().zip(&moved).all(|(place, pixel)| plain[*place as usize] == *pixel));
    }

    #[test]
    fn only_windows_at_the_far_sides_are_masked() {
        let size = [16, 24];
        assert_eq!(mask(0, size, 8), None);
        let right = mask(2, size, 8).unwrap();
        assert_eq!([right[3], right[4], right[8 * 7]], [0.0, MASKED, 0.0]); // beside, across, below
        let bottom = mask(4, size, 8).unwrap();
        assert_eq!([bottom[7], bottom[8 * 3], bottom[8 * 4]], [0.0, 0.0, MASKED]);
    }

    #[test]
    fn offsets_grow_with_the_logarithm() {
        let offsets = offsets(8);
        let across = |offset: usize| offsets[2 * (7 * 15 + 7 + offset) + 1];
        for (offset, expected) in [(0, 0.0), (1, 0.366512), (4, 0.826016), (7, 1.056642)] {
            assert!((across(offset) - expected).abs() < 1e-6, "{offset}: {}", across(offset));
        }
        let pairs = pairs(8);
        assert_eq!(pairs[0], 7 * 15 + 7);
        assert_eq!(pairs[1], 7 * 15 + 6); // the key is one further right
        assert_eq!(pairs[64 * 63], 14 * 15 + 14);
    }
}
