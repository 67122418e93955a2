//! Picture files: anything the study is given becomes 8-bit RGB in the
//! orientation a person sees; what the study writes is PNG, equal bytes for
//! equal pixels.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use domain::digest::Digest;
use domain::study::experiment::SIDE_MAX;
use domain::study::stage::Failure;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::metadata::Orientation;
use image::{
    DynamicImage, ExtendedColorType, GrayImage, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader,
    Limits, Rgb, RgbImage, imageops,
};

use super::foreground::Mask;
use super::resize::{Filter, resize};
use crate::files;

/// The largest number of bytes that decoding one picture may take, and the largest file read.
const MAX_BYTES: u64 = 2 << 30;

/// A picture with what is known of its file.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The pixels, upright.
    pub image: RgbImage,
    /// Colour type as stored, for instance `Rgb8`.
    pub color: String,
    /// blake3 of the file.
    pub digest: Digest,
    /// True if the file says that the picture has to be turned or mirrored to stand upright.
    pub turned: bool,
}

/// Opens a PNG or JPEG file as 8-bit RGB. The EXIF orientation is applied;
/// palettes, grey and 16 bits are converted; what is transparent is laid on black.
///
/// # Errors
/// `InvalidInput` naming the file if it is no picture, is truncated or damaged,
/// or needs more than 32768 pixels a side or 2 GiB; `Storage` if it cannot be read.
pub fn open_rgb8(path: &Path) -> Result<Picture, Failure> {
    let size = fs::metadata(path).map_err(|error| Failure::io("read", path, &error))?.len();
    if size > MAX_BYTES {
        return Err(refuse(path, "is larger than 2 GiB; shrink or remove it"));
    }
    let bytes = fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    decode(path, &bytes)
}

/// The mask of a picture in a folder of them, if it has one: of the same name, ending
/// in png.
pub fn mask_of(masks: &Path, picture: &Path) -> Option<PathBuf> {
    let mask = masks.join(Path::new(picture.file_name()?).with_extension("png"));
    mask.is_file().then_some(mask)
}

/// Opens the mask of a picture of that width and height: the stone is where it is not
/// black.
///
/// # Errors
/// As [`open_rgb8`]; `InvalidInput` naming both files if they differ in size, and if
/// all of it is black.
pub fn open_mask(path: &Path, picture: &Path, [wide, high]: [u32; 2]) -> Result<Mask, Failure> {
    let image = open_rgb8(path)?.image;
    let (width, height) = image.dimensions();
    if [width, height] != [wide, high] {
        return Err(refuse(
            path,
            &format!(
                "has {width}x{height} pixels and its picture {} has {wide}x{high}; make them of one size or remove \
                 the mask",
                picture.display()
            ),
        ));
    }
    let mask = Mask::drawn(&image);
    match mask.count() {
        0 => Err(refuse(path, "is all black, so it shows no stone; draw it or remove the mask")),
        _ => Ok(mask),
    }
}

/// Names what a picture shows: blake3 of width and height, each as four bytes, the
/// lowest first, and of its pixels. Copies under another name, and those that were
/// encoded again without loss, have the same.
pub fn digest(image: &RgbImage) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&image.width().to_le_bytes()).update(&image.height().to_le_bytes()).update(image.as_raw());
    hasher.finalize().into()
}

/// Width and height of a picture as stored, without decoding it.
///
/// # Errors
/// `InvalidInput` naming the file if it is no picture.
pub fn size(path: &Path) -> Result<[u32; 2], Failure> {
    image::image_dimensions(path).map(|(width, height)| [width, height]).map_err(|error| broken(path, error))
}

/// [`open_rgb8`] on the bytes of a file.
fn decode(path: &Path, bytes: &[u8]) -> Result<Picture, Failure> {
    if bytes.is_empty() {
        return Err(refuse(path, "is empty; replace or remove it"));
    }
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(MAX_BYTES);
    // By content: names lie.
    let format = image::guess_format(bytes).ok();
    let mut reader = match format {
        Some(format @ (ImageFormat::Png | ImageFormat::Jpeg)) => ImageReader::with_format(Cursor::new(bytes), format),
        _ => return Err(refuse(path, "is neither a PNG nor a JPEG file; convert or remove it")),
    };
    if format == Some(ImageFormat::Png) && !palette_is_whole(bytes) {
        return Err(refuse(path, "is truncated or damaged: its palette ends within a colour; replace or remove it"));
    }
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|error| broken(path, error))?;
    decoder.set_limits(limits).map_err(|error| broken(path, error))?;
    if decoder.total_bytes() > MAX_BYTES {
        let (width, height) = decoder.dimensions();
        return Err(refuse(path, &format!("has {width}x{height} pixels, too many to decode in 2 GiB; shrink it")));
    }
    let color = format!("{:?}", decoder.original_color_type());
    let orientation = decoder.orientation().map_err(|error| broken(path, error))?;
    if format == Some(ImageFormat::Jpeg) && !jpeg_ends(bytes) {
        return Err(refuse(path, "is truncated or damaged: the end of the picture is missing; replace or remove it"));
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| broken(path, error))?;
    image.apply_orientation(orientation);
    let turned = orientation != Orientation::NoTransforms;
    Ok(Picture { image: on_black(image), color, digest: Digest::of(bytes), turned })
}

fn refuse(path: &Path, why: &str) -> Failure {
    Failure::invalid_input(format!("{} {why}", path.display()))
}

fn broken(path: &Path, error: ImageError) -> Failure {
    match error {
        ImageError::Limits(error) => refuse(
            path,
            &format!("is too large to open ({error}): at most {SIDE_MAX} pixels a side and 2 GiB; shrink or remove it"),
        ),
        ImageError::Unsupported(error) => refuse(path, &format!("cannot be opened: {error}; convert it to 8-bit RGB")),
        error => refuse(path, &format!("is truncated or damaged: {error}; replace or remove it")),
    }
}

/// Tells whether the last scan of a JPEG file is followed by an end marker. The decoder paints
/// what is missing grey and says nothing. An embedded thumbnail has markers of its own, but
/// before the last scan.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xFF, marker]);
    last(0xD9) > last(0xDA)
}

/// Tells whether a PNG file's palette has whole colours. The decoder (png 0.18.1) panics at one
/// that has not.
fn palette_is_whole(png: &[u8]) -> bool {
    let mut rest = png.get(8..).unwrap_or_default();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        if after.starts_with(b"PLTE") {
            return length.is_multiple_of(3);
        }
        // Its kind and its checksum have four bytes each.
        rest = after.get(length.saturating_add(8)..).unwrap_or_default();
    }
    true
}

/// To 8-bit RGB, alpha laid on black.
fn on_black(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0;
        let lay = |value: u8| ((u16::from(value) * u16::from(alpha) + 127) / 255) as u8;
        Rgb([lay(red), lay(green), lay(blue)])
    })
}

/// Writes an RGB picture as PNG, its folders included.
///
/// # Errors
/// If the file cannot be written.
pub fn save_png(path: &Path, image: &RgbImage) -> Result<(), Failure> {
    save(path, image, image.width(), image.height(), ExtendedColorType::Rgb8)
}

/// Writes a grey picture as PNG, its folders included.
///
/// # Errors
/// If the file cannot be written.
pub fn save_png_grey(path: &Path, image: &GrayImage) -> Result<(), Failure> {
    save(path, image, image.width(), image.height(), ExtendedColorType::L8)
}

fn save(path: &Path, pixels: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    // Fast: a study writes gigabytes of them and reads each a few times.
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive)
        .write_image(pixels, width, height, color)
        .map_err(|error| Failure::invalid_input(format!("cannot encode {}: {error}", path.display())))?;
    files::write_bytes(path, &bytes)
}

/// The pictures of a folder, by name: files that end in png, jpg or jpeg, in
/// any case. Hidden files and all others are passed over.
///
/// # Errors
/// `Storage` if the folder cannot be read; `InvalidInput` if a name is not UTF-8.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::io("read", folder, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| Failure::io("read", folder, &error))?.path();
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        if !matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg")) || !path.is_file() {
            continue;
        }
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.starts_with('.') => (),
            Some(_) => files.push(path),
            None => return Err(refuse(&path, "has a name that is not UTF-8; rename it")),
        }
    }
    files.sort();
    Ok(files)
}

/// Pictures side by side, row by row, each scaled to fit a square `cell` of
/// that many pixels, on black with a gap of two pixels.
pub fn contact_sheet<'a>(images: impl IntoIterator<Item = &'a RgbImage>, columns: u32, cell: u32) -> RgbImage {
    const GAP: u32 = 2;
    let images: Vec<&RgbImage> = images.into_iter().collect();
    let columns = columns.max(1).min(images.len().max(1) as u32);
    let lines = (images.len() as u32).div_ceil(columns);
    let mut sheet = RgbImage::new(columns * (cell + GAP) + GAP, lines * (cell + GAP) + GAP);
    for (i, image) in images.into_iter().enumerate() {
        let scale = f64::from(cell) / f64::from(image.width().max(image.height()).max(1));
        let side = |pixels: u32| ((f64::from(pixels) * scale).round() as u32).clamp(1, cell);
        let small = resize(image, side(image.width()), side(image.height()), Filter::Bilinear);
        let (column, line) = (i as u32 % columns, i as u32 / columns);
        let x = GAP + column * (cell + GAP) + (cell - small.width()) / 2;
        let y = GAP + line * (cell + GAP) + (cell - small.height()) / 2;
        imageops::replace(&mut sheet, &small, i64::from(x), i64::from(y));
    }
    sheet
}

#[cfg(test)]
mod tests {
    use domain::study::stage::FailureCode;
    use image::{Rgba, RgbaImage};

    use super::*;

    fn photo() -> RgbImage {
        RgbImage::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, ((x * y) % 251) as u8]))
    }

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn png_comes_back_as_it_was_and_with_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["a/b/1.png", "2.png"].map(|name| folder.path().join(name));
        save_png(&first, &photo()).unwrap();
        save_png(&second, &photo()).unwrap();
        let picture = open_rgb8(&first).unwrap();
        assert_eq!((picture.image, picture.color.as_str()), (photo(), "Rgb8"));
        assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
    }

    #[test]
    fn a_digest_is_of_what_a_picture_shows() {
        let folder = tempfile::tempdir().unwrap();
        let [fast, best] = ["fast.png", "best.png"].map(|name| folder.path().join(name));
        save_png(&fast, &photo()).unwrap();
        let mut bytes = Vec::new();
        let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Paeth);
        encoder.write_image(photo().as_raw(), 40, 30, ExtendedColorType::Rgb8).unwrap();
        fs::write(&best, bytes).unwrap();
        let [fast, best] = [fast, best].map(|path| open_rgb8(&path).unwrap());
        assert_ne!(fast.digest, best.digest);
        assert_eq!(digest(&fast.image), digest(&best.image));
        let turned = RgbImage::from_raw(30, 40, photo().into_raw()).unwrap();
        assert_ne!(digest(&turned), digest(&photo()));
    }

    #[test]
    fn grey_deep_and_transparent_pictures_become_rgb() {
        let path = Path::new("x.png");
        let deep = DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(3, 2, image::Luma([0x8080])));
        let picture = decode(path, &encoded(&deep, ImageFormat::Png)).unwrap();
        assert_eq!((picture.image.get_pixel(2, 1), picture.color.as_str()), (&Rgb([128; 3]), "L16"));
        let glass = DynamicImage::ImageRgba8(RgbaImage::from_pixel(3, 2, Rgba([200, 100, 0, 128])));
        assert_eq!(decode(path, &encoded(&glass, ImageFormat::Png)).unwrap().image.get_pixel(0, 0), &Rgb([100, 50, 0]));
    }

    #[test]
    fn a_palette_that_ends_within_a_colour_is_damage() {
        let cut = include_bytes!("fixtures/palette_cut.png");
        let failure = decode(Path::new("cut.png"), cut).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidInput);
        assert!(failure.message.contains("cut.png is truncated or damaged: its palette"), "{failure}");
        // A file that ends anywhere is not looked at beyond its end.
        (0..cut.len()).for_each(|end| drop(decode(Path::new("cut.png"), &cut[..end]).unwrap_err()));
    }

    #[test]
    fn palettes_inks_and_pictures_that_lie_on_their_side_become_upright_rgb() {
        // Each shows orange on the left and blue on the right, 24 × 16.
        for (name, bytes) in [
            ("palette.png", &include_bytes!("fixtures/palette.png")[..]),
            ("cmyk.jpg", include_bytes!("fixtures/cmyk.jpg")),
            ("rotated.jpg", include_bytes!("fixtures/rotated.jpg")),
        ] {
            let image = decode(Path::new(name), bytes).unwrap().image;
            assert_eq!(image.dimensions(), (24, 16), "{name}");
            for (x, expected) in [(3, [255, 128, 0]), (20, [0, 0, 255])] {
                let gap = image[(x, 8)].0.iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max();
                assert!(gap <= Some(4), "{name}: {:?}", image[(x, 8)]);
            }
        }
    }

    #[test]
    fn truncated_damaged_and_empty_files_are_refused_by_name() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let bytes = encoded(&DynamicImage::ImageRgb8(photo()), format);
            let path = Path::new("stones/x.img");
            assert!(decode(path, &bytes).is_ok());
            for length in [0, 1, 9, bytes.len() / 3, bytes.len() * 3 / 4] {
                let failure = decode(path, &bytes[..length]).unwrap_err();
                assert_eq!(failure.code, FailureCode::InvalidInput);
                assert!(failure.message.starts_with("stones/x.img is "), "{}", failure.message);
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let mut bytes = encoded(&DynamicImage::ImageRgb8(photo()), ImageFormat::Png);
        // Width and height of the header, with its checksum made to fit.
        for (side, message) in [(40_000u32, "too large"), (32_000, "too many")] {
            bytes[16..20].copy_from_slice(&side.to_be_bytes());
            bytes[20..24].copy_from_slice(&side.to_be_bytes());
            let sum = crc32(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&sum.to_be_bytes());
            let failure = decode(Path::new("x.png"), &bytes).unwrap_err();
            assert!(failure.message.contains(message), "{}", failure.message);
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg()))
        })
    }

    #[test]
    fn a_sheet_has_room_for_all() {
        let images = vec![photo(); 5];
        assert_eq!(contact_sheet(&images, 3, 20).dimensions(), (3 * 22 + 2, 2 * 22 + 2));
        assert_eq!(contact_sheet(&[], 3, 20).dimensions(), (24, 2));
    }
}
