//! How near an enlarged picture is to the true one, as papers on
//! super-resolution measure it: on luma, without the border.

use image::RgbImage;

/// Luma goes from 16 to 235, but 8-bit differences are measured against this.
const RANGE: f64 = 255.0;

/// Window of the structural similarity, and the spread of its weights, in pixels.
const WINDOW: usize = 11;
const SPREAD: f64 = 1.5;

/// Guards of the structural similarity, as shares of the range.
const GUARDS: (f64, f64) = (0.01, 0.03);

/// Peak signal-to-noise ratio in dB, higher is nearer, infinite for equal
/// pictures. Both have one size; `border` pixels are left out on each side.
pub fn psnr(picture: &RgbImage, truth: &RgbImage, border: u32) -> f64 {
    let (a, b) = (Luma::new(picture, border), Luma::new(truth, border));
    let squares: f64 = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).powi(2)).sum();
    10.0 * (RANGE.powi(2) * a.values.len() as f64 / squares).log10()
}

/// Structural similarity (Wang et al., 2004), at most 1, higher is nearer. Both
/// have one size, of which the window is left when the border is gone.
pub fn ssim(picture: &RgbImage, truth: &RgbImage, border: u32) -> f64 {
    let (a, b) = (Luma::new(picture, border), Luma::new(truth, border));
    let product = |a: &Luma, b: &Luma| Luma {
        width: a.width,
        values: a.values.iter().zip(&b.values).map(|(a, b)| a * b).collect(),
    };
    let [mean_a, mean_b] = [&a, &b].map(Luma::blurred);
    let [aa, bb, ab] = [product(&a, &a), product(&b, &b), product(&a, &b)].map(|map| map.blurred());
    let [c1, c2] = [GUARDS.0, GUARDS.1].map(|guard| (guard * RANGE).powi(2));
    let at = |i: usize| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (var_a, var_b, covariance) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        (2.0 * ma * mb + c1) * (2.0 * covariance + c2) / ((ma * ma + mb * mb + c1) * (var_a + var_b + c2))
    };
    (0..mean_a.len()).map(at).sum::<f64>() / mean_a.len().max(1) as f64
}

/// One channel in rows.
struct Luma {
    width: usize,
    values: Vec<f64>,
}

impl Luma {
    /// The luma by ITU-R BT.601.
    fn new(picture: &RgbImage, border: u32) -> Self {
        let (width, height) = picture.dimensions();
        let inside = |side: u32| border..side.saturating_sub(border).max(border);
        let luma = |x, y| {
            let [red, green, blue] = picture.get_pixel(x, y).0.map(f64::from);
            16.0 + (65.481 * red + 128.553 * green + 24.966 * blue) / RANGE
        };
        let values = inside(height).flat_map(|y| inside(width).map(move |x| luma(x, y))).collect();
        Self { width: inside(width).len(), values }
    }

    /// Weighted means of all windows that lie inside.
    fn blurred(&self) -> Vec<f64> {
        let weight = |i: usize| (-(i as f64 - (WINDOW / 2) as f64).powi(2) / (2.0 * SPREAD.powi(2))).exp();
        let sum: f64 = (0..WINDOW).map(weight).sum();
        let weights: Vec<f64> = (0..WINDOW).map(|i| weight(i) / sum).collect();
        let mean =
            |window: &mut dyn Iterator<Item = f64>| window.zip(&weights).map(|(value, weight)| value * weight).sum();
        let rows: Vec<Vec<f64>> = self
            .values
            .chunks_exact(self.width.max(1))
            .map(|row| row.windows(WINDOW).map(|window| mean(&mut window.iter().copied())).collect())
            .collect();
        let columns = self.width.saturating_sub(WINDOW - 1);
        rows.windows(WINDOW)
            .flat_map(|window| (0..columns).map(move |x| (window, x)))
            .map(|(window, x)| mean(&mut window.iter().map(|row| row[x])))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn texture(shift: u8) -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| Rgb([(x * y % 200) as u8 + shift, (x * 3) as u8 + shift, 90 + shift]))
    }

    #[test]
    fn equal_pictures_are_as_near_as_can_be() {
        assert_eq!(psnr(&texture(0), &texture(0), 4), f64::INFINITY);
        assert!((ssim(&texture(0), &texture(0), 4) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_shift_of_all_levels_has_a_known_distance() {
        // All three channels move by 10: luma by 219 / 255 of it.
        let expected = 10.0 * (255.0f64.powi(2) / (10.0 * 219.0 / 255.0f64).powi(2)).log10();
        assert!((psnr(&texture(10), &texture(0), 4) - expected).abs() < 1e-9);
        let similar = ssim(&texture(10), &texture(0), 4);
        assert!(similar > 0.9 && similar < 1.0, "{similar}");
    }

    #[test]
    fn noise_is_less_similar_than_a_shift() {
        let noisy = RgbImage::from_fn(40, 30, |x, y| {
            let [red, green, blue] = texture(10).get_pixel(x, y).0;
            let jump = if (x * 7 + y * 13) % 5 < 2 { 10 } else { 0 };
            Rgb([red + 10 - jump, green + 10 - jump, blue + 10 - jump])
        });
        assert!(ssim(&noisy, &texture(10), 4) < ssim(&texture(20), &texture(10), 4));
    }
}
