//! Diffusion models: how noise is put on pictures and taken off again.
//!
//! | module | what it holds |
//! |---|---|
//! | [`schedule`] | how much noise and blur each step holds, and single steps |
//! | [`sampler`] | all steps of SinDDM, coarse to fine, one by one |
//! | [`guide`] | the pictures that samples hold on to |
//! | [`model`] | a trained SinDDM |
//! | [`samples`] | finished samples: whether they are numbers, and their files |
//! | [`published`] | checkpoints of the published SinDDM |

pub mod guide;
pub mod model;
pub mod published;
pub mod sampler;
pub mod samples;
pub mod schedule;
