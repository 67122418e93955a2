//! How training patches are varied (ALGORITHM 7.2).

use domain::seed::Seed;

use super::blur;
use crate::random;

/// Largest rotation in either direction, in degrees.
const ROTATION_MAX: f64 = 45.0;

/// Least and largest standard deviation of a blur, in pixels: torchvision's defaults. The
/// paper's authors name none.
const BLUR: [f64; 2] = [0.1, 2.0];

/// The variation of a patch, which is turned and flipped, then blurred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// Left and right change places.
    pub flip_x: bool,
    /// Top and bottom change places.
    pub flip_y: bool,
    /// Rotation about the centre, in degrees.
    pub degrees: f64,
    /// Standard deviation of a Gaussian blur in pixels; 0: none.
    pub blur: f64,
}

impl Augmentation {
    /// The patch as it is.
    pub const NONE: Augmentation = Augmentation { flip_x: false, flip_y: false, degrees: 0.0, blur: 0.0 };

    /// Draws a variation: where `turn` asks for it, flips with probability one half each and a
    /// rotation by up to 45°; where `blur` does, a blur: a function of the seed, the epoch and
    /// the patch alone.
    pub fn draw(seed: Seed, epoch: u32, index: usize, turn: bool, blur: bool) -> Self {
        let mut rng = random::stream(seed, "augment", u64::from(epoch) << 32 | index as u64);
        let mut drawn = Self {
            flip_x: random::uniform(&mut rng) < 0.5,
            flip_y: random::uniform(&mut rng) < 0.5,
            degrees: (2.0 * random::uniform(&mut rng) - 1.0) * ROTATION_MAX,
            blur: BLUR[0] + (BLUR[1] - BLUR[0]) * random::uniform(&mut rng),
        };
        if !turn {
            drawn = Self { blur: drawn.blur, ..Self::NONE };
        }
        if !blur {
            drawn.blur = 0.0;
        }
        drawn
    }

    /// The pixel that each pixel comes from: the nearest, none outside (black).
    pub fn sources(&self, size: usize) -> Vec<Option<usize>> {
        let centre = (size as f64 - 1.0) / 2.0;
        let (sin, cos) = self.degrees.to_radians().sin_cos();
        let inside = |at: f64| (at >= 0.0 && at < size as f64).then_some(at as usize);
        let mut sources = Vec::with_capacity(size * size);
        for y in 0..size {
            for x in 0..size {
                let x = if self.flip_x { size - 1 - x } else { x } as f64 - centre;
                let y = if self.flip_y { size - 1 - y } else { y } as f64 - centre;
                let column = inside((cos * x + sin * y + centre + 0.5).floor());
                let row = inside((cos * y - sin * x + centre + 0.5).floor());
                sources.push(row.zip(column).map(|(row, column)| row * size + column));
            }
        }
        sources
    }

    /// Blurs one channel, `[size, size]`, beyond whose edges the outermost pixels go on.
    pub fn soften(&self, channel: &mut [f32], size: usize) {
        if self.blur > 0.0 {
            blur::gaussian(channel, size, self.blur, (3.0 * self.blur).ceil() as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn augmentations_move_pixels_as_named() {
        let turned = |flip_x, flip_y, degrees| Augmentation { flip_x, flip_y, degrees, blur: 0.0 }.sources(2);
        let whole = |sources: [usize; 4]| sources.map(Some).to_vec();
        assert_eq!(turned(false, false, 0.0), whole([0, 1, 2, 3]));
        assert_eq!(turned(true, false, 0.0), whole([1, 0, 3, 2]));
        assert_eq!(turned(false, true, 0.0), whole([2, 3, 0, 1]));
        assert_eq!(turned(false, false, 90.0), whole([2, 0, 3, 1]));
        let corners = Augmentation { degrees: 45.0, ..Augmentation::NONE }.sources(9);
        assert_eq!((corners[0], corners[40]), (None, Some(40)));
    }

    #[test]
    fn augmentation_is_a_function_of_seed_epoch_and_patch() {
        let draw = |seed, epoch, index| Augmentation::draw(Seed(seed), epoch, index, true, true);
        let one = draw(1, 2, 3);
        assert_eq!(one, draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)] {
            assert_ne!(one.degrees, other.degrees);
        }
        let many = (0..500).map(|index| draw(1, 0, index));
        assert!(many.into_iter().all(|drawn| drawn.degrees.abs() <= ROTATION_MAX && (0.1..2.0).contains(&drawn.blur)));
        assert_eq!(Augmentation::draw(Seed(1), 2, 3, false, false), Augmentation::NONE);
        let turned = Augmentation::draw(Seed(1), 2, 3, true, false);
        assert_eq!(turned, Augmentation { blur: 0.0, ..one });
    }

    #[test]
    fn a_blur_spreads_a_point_evenly_and_keeps_the_sum() {
        let mut channel = vec![0.0; 81];
        channel[40] = 1.0;
        let blur = Augmentation { blur: 1.0, ..Augmentation::NONE };
        blur.soften(&mut channel, 9);
        assert!((channel.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!((channel[39], channel[41]), (channel[31], channel[49]));
        assert!((channel[39] / channel[40] - (-0.5f32).exp()).abs() < 1e-6);
        let mut flat = vec![0.25; 16];
        blur.soften(&mut flat, 4);
        assert!(flat.iter().all(|level| (level - 0.25).abs() < 1e-6));
    }
}
