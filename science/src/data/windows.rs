//! Places for patches in one picture: windows on an adaptive grid that show
//! stone, spread as far apart as can be (ALGORITHM 6, step 4).

use domain::study::experiment::PatchMethod;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::foreground::Coverage;

/// Lowest coverage that is tried before the picture is said to be too poor.
const LEAST_COVERAGE: f64 = 0.5;

/// The step by which coverage is relaxed.
const RELAX: f64 = 0.1;

/// A place where a patch is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Left edge in pixels.
    pub x: u32,
    /// Upper edge in pixels.
    pub y: u32,
    /// Share of the patch that shows stone.
    pub coverage: f64,
    /// Distance of neighbouring places of the grid it was found on, in pixels.
    pub stride: u32,
}

/// A search for windows in a picture.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Width and height of the picture in pixels.
    pub picture: [u32; 2],
    /// Width and height of a patch in pixels.
    pub size: u32,
    /// Coverage wanted at first.
    pub coverage: f64,
    /// True if places without any stone will do in the end.
    pub anything: bool,
    /// The largest number of pixels by which patches may overlap along both sides, if that is
    /// limited.
    pub max_overlap: Option<u32>,
    /// The way that windows are chosen among those found.
    pub method: PatchMethod,
}

impl Search {
    /// At most `wanted` windows, in the order chosen; fewer only if the finest grid has no more
    /// at the lowest coverage.
    ///
    /// The grid starts at a stride of 236/256 of the patch and is refined to
    /// 8/256, or as far as the overlap allows; only then is coverage relaxed.
    pub fn choose(&self, mask: &Coverage, wanted: usize, rng: &mut ChaCha8Rng) -> Vec<Window> {
        let mut best = Vec::new();
        'found: for coverage in self.coverages() {
            for stride in self.strides() {
                let windows = self.windows(mask, coverage, stride);
                if windows.len() > best.len() {
                    best = windows;
                }
                if best.len() >= wanted {
                    break 'found;
                }
            }
        }
        match self.method {
            PatchMethod::AdaptiveGrid => spread(best, wanted, rng),
            PatchMethod::Random => {
                best.shuffle(rng);
                best.truncate(wanted);
                best
            }
        }
    }

    /// The coverages that are tried, from the one wanted down.
    fn coverages(&self) -> Vec<f64> {
        let mut coverages = vec![self.coverage];
        let mut next = self.coverage - RELAX;
        // Counted with a tolerance: 0.9 less four times 0.1 is not quite 0.5.
        while next > LEAST_COVERAGE - 1e-9 {
            coverages.push(next.max(LEAST_COVERAGE));
            next -= RELAX;
        }
        if self.anything {
            coverages.push(0.0);
        }
        coverages
    }

    /// The strides that are tried, from coarse to fine, each about a sixth finer.
    fn strides(&self) -> Vec<u32> {
        let least = self.max_overlap.map_or(1, |overlap| self.size.saturating_sub(overlap));
        let finest = (self.size * 8 / 256).max(least).max(1);
        let mut stride = (self.size * 236 / 256).max(finest);
        let mut strides = vec![stride];
        while stride > finest {
            stride = (stride * 5 / 6).max(finest);
            strides.push(stride);
        }
        strides
    }

    /// All windows of a grid, centred in the picture, that show enough stone.
    fn windows(&self, mask: &Coverage, least: f64, stride: u32) -> Vec<Window> {
        let [Some(right), Some(bottom)] = self.picture.map(|side| side.checked_sub(self.size)) else {
            return Vec::new();
        };
        let along = |room: u32| (room % stride / 2..=room).step_by(stride as usize);
        let mut windows = Vec::new();
        for y in along(bottom) {
            for x in along(right) {
                let coverage = mask.of_square(x, y, self.size);
                if coverage >= least {
                    windows.push(Window { x, y, coverage, stride });
                }
            }
        }
        windows
    }
}

/// `wanted` of the windows by farthest-point order; of equal ones the first.
fn spread(windows: Vec<Window>, wanted: usize, rng: &mut ChaCha8Rng) -> Vec<Window> {
    if windows.is_empty() {
        return windows;
    }
    let mut nearest = vec![u64::MAX; windows.len()];
    let mut next = rng.random_range(0..windows.len());
    let mut chosen = Vec::with_capacity(wanted.min(windows.len()));
    while chosen.len() < wanted.min(windows.len()) {
        let taken = windows[next];
        chosen.push(taken);
        let mut farthest = 0;
        for (i, (window, nearest)) in windows.iter().zip(&mut nearest).enumerate() {
            let (dx, dy) = (u64::from(window.x.abs_diff(taken.x)), u64::from(window.y.abs_diff(taken.y)));
            *nearest = (*nearest).min(dx * dx + dy * dy);
            if *nearest > farthest {
                (farthest, next) = (*nearest, i);
            }
        }
    }
    chosen
}

/// The problem of a picture that a patch of that side does not fit into.
pub fn too_small(name: &str, [width, height]: [u32; 2], least: u32) -> Option<String> {
    (width.min(height) < least).then(|| {
        format!(
            "{name} has {width}x{height} pixels, but at least {least}x{least} are needed: \
             remove it or lower patch.size"
        )
    })
}

#[cfg(test)]
mod tests {
    use domain::seed::Seed;
    use std::collections::BTreeSet;

    use super::*;
    use crate::data::foreground::Mask;
    use crate::random::stream;

    fn search(picture: [u32; 2], size: u32) -> Search {
        let (anything, max_overlap, method) = (false, None, PatchMethod::AdaptiveGrid);
        Search { picture, size, coverage: 0.9, anything, max_overlap, method }
    }

    fn choose(search: &Search, wanted: usize) -> Vec<Window> {
        let mask = Coverage::new(&Mask::full(search.picture[0], search.picture[1]));
        search.choose(&mask, wanted, &mut stream(Seed(1), "windows", 0))
    }

    #[test]
    fn the_stride_is_as_coarse_as_the_number_allows() {
        // ALGORITHM 6: an endoscopic frame of 768 × 576 holds six at stride 236,
        // and 267 need a stride of about 25.
        let frame = search([768, 576], 256);
        assert!(choose(&frame, 6).iter().all(|window| window.stride == 236));
        let many = choose(&frame, 267);
        assert_eq!(many.len(), 267);
        assert!((20..=27).contains(&many[0].stride), "{}", many[0].stride);
        let places: BTreeSet<_> = many.iter().map(|window| (window.x, window.y)).collect();
        assert_eq!(places.len(), 267);
    }

    #[test]
    fn windows_overlap_no_more_than_they_may() {
        for (overlap, most) in [(20, 6), (0, 6), (128, 20)] {
            let chosen = choose(&Search { max_overlap: Some(overlap), ..search([768, 576], 256) }, 267);
            assert!(chosen.len() <= most, "{}", chosen.len());
            for (i, one) in chosen.iter().enumerate() {
                let apart = |other: &Window| one.x.abs_diff(other.x).max(one.y.abs_diff(other.y));
                assert!(chosen[..i].iter().all(|other| apart(other) >= 256 - overlap));
            }
        }
    }

    #[test]
    fn windows_may_be_chosen_at_random_among_the_same() {
        let grid = search([768, 576], 256);
        let random = Search { method: PatchMethod::Random, ..grid };
        let places = |windows: Vec<Window>| windows.iter().map(|at| (at.x, at.y)).collect::<BTreeSet<_>>();
        assert_eq!(places(choose(&grid, 6)), places(choose(&random, 6)));
        let [spread, drawn] = [&grid, &random].map(|search| places(choose(search, 3)));
        assert_eq!((spread.len(), drawn.len()), (3, 3));
        assert_eq!(drawn, places(choose(&random, 3)));
        // Corners first, where they are spread.
        assert!(choose(&grid, 30) != choose(&random, 30));
    }

    #[test]
    fn every_window_lies_in_the_picture_and_choice_repeats() {
        let frame = search([101, 67], 32);
        let chosen = choose(&frame, 40);
        assert_eq!(chosen.len(), 40);
        assert!(chosen.iter().all(|window| window.x + 32 <= 101 && window.y + 32 <= 67));
        assert_eq!(chosen, choose(&frame, 40));
    }

    #[test]
    fn a_picture_gives_what_it_has() {
        assert_eq!(choose(&search([32, 32], 32), 9).len(), 1);
        assert_eq!(choose(&search([31, 90], 32), 9), []);
        let dark = Coverage::new(&Mask::stone(&image::RgbImage::new(64, 64)));
        let mut search = search([64, 64], 32);
        let rng = || stream(Seed(1), "windows", 0);
        assert_eq!(search.choose(&dark, 5, &mut rng()), []);
        search.anything = true;
        assert_eq!(search.choose(&dark, 5, &mut rng()).len(), 5);
    }
}
