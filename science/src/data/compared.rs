//! The real and the synthetic pictures that evaluations compare, in one frame: real ones
//! on the canvases that the diffusion models have learnt, synthetic ones without what a
//! network needed around them.

use std::path::PathBuf;

use domain::study::records::{PadRecord, Record, UpscaleRecord};
use domain::study::stage::{Failure, Folder, InputName, Mosaic};
use domain::study::stone::{Class, Dataset};
use image::{RgbImage, imageops};

use super::canvas;
use super::folder;
use super::picture::open_rgb8;
use crate::files;

/// One picture to be compared.
pub struct Compared {
    /// The picture's file, or the files of its parts.
    files: Vec<PathBuf>,
    /// The layout of the parts, and the colour between them.
    mosaic: Option<(Mosaic, [u8; 3])>,
    /// The width and height of the part that counts, from the upper left; absent: all.
    counts: Option<[u32; 2]>,
}

impl Compared {
    /// Opens the picture.
    ///
    /// # Errors
    /// `InvalidInput` if a file cannot be opened.
    pub fn open(&self) -> Result<RgbImage, Failure> {
        let opened = self.files.iter().map(|path| Ok(open_rgb8(path)?.image)).collect::<Result<Vec<_>, Failure>>()?;
        let laid_out = self.mosaic.and_then(|(mosaic, color)| canvas::laid_out(&opened, mosaic, color));
        let image = laid_out.or_else(|| opened.into_iter().next()).unwrap_or_default();
        Ok(match self.counts {
            Some([width, height]) if image.dimensions() != (width, height) => {
                imageops::crop_imm(&image, 0, 0, width, height).to_image()
            }
            _ => image,
        })
    }

    /// The path of the picture's file, or of the first, for messages.
    pub fn name(&self) -> String {
        self.files.first().map_or_else(String::new, |path| path.display().to_string())
    }
}

/// The real pictures: of all classes, by class and name, unless one input holds those
/// of all.
///
/// # Errors
/// `InvalidInput` naming the folder if a class has none.
pub fn real(folder: &Folder, mosaic: Option<Mosaic>) -> Result<Vec<Compared>, Failure> {
    let of = |input: PathBuf| {
        let files = folder::paths(&input)?;
        let Some(mosaic) = mosaic else {
            return Ok(each(files, None));
        };
        let record: PadRecord = files::read(&input.join(PadRecord::FILE))?;
        let color = record.colors.first().copied().unwrap_or_default();
        Ok(vec![Compared { files, mosaic: Some((mosaic, color)), counts: None }])
    };
    each_input(folder, InputName::Real, of)
}

/// The synthetic pictures, as [`real`] finds the real ones.
///
/// # Errors
/// `InvalidInput` naming the folder if a class has none.
pub fn synthetic(folder: &Folder) -> Result<Vec<Compared>, Failure> {
    let of = |input: PathBuf| {
        let record = input.join(UpscaleRecord::FILE);
        let counts = if record.exists() { files::read::<UpscaleRecord>(&record)?.counts } else { None };
        Ok(each(folder::paths(&input)?, counts))
    };
    each_input(folder, InputName::Synthetic, of)
}

/// Pictures of one file each, of which so much counts.
fn each(files: Vec<PathBuf>, counts: Option<[u32; 2]>) -> Vec<Compared> {
    files.into_iter().map(|file| Compared { files: vec![file], mosaic: None, counts }).collect()
}

/// The pictures of one kind of input: of one network, or of every class.
fn each_input(
    folder: &Folder,
    named: fn(Option<Class>) -> InputName,
    of: impl Fn(PathBuf) -> Result<Vec<Compared>, Failure>,
) -> Result<Vec<Compared>, Failure> {
    let whole = folder.input(named(None));
    if whole.exists() {
        return of(whole);
    }
    let mut all = Vec::new();
    for class in Dataset::A.classes() {
        all.extend(of(folder.input(named(Some(class))))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::tensor::Device;
    use domain::seed::Seed;
    use domain::study::experiment::{Features, Fill, Fit, MultiImage, Pad, Pairing, Sinddm, Upscale, UpscaleMethod};
    use domain::study::stage::{
        Canvases, EvaluateDrift, EvaluateHeatmap, EvaluateSifid, Seen, Stage, Unwatched, picture_path,
    };
    use image::Rgb;

    use super::*;
    use crate::data::picture::save_png;
    use crate::data::pyramid::{Pyramid, learnt};
    use crate::stages::{self, Attempt};
    use domain::study::records::{DriftRecord, HeatmapRecord, SifidRecord};

    fn run(folder: &Folder, stage: Stage) {
        let (monitor, device) = (&mut Unwatched, &Device::flex());
        let attempt = Attempt { seed: Seed(3), folder, monitor, device, memory: 0 };
        stages::run(&stage, attempt).unwrap();
    }

    /// A stone with soft stripes on a dark ground; each picture has its own place, size
    /// and colour.
    fn stone(width: u32, height: u32, number: u32) -> RgbImage {
        let vary = |step: u32, range: u32| f64::from(number * step % range) / f64::from(range);
        let middle = [f64::from(width) * (0.4 + 0.2 * vary(7, 11)), f64::from(height) * (0.4 + 0.2 * vary(5, 13))];
        let radius = f64::from(width.min(height)) * (0.2 + 0.15 * vary(3, 7));
        RgbImage::from_fn(width, height, |x, y| {
            let [x, y] = [f64::from(x) - middle[0], f64::from(y) - middle[1]];
            if x.hypot(y) > radius {
                return Rgb([9, 7, 6]);
            }
            let stripe = 20.0 * ((x + y) / f64::from(width) * 40.0).sin();
            let level = |base: f64, step: u32| (base + 70.0 * vary(step, 17) + stripe) as u8;
            Rgb([level(130.0, 4), level(100.0, 9), level(60.0, 6)])
        })
    }

    /// The scores of a generator that gives back what it was shown, through all stages
    /// from the given pictures on: drift of each property, heat-map difference, SIFID of
    /// each sample with its own picture, and with all.
    fn perfect(canvas: [u32; 2], sinddm: &Sinddm, fill: Fill) -> (Vec<f64>, f64, [f64; 2]) {
        let root = tempfile::tempdir().unwrap();
        let whole = Folder::new(root.path().join("whole"));
        let mosaic = (sinddm.multi_image == MultiImage::Mosaic).then(|| Mosaic { frame: sinddm.frame() });
        let mut sifid = [vec![], vec![]];
        for (label, class) in (0..).zip(Dataset::A.classes()) {
            let folder = Folder::new(root.path().join(class.code()));
            for number in 0..8 {
                // As large as the canvas, smaller, and larger in one direction.
                let [wide, high] = [[1.0, 1.0], [0.8, 0.9], [1.2, 0.7]][number as usize % 3];
                let [width, height] =
                    [f64::from(canvas[0]) * wide, f64::from(canvas[1]) * high].map(|side| side as u32);
                let path = folder.input(InputName::Raw(None)).join(format!("{number}.png"));
                save_png(&path, &stone(width, height, 8 * label + number)).unwrap();
            }
            let pad = Pad { target: canvas.into(), fill, ..Pad::default() };
            let frame = sinddm.frame().filter(|_| mosaic.is_none());
            run(&folder, Stage::Pad(Canvases { class, pad, frame, choice: None, stones: Default::default() }));
            let real = whole.input(InputName::Real(Some(class)));
            fs::create_dir_all(real.parent().unwrap()).unwrap();
            fs::rename(folder.outputs(), &real).unwrap();

            let record: PadRecord = files::read(&real.join(PadRecord::FILE)).unwrap();
            let shown = learnt(folder::pictures(&real).unwrap(), sinddm, record.colors[0]);
            let finest = Pyramid::new(&shown, sinddm).unwrap().scales.pop().unwrap().images;
            for (number, sample) in finest.iter().enumerate() {
                save_png(&folder.input(InputName::Samples).join(picture_path(number)), sample).unwrap();
            }
            run(&folder, Stage::Upscale { upscale: Upscale { method: UpscaleMethod::Lanczos, ..Upscale::default() } });
            let synthetic = whole.input(InputName::Synthetic(Some(class)));
            fs::rename(folder.outputs(), &synthetic).unwrap();

            let pair = Folder::new(root.path().join(format!("{class}.sifid")));
            fs::create_dir_all(pair.inputs()).unwrap();
            for (from, name) in [(&real, InputName::Real(None)), (&synthetic, InputName::Synthetic(None))] {
                std::os::unix::fs::symlink(from, pair.input(name)).unwrap();
            }
            for (pairing, means) in [Pairing::Index, Pairing::AllPairs].into_iter().zip(&mut sifid) {
                let features = Features::Random;
                let params = EvaluateSifid { features, block: 64, pairing, mosaic, ..EvaluateSifid::default() };
                run(&pair, Stage::EvaluateSifid(params));
                means.push(files::read::<SifidRecord>(&pair.output(SifidRecord::FILE)).unwrap().mean);
            }
        }
        let seen = Some(Seen { finest: sinddm.finest, factor: 4, method: UpscaleMethod::Lanczos });
        run(&whole, Stage::EvaluateDrift(EvaluateDrift { seen, mosaic, ..EvaluateDrift::default() }));
        run(&whole, Stage::EvaluateHeatmap(EvaluateHeatmap { mosaic, ..EvaluateHeatmap::default() }));
        let drift: DriftRecord = files::read(&whole.output(DriftRecord::FILE)).unwrap();
        let heatmap: HeatmapRecord = files::read(&whole.output(HeatmapRecord::FILE)).unwrap();
        let mean = |means: &Vec<f64>| means.iter().sum::<f64>() / means.len() as f64;
        let ks = drift.properties.iter().filter_map(|property| property.ks).collect();
        (ks, heatmap.mean_difference, [mean(&sifid[0]), mean(&sifid[1])])
    }

    #[test]
    fn a_generator_that_gives_back_what_it_was_shown_neither_drifts_nor_differs() {
        for (canvas, fit, fill) in [
            ([268, 178], Fit::Letterbox, Fill::Black),
            ([268, 178], Fit::Stretch, Fill::Black),
            ([200, 200], Fit::Letterbox, Fill::Rgb([40, 12, 12])),
            ([200, 200], Fit::Stretch, Fill::BorderMedian),
            ([150, 240], Fit::Letterbox, Fill::BorderMedian),
        ] {
            let sinddm = Sinddm { finest: [66, 50].into(), coarsest: Some(30), fit, ..Sinddm::default() };
            let (ks, heatmap, [own, all]) = perfect(canvas, &sinddm, fill);
            let what = format!("{canvas:?} {fit:?} {fill:?}: {ks:?}, {heatmap}, {own} of {all}");
            assert!(ks.len() == 5 && ks.iter().all(|ks| *ks <= 0.15) && heatmap <= 1.0, "{what}");
            // Zero but for the detail that a picture loses when it is made smaller.
            assert!(own < 0.05 * all, "{what}");
        }
    }

    #[test]
    fn a_mosaic_is_compared_with_a_mosaic() {
        let (finest, coarsest) = ([90, 90].into(), Some(30));
        let sinddm = Sinddm { finest, coarsest, multi_image: MultiImage::Mosaic, ..Sinddm::default() };
        let (_, heatmap, [own, _]) = perfect([160, 90], &sinddm, Fill::Rgb([20, 0, 0]));
        assert!(heatmap <= 1.0 && own < 1e-2, "{heatmap} {own}");
    }

    #[test]
    fn the_padding_that_a_network_kept_is_not_compared() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let image = RgbImage::from_fn(16, 8, |x, y| if x < 10 && y < 6 { Rgb([200; 3]) } else { Rgb([0; 3]) });
        save_png(&folder.input(InputName::Synthetic(None)).join("images/000.png"), &image).unwrap();
        let record = serde_json::json!({ "method": "swin2sr", "size": [16, 8], "counts": [10, 6], "images": 1 });
        files::write(&folder.input(InputName::Synthetic(None)).join(UpscaleRecord::FILE), &record).unwrap();
        let open = |folder: &Folder| synthetic(folder).unwrap()[0].open().unwrap();
        assert_eq!(open(&folder), RgbImage::from_pixel(10, 6, Rgb([200; 3])));
        fs::remove_file(folder.input(InputName::Synthetic(None)).join(UpscaleRecord::FILE)).unwrap();
        assert_eq!(open(&folder), image);
    }
}
