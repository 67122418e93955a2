//! `ingest`: scans, decodes and validates one view of a data set and sets images
//! apart for its diffusion models. Every picture is decoded in full here, so that no
//! later stage stumbles over a damaged one after hours of work.

use std::collections::BTreeMap;
use std::path::PathBuf;

use domain::study::records::{IDS_PER_CLASS, ImageList, ImageRecord, Record};
use domain::study::stage::{Failure, Ingest, InputName};
use domain::study::stone::Class;

use super::Attempt;
use crate::data::split::{self, Role};
use crate::data::{batch, picture, windows};
use crate::files;

/// One picture to look at.
struct Found {
    id: u32,
    class: Class,
    path: PathBuf,
    mask: Option<PathBuf>,
    stone: Option<u32>,
    role: Role,
}

/// Damaged pictures that a message lists by name.
const LISTED: usize = 10;

/// Runs the stage; see [`domain::study::stage::Stage::Ingest`] for inputs and outputs.
///
/// # Errors
/// `InvalidInput` if a class has no or too few images or more than can be numbered, if
/// images are damaged or smaller than `min_side`, or if a mask is damaged, empty or of
/// another size than its image; the message names them.
pub fn run(ingest: &Ingest, attempt: Attempt<'_>) -> Result<(), Failure> {
    let mut found = Vec::new();
    for (class, label) in ingest.dataset.classes().into_iter().zip(0..) {
        let files = picture::files(&attempt.folder.input(InputName::Raw(Some(class))))?;
        if files.len() > IDS_PER_CLASS as usize {
            let name = format!("{}/{}/{class}", ingest.dataset, ingest.view);
            let message = format!("class {name} has {} images, more than {IDS_PER_CLASS}: remove some", files.len());
            return Err(Failure::invalid_input(message));
        }
        let none = BTreeMap::new();
        let stones = split::stones_of(ingest.stones.get(&class).unwrap_or(&none), &files);
        let roles =
            split::roles(ingest.choice.as_ref(), class, &stones).ok_or_else(|| too_few(ingest, class, &stones))?;
        let masks = attempt.folder.input(InputName::Masks(class));
        let ids = label * IDS_PER_CLASS..;
        found.extend(files.into_iter().zip(stones).zip(roles).zip(ids).map(|(((path, stone), role), id)| {
            let mask = picture::mask_of(&masks, &path);
            Found { id, class, path, mask, stone, role }
        }));
    }
    // All damaged pictures are reported at once, not one per run.
    let looks = batch::map(&found, "image", attempt.monitor, |found| Ok(look(ingest, found)))?;
    let mut images = Vec::with_capacity(looks.len());
    let mut broken = Vec::new();
    for look in looks {
        match look {
            Ok(look) => images.push(look),
            Err(failure) => broken.push(failure),
        }
    }
    if let Some(first) = broken.first() {
        let mut message: Vec<String> = broken.iter().take(LISTED).map(|failure| failure.message.clone()).collect();
        if broken.len() > LISTED {
            message.push(format!("and {} more", broken.len() - LISTED));
        }
        return Err(Failure::new(first.code, message.join("\n")));
    }
    let list = ImageList { dataset: ingest.dataset, view: ingest.view, images };
    files::write(&attempt.folder.output(ImageList::FILE), &list)
}

/// Opens one picture, and its mask if it has one.
fn look(ingest: &Ingest, found: &Found) -> Result<ImageRecord, Failure> {
    let Found { id, class, path, mask, stone, role: Role { generator, testable } } = found;
    let picture = picture::open_rgb8(path)?;
    let (width, height) = picture.image.dimensions();
    if let Some(problem) = windows::too_small(&path.display().to_string(), [width, height], ingest.min_side) {
        return Err(Failure::invalid_input(problem));
    }
    if let Some(mask) = mask {
        picture::open_mask(mask, path, [width, height])?;
    }
    Ok(ImageRecord {
        id: *id,
        class: *class,
        file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        digest: picture.digest.to_string(),
        pixels: picture::digest(&picture.image).to_string(),
        width,
        height,
        color: picture.color,
        stone: *stone,
        masked: mask.is_some(),
        generator: *generator,
        testable: *testable,
    })
}

/// The failure of a class whose pictures of these stones cannot be split.
pub fn too_few(ingest: &Ingest, class: Class, stones: &[Option<u32>]) -> Failure {
    let Ingest { dataset, view, .. } = ingest;
    let (images, stones) = (stones.len(), split::count(stones));
    let (found, one, more) = if images == stones {
        (format!("{images} image(s)"), "one", "images")
    } else {
        (format!("{images} images of {stones} stone(s)"), "one stone", "images of other stones")
    };
    let name = format!("{dataset}/{view}/{class} ({})", class.mineral());
    let advice = match images {
        0 => "no images: put at least two PNG or JPEG files there".to_owned(),
        _ => format!("{found}, and {one} cannot be split: add {more} until there are {}", split::FEWEST),
    };
    Failure::invalid_input(format!("class {name} has {advice}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::study::experiment::Pick;
    use domain::study::stage::{Choice, FailureCode, Folder, Stage, Unwatched};
    use domain::study::stone::{Dataset, View};
    use image::{Rgb, RgbImage};

    use super::*;

    fn chosen(images: u32, pick: Pick, seed: u64) -> Ingest {
        let choice = Some(Choice { images, pick, seed: Seed(seed) });
        Ingest { dataset: Dataset::A, view: View::Sec, choice, min_side: 16, stones: Default::default() }
    }

    fn ingest() -> Ingest {
        chosen(3, Pick::RandomFromTrainSplit, 7)
    }

    /// Six classes of that many pictures of 20 × 16 pixels.
    fn given(images: usize) -> (tempfile::TempDir, Folder) {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        for class in Dataset::A.classes() {
            let input = folder.input(InputName::Raw(Some(class)));
            fs::create_dir_all(&input).unwrap();
            fs::write(input.join(".hidden.png"), "").unwrap();
            fs::write(input.join("notes.txt"), "no picture").unwrap();
            for i in 0..images {
                let image = RgbImage::from_pixel(20, 16, Rgb([i as u8; 3]));
                picture::save_png(&input.join(format!("{i}.png")), &image).unwrap();
            }
        }
        (root, folder)
    }

    fn run_it(folder: &Folder) -> Result<ImageList, Failure> {
        run_with(folder, ingest())
    }

    fn run_with(folder: &Folder, ingest: Ingest) -> Result<ImageList, Failure> {
        let attempt = Attempt { seed: Seed(7), folder, monitor: &mut Unwatched, device: &Device::flex(), memory: 0 };
        super::super::run(&Stage::Ingest(ingest), attempt)?;
        files::read(&folder.output(ImageList::FILE))
    }

    #[test]
    fn images_are_listed_by_label_and_name_and_set_apart_the_same_every_time() {
        let (_root, folder) = given(6);
        let list = run_it(&folder).unwrap();
        assert_eq!(list.images.len(), 36);
        let ids: Vec<u32> = list.images[5..8].iter().map(|image| image.id).collect();
        assert_eq!(ids, [5, IDS_PER_CLASS, IDS_PER_CLASS + 1]);
        assert_eq!((list.images[0].class, list.images[0].file.as_str()), (Class::Iva, "0.png"));
        for class in list.images.chunks(6) {
            assert_eq!(class.iter().filter(|image| image.generator).count(), 3);
            assert!(class.iter().all(|image| image.generator != image.testable));
        }
        assert_eq!(run_it(&folder).unwrap(), list);
        let first = picture::open_rgb8(&folder.input(InputName::Raw(Some(Class::Iva))).join("0.png")).unwrap().image;
        assert_eq!(list.images[0].pixels, picture::digest(&first).to_string());
        // What a class of C holds is for testing.
        let none = run_with(&folder, Ingest { choice: None, ..ingest() }).unwrap();
        assert!(none.images.iter().all(|image| image.testable && !image.generator));
    }

    #[test]
    fn generators_may_learn_from_test_images_where_that_is_asked_for() {
        let (_root, folder) = given(6);
        let with = |pick, seed| {
            let list = run_with(&folder, chosen(6, pick, seed)).unwrap();
            list.images.iter().map(|image| (image.generator, image.testable)).collect::<Vec<_>>()
        };
        let learnt = |pick, seed| {
            let all = with(pick, seed);
            [(true, false), (true, true)].map(|kind| all.iter().filter(|image| **image == kind).count())
        };
        assert_eq!(learnt(Pick::RandomFromTrainSplit, 3), [30, 0]);
        assert_eq!(learnt(Pick::RandomFromAll, 3), [0, 36]);
        let [one, same, other] = [3, 3, 4].map(|seed| with(Pick::RandomFromTrainSplit, seed));
        assert!(one == same && one != other);
    }

    #[test]
    fn a_stone_that_a_generator_learns_from_is_never_tested_and_one_alone_is_too_few() {
        let (_root, folder) = given(6);
        let with = |stones: [u32; 6]| {
            let named = (0..6).map(|i| (format!("{i}.png"), stones[i])).collect();
            run_with(&folder, Ingest { stones: [(Class::Ivd, named)].into(), ..ingest() })
        };
        let of_class = |list: ImageList| list.images.into_iter().filter(|image| image.class == Class::Ivd);
        let images: Vec<ImageRecord> = of_class(with([0, 0, 0, 1, 1, 1]).unwrap()).collect();
        assert_eq!(images.iter().map(|image| image.stone).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1].map(Some));
        let learnt: Vec<bool> = images.iter().map(|image| image.generator).collect();
        assert!(learnt == [true, true, true, false, false, false] || learnt == [false, false, false, true, true, true]);
        assert!(images.iter().all(|image| image.testable != image.generator));
        // Two of three stones: whichever they are, the third is left whole.
        let images: Vec<ImageRecord> = of_class(with([0, 0, 1, 1, 2, 2]).unwrap()).collect();
        assert_eq!(images.iter().filter(|image| image.generator).count(), 3);
        assert_eq!(images.iter().filter(|image| image.testable).count(), 2);
        let failure = with([4; 6]).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidInput);
        let part = "A/SEC/IVd (BRU) has 6 images of 1 stone(s), and one stone cannot be split";
        assert!(failure.message.contains(part), "{}", failure.message);
    }

    #[test]
    fn masks_are_opened_and_those_that_do_not_fit_are_named_with_their_pictures() {
        let (_root, folder) = given(4);
        let masks = folder.input(InputName::Masks(Class::Ivd));
        let mask = |name: &str, width, height, level| {
            picture::save_png_grey(
                &masks.join(name),
                &image::GrayImage::from_pixel(width, height, image::Luma([level])),
            )
        };
        mask("0.png", 20, 16, 1).unwrap();
        let list = run_it(&folder).unwrap();
        let masked: Vec<_> = list.images.iter().filter(|image| image.masked).collect();
        assert_eq!((masked.len(), masked[0].class, masked[0].file.as_str()), (1, Class::Ivd, "0.png"));
        mask("1.png", 16, 20, 1).unwrap();
        mask("2.png", 20, 16, 0).unwrap();
        fs::write(masks.join("3.png"), "no picture").unwrap();
        let failure = run_it(&folder).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidInput);
        for part in [
            "masks.IVd/1.png has 16x20 pixels and its picture",
            "raw.IVd/1.png has 20x16",
            "2.png is all black",
            "3.png is neither",
        ] {
            assert!(failure.message.contains(part), "{part}: {}", failure.message);
        }
    }

    #[test]
    fn every_bad_image_is_named_with_its_fault() {
        let (_root, folder) = given(4);
        let bad = folder.input(InputName::Raw(Some(Class::Ivd)));
        let bytes = fs::read(bad.join("0.png")).unwrap();
        fs::write(bad.join("0.png"), &bytes[..bytes.len() / 2]).unwrap();
        fs::write(bad.join("1.jpg"), b"").unwrap();
        picture::save_png(&bad.join("2.png"), &RgbImage::new(20, 15)).unwrap();
        let failure = run_it(&folder).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidInput);
        for part in ["0.png is truncated", "1.jpg is empty", "2.png has 20x15 pixels, but at least 16x16"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[test]
    fn a_class_with_too_few_images_is_named() {
        for (images, part) in [(0, "no images"), (1, "one cannot be split")] {
            let (_root, folder) = given(5);
            for i in images..5 {
                fs::remove_file(folder.input(InputName::Raw(Some(Class::Ia))).join(format!("{i}.png"))).unwrap();
            }
            let failure = run_it(&folder).unwrap_err();
            assert_eq!(failure.code, FailureCode::InvalidInput);
            assert!(failure.message.contains("A/SEC/Ia (WW)"), "{}", failure.message);
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }
}
