//! Swin2SR against the reference: every folder of cases.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use domain::study::stage::Failure;
use serde_json::Value;

use super::*;
use crate::data::{picture, tensors};
use crate::models::swin2sr::checkpoint::{self, Naming};
use crate::models::swin2sr::script::{Mirror, Script, Tiling, mirrored};
use crate::models::swin2sr::windows::{self, Grid};
use crate::models::swin2sr::{Enlarged, Swin2Sr, Swin2SrConfig, Variant};
use crate::weights::{self, torch};

/// Values reach about 4.
const TOLERANCE: f64 = 5e-5;

type Shapes = BTreeMap<String, Vec<usize>>;

/// One network with its cases.
struct Folder {
    name: String,
    info: Value,
    config: Swin2SrConfig,
    vectors: Vectors,
    compared: RefCell<BTreeSet<String>>,
}

impl Folder {
    fn all() -> Vec<Self> {
        let entries = fs::read_dir(path("swin2sr")).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<String> = entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| format!("swin2sr/{}", entry.file_name().into_string().unwrap()))
            .collect();
        names.sort();
        assert!(!names.is_empty());
        names.into_iter().map(Self::open).collect()
    }

    fn open(name: String) -> Self {
        let info = json(&format!("{name}/info.json"));
        let config = &info["config"];
        let config = Swin2SrConfig {
            variant: serde_json::from_value(config["upsampler"].clone()).unwrap(),
            img_size: size(&config["img_size"]),
            embed_dim: size(&config["embed_dim"]),
            depths: sizes(&config["depths"]),
            heads: sizes(&config["num_heads"]),
            window: size(&config["window_size"]),
            mlp_ratio: size(&config["mlp_ratio"]),
            hf_compat: false,
        };
        let vectors = Vectors::open(&format!("{name}/io.safetensors"));
        Self { name, info, config, vectors, compared: RefCell::default() }
    }

    /// A file of the folder, if it is there.
    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(path(&self.name).join(name)).filter(|path| path.exists())
    }

    /// The weights that the formula gives, under our names.
    fn arrays(&self) -> Arrays {
        let mut arrays = weights::collect(&Swin2Sr::new(&self.config, &Device::flex()));
        fill(&mut arrays, self.info["gain_sq"].as_f64().unwrap(), |name| published(name).to_owned());
        arrays
    }

    fn network(&self, hf_compat: bool, device: &Device) -> Swin2Sr {
        let config = Swin2SrConfig { hf_compat, ..self.config.clone() };
        weights::apply(Swin2Sr::new(&config, device), self.arrays()).unwrap()
    }

    /// The numbers of the cases.
    fn cases(&self) -> Vec<String> {
        self.info["cases"].as_array().unwrap().iter().map(|case| format!("case{}", case["case"])).collect()
    }

    /// Compares with a tensor if there is one of that name.
    fn compare<const D: usize>(&self, name: &str, tensor: impl FnOnce() -> Tensor<D>) {
        let Some((shape, expected)) = self.vectors.0.get(name) else { return };
        let tensor = tensor();
        assert_eq!(tensor.dims()[..], shape[shape.len() - D..], "{} {name}", self.name);
        assert_close(tensor, expected, TOLERANCE, &format!("{} {name}", self.name));
        self.compared.borrow_mut().insert(name.to_owned());
    }

    /// Fails if a tensor of that kind was compared with nothing.
    fn assert_all(&self, kind: impl Fn(&str) -> bool) {
        let compared = self.compared.borrow();
        let left = self.vectors.0.keys().find(|name| kind(name) && !compared.contains(*name));
        assert_eq!(left, None, "{}", self.name);
    }
}

/// Tells whether a tensor is one from inside of the network.
fn is_part(name: &str) -> bool {
    !name.starts_with("case") || name.contains(".padded.")
}

fn size(value: &Value) -> usize {
    value.as_f64().unwrap() as usize
}

fn sizes(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(size).collect()
}

/// The name in the authors' checkpoints.
fn published(name: &str) -> &str {
    name.strip_prefix("head.").unwrap_or(name)
}

fn shapes(arrays: &Arrays) -> Shapes {
    arrays.iter().map(|(name, array)| (published(name).to_owned(), array.shape.clone())).collect()
}

/// Tensors of a list of names and shapes, all zero.
fn blank(list: &Value) -> Arrays {
    let entries = list.as_array().unwrap().iter().map(|entry| {
        let shape = sizes(&entry[1]);
        (entry[0].as_str().unwrap().to_owned(), Array { values: vec![0.0; shape.iter().product()], shape })
    });
    entries.collect()
}

fn is_whole(folder: &Folder, case: &str) -> bool {
    folder.vectors.shape(&format!("{case}.input"))[2..].iter().all(|side| side.is_multiple_of(folder.config.window))
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn pictures_equal_the_reference() {
    let device = device();
    for folder in Folder::all() {
        let (net, port) = (folder.network(false, &device), folder.network(true, &device));
        for case in folder.cases() {
            let part = |what: &str| format!("{case}.{what}");
            let x = folder.vectors.tensor::<4>(&part("input"), &device);
            let crop = |made: Enlarged| {
                let [_, _, height, width] = x.dims();
                made.picture.narrow(2, 0, 4 * height).narrow(3, 0, 4 * width)
            };
            let direct = net.forward(x.clone());
            folder.compare(&part("official_direct"), || direct.picture);
            folder.compare(&part("official_direct_aux"), || direct.aux.unwrap());
            folder.compare(&part("hf_direct"), || port.forward(x.clone()).picture);
            folder.compare(&part("hf_padded_crop"), || port.script(x.clone(), Script::default()).picture);
            let [_, _, height, width] = x.dims();
            let padded = [height, width].map(|side| (side / folder.config.window + 1) * folder.config.window);
            folder.compare(&part("script_padded_input"), || mirrored(x.clone(), padded, Mirror::AfterPixel));

            if folder.vectors.0.contains_key(&part("script_out")) {
                let script = net.script(x.clone(), Script { crop: false, tiling: None });
                assert_eq!(script.picture.dims()[2..], padded.map(|side| 4 * side));
                folder.compare(&part("script_aux_full"), || script.aux.clone().unwrap());
                folder.compare(&part("script_out"), || crop(script));
            }
            if let Some(tiles) = folder.info["tiles"].as_object() {
                let tiling = Tiling::new(size(&tiles["tile"]), size(&tiles["overlap"])).unwrap();
                let name = part(&format!("tiled_{}_{}_crop", tiles["tile"], tiles["overlap"]));
                let script = Script { tiling: Some(tiling), ..Script::default() };
                folder.compare(&name, || {
                    assert_eq!(tiling.tiles(padded).1, [sizes(&tiles["h_idx"]), sizes(&tiles["w_idx"])]);
                    net.script(x.clone(), script).picture
                });
            }
            let Some(input) = folder.file(&format!("{case}_input.png")) else { continue };
            let image = picture::open_rgb8(&input).unwrap().image;
            assert_close(tensors::unsigned(&image, &device), folder.vectors.values(&part("input")), 1e-7, &case);
            let Some(output) = folder.file(&format!("{case}_script_out.png")) else { continue };
            let expected = picture::open_rgb8(&output).unwrap().image;
            let own = net.enlarge(&image, Script::default(), &device);
            assert_eq!(own.dimensions(), expected.dimensions());
            let worst = own.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(worst <= Some(1), "{} {case}: differs by {worst:?} levels", folder.name);
        }
        folder.assert_all(|name| !is_part(name) && !name.contains(".input"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn parts_of_the_network_equal_the_reference() {
    let device = device();
    for folder in Folder::all() {
        let (net, window) = (folder.network(false, &device), folder.config.window);
        let (tokens, side) = (window * window, 2 * window - 1);
        folder.compare("relative_coords_table", || {
            Tensor::<4>::from_data(TensorData::new(windows::offsets(window), [1, side, side, 2]), &device)
        });
        if let Some((_, expected)) = folder.vectors.0.get("relative_position_index") {
            assert!(windows::pairs(window).iter().zip(expected).all(|(own, theirs)| f64::from(*own) == *theirs));
        }
        folder.compare("block0_0.relative_position_bias", || {
            net.layers[0].residual_group.blocks[0].attn.position_bias(&device).squeeze_dim::<3>(0)
        });
        folder.compare("attn_mask_windows", || {
            let patch = [folder.config.img_size; 2];
            let across = folder.config.img_size / window;
            let numbers = [0, across - 1, across * across - 2, across * across - 1];
            let mask = |number| windows::mask(number, patch, window).unwrap_or_else(|| vec![0.0; tokens * tokens]);
            let values: Vec<f32> = numbers.into_iter().flat_map(mask).collect();
            Tensor::<3>::from_data(TensorData::new(values, [numbers.len(), tokens, tokens]), &device)
        });
        for case in folder.cases() {
            let part = |what: &str| format!("{case}.padded.{what}");
            let x = folder.vectors.tensor::<4>(&format!("{case}.input"), &device);
            let [_, _, height, width] = x.dims();
            let size = [height, width].map(|side| (side / window + 1) * window);
            let first = net.first(mirrored(x, size, Mirror::AfterPixel));
            let grid = Grid::new(size, window, &device);
            folder.compare(&part("block0_1_shifted"), || {
                let mut blocks = net.layers[0].residual_group.clone();
                blocks.blocks.truncate(2);
                blocks.forward(net.embed(&first, &grid), &grid)
            });
            folder.compare(&part("norm"), || net.body(&first, &grid));
        }
        folder.assert_all(|name| is_part(name) && name != "relative_position_index");
    }
}

/// Stored checkpoints, in whichever naming, hold what the formula gives.
#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn checkpoints_of_either_naming_are_the_network() {
    let device = device();
    for folder in Folder::all() {
        let own = folder.arrays();
        if let Some(file) = folder.file("official.pth") {
            let read = checkpoint::read(&file, folder.config.variant).unwrap();
            let keyed: Vec<Result<Arrays, Failure>> =
                ["params", "params_ema"].map(|key| torch::read(&file, Some(key))).into();
            assert!(keyed.into_iter().flatten().any(|arrays| arrays == read), "{}", folder.name);
            for other in [Variant::Classical, Variant::RealWorld] {
                assert!(checkpoint::read(&file, other).unwrap() == read, "{}", folder.name);
            }
            let (naming, arrays) = checkpoint::import(read).unwrap();
            assert_eq!(naming, Naming::Official);
            assert!(arrays == own, "{}", folder.name);
        }
        let Some(file) = folder.file("hf.safetensors") else { continue };
        let theirs = json(&format!("{}/hf_config.json", folder.name));
        let config = Swin2SrConfig {
            variant: serde_json::from_value(theirs["upsampler"].clone()).unwrap(),
            img_size: size(&theirs["image_size"]),
            embed_dim: size(&theirs["embed_dim"]),
            depths: sizes(&theirs["depths"]),
            heads: sizes(&theirs["num_heads"]),
            window: size(&theirs["window_size"]),
            mlp_ratio: size(&theirs["mlp_ratio"]),
            hf_compat: true,
        };
        let read = checkpoint::read(&file, config.variant).unwrap();
        assert!(checkpoint::import(read.clone()).unwrap().1 == own, "{}", folder.name);
        let (net, naming) = checkpoint::network(&config, read, &device).unwrap();
        assert_eq!(naming, Naming::HuggingFace);
        // Apart from compressed pictures, the port does the same with whole windows.
        if folder.vectors.0.keys().any(|name| name.ends_with("hf_direct")) {
            continue;
        }
        for case in folder.cases().into_iter().filter(|case| is_whole(&folder, case)) {
            let x = folder.vectors.tensor::<4>(&format!("{case}.input"), &device);
            folder.compare(&format!("{case}.official_direct"), || net.forward(x).picture);
        }
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn names_and_shapes_are_complete_in_either_naming() {
    let folders = Folder::all();
    for folder in &folders {
        let net = Swin2Sr::new(&folder.config, &Device::flex());
        let own = shapes(&weights::collect(&net));
        assert_eq!(weights::parameters(&net), folder.info["n_params"].as_u64().unwrap(), "{}", folder.name);
        if folder.info["tensors"].is_array() {
            assert_eq!(shapes(&blank(&folder.info["tensors"])), own, "{}", folder.name);
        }
        if folder.file("keys.json").is_some() {
            let keys = json(&format!("{}/keys.json", folder.name));
            for (list, naming) in [("official", Naming::Official), ("hf", Naming::HuggingFace)] {
                let (found, arrays) = checkpoint::import(blank(&keys[list])).unwrap();
                assert_eq!((found, shapes(&arrays)), (naming, own.clone()), "{} {list}", folder.name);
            }
        }
    }
    // The library's names of the full-size networks: those of a small one's first
    // block and stage, as often as there are blocks and stages.
    for config in [Swin2SrConfig::classical(), Swin2SrConfig::compressed(), Swin2SrConfig::real_world()] {
        let like = |folder: &&Folder| folder.config.variant == config.variant && folder.file("keys.json").is_some();
        let Some(folder) = folders.iter().find(like) else { continue };
        let keys = json(&format!("{}/keys.json", folder.name));
        let names = keys["hf"].as_array().unwrap().iter().map(|entry| entry[0].as_str().unwrap());
        let mut arrays = Arrays::new();
        for name in names {
            let one = |name: String| (name, Array { shape: vec![1, 1], values: vec![0.0] });
            let Some(rest) = name.strip_prefix("swin2sr.encoder.stages.0.") else {
                arrays.extend((!name.contains(".stages.")).then(|| one(name.to_owned())));
                continue;
            };
            for (stage, depth) in config.depths.iter().enumerate() {
                let stage = format!("swin2sr.encoder.stages.{stage}");
                match rest.strip_prefix("layers.0.") {
                    Some(rest) => {
                        arrays.extend((0..*depth).map(|block| one(format!("{stage}.layers.{block}.{rest}"))));
                    }
                    None if rest.starts_with("layers.") => {}
                    None => arrays.extend([one(format!("{stage}.{rest}"))]),
                }
            }
        }
        let (_, arrays) = checkpoint::import(arrays).unwrap();
        let own = weights::collect(&Swin2Sr::new(&config, &Device::flex()));
        assert_eq!(arrays.keys().collect::<Vec<_>>(), own.keys().collect::<Vec<_>>());
    }
}
