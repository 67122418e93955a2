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
use domain::study::experiment::Network;
use domain::study::pretrained::Pretrained;
use domain::study::stage::Failure;
use pytorch_reader::DType;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use super::inception::{Inception, Variant};
use super::resnet::{IMAGENET_CLASSES, ResNet};
use super::swin2sr::{Swin2Sr, Swin2SrConfig, checkpoint};
use crate::weights::guard::FILE_MAX;
use crate::weights::{self, Array, Arrays, Shapes, torch};

/// The prefixes of the weights in a checkpoint; the first that is there counts.
const PLACES: [&str; 3] = ["params_ema.", "params.", "state_dict."];

/// The ends of the names of tensors that no network learns: counters, and tables that follow
/// from the configuration.
const PASSED_OVER: [&str; 4] = ["num_batches_tracked", "relative_coords_table", "relative_position_index", "attn_mask"];

/// A network that weights are published for.
struct Target {
    /// The shapes of its tensors, by their official names.
    shapes: Shapes,
    /// Gives tensors by the names of another implementation their official ones, and
    /// leaves others as they are.
    official: fn(Arrays) -> Result<Arrays, Failure>,
}

/// The network of these weights.
fn target(which: Pretrained) -> Target {
    let torch = |shapes| Target { shapes, official: Ok };
    match which {
        Pretrained::Resnet50V2 | Pretrained::Resnet50V1 => {
            torch(ResNet::tensors(&Network::default(), IMAGENET_CLASSES))
        }
        Pretrained::InceptionV3 => {
            let mut shapes = Inception::tensors(Variant::Torchvision);
            shapes.extend(Inception::aux_tensors());
            torch(shapes)
        }
        Pretrained::InceptionFid => torch(Inception::tensors(Variant::Fid)),
        Pretrained::Swin2srCompressed => swin2sr(&Swin2SrConfig::compressed()),
        Pretrained::Swin2srClassical => swin2sr(&Swin2SrConfig::classical()),
        Pretrained::Swin2srRealworld => swin2sr(&Swin2SrConfig::real_world()),
    }
}

/// The authors' Swin2SR.
fn swin2sr(config: &Swin2SrConfig) -> Target {
    let shapes = authors(weights::shapes(&Swin2Sr::new(config, &Device::flex())));
    let official = |arrays| Ok(authors(checkpoint::import(arrays)?.1));
    Target { shapes, official }
}

/// The authors know of no `head`.
fn authors<T>(tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let name = |name: String| name.strip_prefix("head.").map(str::to_owned).unwrap_or(name);
    tensors.into_iter().map(|(ours, it)| (name(ours), it)).collect()
}

/// The weights of a file by their official names.
///
/// # Errors
/// `InvalidInput` naming the file, and the first tensor that is missing, does not
/// belong to the network, has another shape or type, or holds what is not a number.
pub fn read(which: Pretrained, path: &Path) -> Result<Arrays, Failure> {
    let target = target(which);
    let within =
        |failure: Failure| Failure::new(failure.code, format!("{}: {failure}; these are not {which}", path.display()));
    let arrays = (target.official)(arrays(path)?).map_err(within)?;
    weights::check(&arrays, &target.shapes).map_err(within)?;
    match weights::not_a_number(&arrays) {
        Some(name) => Err(within(Failure::invalid_input(format!("tensor {name} holds what is not a number")))),
        None => Ok(arrays),
    }
}

/// The weights that a file may hold, by the names in it.
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

/// The content of a file, as far as it has to be read to know the names in it.
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
