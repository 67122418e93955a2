//! The gate of the generators: whether a picture shows one central object of
//! plausible size on a dark background, as given real pictures do.
//!
//! Nothing here is learnt or tuned to a data set. Each picture is measured, and its limits
//! follow from what the real ones measure: see [`domain::study::records::gate`].

use std::collections::BTreeMap;

use domain::study::records::gate::{Limits, Traits};
use domain::study::results::Fault;
use image::RgbImage;

use super::foreground::{self, Mask};

/// A part of the foreground counts if it has this share of the largest part's pixels.
const PART: f64 = 0.25;

/// Measures a picture.
pub fn traits(image: &RgbImage) -> Traits {
    let bright = Mask::bright(image);
    let parts = bright.components();
    let large = PART * parts.iter().copied().max().unwrap_or(0) as f64;
    let object = bright.stone_of_bright();
    let [width, height] = [image.width() as usize, image.height() as usize];
    let grey = foreground::grey(image);
    let (mut levels, mut counts) = ([0.0; 2], [0.0; 2]);
    let (mut centre, mut edge, mut outermost) = ([0.0; 2], 0.0, 0.0);
    for (at, (level, inside)) in grey.iter().zip(object.pixels()).enumerate() {
        let (x, y) = (at % width, at / width);
        levels[usize::from(*inside)] += f64::from(*level);
        counts[usize::from(*inside)] += 1.0;
        if x == 0 || y == 0 || x + 1 == width || y + 1 == height {
            outermost += 1.0;
            edge += f64::from(u8::from(*inside));
        }
        if *inside {
            centre[0] += (x as f64 + 0.5) / width as f64 - 0.5;
            centre[1] += (y as f64 + 0.5) / height as f64 - 0.5;
        }
    }
    let mean = |side: usize| levels[side] / f64::max(counts[side], 1.0);
    let [dx, dy] = centre.map(|sum: f64| sum / f64::max(counts[1], 1.0));
    Traits {
        area: object.share(),
        parts: parts.iter().filter(|part| **part as f64 >= large).count() as u32,
        offset: dx.hypot(dy),
        edge: edge / f64::max(outermost, 1.0),
        background: mean(0),
        contrast: if counts[1] > 0.0 { mean(1) - mean(0) } else { 0.0 },
    }
}

/// Judges samples by the pictures that their generator learnt from.
#[derive(Clone, Debug)]
pub struct Gate {
    limits: Option<Limits>,
}

impl Gate {
    /// A gate by the traits of real pictures. Without any, nothing can be judged.
    pub fn new(reals: &[Traits]) -> Self {
        Self { limits: Limits::of(reals) }
    }

    /// The limits of the gate, if it has any.
    pub fn limits(&self) -> Option<&Limits> {
        self.limits.as_ref()
    }

    /// Tells whether a sample passes. One that cannot be judged does.
    pub fn passes(&self, image: &RgbImage) -> bool {
        self.limits.as_ref().is_none_or(|limits| limits.faults(&traits(image)).is_empty())
    }

    /// The faults of each sample that does not pass, by its place; absent if nothing can
    /// be judged.
    pub fn judge(&self, images: &[RgbImage]) -> Option<BTreeMap<usize, Vec<Fault>>> {
        let limits = self.limits.as_ref()?;
        let faults = images.iter().map(|image| limits.faults(&traits(image))).enumerate();
        Some(faults.filter(|(_, faults)| !faults.is_empty()).collect())
    }

    /// A description of samples in words.
    pub fn summary(&self, images: &[RgbImage]) -> String {
        let shares: f64 = images.iter().map(foreground::share).sum();
        let mean = 100.0 * shares / images.len().max(1) as f64;
        let passed = self.judge(images).map(|faults| images.len() - faults.len());
        let passed = passed.map_or_else(String::new, |passed| format!(", {passed} show one central object"));
        format!("{} samples, {mean:.0} % foreground on average{passed}", images.len())
    }
}

#[cfg(test)]
mod tests {
    use domain::seed::Seed;
    use domain::study::stone::{Class, Dataset, View};
    use image::{Rgb, imageops};

    use super::*;
    use crate::data::resize::{Filter, resize};
    use crate::data::{canvas, phantom};
    use crate::random;

    /// The sizes of the finest scale at the scales paper and tiny.
    const SIZES: [[u32; 2]; 2] = [[264, 200], [33, 25]];

    fn framed(image: &RgbImage, [width, height]: [u32; 2]) -> RgbImage {
        resize(&canvas::framed(image, [width, height], [0; 3]), width, height, Filter::Lanczos)
    }

    /// Drawn stones of one class as a generator learns from them.
    fn stones(view: View, class: Class, count: u32, size: [u32; 2]) -> Vec<RgbImage> {
        let stone = |index| phantom::stone(Dataset::A, view, class, [268, 178], Seed(3407), index);
        (0..count).map(|index| framed(&stone(index), size)).collect()
    }

    fn gate(reals: &[RgbImage]) -> Gate {
        Gate::new(&reals.iter().map(traits).collect::<Vec<_>>())
    }

    fn faults(gate: &Gate, image: &RgbImage) -> Vec<Fault> {
        gate.judge(std::slice::from_ref(image)).unwrap().remove(&0).unwrap_or_default()
    }

    /// How many pass of the real pictures of each group, each against the others of its group.
    fn against_the_others(groups: &[Vec<RgbImage>]) -> [usize; 2] {
        let mut passed = [0, 0];
        for group in groups {
            let traits: Vec<Traits> = group.iter().map(traits).collect();
            for (number, own) in traits.iter().enumerate() {
                let others: Vec<Traits> = [&traits[..number], &traits[number + 1..]].concat();
                let faults = Limits::of(&others).unwrap().faults(own);
                passed[0] += usize::from(faults.is_empty());
                passed[1] += 1;
            }
        }
        passed
    }

    /// Independent normal noise around the mean colour of a picture.
    fn noise(like: &RgbImage, deviation: f32, number: u64) -> RgbImage {
        let mean = [0, 1, 2].map(|channel: usize| {
            let levels: f64 = like.pixels().map(|pixel| f64::from(pixel[channel])).sum();
            (levels / like.pixels().len() as f64) as f32
        });
        let drawn = random::normals(&mut random::stream(Seed(5), "noise", number), 3 * like.pixels().len());
        let mut image = like.clone();
        for (pixel, drawn) in image.pixels_mut().zip(drawn.chunks_exact(3)) {
            pixel.0 = std::array::from_fn(|channel| (mean[channel] + deviation * drawn[channel]) as u8);
        }
        image
    }

    fn groups(count: u32, size: [u32; 2]) -> Vec<Vec<RgbImage>> {
        let views = View::ALL.into_iter().flat_map(|view| Dataset::A.classes().map(|class| (view, class)));
        views.map(|(view, class)| stones(view, class, count, size)).collect()
    }

    #[test]
    fn real_pictures_pass_against_each_other() {
        for (count, size) in [(4, SIZES[1]), (4, SIZES[0]), (8, SIZES[0])] {
            let [passed, all] = against_the_others(&groups(count, size));
            assert!(100 * passed >= 95 * all, "{passed} of {all} with {count} at {size:?}");
        }
    }

    #[test]
    #[cfg_attr(not(photos), ignore = "needs LITHOGEN_PHOTOS: a folder with photographs")]
    fn photographs_pass_against_each_other_and_noise_like_them_does_not() {
        let root = std::path::PathBuf::from(std::env::var("LITHOGEN_PHOTOS").unwrap()).join("raw/A");
        for size in SIZES {
            let of_class = |view: View, class: Class| {
                let files = crate::data::picture::files(&root.join(view.code()).join(class.code())).unwrap();
                let open = |path: &std::path::PathBuf| crate::data::picture::open_rgb8(path).unwrap().image;
                files.iter().take(8).map(|path| framed(&open(path), size)).collect::<Vec<_>>()
            };
            let views = View::ALL.into_iter().flat_map(|view| Dataset::A.classes().map(|class| (view, class)));
            let groups: Vec<Vec<RgbImage>> = views.map(|(view, class)| of_class(view, class)).collect();
            let [passed, all] = against_the_others(&groups);
            assert!(100 * passed >= 95 * all, "{passed} of {all} at {size:?}");
            for (number, group) in groups.iter().enumerate() {
                let gate = gate(group);
                let noises = group.iter().map(|real| noise(real, 40.0, number as u64));
                assert_eq!(noises.filter(|noise| gate.passes(noise)).count(), 0, "{size:?}");
            }
        }
    }

    #[test]
    fn coloured_noise_never_passes() {
        for size in SIZES {
            for (number, group) in groups(4, size).iter().enumerate() {
                let gate = gate(group);
                for deviation in [0.0, 5.0, 20.0, 60.0] {
                    let passed = (0..4).filter(|k| gate.passes(&noise(&group[0], deviation, 4 * number as u64 + k)));
                    assert_eq!(passed.count(), 0, "{size:?}, class {number}, deviation {deviation}");
                }
            }
        }
    }

    #[test]
    fn what_shows_no_central_object_fails_for_that_reason() {
        for size @ [width, height] in SIZES {
            let reals = stones(View::Sur, Class::Ia, 8, size);
            let gate = gate(&reals);
            let is = |image: &RgbImage, fault: Fault| faults(&gate, image).contains(&fault);
            let real = &reals[0];
            assert_eq!(faults(&gate, real), []);
            let dark = RgbImage::from_pixel(width, height, Rgb([7; 3]));
            assert!(is(&dark, Fault::Empty) && is(&noise(&dark, 3.0, 0), Fault::Empty));

            // The same stone twice, half a frame apart.
            let mut two = dark.clone();
            let half = resize(real, width / 2, height / 2, Filter::Lanczos);
            for x in [0, width / 2] {
                imageops::replace(&mut two, &half, i64::from(x), i64::from(height / 4));
            }
            assert!(is(&two, Fault::Several), "{:?}", traits(&two));

            // Moved so far that the edge of the frame cuts it.
            let mut cut = dark.clone();
            imageops::replace(&mut cut, real, i64::from(width) / 2, 0);
            assert!(is(&cut, Fault::OffCentre), "{:?}", traits(&cut));

            let mut small = dark.clone();
            let tiny = resize(real, width / 3, height / 3, Filter::Lanczos);
            imageops::replace(&mut small, &tiny, i64::from(width) / 3, i64::from(height) / 3);
            assert_eq!(faults(&gate, &small), [Fault::Size]);

            let mut bright = real.clone();
            bright.pixels_mut().for_each(|pixel| pixel.0 = pixel.0.map(|level| level.max(70)));
            assert!(is(&bright, Fault::Background));
        }
    }

    #[test]
    fn softened_enlarged_and_mirrored_real_pictures_pass() {
        let size @ [width, height] = SIZES[0];
        let reals = stones(View::Sec, Class::Ivc, 8, size);
        let gate = gate(&reals);
        for real in &reals {
            let soft = resize(&resize(real, width / 4, height / 4, Filter::Lanczos), width, height, Filter::Bicubic);
            let large = resize(real, 4 * width, 4 * height, Filter::Lanczos);
            for image in [&soft, &large, &imageops::flip_horizontal(real)] {
                assert_eq!(faults(&gate, image), [], "{:?}", traits(image));
            }
        }
    }

    #[test]
    fn traits_are_those_of_a_known_picture() {
        // A square of 20 of 80 by 10 of 40 pixels, five right of the middle.
        let inside = |x: u32, y: u32| (35..55).contains(&x) && (15..25).contains(&y);
        let image = RgbImage::from_fn(80, 40, |x, y| Rgb([if inside(x, y) { 110 } else { 10 }; 3]));
        let Traits { area, parts, offset, edge, background, contrast } = traits(&image);
        // Smoothing by the mean of 3 × 3 pixels takes the corners and nothing else off at half the height.
        assert!((area - 200.0 / 3200.0).abs() < 10.0 / 3200.0, "{area}");
        assert_eq!((parts, edge), (1, 0.0));
        assert!((offset - 5.0 / 80.0).abs() < 1e-9, "{offset}");
        assert!((background - 10.0).abs() < 0.5 && (contrast - 100.0).abs() < 3.0, "{background} {contrast}");
    }

    #[test]
    fn limits_widen_the_range_by_its_width_and_by_a_floor_at_least() {
        let real = |by: f64| Traits {
            area: 0.1 * by,
            parts: 1,
            offset: 0.01 * by,
            edge: 0.0,
            background: 10.0 * by,
            contrast: 50.0 * by,
        };
        let one = Limits::of(&[real(1.0)]).unwrap();
        assert!((one.area[0] - 0.05).abs() < 1e-12 && (one.area[1] - 0.2).abs() < 1e-12);
        assert!((one.offset - 0.06).abs() < 1e-12 && one.edge == 0.02 && one.background == 18.0);
        assert!((one.contrast - 25.0).abs() < 1e-12 && one.parts == 1);
        let several = Limits::of(&[real(2.0), real(6.0), real(3.0)]).unwrap();
        assert!((several.area[0] - 0.2 / 3.0).abs() < 1e-12 && (several.area[1] - 1.0).abs() < 1e-12);
        assert!((several.background - 100.0).abs() < 1e-12 && (several.contrast - 100.0 / 3.0).abs() < 1e-12);
        assert_eq!(Limits::of(&[]), None);
        assert!(Gate::new(&[]).passes(&RgbImage::new(4, 4)) && Gate::new(&[]).judge(&[]).is_none());
    }
}
