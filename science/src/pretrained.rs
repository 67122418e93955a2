//! Files of published weights: PyTorch checkpoints and safetensors, each with its
//! publisher's names, become tensors by the names of the implementation that they
//! were published for.
//!
//! Such a file comes from elsewhere. No code of it is run, nothing is made room for
//! that the file does not hold, and every name and shape is compared with those of
//! the network.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use burn::tensor::Device;
use domain::experiment::Network;
use domain::pretrained::Pretrained;
use domain::stage::Failure;
use pytorch_reader::DType;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::models::resnet::ResNet;
use crate::models::swin2sr::{Swin2Sr, Swin2SrConfig, checkpoint};
use crate::torch;
use crate::weights::{self, Array, Arrays};

/// Largest file that is looked at: the largest published one has a tenth of it.
const FILE_MAX: u64 = 1 << 30;

/// Where a checkpoint may keep the weights, the first that is there.
const PLACES: [&str; 3] = ["params_ema.", "params.", "state_dict."];

/// Ends of the names of what no network learns: counters, and tables that follow
/// from the configuration.
const PASSED_OVER: [&str; 4] = ["num_batches_tracked", "relative_coords_table", "relative_position_index", "attn_mask"];

/// Lengths of dimensions by the name of the tensor.
type Shapes = BTreeMap<String, Vec<usize>>;

/// A network that weights are published for.
struct Target {
    /// Its tensors, by their official names.
    shapes: Shapes,
    /// Gives tensors by the names of another implementation their official ones, and
    /// leaves others as they are.
    official: fn(Arrays) -> Result<Arrays, Failure>,
}

/// The network of these weights; `None` if it is not built yet.
///
/// This is the place where a network is plugged in.
fn target(which: Pretrained) -> Option<Target> {
    match which {
        Pretrained::Resnet50V2 | Pretrained::Resnet50V1 => Some(Target { shapes: resnet50(), official: Ok }),
        Pretrained::InceptionV3 | Pretrained::InceptionFid => None,
        Pretrained::Swin2srCompressed => Some(swin2sr(&Swin2SrConfig::compressed())),
        Pretrained::Swin2srClassical => Some(swin2sr(&Swin2SrConfig::classical())),
        Pretrained::Swin2srRealworld => Some(swin2sr(&Swin2SrConfig::real_world())),
    }
}

/// torchvision's ResNet50, with its own head rather than the paper's.
fn resnet50() -> Shapes {
    let net = ResNet::new(&Network { head: vec![], ..Network::default() }, &Device::flex());
    let backbone = weights::collect(&net).into_iter().filter(|(name, _)| !name.starts_with("fc."));
    let mut shapes: Shapes = backbone.map(|(name, array)| (name, array.shape)).collect();
    shapes.insert("fc.weight".to_owned(), vec![1000, 2048]);
    shapes.insert("fc.bias".to_owned(), vec![1000]);
    shapes
}

/// The authors' Swin2SR.
fn swin2sr(config: &Swin2SrConfig) -> Target {
    let arrays = authors(weights::collect(&Swin2Sr::new(config, &Device::flex())));
    let official = |arrays| Ok(authors(checkpoint::import(arrays)?.1));
    Target { shapes: arrays.into_iter().map(|(name, array)| (name, array.shape)).collect(), official }
}

/// The authors know of no `head`.
fn authors(arrays: Arrays) -> Arrays {
    let name = |name: String| name.strip_prefix("head.").map(str::to_owned).unwrap_or(name);
    arrays.into_iter().map(|(ours, array)| (name(ours), array)).collect()
}

/// Whether the network of these weights is built.
pub fn is_built(which: Pretrained) -> bool {
    target(which).is_some()
}

/// The failure of whoever needs a network that is not built yet.
pub fn unbuilt(which: Pretrained) -> Failure {
    let instead = which.entry().stand_in.map(|knob| format!(": use --set {knob}")).unwrap_or_default();
    Failure::invalid_input(format!("this program does not have the network of {which} yet{instead}"))
}

/// The weights of a file by their official names.
///
/// # Errors
/// `InvalidInput` naming the file, and the first tensor that is missing, does not
/// belong to the network, has another shape or type, or holds what is not a number.
pub fn read(which: Pretrained, path: &Path) -> Result<Arrays, Failure> {
    let target = target(which).ok_or_else(|| unbuilt(which))?;
    let within = |failure: Failure| Failure::new(failure.code, format!("{}: {failure}", path.display()));
    let arrays = (target.official)(arrays(path)?).map_err(within)?;
    let wrong = first_difference(&arrays, &target.shapes)
        .or_else(|| weights::not_a_number(&arrays).map(|name| format!("tensor {name} holds what is not a number")));
    match wrong {
        Some(problem) => Err(Failure::invalid_input(format!("{}: {problem}; these are not {which}", path.display()))),
        None => Ok(arrays),
    }
}

/// Which weights a file may hold, by the names in it.
///
/// # Errors
/// `InvalidInput` if it cannot be read.
pub fn candidates(path: &Path) -> Result<Vec<Pretrained>, Failure> {
    let names = match Content::open(path)? {
        Content::Torch(tensors) => tensors.into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec())).collect(),
        Content::Safe(bytes) => {
            let shapes = parse(path, &bytes)?;
            shapes.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect()
        }
    };
    Ok(candidates_of(&names))
}

fn candidates_of(names: &Shapes) -> Vec<Pretrained> {
    let has = |name: &str| names.contains_key(name);
    if has("layer4.2.conv3.weight") && has("fc.weight") {
        return vec![Pretrained::Resnet50V2, Pretrained::Resnet50V1];
    }
    if has("Mixed_7c.branch_pool.conv.weight") {
        // The graph of the Fréchet distance tells eight classes more.
        let classes = names.get("fc.weight").and_then(|shape| shape.first());
        return vec![if classes == Some(&1008) { Pretrained::InceptionFid } else { Pretrained::InceptionV3 }];
    }
    // Official names, or those of Hugging Face's port.
    let head = |name: &str| has(&format!("{name}.weight")) || has(&format!("upsample.{name}.weight"));
    if has("conv_first.weight") || has("swin2sr.first_convolution.weight") {
        return vec![match (head("conv_bicubic"), head("conv_up1")) {
            (true, _) => Pretrained::Swin2srCompressed,
            (false, true) => Pretrained::Swin2srRealworld,
            (false, false) => Pretrained::Swin2srClassical,
        }];
    }
    vec![]
}

/// The first name, in their order, that only one side has or both have differently.
fn first_difference(arrays: &Arrays, shapes: &Shapes) -> Option<String> {
    let unknown = arrays.keys().find(|name| !shapes.contains_key(*name));
    let wanting = shapes.iter().find(|(name, shape)| arrays.get(*name).is_none_or(|array| array.shape != **shape));
    match (unknown, wanting) {
        (Some(name), Some((other, _))) if name < other => Some(format!("tensor {name} does not belong to it")),
        (Some(name), None) => Some(format!("tensor {name} does not belong to it")),
        (_, Some((name, shape))) => Some(match arrays.get(name) {
            Some(array) => format!("tensor {name} has shape {:?}, has to be {shape:?}", array.shape),
            None => format!("tensor {name} is missing"),
        }),
        (None, None) => None,
    }
}

/// What a file holds, as far as it has to be read to know.
enum Content {
    /// A PyTorch checkpoint, its tensors unread.
    Torch(BTreeMap<String, pytorch_reader::Tensor>),
    /// The bytes of a safetensors file.
    Safe(Vec<u8>),
}

impl Content {
    fn open(path: &Path) -> Result<Self, Failure> {
        let refuse = |problem: String| Failure::invalid_input(format!("{}: {problem}", path.display()));
        let unread = |error: &std::io::Error| Failure::io("read", path, error);
        let mut file = fs::File::open(path).map_err(|error| unread(&error))?;
        let size = file.metadata().map_err(|error| unread(&error))?.len();
        if size > FILE_MAX {
            return Err(refuse(format!("has {size} bytes, more than any published weights")));
        }
        let mut head = Vec::new();
        (&mut file).take(9).read_to_end(&mut head).map_err(|error| unread(&error))?;
        match *head {
            [] => Err(refuse("the file is empty; was the download cut off?".to_owned())),
            // The length of a header, then the header: safetensors.
            [_, _, _, _, _, _, _, _, b'{'] => {
                let mut bytes = head;
                bytes.reserve_exact(size as usize);
                file.take(FILE_MAX).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
                Ok(Content::Safe(bytes))
            }
            _ => Ok(Content::Torch(unwrap(torch::open(path, None)?.into_iter().collect()))),
        }
    }
}

/// The tensors at the first of the [`PLACES`], or all where there is none.
fn unwrap<T>(tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let place = PLACES.into_iter().find(|place| tensors.keys().any(|name| name.starts_with(place)));
    match place {
        Some(place) => {
            let inner = tensors.into_iter().filter_map(|(name, it)| Some((name.strip_prefix(place)?.to_owned(), it)));
            inner.collect()
        }
        None => tensors,
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, Failure> {
    SafeTensors::deserialize(bytes).map_err(|error| {
        let problem = format!("{}: not a whole safetensors file ({error}); was the download cut off?", path.display());
        Failure::invalid_input(problem)
    })
}

/// All tensors of a file but those that are [`PASSED_OVER`].
fn arrays(path: &Path) -> Result<Arrays, Failure> {
    let is_wanted = |name: &str| !PASSED_OVER.iter().any(|end| name.ends_with(end));
    let wrong_type = |name: &str, kind: &dyn std::fmt::Debug| {
        let path = path.display();
        Failure::invalid_input(format!("{path}: tensor {name} is of type {kind:?}, has to be of 32-bit numbers"))
    };
    match Content::open(path)? {
        Content::Torch(tensors) => {
            let wanted = tensors.into_iter().filter(|(name, _)| is_wanted(name));
            let read = wanted.map(|(name, tensor)| match tensor.dtype() {
                DType::F32 => Ok((name, torch::load(path, &tensor)?)),
                other => Err(wrong_type(&name, &other)),
            });
            read.collect()
        }
        Content::Safe(bytes) => {
            let tensors = parse(path, &bytes)?;
            let mut arrays = Arrays::new();
            for (name, view) in tensors.iter().filter(|(name, _)| is_wanted(name)) {
                if view.dtype() != Dtype::F32 {
                    return Err(wrong_type(name, &view.dtype()));
                }
                let values =
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                arrays.insert(name.to_owned(), Array { shape: view.shape().to_vec(), values });
            }
            Ok(unwrap(arrays))
        }
    }
}

#[cfg(test)]
mod tests;
