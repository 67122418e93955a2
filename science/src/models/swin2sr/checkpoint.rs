//! The published checkpoints of Swin2SR: those of the authors and Hugging Face's
//! (ALGORITHM 3.5). Names here are the authors', with `head.` before what follows
//! the body.

use std::path::Path;

use burn::tensor::Device;
use domain::study::stage::{Failure, FailureCode};

use super::{Swin2Sr, Swin2SrConfig, Variant};
use crate::weights::{self, Array, Arrays, torch};

/// The party that named the tensors of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The authors of Swin2SR.
    Official,
    /// The library `transformers`, which splits queries, keys and values.
    HuggingFace,
}

impl Naming {
    /// The party whose names these are; `None` if neither's.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        names.into_iter().find_map(|name| match name {
            _ if name.starts_with("swin2sr.") => Some(Naming::HuggingFace),
            _ if name.starts_with("conv_first.") => Some(Naming::Official),
            _ => None,
        })
    }
}

/// The tensors around the stages: the authors' names, and Hugging Face's.
const AROUND: [(&str, &str); 5] = [
    ("conv_first", "swin2sr.first_convolution"),
    ("patch_embed.proj", "swin2sr.embeddings.patch_embeddings.projection"),
    ("patch_embed.norm", "swin2sr.embeddings.patch_embeddings.layernorm"),
    ("norm", "swin2sr.layernorm"),
    ("conv_after_body", "swin2sr.conv_after_body"),
];

/// The tensors after the body, without `head.`: the authors' names, and Hugging Face's.
const HEAD: [(&str, &str); 10] = [
    ("conv_before_upsample.0", "upsample.conv_before_upsample"),
    ("conv_bicubic", "upsample.conv_bicubic"),
    ("conv_aux", "upsample.conv_aux"),
    ("conv_after_aux.0", "upsample.conv_after_aux.0"),
    ("upsample.0", "upsample.upsample.convolution_0"),
    ("upsample.2", "upsample.upsample.convolution_1"),
    ("conv_up1", "upsample.conv_up1"),
    ("conv_up2", "upsample.conv_up2"),
    ("conv_hr", "upsample.conv_hr"),
    ("conv_last", "upsample.final_convolution"),
];

/// The tensors of a stage after its blocks: the authors' names, and Hugging Face's.
const STAGE: [(&str, &str); 2] = [("conv", "conv"), ("patch_embed.proj", "patch_embed.projection")];

/// The tensors of a block: the authors' names, and Hugging Face's, whose parts of `qkv` are
/// joined before.
const BLOCK: [(&str, &str); 11] = [
    ("norm1", "layernorm_before"),
    ("attn.logit_scale", "attention.self.logit_scale"),
    ("attn.q_bias", "attention.self.query.bias"),
    ("attn.v_bias", "attention.self.value.bias"),
    ("attn.cpb_mlp.0", "attention.self.continuous_position_bias_mlp.0"),
    ("attn.cpb_mlp.2", "attention.self.continuous_position_bias_mlp.2"),
    ("attn.qkv", "attention.self.qkv"),
    ("attn.proj", "attention.output.dense"),
    ("norm2", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
];

/// The ends of the names of tensors that follow from the sizes of the network, and are in
/// checkpoints nevertheless.
const COMPUTED: [&str; 3] = ["relative_coords_table", "relative_position_index", "attn_mask"];

/// The tensors of a file: of a `.safetensors` file, or of one that PyTorch wrote,
/// in which the authors put them under a key that depends on the variant.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path, variant: Variant) -> Result<Arrays, Failure> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return weights::read(path);
    }
    let keys = match variant {
        Variant::RealWorld => ["params_ema", "params"],
        Variant::Classical | Variant::Compressed => ["params", "params_ema"],
    };
    for key in keys {
        match torch::read(path, Some(key)) {
            Err(failure) if failure.code == FailureCode::InvalidInput => continue, // no such key
            done => return done,
        }
    }
    torch::read(path, None)
}

/// The network with the weights of a checkpoint, and who named them.
///
/// # Errors
/// `InvalidInput` if a tensor is missing, left over or has another shape than
/// those sizes ask for; names the first one.
pub fn network(config: &Swin2SrConfig, arrays: Arrays, device: &Device) -> Result<(Swin2Sr, Naming), Failure> {
    let (naming, arrays) = import(arrays)?;
    let filled = weights::apply(Swin2Sr::new(config, device), arrays);
    let net =
        filled.map_err(|failure| Failure::new(failure.code, failure.message.replacen("tensor head.", "tensor ", 1)))?;
    Ok((net, naming))
}

/// The tensors of a checkpoint under the names of [`Swin2Sr`]'s parameters, and
/// who had named them. Names that neither party uses stay as they are.
///
/// # Errors
/// `InvalidInput` if it is no checkpoint of Swin2SR, or if queries, keys or
/// values lack a part.
pub fn import(mut arrays: Arrays) -> Result<(Naming, Arrays), Failure> {
    let naming = Naming::from_names(arrays.keys().map(String::as_str))
        .ok_or_else(|| Failure::invalid_input("the tensors are not named as those of Swin2SR are".to_owned()))?;
    arrays.retain(|name, _| !COMPUTED.iter().any(|computed| name.ends_with(computed)));
    if naming == Naming::HuggingFace {
        arrays = join(arrays)?.into_iter().map(|(name, array)| (official(&name).unwrap_or(name), array)).collect();
    }
    let ours = |name: String| {
        if HEAD.iter().any(|(head, _)| below(&name, head).is_some()) { format!("head.{name}") } else { name }
    };
    Ok((naming, arrays.into_iter().map(|(name, array)| (ours(name), array)).collect()))
}

/// The rest of a name after another that it begins with, as a whole part.
fn below<'a>(name: &'a str, start: &str) -> Option<&'a str> {
    name.strip_prefix(start).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The authors' name for one of Hugging Face's.
fn official(name: &str) -> Option<String> {
    let in_table = |table: &[(&str, &str)], name: &str| {
        table.iter().find_map(|(official, theirs)| Some(format!("{official}{}", below(name, theirs)?)))
    };
    let Some(rest) = name.strip_prefix("swin2sr.encoder.stages.") else {
        return in_table(&AROUND, name).or_else(|| in_table(&HEAD, name));
    };
    let (stage, rest) = rest.split_once('.')?;
    match rest.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((block, rest)) => {
            Some(format!("layers.{stage}.residual_group.blocks.{block}.{}", in_table(&BLOCK, rest)?))
        }
        None => Some(format!("layers.{stage}.{}", in_table(&STAGE, rest)?)),
    }
}

/// The tensors with the weights of queries, keys and values below each other in one matrix.
fn join(mut arrays: Arrays) -> Result<Arrays, Failure> {
    const QUERY: &str = ".query.weight";
    let owners: Vec<String> = arrays.keys().filter_map(|name| Some(name.strip_suffix(QUERY)?.to_owned())).collect();
    for owner in owners {
        let mut joined = Array { shape: vec![], values: vec![] };
        for part in ["query", "key", "value"] {
            let name = format!("{owner}.{part}.weight");
            let array = arrays.remove(&name);
            let array = array.ok_or_else(|| Failure::invalid_input(format!("tensor {name} is missing")))?;
            match (&mut joined.shape[..], &array.shape[..]) {
                ([], _) => joined.shape = array.shape.clone(),
                ([rows, columns], [more, same]) if columns == same => *rows += more,
                (before, shape) => {
                    let message = format!("tensor {name} has shape {shape:?}, does not fit below {before:?}");
                    return Err(Failure::invalid_input(message));
                }
            }
            joined.values.extend(array.values);
        }
        arrays.insert(format!("{owner}.qkv.weight"), joined);
    }
    Ok(arrays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::swin2sr::tests::small;

    /// A checkpoint as the authors would publish it.
    fn published(config: &Swin2SrConfig) -> Arrays {
        let arrays = weights::collect(&Swin2Sr::new(config, &Device::flex())).into_iter();
        let mut arrays: Arrays =
            arrays.map(|(name, array)| (name.strip_prefix("head.").unwrap_or(&name).to_owned(), array)).collect();
        let mask = Array { shape: vec![1], values: vec![0.0] };
        arrays.insert("layers.0.residual_group.blocks.1.attn_mask".to_owned(), mask);
        arrays
    }

    fn refusal(config: &Swin2SrConfig, change: impl FnOnce(&mut Arrays)) -> String {
        let mut arrays = published(config);
        change(&mut arrays);
        network(config, arrays, &Device::flex()).unwrap_err().message
    }

    #[test]
    fn what_is_missing_left_over_or_of_another_shape_is_named_as_published() {
        let config = small(Variant::Compressed);
        assert_eq!(network(&config, published(&config), &Device::flex()).unwrap().1, Naming::Official);
        assert_eq!(refusal(&config, |arrays| drop(arrays.remove("conv_aux.bias"))), "tensor conv_aux.bias is missing");
        assert_eq!(
            refusal(&config, |arrays| arrays.get_mut("conv_last.weight").unwrap().shape = vec![3, 64]),
            "tensor conv_last.weight has shape [3, 64], has to be [3, 64, 3, 3]"
        );
        let extra = Array { shape: vec![1], values: vec![0.0] };
        assert_eq!(
            refusal(&config, |arrays| drop(arrays.insert("conv_up1.bias".to_owned(), extra))),
            "tensor conv_up1.bias does not belong to this network"
        );
        assert!(refusal(&config, Arrays::clear).contains("not named"));
    }

    #[test]
    fn names_of_the_library_become_those_of_the_authors() {
        for (theirs, ours) in [
            ("swin2sr.first_convolution.bias", "conv_first.bias"),
            ("swin2sr.encoder.stages.3.conv.weight", "layers.3.conv.weight"),
            (
                "swin2sr.encoder.stages.5.layers.4.attention.self.logit_scale",
                "layers.5.residual_group.blocks.4.attn.logit_scale",
            ),
            ("swin2sr.encoder.stages.0.layers.1.output.dense.bias", "layers.0.residual_group.blocks.1.mlp.fc2.bias"),
            ("upsample.upsample.convolution_1.weight", "upsample.2.weight"),
        ] {
            assert_eq!(official(theirs).as_deref(), Some(ours));
        }
        assert_eq!(official("swin2sr.layernormal.weight"), None);
    }

    #[test]
    fn parts_of_attention_are_joined_or_missed_by_name() {
        let part = |rows: usize, value: f32| Array { shape: vec![rows, 2], values: vec![value; 2 * rows] };
        let parts = [("query", 1.0), ("key", 2.0), ("value", 3.0)];
        let mut arrays: Arrays = parts.map(|(name, value)| (format!("swin2sr.a.{name}.weight"), part(2, value))).into();
        let joined = &join(arrays.clone()).unwrap()["swin2sr.a.qkv.weight"];
        assert_eq!(joined.shape, [6, 2]);
        assert_eq!([joined.values[3], joined.values[4], joined.values[11]], [1.0, 2.0, 3.0]);
        arrays.remove("swin2sr.a.key.weight");
        assert_eq!(join(arrays).unwrap_err().message, "tensor swin2sr.a.key.weight is missing");
    }
}
