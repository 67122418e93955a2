//! A trained SinDDM.

use std::path::Path;

use burn::tensor::Device;
use domain::study::experiment::Sampling;
use domain::study::records::{Record, SinddmRecord};
use domain::study::stage::Failure;

use super::guide::Guide;
use super::sampler::Sampler;
use super::schedule::Schedule;
use crate::files;
use crate::models::sinddm::SinDdm;
use crate::weights;

/// A trained network, with what its samplers have to know of the training.
pub struct Model {
    net: SinDdm,
    schedule: Schedule,
    record: SinddmRecord,
}

impl Model {
    /// The model of a folder with `model.safetensors` and `training.json`.
    ///
    /// # Errors
    /// If a file cannot be read or they do not belong together.
    pub fn open(folder: &Path, device: &Device) -> Result<Self, Failure> {
        let record: SinddmRecord = files::read(&folder.join(SinddmRecord::FILE))?;
        let net = SinDdm::new(record.sinddm.dim as usize, device);
        Ok(Self {
            net: weights::load(net, &folder.join("model.safetensors"))?,
            schedule: Schedule::new(record.sinddm.timesteps, &record.rescale_losses),
            record,
        })
    }

    /// The record of its training.
    pub fn record(&self) -> &SinddmRecord {
        &self.record
    }

    /// A sampler of this model.
    pub fn sampler<'a>(&'a self, sampling: &'a Sampling, guide: &'a Guide) -> Sampler<'a> {
        Sampler {
            net: &self.net,
            schedule: &self.schedule,
            sizes: self.record.sizes.iter().map(|size| sampling.size(*size)).collect(),
            lengths: &self.record.sampling_steps,
            sampling,
            guide,
        }
    }
}
