//! Stages, one per file. Each reads its inputs, does its work and leaves its
//! outputs in the attempt's folder; see [`domain::study::stage::Stage`] for the names.

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
use domain::study::records::{Absent, DriftRecord, HeatmapRecord, Record, SifidRecord};
use domain::study::stage::{Failure, FailureCode, Folder, Monitor, Stage};

use crate::files;

/// All that a stage is given besides its parameters.
pub struct Attempt<'a> {
    /// The root of the task's random numbers.
    pub seed: Seed,
    /// The folder of inputs and outputs.
    pub folder: &'a Folder,
    /// The monitor, which is told how far the work is and tells when to stop.
    pub monitor: &'a mut dyn Monitor,
    /// The device that tensors live on.
    pub device: &'a Device,
    /// The bytes of memory that the attempt may count on there.
    pub memory: u64,
}

/// Runs one stage to its end.
///
/// # Errors
/// Why there is no result; names the parameter if one is out of range.
pub fn run(stage: &Stage, attempt: Attempt<'_>) -> Result<(), Failure> {
    stage.check().map_err(|knob| Failure::invalid_input(format!("order.json: {knob}")))?;
    match stage {
        Stage::Ingest(ingest) => ingest::run(ingest, attempt),
        Stage::Pad(canvases) => pad::run(canvases, attempt),
        Stage::SinddmTrain { sinddm } => sinddm_train::run(sinddm, attempt),
        Stage::SinddmSample { sampling, reject_empty } => sinddm_sample::run(sampling, *reject_empty, attempt),
        Stage::DdpmTrain { training } => ddpm_train::run(training, attempt),
        Stage::DdpmSample { sampling } => ddpm_sample::run(sampling, attempt),
        Stage::Swin2srTrain { size, training } => swin2sr_train::run(*size, training, attempt),
        Stage::Upscale { upscale } => upscale::run(upscale, attempt),
        Stage::EvaluateDrift(drift) => or_absent(DriftRecord::FILE, attempt, |attempt| drift::run(drift, attempt)),
        Stage::EvaluateHeatmap(heatmap) => {
            or_absent(HeatmapRecord::FILE, attempt, |attempt| heatmap::run(heatmap, attempt))
        }
        Stage::EvaluateSifid(sifid) => or_absent(SifidRecord::FILE, attempt, |attempt| sifid::run(sifid, attempt)),
        Stage::Patches(patches) => patches::run(patches, attempt),
        Stage::ClassifyTrain(classify) => classify_train::run(classify, attempt),
        Stage::Aggregate(aggregate) => aggregate::run(aggregate, attempt),
        Stage::Report => report::run(attempt),
        Stage::Command(_) => Err(Failure::invalid_input("a command is run by its worker, not by this program")),
    }
}

/// Scores of synthetic pictures stand beside the study. One that cannot be had for what
/// the pictures are is absent, with its reason in the record, and no reason to lose the rest.
fn or_absent(
    record: &str,
    attempt: Attempt<'_>,
    evaluate: impl FnOnce(Attempt<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let folder = attempt.folder;
    match evaluate(attempt) {
        Err(Failure { code: FailureCode::InvalidInput | FailureCode::NotANumber, message, .. }) => {
            files::write(&folder.output(record), &Absent { absent: message })
        }
        ended => ended,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use domain::study::experiment::Features;
    use domain::study::stage::{EvaluateSifid, InputName, StageKind, Unwatched};
    use image::RgbImage;

    use super::*;
    use crate::data::picture::save_png;

    /// The files of all stages.
    fn stages() -> impl Iterator<Item = PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stages");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.is_file() && !path.ends_with("mod.rs"))
    }

    /// The files of the parts of stages, which may name their stage.
    fn parts() -> impl Iterator<Item = PathBuf> {
        let folders = stages().map(|path| path.with_extension("")).filter(|path| path.is_dir());
        let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
        files.filter(|path| path.is_file() && !path.ends_with("tests.rs"))
    }

    /// Tells whether a stage, or a part of one, names anything of this folder but what all are
    /// given and itself.
    fn borrows(source: &str, is_part: bool) -> bool {
        let code = source.split("#[cfg(test)]").next().unwrap();
        let beyond = if is_part { "super::super::" } else { "super::" };
        code.contains("stages::") || code.split(beyond).skip(1).any(|rest| !rest.starts_with("Attempt;"))
    }

    #[test]
    fn no_stage_imports_another() {
        let all = stages().map(|path| (path, false)).chain(parts().map(|path| (path, true)));
        let (borrowing, others): (Vec<_>, Vec<_>) =
            all.partition(|(path, is_part)| borrows(&fs::read_to_string(path).unwrap(), *is_part));
        assert!(borrowing.is_empty() && others.iter().filter(|(_, is_part)| *is_part).count() > 3, "{borrowing:?}");
        assert!(borrows("use super::{Attempt, pad};", false) && borrows("use crate::stages::pad;", true));
        assert!(borrows("use super::super::pad;", true) && !borrows("use super::table;", true));
    }

    #[test]
    fn the_stages_that_leave_checkpoints_are_those_that_say_so() {
        let leaving = stages().filter(|path| fs::read_to_string(path).unwrap().contains("Checkpoints::new("));
        let leaving: BTreeSet<String> =
            leaving.map(|path| path.file_stem().unwrap().to_str().unwrap().replace('_', ".")).collect();
        let told = StageKind::ALL.iter().filter(|kind| kind.leaves_checkpoints());
        assert_eq!(leaving, told.map(|kind| kind.name().to_owned()).collect());
    }

    #[test]
    fn a_score_that_cannot_be_had_is_absent_with_its_reason() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        for name in [InputName::Real(None), InputName::Synthetic(None)] {
            save_png(&folder.input(name).join("images/000.png"), &RgbImage::new(8, 8)).unwrap();
        }
        let device = Device::flex();
        let attempt = Attempt { seed: Seed(1), folder: &folder, monitor: &mut Unwatched, device: &device, memory: 0 };
        let sifid = EvaluateSifid { features: Features::Random, ..EvaluateSifid::default() };
        run(&Stage::EvaluateSifid(sifid), attempt).unwrap();
        let path = folder.output(SifidRecord::FILE);
        let Absent { absent } = serde_json::from_value(files::value(&path).unwrap()).unwrap();
        assert!(absent.contains("8×8 pixels are too small: at least 23"), "{absent}");
    }
}
