//! Files that come from elsewhere or may have been altered, in forms that nobody has
//! thought of: pictures, PyTorch files, tensors, and the records between stages. The
//! targets that do not need burn are in `tests/fuzz`, where `mutate` says how inputs are
//! made and how to run more of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../tests/harness/dice.rs"]
mod dice;
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use domain::seed::Seed;
use domain::study::experiment::{DdpmTraining, Sampling, Sinddm, Swin2srTraining};
use domain::study::records::{
    DdpmRecord, DriftRecord, HeatmapRecord, ImageList, Metrics, PadRecord, PatchesRecord, Record, SamplesRecord,
    SifidRecord, SinddmRecord, Swin2srRecord, UpscaleRecord,
};
use domain::study::results::Results;
use domain::study::stage::Failure;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use mutate::Target;
use science::data::patchset::PatchSet;
use science::data::picture;
use science::diffusion::guide::Guide;
use science::diffusion::model::Model;
use science::diffusion::published::{self, Which};
use science::files;
use science::models::pretrained;
use science::models::sinddm::SinDdm;
use science::weights::{self, Array, Arrays};
use serde_json::{Value, json};
use tempfile::TempDir;
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, ZipArchive};

/// Memory that one execution may hold, bytes, unless its target says otherwise.
const MEMORY: usize = 64 << 20;

/// A file that each execution writes anew.
struct Scratch {
    _folder: TempDir,
    path: PathBuf,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join(name), _folder: folder }
    }

    fn with(&self, bytes: &[u8]) -> &Path {
        fs::write(&self.path, bytes).unwrap();
        &self.path
    }
}

/// A refusal has to name the file.
fn said<T>(result: Result<T, Failure>, path: &Path, of: impl FnOnce(T) -> String) -> String {
    match result {
        Ok(found) => of(found),
        Err(failure) => {
            let path = path.display().to_string();
            assert!(failure.message.contains(&path), "{failure}");
            failure.message.replace(&path, "")
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn photo() -> RgbImage {
    RgbImage::from_fn(20, 15, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, ((x * y) % 251) as u8]))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg()))
    })
}

/// With the checksum of each chunk as it has to be: else little of a PNG file is ever read.
fn with_checksums(mut png: Vec<u8>) -> Vec<u8> {
    let mut at = 8;
    while let Some(length) = png.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let (from, to) = (at + 4, (at + 8).saturating_add(length));
        if to.saturating_add(4) > png.len() {
            break;
        }
        let sum = crc32(&png[from..to]);
        png[to..to + 4].copy_from_slice(&sum.to_be_bytes());
        at = to + 4;
    }
    png
}

#[test]
fn any_picture_is_refused_or_opened() {
    let deep = DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(9, 7, image::Luma([0x8080])));
    let glass = DynamicImage::ImageRgba8(RgbaImage::from_pixel(9, 7, Rgba([200, 100, 0, 128])));
    let rgb = DynamicImage::ImageRgb8(photo());
    let corpus = vec![
        encoded(&rgb, ImageFormat::Png),
        encoded(&rgb, ImageFormat::Jpeg),
        encoded(&deep, ImageFormat::Png),
        encoded(&glass, ImageFormat::Png),
        include_bytes!("../src/data/fixtures/palette.png").to_vec(),
        include_bytes!("../src/data/fixtures/cmyk.jpg").to_vec(),
        include_bytes!("../src/data/fixtures/rotated.jpg").to_vec(),
    ];
    let words = words(&["IHDR", "IDAT", "PLTE", "tRNS", "eXIf", "iCCP", "IEND", "Exif\0\0"]);
    let scratch = Scratch::new("stone.png");
    let execute = |bytes: &[u8]| {
        let bytes = if bytes.starts_with(b"\x89PNG") { with_checksums(bytes.to_vec()) } else { bytes.to_vec() };
        let path = scratch.with(&bytes);
        let _ = picture::size(path);
        said(picture::open_rgb8(path), path, |picture| {
            assert!(picture.image.width() > 0 && picture.image.height() > 0);
            picture.color
        })
    };
    // What one picture may take, and its copy in another form.
    Target { name: "picture", executions: 500, memory: 6 << 30, corpus, words }.run(execute);
}

/// A small SinDDM in the form of the published code.
fn checkpoint() -> Vec<u8> {
    let scratch = Scratch::new("model.pt");
    let net = Arrays::from([
        ("l2.net.0.weight".to_owned(), Array { shape: vec![8, 4, 1, 1], values: vec![0.5; 32] }),
        ("l1.bias".to_owned(), Array { shape: vec![3], values: vec![1.0, -1.0, 0.25] }),
    ]);
    published::export(&net, &serde_json::from_value(diffusion()).unwrap(), &scratch.path).unwrap();
    fs::read(&scratch.path).unwrap()
}

/// All that is done with a PyTorch file.
fn read_torch(path: &Path) -> String {
    let arrays = said(published::read(path, Which::Ema), path, |arrays| {
        let imported = published::import(arrays, [80, 60], 1.411, None).map(|(_, record)| record.sizes.len());
        imported.map_or_else(|failure| failure.message, |scales| format!("{scales} scales"))
    });
    let candidates = said(pretrained::candidates(path), path, |found| format!("{found:?}"));
    format!("{arrays} {candidates}")
}

const PICKLE: &[&str] = &[
    "ctorch\nFloatStorage\n",
    "ctorch._utils\n_rebuild_tensor_v2\n",
    "ccollections\nOrderedDict\n",
    "cos\nsystem\n",
    "tR",
    "}(",
    "u.",
    "gammas",
    "denoise_fn.",
];

#[test]
fn any_pytorch_file_is_refused_or_read() {
    let packed = {
        let mut parts = ZipArchive::new(Cursor::new(checkpoint())).unwrap();
        let mut file = ZipWriter::new(Cursor::new(Vec::new()));
        for number in 0..parts.len() {
            let mut part = parts.by_index(number).unwrap();
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
            file.start_file(part.name().unwrap().into_owned(), options).unwrap();
            let mut bytes = Vec::new();
            part.read_to_end(&mut bytes).unwrap();
            file.write_all(&bytes).unwrap();
        }
        file.finish().unwrap().into_inner()
    };
    let corpus = vec![checkpoint(), packed];
    let scratch = Scratch::new("model.pt");
    let execute = |bytes: &[u8]| read_torch(scratch.with(bytes));
    Target { name: "torch", executions: 500, memory: MEMORY, corpus, words: words(PICKLE) }.run(execute);
}

#[test]
fn any_pickle_is_refused_or_read() {
    let mut parts = ZipArchive::new(Cursor::new(checkpoint())).unwrap();
    let mut pickle = Vec::new();
    parts.by_name("archive/data.pkl").unwrap().read_to_end(&mut pickle).unwrap();
    let scratch = Scratch::new("model.pt");
    let execute = |bytes: &[u8]| {
        // With its checksum as it has to be: else nothing of it is ever read.
        let mut file = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        let storages = (0..30).map(|number| (format!("archive/data/{number}"), vec![0x3f; 1200]));
        for (name, content) in [("archive/data.pkl".to_owned(), bytes.to_vec())].into_iter().chain(storages) {
            file.start_file(name, options).unwrap();
            file.write_all(&content).unwrap();
        }
        read_torch(scratch.with(&file.finish().unwrap().into_inner()))
    };
    Target { name: "pickle", executions: 500, memory: MEMORY, corpus: vec![pickle], words: words(PICKLE) }.run(execute);
}

#[test]
fn any_file_of_tensors_is_refused_or_read() {
    let arrays = Arrays::from([
        ("a.weight".to_owned(), Array { shape: vec![2, 3], values: vec![0.5; 6] }),
        ("b".to_owned(), Array { shape: vec![], values: vec![1.0] }),
    ]);
    let scratch = Scratch::new("model.safetensors");
    weights::write(&arrays, &scratch.path).unwrap();
    let patches = {
        let view =
            |dtype, shape: &[usize], data| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data).unwrap();
        let pixels = vec![7; 2 * 3 * 4 * 4];
        let tensors = [
            ("images", view(safetensors::Dtype::U8, &[2, 3, 4, 4], &pixels)),
            ("labels", view(safetensors::Dtype::U8, &[2], &[0, 5])),
            ("image_ids", view(safetensors::Dtype::U32, &[2], &[0, 0, 0, 0, 1, 0, 0, 0])),
        ];
        safetensors::serialize(tensors, None).unwrap()
    };
    let corpus = vec![fs::read(&scratch.path).unwrap(), patches];
    let words = words(&["\"F32\"", "\"U8\"", "\"shape\":[", "\"data_offsets\":[0,", "\"images\"", "\"labels\""]);
    let execute = |bytes: &[u8]| {
        let path = scratch.with(bytes);
        let read = said(weights::read(path), path, |arrays| format!("{} arrays", arrays.len()));
        let opened = said(PatchSet::open(path), path, |patches| format!("{} patches", patches.len().min(9)));
        let candidates = said(pretrained::candidates(path), path, |found| format!("{found:?}"));
        format!("{read} {opened} {candidates}")
    };
    Target { name: "tensors", executions: 1_000, memory: MEMORY, corpus, words }.run(execute);
}

fn diffusion() -> Value {
    json!({
        "sinddm": Sinddm { finest: [80, 60].into(), timesteps: 10, dim: 8, ..Sinddm::default() },
        "sizes": [[64, 48], [80, 60]], "scale_factor": 1.25, "rescale_losses": [0.5], "sampling_steps": [10, 4],
        "parameters": 9, "final_loss": 0.25, "loss_by_scale": { "0": 0.5, "1": 0.125 }, "image_ids": [1, 100002],
        "fill": "black", "reals": [{ "area": 0.5, "parts": 1, "offset": 0.0, "edge": 0.1, "background": 3.0,
        "contrast": 90.0 }], "determinism": "bitwise",
    })
}

/// A document of results with one entry of each kind.
fn results() -> Value {
    let mut results: Value = serde_json::from_str(include_str!("../../domain/src/study/results/example.json")).unwrap();
    let lists = results.as_object_mut().unwrap().values_mut().filter_map(Value::as_array_mut);
    lists.for_each(|list| list.truncate(1));
    results
}

/// Reads a record and says what came of it.
type Reader = fn(&Path) -> String;

/// A valid record of each kind, with what reads it.
fn kinds() -> Vec<(Value, Reader)> {
    fn read<T: Record>(path: &Path) -> String {
        said(files::read::<T>(path), path, |_| "read".to_owned())
    }
    let image = json!({ "class": "Ia", "id": 400001, "file": "1.png", "digest": "ab" });
    let listed = json!({ "class": "Ia", "id": 400001, "file": "1.png", "digest": "ab", "pixels": "cd", "width": 9,
        "height": 8, "color": "Rgb8", "stone": 3, "masked": true, "generator": true, "testable": false });
    let score = json!({ "precision": 0.5, "recall": 0.5, "f1": 0.5 });
    vec![
        (diffusion(), read::<SinddmRecord>),
        (
            json!({ "training": DdpmTraining::default(), "images": 4, "parameters": 9, "final_loss": 0.5,
            "determinism": "bitwise" }),
            read::<DdpmRecord>,
        ),
        (
            json!({ "training": Swin2srTraining::default(), "images": 4, "parameters": 9, "final_loss": 0.125,
            "held_out": 0, "ours": { "psnr": null, "ssim": null }, "bicubic": { "psnr": 30.5, "ssim": 0.875 },
            "determinism": "statistical" }),
            read::<Swin2srRecord>,
        ),
        (json!({ "dataset": "A", "view": "SUR", "images": [listed] }), read::<ImageList>),
        (
            json!({ "class": "Ia", "canvas": [42, 32], "images": [image], "places": [[1, 2, 30, 20]],
            "colors": [[1, 2, 3]], "black": [0.5] }),
            read::<PadRecord>,
        ),
        (json!({ "method": "swin2sr", "size": [16, 8], "counts": [10, 6], "images": 1 }), read::<UpscaleRecord>),
        (
            json!({ "size": [4, 4], "foreground": [0.25, 0.5], "empty": 1, "passed": [true, false],
            "faults": { "1": ["empty"] }, "draws": [1, 10], "determinism": "bitwise" }),
            read::<SamplesRecord>,
        ),
        (
            json!({ "n_real": 1, "n_synthetic": 2, "properties": [{ "property": "Brightness", "ks": 0.5, "emd": 0.1,
            "ks_null": [0.1, 0.2, 0.3], "real": [1.0], "synthetic": [1.0, 2.0] }] }),
            read::<DriftRecord>,
        ),
        (
            json!({ "size": [4, 4], "mean_difference": 3.0, "foreground_real": 0.5, "foreground_synthetic": 0.5 }),
            read::<HeatmapRecord>,
        ),
        (json!({ "block": 64, "mean": 1.5, "per_image": [1.0, 2.0] }), read::<SifidRecord>),
        (
            json!({ "dataset": "A", "view": "SEC", "split": { "number": 0, "folds": 5, "fold": 4 }, "size": 16,
            "classes": [{ "class": "Ia", "train": [4, 8], "test": [1, 2], "coverage": 0.9, "stride": 3 }],
            "train_images": [image], "test_images": [image] }),
            read::<PatchesRecord>,
        ),
        (
            json!({ "datasets": ["A"], "view": "SUR", "device": "cpu", "steps": 9, "epoch": 1, "train_loss": 0.5,
            "val_accuracy": null, "test_patches": 6, "test_images": 6, "accuracy": 50.0, "image_accuracy": 50.0,
            "image_accuracy_by_score": 50.0, "train": [6, 60], "per_class": [], "macro_average": score,
            "weighted_average": score, "images": [{ "dataset": "A", "id": 1, "label": 0, "vote": 5, "by_score": 1,
            "right": 0.5 }], "confusion": vec![[1; 6]; 6], "labels": vec![["Ia"]; 6] }),
            read::<Metrics>,
        ),
        (results(), read::<Results>),
    ]
}

#[test]
fn any_record_is_refused_or_read() {
    let kinds = kinds();
    let records = include_str!("../../domain/src/study/records/check.rs").matches("\nimpl Record for ").count();
    assert_eq!(kinds.len(), records, "a record is missing here");
    let scratch = Scratch::new("record.json");
    for (record, read) in &kinds {
        assert_eq!(read(scratch.with(&serde_json::to_vec(record).unwrap())), "read", "{record}");
    }
    // The first byte says which.
    let corpus =
        kinds.iter().zip(0..).map(|((record, _), kind)| [&[kind], &serde_json::to_vec(record).unwrap()[..]].concat());
    let execute = |bytes: &[u8]| {
        let Some((kind, json)) = bytes.split_first() else { return String::new() };
        let kind = usize::from(*kind) % kinds.len();
        format!("{} {}", char::from(b'a' + kind as u8), (kinds[kind].1)(scratch.with(json)))
    };
    Target { name: "records", executions: 3_000, memory: MEMORY, corpus: corpus.collect(), words: vec![] }.run(execute);
}

#[test]
fn a_model_with_any_record_is_refused_or_can_be_sampled_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training.json");
    weights::save(
        &weights::initialise(SinDdm::new(8, &Device::flex()), Seed(1)),
        &folder.path().join("model.safetensors"),
    )
    .unwrap();
    let execute = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        said(Model::open(folder.path(), &Device::flex()), folder.path(), |model| {
            let guide = Guide::default();
            let sampling = Sampling::default();
            let steps = model.sampler(&sampling, &guide).steps().len();
            assert!(steps <= 64 * 10_001, "{steps}");
            assert!(science::data::canvas::framed_as_learnt(model.record(), &photo()).width() <= 32_768);
            "a model".to_owned()
        })
    };
    let corpus = vec![serde_json::to_vec(&diffusion()).unwrap()];
    Target { name: "model", executions: 500, memory: MEMORY, corpus, words: vec![] }.run(execute);
}

#[test]
fn a_record_that_claims_a_huge_network_makes_no_room_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let net = weights::initialise(SinDdm::new(8, &Device::flex()), Seed(1));
    weights::save(&net, &folder.path().join("model.safetensors")).unwrap();
    let mut record = diffusion();
    record["sinddm"]["dim"] = json!(2048);
    files::write(&folder.path().join("training.json"), &record).unwrap();
    let (opened, peak) = mutate::with_peak(|| Model::open(folder.path(), &Device::flex()).map(drop));
    let message = opened.unwrap_err().message;
    assert!(
        message.contains("model.safetensors: tensor final_conv.0.weight has shape [3, 4, 1, 1], has to be"),
        "{message}"
    );
    assert!(peak < 16 << 20, "{peak}");
}

/// What is claimed of a checkpoint's sizes is compared before it is believed.
#[test]
fn a_checkpoint_that_claims_four_thousand_million_times_is_refused_before_anything_is_made() {
    let mut arrays =
        BTreeMap::from([("gammas".to_owned(), Array { shape: vec![0, u32::MAX as usize], values: vec![] })]);
    arrays.insert("denoise_fn.l2.net.0.weight".to_owned(), Array { shape: vec![8], values: vec![0.0; 8] });
    let (imported, peak) = mutate::with_peak(|| published::import(arrays, [80, 60], 1.411, None));
    let failure = imported.unwrap_err();
    assert!(peak < 1 << 20, "{peak}");
    assert_eq!(
        failure.message,
        "the checkpoint cannot be sampled from: sinddm.timesteps: is 4294967295, has to lie between 2 and 10000"
    );
}
