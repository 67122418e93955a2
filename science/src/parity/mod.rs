//! Tests against numbers computed by the reference implementations, in the folder that
//! the environment variable LITHOGEN_GOLDEN names: one file per network, and one for each
//! thing else that has a reference.

mod drift;
mod inception;
mod resize;
mod resnet;
mod sinddm;
mod swin2sr;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

use crate::weights::{Array, Arrays, Shapes, Trail};

/// The processor that the parity of SinDDM is tested on: LITHOGEN_TEST_DEVICE, a
/// kind of `--device`, or the CPU.
fn device() -> Device {
    let kind = env::var("LITHOGEN_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    crate::device::Kind::parse(&kind).and_then(crate::device::Kind::open).unwrap()
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env::var("LITHOGEN_GOLDEN").unwrap()).join(name)
}

fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap()
}

/// All tensors of a file as 64-bit numbers.
struct Vectors(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Vectors {
    fn open(name: &str) -> Self {
        let bytes = fs::read(path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |view: &safetensors::tensor::TensorView<'_>| -> Vec<f64> {
            let data = view.data();
            match view.dtype() {
                Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
                Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                Dtype::I64 => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
                Dtype::U8 => data.iter().map(|&b| b.into()).collect(),
                other => panic!("{other:?}"),
            }
        };
        Self(file.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), numbers(&view)))).collect())
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.0[name].0.clone()
    }

    fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let values: Vec<f32> = self.values(name).iter().map(|&v| v as f32).collect();
        Tensor::from_data(TensorData::new(values, self.shape(name)), device)
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        self.values(name).iter().map(|&v| v as u32).collect()
    }

    /// The tensors whose names start with `prefix`, without it; counters left out.
    fn arrays(&self, prefix: &str) -> Arrays {
        let own = self.0.iter().filter(|(name, _)| !name.contains("num_batches"));
        own.filter_map(|(name, (shape, values))| {
            let values = values.iter().map(|&v| v as f32).collect();
            Some((name.strip_prefix(prefix)?.to_owned(), Array { shape: shape.clone(), values }))
        })
        .collect()
    }
}

/// Fails unless all values are within `tolerance` of what is expected.
fn assert_close<const D: usize>(tensor: Tensor<D>, expected: &[f64], tolerance: f64, what: &str) {
    let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
    assert_eq!(values.len(), expected.len(), "{what}");
    let worst = values.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: differs by {worst}");
}

/// Number i of the stream of a name, −1 to 1 (FNV-1a and SplitMix64), for the
/// seed of the whole set.
fn procedural(name: &str) -> impl Fn(u64) -> f64 + use<> {
    let seed = json("set.json")["fill_seed"].as_u64().unwrap();
    let key = seed
        ^ name.bytes().fold(0xCBF29CE484222325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100000001B3));
    move |i| {
        let mut z = key.wrapping_add((i + 1).wrapping_mul(0x9E3779B97F4A7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
        ((z ^ (z >> 31)) >> 40) as f64 * f64::from(2f32.powi(-23)) - 1.0
    }
}

/// Noise of unit variance that the reference was given.
fn noise<const D: usize>(tag: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let c = procedural(tag);
    let value = |i: u64| (((c(4 * i) + c(4 * i + 1)) + (c(4 * i + 2) + c(4 * i + 3))) * 0.8660254037844386) as f32;
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Replaces weights by those that the reference was given.
fn fill(arrays: &mut Arrays, gain_sq: f64, reference_name: impl Fn(&str) -> String) {
    for (name, array) in arrays {
        let last = name.rsplit('.').next().unwrap();
        let (offset, amplitude) = match (last, array.shape.len()) {
            ("running_mean", _) => (0.0, 0.1),
            ("running_var", _) => (1.0, 0.5),
            ("logit_scale", _) => (std::f64::consts::LN_10, 0.3),
            (_, 2..) => (0.0, (3.0 * gain_sq / array.shape[1..].iter().product::<usize>() as f64).sqrt()),
            ("weight", _) => (1.0, 0.1),
            _ => (0.0, 0.1),
        };
        let c = procedural(&reference_name(name));
        for (i, value) in array.values.iter_mut().enumerate() {
            *value = (offset + amplitude * c(i as u64)) as f32;
        }
    }
}

/// Names of the files in a folder that end so, without the ending.
fn names_ending(folder: &str, ending: &str) -> Vec<String> {
    let files = fs::read_dir(path(folder)).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = files.filter_map(|name| Some(name.strip_suffix(ending)?.to_owned())).collect();
    names.sort();
    names
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |largest: f64, v| largest.max(v.abs()))
}

/// The tensors that a file lists: names and shapes.
fn listed(tensors: &serde_json::Value) -> Shapes {
    let shape = |entry: &serde_json::Value| serde_json::from_value(entry[1].clone()).unwrap();
    tensors.as_array().unwrap().iter().map(|entry| (entry[0].as_str().unwrap().to_owned(), shape(entry))).collect()
}

/// The shapes with the counters of batches that PyTorch keeps beside running statistics.
fn with_counters(shapes: &Shapes) -> Shapes {
    let norms = shapes.keys().filter_map(|name| name.strip_suffix("running_mean"));
    let counters = norms.map(|norm| (format!("{norm}num_batches_tracked"), Vec::new()));
    shapes.clone().into_iter().chain(counters).collect()
}

/// Gradients under the names of their parameters, laid out as these.
struct Gradients<'a> {
    trail: Trail,
    gradients: &'a GradientsParams,
    named: BTreeMap<String, Vec<f32>>,
}

impl Gradients<'_> {
    fn by_name<M: Module>(gradients: &GradientsParams, module: &M) -> BTreeMap<String, Vec<f32>> {
        let mut visitor = Gradients { trail: Trail::default(), gradients, named: BTreeMap::new() };
        module.visit(&mut visitor);
        visitor.named
    }
}

impl ModuleVisitor for Gradients<'_> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.trail.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.trail.exit();
    }

    /// Running statistics have none.
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        let gradient = if self.trail.transposed() { gradient.transpose() } else { gradient };
        self.named.insert(self.trail.name(), gradient.into_data().iter::<f32>().collect());
    }
}
