//! Gaussian blur.

/// Blurs a plane of that width in place. Beyond its edges the outermost pixels go on;
/// the kernel ends `reach` pixels from its middle and sums to one.
pub fn gaussian(plane: &mut [f32], width: usize, sigma: f64, reach: usize) {
    let height = plane.len() / width.max(1);
    let weight = |at: usize| (-0.5 * (at as f64 / sigma).powi(2)).exp();
    let sum: f64 = (0..=reach).map(|at| if at == 0 { 1.0 } else { 2.0 * weight(at) }).sum();
    let kernel: Vec<f32> = (0..=reach).map(|at| (weight(at) / sum) as f32).collect();
    let mut line = vec![0.0; width.max(height)];
    // Along rows, then along columns: how many lines, from line to line, pixels of each, from pixel to pixel.
    for (lines, next, pixels, stride) in [(height, width, width, 1), (width, 1, height, width)] {
        for first in (0..lines).map(|number| number * next) {
            (0..pixels).for_each(|i| line[i] = plane[first + i * stride]);
            for i in 0..pixels {
                let tail = kernel
                    .iter()
                    .enumerate()
                    .skip(1)
                    .map(|(at, weight)| weight * (line[i.saturating_sub(at)] + line[(i + at).min(pixels - 1)]));
                plane[first + i * stride] = kernel[0] * line[i] + tail.sum::<f32>();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_becomes_a_normal_density_and_a_flat_plane_stays() {
        let (width, height, sigma) = (61, 51, 5.0);
        let mut plane = vec![0.0; width * height];
        let at = |dx: isize, dy: isize| (25 + dy) as usize * width + (30 + dx) as usize;
        plane[at(0, 0)] = 1.0;
        gaussian(&mut plane, width, sigma, 20);
        assert!((plane.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        // 1/(2πσ²) in the middle, but for the tails beyond four σ, and its known falloff.
        assert!((f64::from(plane[at(0, 0)]) * 50.0 * std::f64::consts::PI - 1.0).abs() < 3e-4);
        for (dx, dy) in [(5, 0), (0, 5), (-5, 0), (0, -5), (3, 4), (10, 0), (8, -6)] {
            let falloff = f64::from(plane[at(dx, dy)] / plane[at(0, 0)]);
            let expected = (-f64::from((dx * dx + dy * dy) as u32) / 50.0).exp();
            assert!((falloff - expected).abs() < 1e-5, "{dx} {dy}: {falloff} {expected}");
        }
        assert_eq!((plane[at(20, 20)] > 0.0, plane[at(21, 0)]), (true, 0.0));
        let mut flat = vec![0.25; 12];
        gaussian(&mut flat, 4, sigma, 20);
        assert!(flat.iter().all(|level| (level - 0.25).abs() < 1e-6));
    }
}
