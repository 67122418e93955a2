//! Where the stone is: masks that keep background and padding out of patches
//! (ALGORITHM 6, step 3). Everything is linear in the number of pixels.

use std::ops::Range;

use image::{GrayImage, RgbImage};

use super::canvas::Placed;

/// Grey levels up to this belong to the black border of an endoscope.
const VIGNETTE_LEVEL: u8 = 16;

/// Share of the frame below which a largest component is a speck, not a stone.
const SPECK: f64 = 0.02;

/// Grey as OpenCV computes it: fixed point, exact (ALGORITHM 4.2).
pub fn grey(image: &RgbImage) -> GrayImage {
    let level = |pixel: &[u8]| {
        let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
        ((9798 * red + 19235 * green + 3735 * blue + 16384) >> 15) as u8
    };
    let pixels = image.as_raw().chunks_exact(3).map(level).collect();
    GrayImage::from_raw(image.width(), image.height(), pixels).unwrap_or_default()
}

/// Grey level above which a pixel shows something, 0..255. Fixed rather than
/// fitted to the picture: a fitted threshold finds two halves in an empty one.
const VISIBLE_ABOVE: u8 = 24;

/// Share of foreground below which a picture counts as empty.
pub const EMPTY_BELOW: f64 = 0.02;

/// Share of pixels that show something.
pub fn share(image: &RgbImage) -> f64 {
    let grey = grey(image);
    let bright = grey.iter().filter(|level| **level > VISIBLE_ABOVE).count();
    bright as f64 / grey.len().max(1) as f64
}

/// The grey level that best separates two groups (Otsu): a pixel above it is
/// bright. A flat picture gives its own level, so that nothing is bright.
pub fn otsu(grey: &[u8]) -> u8 {
    separate(grey).0
}

/// Otsu's threshold and how well it separates: the share of the variance that
/// lies between the two groups, 0 to 1.
fn separate(grey: &[u8]) -> (u8, f64) {
    let mut histogram = [0u64; 256];
    for level in grey {
        histogram[usize::from(*level)] += 1;
    }
    let total = grey.len() as f64;
    let moment = |power: i32| -> f64 {
        histogram.iter().enumerate().map(|(level, count)| (level as f64).powi(power) * *count as f64).sum()
    };
    let sum = moment(1);
    let variance = moment(2) * total - sum * sum;
    let (mut best, mut threshold) = (0.0, grey.iter().copied().max().unwrap_or(0));
    let (mut below, mut sum_below) = (0.0, 0.0);
    for (level, count) in histogram.iter().enumerate() {
        below += *count as f64;
        sum_below += level as f64 * *count as f64;
        let above = total - below;
        if below == 0.0 || above == 0.0 {
            continue;
        }
        let gap = sum_below / below - (sum - sum_below) / above;
        let between = below * above * gap * gap;
        if between > best {
            (best, threshold) = (between, level as u8);
        }
    }
    (threshold, if variance > 0.0 { best / variance } else { 0.0 })
}

/// A set of pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    width: usize,
    height: usize,
    /// Row by row.
    inside: Vec<bool>,
}

impl Mask {
    /// The mask of all pixels of a frame.
    pub fn full(width: u32, height: u32) -> Self {
        let [width, height] = [width as usize, height as usize];
        Self { width, height, inside: vec![true; width * height] }
    }

    /// The mask that somebody has drawn: all that is not black.
    pub fn drawn(image: &RgbImage) -> Self {
        let inside = image.as_raw().chunks_exact(3).map(|pixel| pixel != [0; 3]).collect();
        Self { width: image.width() as usize, height: image.height() as usize, inside }
    }

    /// The bright stone on a dark background: grey, smoothed against noise,
    /// above Otsu's threshold, largest component, holes filled.
    pub fn stone(image: &RgbImage) -> Self {
        Self::bright(image).stone_of_bright()
    }

    /// The mask of all that is bright: grey, smoothed against noise, above Otsu's threshold.
    pub fn bright(image: &RgbImage) -> Self {
        let [width, height] = [image.width() as usize, image.height() as usize];
        let grey = smooth(grey(image).into_raw(), width, (width.max(height) / 100).max(1));
        let threshold = otsu(&grey);
        let inside = grey.iter().map(|level| *level > threshold).collect();
        Self { width, height, inside }
    }

    /// The stone of what is [`Mask::bright`]: its largest component, holes filled.
    pub fn stone_of_bright(self) -> Self {
        self.largest().filled()
    }

    /// The mask of what an endoscope shows: the frame without the black that touches its
    /// border.
    pub fn scope(image: &RgbImage) -> Self {
        let [width, height] = [image.width() as usize, image.height() as usize];
        let dark = grey(image).into_raw().into_iter().map(|level| level <= VIGNETTE_LEVEL).collect();
        let border = Self { width, height, inside: dark }.touching_border();
        Self { width, height, inside: border.into_iter().map(|outside| !outside).collect() }
    }

    /// The stone of an endoscopic picture where it stands out: brighter than
    /// the tissue or less red, whichever separates better. The largest such
    /// component counts if it covers between a tenth and nine tenths of the
    /// scope; otherwise all of the scope does.
    pub fn stone_in_scope(image: &RgbImage) -> Self {
        let scope = Self::scope(image);
        let [width, height] = [scope.width, scope.height];
        let radius = (width.max(height) / 60).max(1);
        let bright = smooth(grey(image).into_raw(), width, radius);
        let [red, green, blue] =
            [0, 1, 2].map(|channel| smooth(image.iter().skip(channel).step_by(3).copied().collect(), width, radius));
        let pale: Vec<u8> = (0..bright.len())
            .map(|i| {
                let [red, green, blue] = [red[i], green[i], blue[i]].map(u32::from);
                // The share of green, a third of the scale where grey; noise of
                // dark pixels is held down.
                (512 * green / (red + green + blue + 24)).min(255) as u8
            })
            .collect();
        let mut best = (0.0, None);
        for feature in [bright, pale] {
            let seen: Vec<u8> =
                feature.iter().zip(&scope.inside).filter(|(_, inside)| **inside).map(|(level, _)| *level).collect();
            let (threshold, separation) = separate(&seen);
            let inside =
                feature.iter().zip(&scope.inside).map(|(level, inside)| *inside && *level > threshold).collect();
            let stone = Self { width, height, inside }.largest().filled();
            let share = stone.count() as f64 / scope.count().max(1) as f64;
            if (0.1..=0.9).contains(&share) && separation > best.0 {
                best = (separation, Some(stone));
            }
        }
        best.1.unwrap_or(scope)
    }

    /// The mask of a picture that was placed so on a canvas of that width and height:
    /// nearest pixels, nothing outside the picture.
    pub fn on_canvas(&self, placed: Placed, canvas: [u32; 2]) -> Self {
        let ([wide, high], [width, height]) = (placed.size.map(|side| side as usize), canvas.map(|side| side as usize));
        let [left, top, seen_width, seen_height] = placed.seen(canvas).map(|pixels| pixels as usize);
        // Where what is seen begins in the picture.
        let [first_x, first_y] = placed.at.map(|edge| (-edge).max(0) as usize);
        let mut inside = vec![false; width * height];
        for y in 0..seen_height {
            let line = &self.inside[(first_y + y) * self.height / high * self.width..][..self.width];
            let to = &mut inside[(top + y) * width + left..][..seen_width];
            to.iter_mut().enumerate().for_each(|(x, to)| *to = line[(first_x + x) * self.width / wide]);
        }
        Self { width, height, inside }
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width as u32
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height as u32
    }

    /// The number of pixels inside.
    pub fn count(&self) -> usize {
        self.inside.iter().filter(|inside| **inside).count()
    }

    /// The pixels row by row, true where one is inside.
    pub fn pixels(&self) -> &[bool] {
        &self.inside
    }

    /// Pixels of each component (by edges, not corners), from the top.
    pub fn components(&self) -> Vec<usize> {
        let sizes = Runs::new(self).sizes();
        sizes.into_iter().filter(|size| *size > 0).collect()
    }

    /// The mask of all pixels at most `radius` pixels away from one inside.
    pub fn dilated(&self, radius: usize) -> Self {
        let mut inside = vec![false; self.inside.len()];
        let reach = |dy: usize| ((radius * radius - dy * dy) as f64).sqrt() as usize;
        for (y, line) in self.inside.chunks_exact(self.width.max(1)).enumerate() {
            for row in y.saturating_sub(radius)..(y + radius + 1).min(self.height) {
                let (start, reach) = (row * self.width, reach(row.abs_diff(y)));
                for x in line.iter().enumerate().filter(|(_, inside)| **inside).map(|(x, _)| x) {
                    let end = (x + reach + 1).min(self.width);
                    inside[start + x.saturating_sub(reach)..start + end].fill(true);
                }
            }
        }
        Self { inside, ..*self }
    }

    /// Share of the frame that is inside, 0 to 1.
    pub fn share(&self) -> f64 {
        self.count() as f64 / self.inside.len().max(1) as f64
    }

    /// Tells whether the mask is too small to be a stone.
    pub fn is_speck(&self) -> bool {
        self.share() < SPECK
    }

    /// The largest component alone (by edges, not corners); of equal ones the first from the
    /// top.
    fn largest(self) -> Self {
        let runs = Runs::new(&self);
        let sizes = runs.sizes();
        let best = (0..sizes.len()).rev().max_by_key(|component| sizes[*component]);
        Self { inside: runs.pixels(|component| Some(component) == best), ..self }
    }

    /// The mask with everything that it surrounds.
    fn filled(mut self) -> Self {
        invert(&mut self.inside);
        self.inside = self.touching_border();
        invert(&mut self.inside);
        self
    }

    /// The pixels inside that are connected with the border of the frame.
    fn touching_border(&self) -> Vec<bool> {
        let runs = Runs::new(self);
        let mut reached = vec![false; runs.runs.len()];
        for (run, component) in runs.runs.iter().zip(&runs.components) {
            let row = run.start / self.width;
            let ends = run.start % self.width == 0 || run.end % self.width == 0;
            reached[*component] |= ends || row == 0 || row + 1 == self.height;
        }
        runs.pixels(|component| reached[component])
    }
}

fn invert(pixels: &mut [bool]) {
    pixels.iter_mut().for_each(|pixel| *pixel = !*pixel);
}

/// A mask as rows of pixels that lie side by side. Connecting these rather than pixels
/// makes a picture of twelve million a matter of milliseconds.
struct Runs {
    /// Pixels of the mask, row by row.
    len: usize,
    /// Ranges of pixels inside, none over the end of a row.
    runs: Vec<Range<usize>>,
    /// The component of each run: the number of its first run from the top.
    components: Vec<usize>,
}

impl Runs {
    fn new(mask: &Mask) -> Self {
        let (mut runs, mut parents): (Vec<Range<usize>>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut above = 0..0;
        for (y, line) in mask.inside.chunks_exact(mask.width.max(1)).enumerate() {
            let (first, offset) = (runs.len(), y * mask.width);
            let mut x = 0;
            while let Some(start) = line[x..].iter().position(|inside| *inside) {
                let start = x + start;
                let end = line[start..].iter().position(|inside| !inside).map_or(line.len(), |length| start + length);
                let run = offset + start..offset + end;
                // Runs of the row above that end before this one begins touch no later one.
                while above.start < above.end && runs[above.start].end + mask.width <= run.start {
                    above.start += 1;
                }
                parents.push(runs.len());
                for other in above.clone().take_while(|other| runs[*other].start + mask.width < run.end) {
                    join(&mut parents, runs.len(), other);
                }
                runs.push(run);
                x = end;
            }
            above = first..runs.len();
        }
        let components = (0..parents.len()).map(|run| root(&mut parents, run)).collect();
        Self { len: mask.inside.len(), runs, components }
    }

    /// Pixels of each component, at the place of its first run; 0 for other runs.
    fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.runs.len()];
        for (run, component) in self.runs.iter().zip(&self.components) {
            sizes[*component] += run.end - run.start;
        }
        sizes
    }

    /// The pixels of the components that are wanted.
    fn pixels(&self, wanted: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut pixels = vec![false; self.len];
        for (run, component) in self.runs.iter().zip(&self.components) {
            if wanted(*component) {
                pixels[run.clone()].fill(true);
            }
        }
        pixels
    }
}

/// The first run of the component that a run belongs to.
fn root(parents: &mut [usize], mut run: usize) -> usize {
    while parents[run] != run {
        parents[run] = parents[parents[run]];
        run = parents[run];
    }
    run
}

/// Makes two runs one component.
fn join(parents: &mut [usize], one: usize, other: usize) {
    let (one, other) = (root(parents, one), root(parents, other));
    parents[one.max(other)] = one.min(other);
}

/// Sums over rectangles of a mask in constant time.
pub struct Coverage {
    stride: usize,
    /// `sums[y][x]`: pixels inside above and left of (x, y).
    sums: Vec<u32>,
}

impl Coverage {
    /// Sums of a mask.
    pub fn new(mask: &Mask) -> Self {
        let stride = mask.width + 1;
        let mut sums = vec![0u32; stride * (mask.height + 1)];
        for y in 0..mask.height {
            let mut line = 0;
            for x in 0..mask.width {
                line += u32::from(mask.inside[y * mask.width + x]);
                sums[(y + 1) * stride + x + 1] = sums[y * stride + x + 1] + line;
            }
        }
        Self { stride, sums }
    }

    /// Share of the square of `size` pixels with its corner at (x, y) that is
    /// inside. The square has to lie in the frame.
    pub fn of_square(&self, x: u32, y: u32, size: u32) -> f64 {
        let at = |x: u32, y: u32| f64::from(self.sums[y as usize * self.stride + x as usize]);
        let count = at(x + size, y + size) - at(x, y + size) - at(x + size, y) + at(x, y);
        count / (f64::from(size) * f64::from(size))
    }
}

/// Mean over a box of `2 · radius + 1` pixels a side, first along x, then
/// along y, with the edge repeated.
fn smooth(pixels: Vec<u8>, width: usize, radius: usize) -> Vec<u8> {
    let height = pixels.len() / width.max(1);
    if width == 0 || height == 0 {
        return pixels;
    }
    let mean = Mean::by(2 * radius + 1);
    let mut wide = vec![0u8; pixels.len()];
    // The line with its edges repeated, so that no step has to ask where it is.
    let mut line = vec![0u8; width + 2 * radius + 1];
    for (to, from) in wide.chunks_exact_mut(width).zip(pixels.chunks_exact(width)) {
        line[..radius].fill(from[0]);
        line[radius..radius + width].copy_from_slice(from);
        line[radius + width..].fill(from[width - 1]);
        let mut sum: u32 = line[..=2 * radius].iter().map(|level| u32::from(*level)).sum();
        for ((value, leaves), enters) in to.iter_mut().zip(&line).zip(&line[2 * radius + 1..]) {
            *value = mean.floor(sum);
            sum = sum + u32::from(*enters) - u32::from(*leaves);
        }
    }
    // All columns at once, so that memory is walked in order.
    let line = |y: isize| {
        let y = y.clamp(0, height as isize - 1) as usize;
        &wide[y * width..(y + 1) * width]
    };
    let r = radius as isize;
    let mut sums = vec![0u32; width];
    for y in -r..=r {
        sums.iter_mut().zip(line(y)).for_each(|(sum, value)| *sum += u32::from(*value));
    }
    let mut result = pixels;
    for (y, to) in result.chunks_exact_mut(width).enumerate() {
        let (enters, leaves) = (line(y as isize + r + 1), line(y as isize - r));
        for (((value, sum), enters), leaves) in to.iter_mut().zip(&mut sums).zip(enters).zip(leaves) {
            *value = mean.floor(*sum);
            *sum = *sum + u32::from(*enters) - u32::from(*leaves);
        }
    }
    result
}

/// Division by a number of grey levels as a multiplication: a picture of the paper's
/// size takes 24 million of them.
#[derive(Clone, Copy)]
struct Mean {
    reciprocal: u64,
}

impl Mean {
    /// The division by so many levels.
    fn by(count: usize) -> Self {
        Self { reciprocal: (1u64 << 32).div_ceil(count as u64) }
    }

    /// The sum of the levels through their number, rounded down. Exact for up to 4096
    /// levels, as 255 · 4096² is less than 2³².
    fn floor(self, sum: u32) -> u8 {
        ((u64::from(sum) * self.reciprocal) >> 32) as u8
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// A bright ring of radius 10 to 20 around (40, 30), and a bright speck.
    fn ring() -> RgbImage {
        RgbImage::from_fn(80, 60, |x, y| {
            let radius = (f64::from(x) - 40.0).hypot(f64::from(y) - 30.0);
            let bright = (10.0..=20.0).contains(&radius) || (x < 4 && y < 4);
            Rgb(if bright { [200, 180, 90] } else { [8, 6, 5] })
        })
    }

    #[test]
    fn the_stone_is_the_largest_component_without_holes() {
        let mask = Mask::stone(&ring());
        let disc = std::f64::consts::PI * 400.0;
        assert!((mask.count() as f64 - disc).abs() < 0.1 * disc, "{}", mask.count());
        let coverage = Coverage::new(&mask);
        assert_eq!(coverage.of_square(36, 26, 8), 1.0);
        assert_eq!(coverage.of_square(0, 0, 8), 0.0);
    }

    #[test]
    fn a_mask_follows_its_picture_to_a_canvas() {
        let mask = Mask::stone(&ring());
        let moved = mask.on_canvas(Placed { size: [40, 30], at: [10, 10] }, [60, 50]);
        assert_eq!((moved.width(), moved.height()), (60, 50));
        assert!((moved.count() as f64 - mask.count() as f64 / 4.0).abs() < 0.1 * mask.count() as f64);
        // The middle of the stone, and a corner of the picture.
        let coverage = Coverage::new(&moved);
        assert_eq!((coverage.of_square(28, 23, 4), coverage.of_square(10, 10, 4)), (1.0, 0.0));
        assert_eq!(mask.on_canvas(Placed { size: [80, 60], at: [0, 0] }, [80, 60]), mask);
        // A canvas that shows the middle of the picture only.
        let cut = mask.on_canvas(Placed { size: [80, 60], at: [-20, -10] }, [40, 40]);
        assert_eq!((cut.width(), cut.height(), cut.count()), (40, 40, mask.count()));
    }

    #[test]
    fn components_are_connected_by_edges_and_the_first_of_equal_ones_is_taken() {
        let mask = |rows: &[&str]| {
            let inside = rows.iter().flat_map(|row| row.chars()).map(|pixel| pixel == '#').collect();
            Mask { width: rows[0].len(), height: rows.len(), inside }
        };
        // Two arms that meet at the bottom, beside two squares that touch at a corner.
        let arms = mask(&["#.#...", "#.#.##", "#.#.##", "###...", "....##", "..##.."]);
        assert_eq!(arms.largest(), mask(&["#.#...", "#.#...", "#.#...", "###...", "......", "......"]));
        let squares = mask(&["##....", "##....", "..##..", "..##..", "......"]);
        assert_eq!(squares.largest(), mask(&["##....", "##....", "......", "......", "......"]));
        let ring = mask(&["......", ".####.", ".#..#.", ".####.", "....#."]);
        assert_eq!(ring.filled(), mask(&["......", ".####.", ".####.", ".####.", "....#."]));
        assert_eq!(mask(&["..", ".."]).largest(), mask(&["..", ".."]));
        assert_eq!(mask(&["##", "##"]).filled(), mask(&["##", "##"]));
    }

    #[test]
    fn a_dilated_pixel_is_a_disc() {
        let pixel = |x: u32, y: u32| RgbImage::from_fn(21, 17, |i, j| Rgb([u8::from((i, j) == (x, y)); 3]));
        // Lattice points in a circle around one of them (Gauss): 5, 13, 29, 49, 81, 113, 149.
        for (radius, points) in [(0, 1), (1, 5), (2, 13), (3, 29), (7, 149)] {
            let disc = Mask::drawn(&pixel(10, 8)).dilated(radius);
            assert_eq!((disc.count(), disc.components()), (points, vec![points]), "radius {radius}");
        }
        // Of the disc around a corner one quarter is in the frame.
        assert_eq!(Mask::drawn(&pixel(0, 0)).dilated(7).count(), (149 - 15 - 15 + 1) / 4 + 15);
        assert_eq!(Mask::drawn(&RgbImage::new(4, 3)).dilated(7).count(), 0);
    }

    #[test]
    fn scope_excludes_the_black_border_only() {
        let image = RgbImage::from_fn(80, 60, |x, y| {
            let radius = (f64::from(x) - 40.0).hypot(f64::from(y) - 30.0);
            Rgb(if !(3.0..=28.0).contains(&radius) { [0; 3] } else { [120, 60, 50] })
        });
        let mask = Mask::scope(&image);
        let disc = std::f64::consts::PI * 28.0 * 28.0;
        assert!((mask.count() as f64 - disc).abs() < 0.03 * disc, "{}", mask.count());
        assert!(Mask::stone_in_scope(&image).share() > 0.3);
    }

    #[test]
    fn a_dark_stone_on_red_tissue_is_found_by_its_color() {
        let image = RgbImage::from_fn(96, 72, |x, y| {
            let radius = (f64::from(x) - 48.0).hypot(f64::from(y) - 36.0);
            let shade = (x * y % 23) as u8;
            Rgb(if radius < 24.0 { [110 + shade, 90 + shade, 60] } else { [150 + shade, 70, 60] })
        });
        let disc = std::f64::consts::PI * 24.0 * 24.0;
        let count = Mask::stone_in_scope(&image).count() as f64;
        assert!((count - disc).abs() < 0.1 * disc, "{count}");
    }

    #[test]
    fn smoothing_is_the_mean_rounded_down_with_edges_repeated() {
        for count in [1usize, 3, 85, 655, 1093, 4095] {
            let most = 255 * count as u32;
            let sums = (0..=most).step_by(7).chain((1..=255).flat_map(|n| [n * count as u32, n * count as u32 - 1]));
            assert!(sums.clone().all(|sum| u32::from(Mean::by(count).floor(sum)) == sum / count as u32), "{count}");
        }
        let (width, height, radius) = (9usize, 5usize, 2isize);
        let pixels: Vec<u8> = (0..45u32).map(|i| (i * i * 37 % 251) as u8).collect();
        let along = |pixels: &[u8], dx: isize, dy: isize| -> Vec<u8> {
            let mean = |i: usize| {
                let (x, y) = ((i % width) as isize, (i / width) as isize);
                let at = |k: isize| {
                    let x = (x + k * dx).clamp(0, width as isize - 1) as usize;
                    let y = (y + k * dy).clamp(0, height as isize - 1) as usize;
                    u32::from(pixels[y * width + x])
                };
                ((-radius..=radius).map(at).sum::<u32>() / 5) as u8
            };
            (0..45).map(mean).collect()
        };
        assert_eq!(smooth(pixels.clone(), width, 2), along(&along(&pixels, 1, 0), 0, 1));
        // Wider than the picture.
        assert_eq!(smooth(vec![0, 10, 20], 3, 4), [7, 10, 12]);
    }

    #[test]
    fn otsu_separates_two_levels_and_leaves_a_flat_picture_dark() {
        assert_eq!(otsu(&[10, 10, 10, 90, 90]), 10);
        assert_eq!(otsu(&[70; 9]), 70);
        assert!(Mask::stone(&RgbImage::from_pixel(9, 9, Rgb([70; 3]))).is_speck());
    }

    #[test]
    fn of_two_large_stones_one_is_taken() {
        let image = RgbImage::from_fn(2000, 1000, |x, y| Rgb([if x < 200 || y % 500 < 100 { 0 } else { 220 }; 3]));
        assert!((Mask::stone(&image).share() - 0.36).abs() < 0.02);
    }
}
