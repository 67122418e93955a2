//! Pictures on canvases: what a diffusion model is shown, and what its samples are
//! compared with (ALGORITHM 1, 2.1). One place makes both, so that real and synthetic
//! pictures have one frame.

use domain::study::experiment::{Anchor, Fill, Oversize, Pad};
use domain::study::records::SinddmRecord;
use domain::study::stage::Mosaic;
use image::{Rgb, RgbImage, imageops};

use super::resize::{Filter, resize};

/// The place of a picture on its canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Width and height that the picture is brought to.
    pub size: [u32; 2],
    /// The left and upper edge of the picture on the canvas; negative where it reaches beyond.
    pub at: [i64; 2],
}

impl Placed {
    /// The place of a picture of that width and height on a canvas, by anchor and rule
    /// for larger pictures.
    pub fn new(picture: [u32; 2], canvas: [u32; 2], pad: &Pad) -> Self {
        let size = match pad.oversize {
            Oversize::Fit => fitted(picture, canvas),
            Oversize::Crop => picture,
        };
        Self { size, at: [0, 1].map(|side| offset(size[side], canvas[side], pad.anchor)) }
    }

    /// The part of the canvas where the picture is seen: left, top, width, height.
    pub fn seen(&self, canvas: [u32; 2]) -> [u32; 4] {
        let of = |side: usize| {
            let (start, end) = (self.at[side], self.at[side] + i64::from(self.size[side]));
            let within = |edge: i64| edge.clamp(0, i64::from(canvas[side])) as u32;
            (within(start), within(end) - within(start))
        };
        let ((left, width), (top, height)) = (of(0), of(1));
        [left, top, width, height]
    }
}

/// A picture on a canvas.
pub struct Canvas {
    /// The whole, in the colour of the padding around the picture.
    pub image: RgbImage,
    /// The colour around the picture.
    pub color: [u8; 3],
    /// Left, top, width and height of what is seen of the picture.
    pub place: [u32; 4],
}

/// Puts a picture on a canvas of that width and height, which is then extended to the
/// aspect of `frame` in the same colour.
pub fn paste(picture: RgbImage, canvas: [u32; 2], frame: Option<[u32; 2]>, pad: &Pad) -> Canvas {
    let placed = Placed::new(picture.dimensions().into(), canvas, pad);
    let picture = if picture.dimensions() == (placed.size[0], placed.size[1]) {
        picture
    } else {
        resize(&picture, placed.size[0], placed.size[1], Filter::Lanczos)
    };
    let color = color(pad.fill, &picture);
    let [left, top, width, height] = placed.seen(canvas);
    let inside = [0, 1].map(|side| (-placed.at[side]).max(0) as u32);
    let seen = imageops::crop_imm(&picture, inside[0], inside[1], width, height);
    let whole = frame.map_or(canvas, |aspect| extended(canvas, aspect));
    let [x, y] = [0, 1].map(|side| offset(canvas[side], whole[side], pad.anchor) as u32);
    let mut image = RgbImage::from_pixel(whole[0], whole[1], Rgb(color));
    imageops::replace(&mut image, &*seen, i64::from(x + left), i64::from(y + top));
    Canvas { image, color, place: [x + left, y + top, width, height] }
}

/// The picture in the middle of a canvas of the aspect of `frame`, in that colour.
pub fn framed(image: &RgbImage, frame: [u32; 2], color: [u8; 3]) -> RgbImage {
    let size = image.dimensions().into();
    let whole = extended(size, frame);
    if whole == size {
        return image.clone();
    }
    let mut canvas = RgbImage::from_pixel(whole[0], whole[1], Rgb(color));
    let [x, y] = [0, 1].map(|side| offset(size[side], whole[side], Anchor::Center));
    imageops::replace(&mut canvas, image, x, y);
    canvas
}

/// Lays out all pictures as one, in rows, about as many across as down, extended as the mosaic
/// says. Each cell has the size of the first picture; what is left over has the colour. Absent
/// without a picture.
pub fn laid_out(images: &[RgbImage], mosaic: Mosaic, color: [u8; 3]) -> Option<RgbImage> {
    let (width, height) = images.first()?.dimensions();
    let across = (images.len() as f64).sqrt().ceil() as u32;
    let down = (images.len() as u32).div_ceil(across);
    let mut whole = RgbImage::from_pixel(across * width, down * height, Rgb(color));
    for (image, number) in images.iter().zip(0..) {
        let cell = resize(image, width, height, Filter::Lanczos);
        let (x, y) = (number % across * width, number / across * height);
        imageops::replace(&mut whole, &cell, i64::from(x), i64::from(y));
    }
    Some(match mosaic.frame {
        Some(frame) => framed(&whole, frame, color),
        None => whole,
    })
}

/// The colour around a picture.
pub fn color(fill: Fill, picture: &RgbImage) -> [u8; 3] {
    match fill {
        Fill::Black => [0; 3],
        Fill::BorderMedian => border_median(picture),
        Fill::Rgb(color) => color,
    }
}

/// Width and height of a picture on a canvas: its own, or scaled down to fit with its
/// proportions.
fn fitted(picture: [u32; 2], canvas: [u32; 2]) -> [u32; 2] {
    let share = |side: usize| f64::from(canvas[side]) / f64::from(picture[side]);
    let scale = share(0).min(share(1)).min(1.0);
    [0, 1].map(|side| ((f64::from(picture[side]) * scale).round() as u32).clamp(1, canvas[side]))
}

/// The start of a length that is put on another; negative where it is longer.
fn offset(length: u32, on: u32, anchor: Anchor) -> i64 {
    match anchor {
        Anchor::Center => (i64::from(on) - i64::from(length)).div_euclid(2),
        Anchor::TopLeft => 0,
    }
}

/// The smallest width and height of that aspect that hold these.
fn extended([width, height]: [u32; 2], aspect: [u32; 2]) -> [u32; 2] {
    let ratio = f64::from(aspect[0]) / f64::from(aspect[1]);
    let wide = (f64::from(height) * ratio).round() as u32;
    let tall = (f64::from(width) / ratio).round() as u32;
    if wide >= width { [wide, height] } else { [width, tall.max(height)] }
}

/// The median of the outermost pixels, per channel.
fn border_median(picture: &RgbImage) -> [u8; 3] {
    let (width, height) = picture.dimensions();
    [0, 1, 2].map(|channel: usize| {
        let mut levels: Vec<u8> = picture
            .enumerate_pixels()
            .filter(|(x, y, _)| *x == 0 || *y == 0 || x + 1 == width || y + 1 == height)
            .map(|(_, _, pixel)| pixel[channel])
            .collect();
        levels.sort_unstable();
        levels.get(levels.len() / 2).copied().unwrap_or(0)
    })
}

/// A picture in the frame that a model has learnt: with the padding that pictures had
/// around them there. Where nobody says what that was, as of models from elsewhere, the
/// picture as it is: it is stretched to the model's size, as the published code does.
pub fn framed_as_learnt(model: &SinddmRecord, image: &RgbImage) -> RgbImage {
    framed_as_learnt_in(model, image, model.fill.map_or([0; 3], |fill| color(fill, image)))
}

/// [`framed_as_learnt`] with that colour around the picture.
pub fn framed_as_learnt_in(model: &SinddmRecord, image: &RgbImage, color: [u8; 3]) -> RgbImage {
    match model.sinddm.frame().filter(|_| model.fill.is_some()) {
        Some(frame) => framed(image, frame, color),
        None => image.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(width: u32, height: u32, level: u8) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([level; 3]))
    }

    /// Pixels of that level.
    fn count(image: &RgbImage, level: u8) -> usize {
        image.pixels().filter(|pixel| pixel.0 == [level; 3]).count()
    }

    fn with(fill: Fill) -> Pad {
        Pad { fill, ..Pad::default() }
    }

    #[test]
    fn a_small_picture_is_centred_and_a_large_one_fits() {
        let canvas = paste(flat(4, 4, 255), [20, 10], None, &with(Fill::Rgb([1, 2, 3])));
        assert_eq!((canvas.image[(0, 0)].0, canvas.color, canvas.place), ([1, 2, 3], [1, 2, 3], [8, 3, 4, 4]));
        assert_eq!((canvas.image.dimensions(), count(&canvas.image, 255)), ((20, 10), 16));
        let canvas = paste(flat(100, 200, 255), [20, 10], None, &Pad::default());
        assert_eq!((canvas.place, count(&canvas.image, 255)), ([7, 0, 5, 10], 50));
    }

    #[test]
    fn anchor_and_rule_for_large_pictures_are_followed() {
        let corner = Pad { anchor: Anchor::TopLeft, ..Pad::default() };
        assert_eq!(paste(flat(4, 4, 255), [20, 10], None, &corner).place, [0, 0, 4, 4]);
        // The canvas, too, stands in the corner of its frame.
        assert_eq!(paste(flat(4, 4, 255), [20, 10], Some([10, 10]), &corner).place, [0, 0, 4, 4]);
        let crop = Pad { oversize: Oversize::Crop, ..Pad::default() };
        let ramp = RgbImage::from_fn(30, 6, |x, _| Rgb([x as u8; 3]));
        let canvas = paste(ramp.clone(), [20, 10], None, &crop);
        assert_eq!((canvas.place, canvas.image[(0, 2)].0, canvas.image[(19, 7)].0), ([0, 2, 20, 6], [5; 3], [24; 3]));
        let canvas = paste(ramp, [20, 10], None, &Pad { anchor: Anchor::TopLeft, ..crop });
        assert_eq!((canvas.place, canvas.image[(19, 0)].0), ([0, 0, 20, 6], [19; 3]));
    }

    #[test]
    fn the_papers_canvas_says_where_its_picture_is() {
        let seen = |width, height| {
            let pad = Pad::default();
            let canvas = paste(flat(width, height, 90), pad.target.nominal(), Some([264, 200]), &pad);
            assert_eq!(canvas.image.dimensions(), (4288, 3248));
            let [_, _, wide, high] = canvas.place;
            assert_eq!(count(&canvas.image, 90), (wide * high) as usize);
            canvas.place
        };
        assert_eq!(seen(3000, 2000), [644, 624, 3000, 2000]);
        assert_eq!(seen(4288, 2848), [0, 200, 4288, 2848]);
        // 6000 × 4000 are scaled by 2848 / 4000.
        assert_eq!(seen(6000, 4000), [8, 200, 4272, 2848]);
    }

    #[test]
    fn a_canvas_is_extended_in_the_colour_of_its_padding() {
        let canvas = paste(flat(428, 284, 9), [428, 284], Some([264, 200]), &with(Fill::Rgb([7; 3])));
        assert_eq!(canvas.image.dimensions(), (428, 324));
        let at = |x, y| canvas.image[(x, y)].0[0];
        assert_eq!([at(0, 0), at(0, 19), at(0, 20), at(427, 303), at(427, 304)], [7, 7, 9, 9, 7]);
        let framed = framed(&flat(428, 284, 9), [264, 200], [7; 3]);
        assert_eq!(framed, canvas.image);
        assert_eq!(super::framed(&flat(33, 25, 1), [33, 25], [0; 3]).dimensions(), (33, 25));
        assert_eq!(extended([10, 40], [264, 200]), [53, 40]);
    }

    #[test]
    fn the_border_fills_the_canvas_where_asked() {
        let mut picture = RgbImage::from_pixel(5, 5, Rgb([30, 20, 10]));
        picture.put_pixel(0, 0, Rgb([255; 3]));
        assert_eq!(paste(picture, [9, 9], None, &with(Fill::BorderMedian)).image[(0, 0)].0, [30, 20, 10]);
    }

    #[test]
    fn a_mosaic_has_all_pictures_and_is_extended_as_a_whole() {
        let images = [flat(40, 30, 10), flat(40, 30, 20), flat(40, 30, 30)];
        let whole = laid_out(&images, Mosaic { frame: None }, [5; 3]).unwrap();
        let corners = [(0, 0), (79, 0), (0, 59), (79, 59)].map(|(x, y)| whole[(x, y)].0[0]);
        assert_eq!((whole.dimensions(), corners), ((80, 60), [10, 20, 30, 5]));
        let whole = laid_out(&images, Mosaic { frame: Some([2, 1]) }, [5; 3]).unwrap();
        assert_eq!((whole.dimensions(), whole[(0, 0)].0[0], whole[(20, 0)].0[0]), ((120, 60), 5, 10));
        assert_eq!(laid_out(&[], Mosaic { frame: None }, [0; 3]), None);
    }

    #[test]
    fn a_picture_to_start_from_is_framed_as_the_model_has_learnt_pictures() {
        let record = |fill, fit: &str| -> SinddmRecord {
            let json = serde_json::json!({
                "sinddm": { "finest": [40, 40], "fit": fit }, "sizes": [[40, 40]], "scale_factor": 1.4,
                "rescale_losses": [], "sampling_steps": [100], "parameters": 1, "final_loss": 0.5, "fill": fill,
                "determinism": "bitwise",
            });
            serde_json::from_value(json).unwrap()
        };
        let picture = RgbImage::from_pixel(20, 10, Rgb([90; 3]));
        let framed = framed_as_learnt(&record(Some(Fill::Rgb([1, 2, 3])), "letterbox"), &picture);
        assert_eq!((framed.dimensions(), framed[(0, 0)].0, framed[(10, 10)].0), ((20, 20), [1, 2, 3], [90; 3]));
        // What is stretched in training is stretched here, and so is what comes from elsewhere.
        assert_eq!(framed_as_learnt(&record(Some(Fill::Black), "stretch"), &picture), picture);
        assert_eq!(framed_as_learnt(&record(None, "letterbox"), &picture), picture);
        let mask = framed_as_learnt_in(&record(Some(Fill::BorderMedian), "letterbox"), &picture, [0; 3]);
        assert_eq!(mask[(0, 0)].0, [0; 3]);
    }
}
