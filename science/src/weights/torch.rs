//! PyTorch's files: tensors by name, with the type of number and the shape of each.
//! Reading runs no code of a file and refuses one that holds some.

use std::collections::HashMap;
use std::path::Path;

use domain::study::stage::Failure;
use pytorch_reader::{DType, PytorchError, PytorchReader, Tensor};

use super::guard;
use super::{Array, Arrays};

/// The 32-bit tensors of a file that holds a `state_dict` and nothing else, or those
/// under a key.
///
/// # Errors
/// `InvalidInput` if the file is none of PyTorch's or lacks the key.
pub fn read(path: &Path, key: Option<&str>) -> Result<Arrays, Failure> {
    let floats = open(path, key)?.into_iter().filter(|(_, tensor)| tensor.dtype() == DType::F32);
    floats.map(|(name, tensor)| Ok((name, load(path, &tensor)?))).collect()
}

/// The tensors of a file, or those under a key, without their values. They are no larger
/// in all than the file explains.
pub(crate) fn open(path: &Path, key: Option<&str>) -> Result<HashMap<String, Tensor>, Failure> {
    let refuse = |problem: String| Failure::invalid_input(format!("{}: {problem}", path.display()));
    let bytes = guard::check(path)?;
    let opened = match key {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    };
    let reader = opened.map_err(|error| match error {
        PytorchError::Io(error) => Failure::io("read", path, &error),
        error => refuse(error.to_string()),
    })?;
    let tensors = reader.into_tensors();
    let mut room = guard::room(bytes);
    for (name, tensor) in &tensors {
        room = room.checked_sub(tensor.byte_len() as u64).ok_or_else(|| {
            let shape = tensor.shape();
            refuse(format!(
                "tensor {name} of shape {shape:?} and the others are more than the {bytes} bytes of the file"
            ))
        })?;
    }
    Ok(tensors)
}

/// The values of a tensor of 32-bit numbers.
pub(crate) fn load(path: &Path, tensor: &Tensor) -> Result<Array, Failure> {
    let bytes = tensor.read().map_err(|error| Failure::invalid_input(format!("{}: {error}", path.display())))?;
    let values = bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok(Array { shape: tensor.shape().to_vec(), values })
}
