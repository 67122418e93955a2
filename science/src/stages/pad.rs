//! `pad`: chooses pictures of one class and brings them to the canvas that its diffusion
//! model learns (ALGORITHM 1).

use std::path::PathBuf;

use domain::study::experiment::Canvas as Size;
use domain::study::records::{IDS_PER_CLASS, ImageRef, PadRecord, Record};
use domain::study::stage::{Canvases, Failure, InputName, picture_path};
use domain::study::stone::Dataset;

use super::Attempt;
use crate::data::{batch, canvas, picture, split};
use crate::files;

/// Runs the stage; see [`domain::study::stage::Stage::Pad`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if the class has too few images or one cannot be opened.
pub fn run(canvases: &Canvases, attempt: Attempt<'_>) -> Result<(), Failure> {
    let Canvases { class, pad, frame, choice, stones } = canvases;
    let files = picture::files(&attempt.folder.input(InputName::Raw(None)))?;
    let stones = split::stones_of(stones, &files);
    let wanted: Vec<bool> = match choice {
        None => vec![true; files.len()],
        Some(choice) => {
            let roles = split::roles(Some(choice), *class, &stones).ok_or_else(|| {
                let (images, stones) = (stones.len(), split::count(&stones));
                let message = format!("class {class} of A has {images} image(s) of {stones} stone(s)");
                Failure::invalid_input(format!("{message}: add images of other stones until there are two"))
            })?;
            roles.iter().map(|role| role.generator).collect()
        }
    };
    let numbered = files.into_iter().zip(0..).zip(wanted);
    let images: Vec<(PathBuf, u32)> = numbered.filter(|(_, wanted)| *wanted).map(|(image, _)| image).collect();
    let target = match &pad.target {
        Size::Size(size) => *size,
        rule => {
            let size = |(path, _): &(PathBuf, u32)| Ok(picture::open_rgb8(path)?.image.dimensions().into());
            rule.size(&batch::map(&images, "size", attempt.monitor, size)?)
        }
    };
    let label = Dataset::A.classes().iter().zip(0..).find(|(known, _)| *known == class).map_or(0, |(_, label)| label);
    let numbered: Vec<_> = images.iter().enumerate().collect();
    let folder = attempt.folder;
    let made = batch::map(&numbered, "canvas", attempt.monitor, |(number, (path, place))| {
        let picture = picture::open_rgb8(path)?.image;
        let image = ImageRef {
            class: *class,
            id: label * IDS_PER_CLASS + place,
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            digest: picture::digest(&picture).to_string(),
        };
        let canvas = canvas::paste(picture, target, *frame, pad);
        picture::save_png(&folder.output(&picture_path(*number)), &canvas.image)?;
        let black = canvas.image.pixels().filter(|pixel| pixel.0 == [0; 3]).count();
        Ok((image, canvas.place, canvas.color, black as f64 / canvas.image.pixels().len() as f64))
    })?;
    let record = PadRecord {
        class: *class,
        canvas: target,
        pad: pad.clone(),
        images: made.iter().map(|(image, ..)| image.clone()).collect(),
        places: made.iter().map(|(_, place, ..)| *place).collect(),
        colors: made.iter().map(|(_, _, color, _)| *color).collect(),
        black: made.iter().map(|(.., black)| *black).collect(),
    };
    files::write(&folder.output(PadRecord::FILE), &record)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::study::experiment::{Fill, Pad, Pick};
    use domain::study::stage::{Choice, Folder, Unwatched};
    use domain::study::stone::Class;
    use image::{Luma, Rgb, RgbImage};

    use super::*;

    fn run_it(folder: &Folder, canvases: &Canvases) -> PadRecord {
        let attempt = Attempt { seed: Seed(1), folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
        run(canvases, attempt).unwrap();
        files::read(&folder.output(PadRecord::FILE)).unwrap()
    }

    fn all(pad: Pad, frame: Option<[u32; 2]>) -> Canvases {
        Canvases { class: Class::Ia, pad, frame, choice: None, stones: BTreeMap::new() }
    }

    #[test]
    fn a_folder_of_many_sizes_and_kinds_becomes_canvases_of_one() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let raw = folder.input(InputName::Raw(None));
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
        let record = run_it(&folder, &all(Pad { target: [26, 20].into(), ..Pad::default() }, None));
        let canvases = crate::data::folder::pictures(&folder.output("")).unwrap();
        assert_eq!(canvases.iter().map(RgbImage::dimensions).collect::<Vec<_>>(), [(26, 20); 5]);
        assert_eq!((canvases[1][(13, 10)].0, canvases[2][(13, 10)].0), ([128; 3], [100, 50, 0]));
        let files: Vec<&str> = record.images.iter().map(|image| image.file.as_str()).collect();
        assert_eq!(files, ["cmyk.jpg", "deep.png", "glass.png", "palette.png", "rotated.jpg"]);
        // Ia is the fifth class of A.
        assert_eq!((record.images[2].id, record.places[2]), (4 * IDS_PER_CLASS + 2, [4, 5, 17, 9]));
        let sinddm =
            domain::study::experiment::Sinddm { finest: [26, 20].into(), coarsest: Some(12), ..Default::default() };
        assert_eq!(crate::data::pyramid::Pyramid::new(&canvases, &sinddm).unwrap().scales[0].images.len(), 5);
        // By a rule, the canvas holds the largest picture, turned as a person sees it.
        let auto: Pad = serde_json::from_str(r#"{"target": "auto_max"}"#).unwrap();
        let sizes = canvases_of(&raw);
        let expected = [0, 1].map(|side| sizes.iter().map(|size| size[side]).max().unwrap());
        assert_eq!(run_it(&folder, &all(auto, None)).canvas, expected);
    }

    fn canvases_of(raw: &std::path::Path) -> Vec<[u32; 2]> {
        let open = |path: &PathBuf| picture::open_rgb8(path).unwrap().image.dimensions().into();
        picture::files(raw).unwrap().iter().map(open).collect()
    }

    #[test]
    fn the_choice_depends_on_its_seed_and_the_class_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        for number in 0..11 {
            let image = RgbImage::from_pixel(20, 16, Rgb([number; 3]));
            picture::save_png(&folder.input(InputName::Raw(None)).join(format!("{number:02}.png")), &image).unwrap();
        }
        let chosen = |images, seed| {
            let choice = Choice { images, pick: Pick::RandomFromTrainSplit, seed: Seed(seed) };
            let canvases =
                Canvases { choice: Some(choice), ..all(Pad { target: [24, 24].into(), ..Pad::default() }, None) };
            let record = run_it(&folder, &canvases);
            record.images.into_iter().map(|image| image.file).collect::<Vec<_>>()
        };
        let eight = chosen(8, 5);
        assert_eq!((eight.len(), chosen(8, 5)), (8, eight.clone()));
        assert_ne!(chosen(8, 6), eight);
        // Fewer are the first of the same order; one is left to test in any case.
        assert!(chosen(3, 5).iter().all(|file| eight.contains(file)));
        assert_eq!(chosen(50, 5).len(), 10);
    }

    #[test]
    fn the_padding_is_as_wide_and_as_coloured_as_asked() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        picture::save_png(
            &folder.input(InputName::Raw(None)).join("a.png"),
            &RgbImage::from_pixel(20, 10, Rgb([200; 3])),
        )
        .unwrap();
        let pad = Pad { target: [20, 10].into(), fill: Fill::Rgb([0, 0, 9]), ..Pad::default() };
        let record = run_it(&folder, &all(pad, Some([10, 10])));
        assert_eq!((record.canvas, record.places[0], record.colors[0]), ([20, 10], [0, 5, 20, 10], [0, 0, 9]));
        let canvas = picture::open_rgb8(&folder.output("images/000.png")).unwrap().image;
        assert_eq!((canvas.dimensions(), canvas[(0, 4)].0, record.black[0]), ((20, 20), [0, 0, 9], 0.0));
    }
}
