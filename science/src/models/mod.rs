//! Networks, one per file, top to bottom: configuration, blocks, model, forward. What
//! weights are published for them is in [`pretrained`].

pub mod ddpm;
pub mod inception;
pub mod pretrained;
pub mod resnet;
pub mod sinddm;
pub mod swin2sr;
