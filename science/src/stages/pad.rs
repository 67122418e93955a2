//! `pad`: brings the training pictures of one diffusion model to one canvas
//! (ALGORITHM 1).

use domain::experiment::{Fill, Pad};
use domain::stage::Failure;
use domain::stone::Class;
use image::{GrayImage, Luma, Rgb, RgbImage, imageops};

use super::Attempt;
use crate::data::batch;
use crate::data::picture::{open_rgb8, save_png, save_png_grey};
use crate::data::resize::{Filter, resize};
use crate::records::{self, ImageList, ImageRecord, ImageRef, PadRecord};

/// Runs the stage; see [`domain::stage::Stage::Pad`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if no image of the class is set apart for the model or one
/// cannot be opened.
pub fn run(class: Class, pad: &Pad, attempt: Attempt<'_>) -> Result<(), Failure> {
    let list: ImageList = records::read(&attempt.folder.input("ingest").join("images.json"))?;
    let images: Vec<(usize, ImageRecord)> =
        list.images.into_iter().filter(|image| image.generator && image.class == class).enumerate().collect();
    if images.is_empty() {
        return Err(Failure::invalid_input(format!(
            "class {}/{}/{class} has no image set apart for its diffusion model: add images",
            list.dataset, list.view
        )));
    }
    let sizes: Vec<[u32; 2]> = images.iter().map(|(_, image)| [image.width, image.height]).collect();
    let target = pad.target.size(&sizes);
    let folder = attempt.folder;
    let black = batch::map(&images, "canvas", attempt.monitor, |(number, image)| {
        let picture = open_rgb8(&folder.input("raw").join(&image.file))?;
        let (canvas, mask) = paste(picture.image, target, pad.fill);
        save_png(&folder.output(&format!("images/{number:03}.png")), &canvas)?;
        save_png_grey(&folder.output(&format!("masks/{number:03}.png")), &mask)?;
        let black = canvas.pixels().filter(|pixel| pixel.0 == [0; 3]).count();
        Ok(black as f64 / canvas.pixels().len() as f64)
    })?;
    let named =
        |(_, image): (usize, ImageRecord)| ImageRef { class, id: image.id, file: image.file, digest: image.pixels };
    let images = images.into_iter().map(named).collect();
    records::write(&folder.output("pad.json"), &PadRecord { class, canvas: target, images, black })
}

/// The canvas with the picture in its middle, scaled down if it does not fit,
/// and the mask of where the picture is (255).
pub(super) fn paste(picture: RgbImage, [width, height]: [u32; 2], fill: Fill) -> (RgbImage, GrayImage) {
    let [wide, high] = fitted(picture.dimensions().into(), [width, height]);
    let picture = match picture.dimensions() == (wide, high) {
        true => picture,
        false => resize(&picture, wide, high, Filter::Lanczos),
    };
    let fill = match fill {
        Fill::Black => Rgb([0; 3]),
        Fill::BorderMedian => border_median(&picture),
        Fill::Rgb(color) => Rgb(color),
    };
    let mut canvas = RgbImage::from_pixel(width, height, fill);
    let mut mask = GrayImage::new(width, height);
    let x = i64::from((width - picture.width()) / 2);
    let y = i64::from((height - picture.height()) / 2);
    imageops::replace(&mut canvas, &picture, x, y);
    let inside = GrayImage::from_pixel(picture.width(), picture.height(), Luma([255]));
    imageops::replace(&mut mask, &inside, x, y);
    (canvas, mask)
}

/// Width and height of a picture on a canvas: its own, or scaled down to fit with its
/// proportions.
pub(super) fn fitted(picture: [u32; 2], canvas: [u32; 2]) -> [u32; 2] {
    let share = |side: usize| f64::from(canvas[side]) / f64::from(picture[side]);
    let scale = share(0).min(share(1)).min(1.0);
    [0, 1].map(|side| ((f64::from(picture[side]) * scale).round() as u32).clamp(1, canvas[side]))
}

/// The median of the outermost pixels, per channel.
fn border_median(picture: &RgbImage) -> Rgb<u8> {
    let (width, height) = picture.dimensions();
    Rgb([0, 1, 2].map(|channel: usize| {
        let mut levels: Vec<u8> = picture
            .enumerate_pixels()
            .filter(|(x, y, _)| *x == 0 || *y == 0 || x + 1 == width || y + 1 == height)
            .map(|(_, _, pixel)| pixel[channel])
            .collect();
        levels.sort_unstable();
        levels.get(levels.len() / 2).copied().unwrap_or(0)
    }))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::stage::{Folder, Unwatched};

    use super::*;

    #[test]
    fn a_small_picture_is_centred_and_a_large_one_fits() {
        let white = |width, height| RgbImage::from_pixel(width, height, Rgb([255; 3]));
        let (canvas, mask) = paste(white(4, 4), [20, 10], Fill::Rgb([1, 2, 3]));
        assert_eq!(canvas[(0, 0)].0, [1, 2, 3]);
        assert_eq!(canvas.dimensions(), (20, 10));
        assert_eq!(mask.enumerate_pixels().find(|(_, _, level)| level[0] == 255).map(|(x, y, _)| (x, y)), Some((8, 3)));
        assert_eq!(mask.iter().filter(|level| **level == 255).count(), 16);
        let (_, mask) = paste(white(100, 200), [20, 10], Fill::Black);
        assert_eq!(mask.iter().filter(|level| **level == 255).count(), 5 * 10);
    }

    #[test]
    fn the_papers_canvas_has_a_mask_of_its_real_pixels() {
        let real = |width, height| {
            let picture = RgbImage::from_pixel(width, height, Rgb([90; 3]));
            let (canvas, mask) = paste(picture, Pad::default().target.nominal(), Fill::Black);
            assert_eq!((canvas.dimensions(), mask.dimensions()), ((4288, 2848), (4288, 2848)));
            let shown = canvas.pixels().filter(|pixel| pixel.0 != [0; 3]).count();
            assert_eq!(mask.iter().filter(|level| **level == 255).count(), shown);
            shown
        };
        assert_eq!([real(3000, 2000), real(4288, 2848)], [6_000_000, 4288 * 2848]);
        // 6000 × 4000 are scaled by 2848 / 4000.
        assert_eq!(real(6000, 4000), 4272 * 2848);
    }

    #[test]
    fn a_folder_of_many_sizes_and_kinds_becomes_canvases_of_one() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let raw = folder.input("raw");
        std::fs::create_dir_all(&raw).unwrap();
        let grey = image::DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(30, 40, Luma([0x8080])));
        grey.save(raw.join("deep.png")).unwrap();
        let glass = image::RgbaImage::from_pixel(17, 9, image::Rgba([200, 100, 0, 128]));
        glass.save(raw.join("glass.png")).unwrap();
        for (name, bytes) in [
            ("cmyk.jpg", &include_bytes!("../data/fixtures/cmyk.jpg")[..]),
            ("palette.png", include_bytes!("../data/fixtures/palette.png")),
            ("rotated.jpg", include_bytes!("../data/fixtures/rotated.jpg")),
        ] {
            std::fs::write(raw.join(name), bytes).unwrap();
        }
        let record = |file: &str| {
            serde_json::json!({ "id": 0, "class": "Ia", "file": file, "digest": "", "pixels": "", "width": 1,
                "height": 1, "color": "", "generator": true, "testable": false })
        };
        let names = ["cmyk.jpg", "deep.png", "glass.png", "palette.png", "rotated.jpg"];
        let images: Vec<_> = names.into_iter().map(record).collect();
        let list = serde_json::json!({ "dataset": "A", "view": "SUR", "images": images });
        records::write(&folder.input("ingest").join("images.json"), &list).unwrap();
        let attempt =
            Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
        run(Class::Ia, &Pad { target: [26, 20].into(), fill: Fill::Black }, attempt).unwrap();
        let pad = Folder::new(root.path()).output("");
        let canvases = crate::data::folder::pictures(&pad).unwrap();
        assert_eq!(canvases.iter().map(RgbImage::dimensions).collect::<Vec<_>>(), [(26, 20); 5]);
        assert_eq!((canvases[1][(13, 10)].0, canvases[2][(13, 10)].0), ([128; 3], [100, 50, 0]));
        let sinddm = domain::experiment::Sinddm { finest: [26, 20].into(), coarsest: Some(12), ..Default::default() };
        assert_eq!(crate::data::pyramid::Pyramid::new(&canvases, &sinddm).unwrap().scales[0].images.len(), 5);
    }

    #[test]
    fn the_border_fills_the_canvas_where_asked() {
        let mut picture = RgbImage::from_pixel(5, 5, Rgb([30, 20, 10]));
        picture.put_pixel(0, 0, Rgb([255; 3]));
        assert_eq!(paste(picture, [9, 9], Fill::BorderMedian).0.get_pixel(0, 0), &Rgb([30, 20, 10]));
    }
}
