//! Networks, one per file, top to bottom: configuration, blocks, model, forward.

pub mod ddpm;
pub mod diffusion;
pub mod inception;
pub mod resnet;
pub mod sinddm;
pub mod swin2sr;

#[cfg(test)]
mod golden;
