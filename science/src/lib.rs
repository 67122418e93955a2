//! Data, models, training and statistics: the only crate that knows burn and
//! pictures. It knows nothing of tasks, leases or the network: a stage gets a
//! folder of inputs and leaves a folder of outputs.
//!
//! | module | what it holds |
//! |---|---|
//! | [`stages`] | one stage per file |
//! | [`models`] | one network per file, and the weights that are published for them |
//! | [`layers`] | what networks are built of, the only door to burn's layers |
//! | [`diffusion`] | schedules, samplers and finished samples of diffusion models |
//! | [`training`] | what trainings share: all that changes from step to step, and their end |
//! | [`weights`] | named tensors, in safetensors files and PyTorch's |
//! | [`data`] | reading and writing pictures, resizing, masks, splits, phantoms |
//! | [`frechet`] | distance between the features of two sets of samples |
//! | [`checkpoint`] | all that a training or sampling needs to go on |
//! | [`progress`] | how far the work is, for people |
//! | [`random`] | generators keyed by (seed, purpose, step) |
//! | [`files`] | files that stages read and write, records above all |
//! | [`device`] | which processor computes |
//! | [`steps`] | what a study spends its time in, ready to be timed |
//! | `parity` | tests against numbers of the reference implementations |

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
pub mod steps;
pub mod training;
pub mod weights;

pub use kernels;
pub use stages::run;
