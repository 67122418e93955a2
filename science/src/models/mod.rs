//! Networks, one per file, top to bottom: configuration, blocks, model, forward.

pub mod ddpm;
pub mod diffusion;
pub mod inception;
pub mod layers;
pub mod resnet;
pub mod sinddm;

#[cfg(test)]
mod golden;
