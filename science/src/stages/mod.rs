//! Stages, one per file. Each reads its inputs, does its work and leaves its
//! outputs in the attempt's folder; see [`domain::stage::Stage`] for the names.

pub mod aggregate;
pub mod classify_train;
pub mod ddpm_sample;
pub mod ddpm_train;
pub mod drift;
pub mod heatmap;
pub mod ingest;
pub mod pad;
pub mod patches;
pub mod report;
pub mod sifid;
pub mod sinddm_sample;
pub mod sinddm_train;
pub mod swin2sr_train;
pub mod upscale;

use burn::tensor::Device;
use domain::seed::Seed;
use domain::stage::{Failure, Folder, Monitor, Stage};

/// What every stage is given besides its parameters.
pub struct Attempt<'a> {
    /// Root of the task's random numbers.
    pub seed: Seed,
    /// Inputs and outputs.
    pub folder: &'a Folder,
    /// Told how far the work is; tells when to stop.
    pub monitor: &'a mut dyn Monitor,
    /// Where tensors live.
    pub device: &'a Device,
    /// Bytes of memory that the attempt may count on there.
    pub memory: u64,
}

/// Runs one stage to its end.
///
/// # Errors
/// Why there is no result.
pub fn run(stage: &Stage, attempt: Attempt<'_>) -> Result<(), Failure> {
    match stage {
        Stage::Ingest(ingest) => ingest::run(ingest, attempt),
        Stage::Pad { class, pad } => pad::run(*class, pad, attempt),
        Stage::SinddmTrain { sinddm } => sinddm_train::run(sinddm, attempt),
        Stage::SinddmSample { sampling } => sinddm_sample::run(sampling, attempt),
        Stage::DdpmTrain { training } => ddpm_train::run(training, attempt),
        Stage::DdpmSample { sampling } => ddpm_sample::run(sampling, attempt),
        Stage::Swin2srTrain { size, training } => swin2sr_train::run(*size, training, attempt),
        Stage::Upscale { upscale } => upscale::run(upscale, attempt),
        Stage::EvaluateDrift { drift } => drift::run(drift, attempt),
        Stage::EvaluateHeatmap => heatmap::run(attempt),
        Stage::EvaluateSifid { sifid } => sifid::run(sifid, attempt),
        Stage::Patches(patches) => patches::run(patches, attempt),
        Stage::ClassifyTrain(classify) => classify_train::run(classify, attempt),
        Stage::Aggregate(aggregate) => aggregate::run(aggregate, attempt),
        Stage::Report => report::run(attempt),
        Stage::Command(_) => Err(Failure::invalid_input("a command is run by its worker, not by this program")),
    }
}
