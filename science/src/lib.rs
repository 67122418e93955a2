//! Data, models, training and statistics: the only crate that knows burn and
//! pictures. It knows nothing of tasks, leases or the network: a stage gets a
//! folder of inputs and leaves a folder of outputs.
//!
//! | module | what it holds |
//! |---|---|
//! | [`data`] | reading and writing pictures, resizing, masks, splits, phantoms |
//! | [`layers`] | what networks are built of, the only door to those of burn |
//! | [`models`] | one network per file |
//! | [`training`] | what trainings share: all that changes from step to step, and their end |
//! | [`diffusion`] | pictures from a diffusion model, step by step |
//! | [`stages`] | one stage per file |
//! | [`files`] | files that stages read and write, records above all |
//! | [`random`] | generators keyed by (seed, purpose, step) |
//! | [`frechet`] | distance between the features of two sets of samples |
//! | [`weights`] | named tensors, in safetensors files and PyTorch's |
//! | [`checkpoint`] | all that a training needs to go on |
//! | [`progress`] | how far the work is, for people |
//! | [`device`] | which processor computes |

pub mod checkpoint;
pub mod data;
pub mod device;
pub mod diffusion;
pub mod files;
pub mod frechet;
pub mod layers;
pub mod models;
#[cfg(test)]
mod parity;
pub mod progress;
pub mod random;
pub mod stages;
pub mod training;
pub mod weights;

pub use stages::run;
