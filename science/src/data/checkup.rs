//! What one looks for in a data set before a study: every picture decoded, and which
//! of them are the same or look alike.

use std::path::{Path, PathBuf};

use domain::digest::Digest;
use domain::study::stage::Failure;
use image::RgbImage;

use super::foreground::grey;
use super::picture::open_rgb8;
use super::resize::{Filter, resize};

/// One picture, decoded in full.
#[derive(Clone, Debug)]
pub struct Look {
    /// The path of its file.
    pub path: PathBuf,
    /// blake3 of the file.
    pub digest: Digest,
    /// Width and height, upright.
    pub size: [u32; 2],
    /// Colour type as stored, for instance `Rgb8`.
    pub color: String,
    /// True if the file says that the picture has to be turned to stand upright.
    pub turned: bool,
    /// The picture, very small.
    pub thumbnail: Thumbnail,
}

impl Look {
    /// Opens a picture.
    ///
    /// # Errors
    /// As [`open_rgb8`].
    pub fn at(path: &Path) -> Result<Self, Failure> {
        let picture = open_rgb8(path)?;
        Ok(Self {
            path: path.to_owned(),
            digest: picture.digest,
            size: [picture.image.width(), picture.image.height()],
            color: picture.color,
            turned: picture.turned,
            thumbnail: Thumbnail::new(&picture.image),
        })
    }
}

/// Pixels along a side of a [`Thumbnail`].
const SIDE: u32 = 16;

/// Grey levels by which the thumbnails of two pictures differ on average, up to
/// which they look alike. Another size, another file type or a strong compression
/// moves them by less than one.
const ALIKE: u32 = 2;

/// A picture reduced to 16×16 grey levels: equal for copies of another size or file
/// type, not for turned, mirrored or cut ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thumbnail([u8; (SIDE * SIDE) as usize]);

impl Thumbnail {
    /// The thumbnail of any picture that has pixels.
    pub fn new(image: &RgbImage) -> Self {
        let small = grey(&resize(image, SIDE, SIDE, Filter::Bilinear));
        let mut levels = [0; (SIDE * SIDE) as usize];
        levels.copy_from_slice(small.as_raw());
        Self(levels)
    }

    /// Tells whether two pictures look alike.
    pub fn is_like(&self, other: &Thumbnail) -> bool {
        let apart: u32 = self.0.iter().zip(&other.0).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        apart <= ALIKE * SIDE * SIDE
    }
}

/// Pairs of pictures that look alike and are not the same file, as places in
/// `looks`, the first before the second.
pub fn alike(looks: &[Look]) -> Vec<(usize, usize)> {
    let pairs = (0..looks.len()).flat_map(|first| (first + 1..looks.len()).map(move |second| (first, second)));
    let like = |(first, second): &(usize, usize)| {
        looks[*first].digest != looks[*second].digest && looks[*first].thumbnail.is_like(&looks[*second].thumbnail)
    };
    pairs.filter(like).collect()
}

#[cfg(test)]
mod tests {
    use domain::seed::Seed;
    use image::{ImageFormat, Rgb};

    use super::*;
    use crate::data::phantom;

    #[test]
    fn copies_of_another_size_and_type_look_alike_and_other_stones_do_not() {
        let root = tempfile::tempdir().unwrap();
        let phantom = domain::study::experiment::Phantom { size_a: [160, 120], size_c: [80, 60], share: 0.2 };
        phantom::draw(&phantom, Seed(1), root.path(), &mut |_, _| {}).unwrap();
        let class = root.path().join("raw/A/SUR/Ia");
        let files = super::super::picture::files(&class).unwrap();
        let original = open_rgb8(&files[0]).unwrap().image;
        let copies = [root.path().join("copy.jpg"), root.path().join("half.png")];
        original.save_with_format(&copies[0], ImageFormat::Jpeg).unwrap();
        resize(&original, 80, 60, Filter::Lanczos).save(&copies[1]).unwrap();

        let paths = files.iter().take(6).chain(&copies);
        let looks: Vec<Look> = paths.map(|path| Look::at(path).unwrap()).collect();
        let last = looks.len() - 1;
        assert_eq!(alike(&looks), [(0, last - 1), (0, last), (last - 1, last)]);
    }

    #[test]
    fn a_picture_that_cannot_be_opened_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("broken.png");
        std::fs::write(&path, "no picture").unwrap();
        assert!(Look::at(&path).unwrap_err().message.contains("broken.png"));
        RgbImage::from_pixel(3, 2, Rgb([9; 3])).save(&path).unwrap();
        let look = Look::at(&path).unwrap();
        assert_eq!((look.size, look.color.as_str(), look.turned), ([3, 2], "Rgb8", false));
    }
}
