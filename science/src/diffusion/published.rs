//! Checkpoints of the published implementation of SinDDM: the dictionaries `model` and
//! `ema`, each with the parameters under `denoise_fn.` and the schedule beside them.
//! Writing makes a file that its `torch.load` and `load_state_dict` take.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use domain::study::experiment::{Geometry, Sinddm};
use domain::study::records::{Determinism, Misfit, Record, SinddmRecord};
use domain::study::stage::{Failure, FailureCode};

use super::schedule::Schedule;
use crate::weights::pickle::Pickle;
use crate::weights::{Array, Arrays, torch};

/// The prefix of the network's tensors, which the schedule is beside.
const NETWORK: &str = "denoise_fn.";

/// One of the two models of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The averaged weights: those to sample from.
    Ema,
    /// The weights of the last step.
    Model,
}

impl Which {
    fn key(self) -> &'static str {
        match self {
            Which::Ema => "ema",
            Which::Model => "model",
        }
    }
}

/// The tensors of one model of a checkpoint.
///
/// # Errors
/// `InvalidInput` if the file is no checkpoint or holds no such model.
pub fn read(path: &Path, which: Which) -> Result<Arrays, Failure> {
    torch::read(path, Some(which.key()))
}

/// The model of a checkpoint as this program has it: the network and the record of its
/// training, as far as the file tells. It does not tell the sizes of the scales, so those are
/// made as for pictures of the size `finest`.
///
/// # Errors
/// `InvalidInput` if the tensors are not those of such a model, if sizes or times are
/// out of range, or if its scales are not as many as the size asks for.
pub fn import(
    mut arrays: Arrays,
    finest: [u32; 2],
    scale_factor: f64,
    coarsest: Option<u32>,
) -> Result<(Arrays, SinddmRecord), Failure> {
    let missing = |name: &str| Failure::invalid_input(format!("the checkpoint holds no {name}"));
    let gammas = arrays.remove("gammas").ok_or_else(|| missing("gammas"))?;
    let [scales, timesteps] = *gammas.shape else { return Err(missing("gammas for each scale and time")) };
    let net: Arrays =
        arrays.into_iter().filter_map(|(name, array)| Some((name.strip_prefix(NETWORK)?.to_owned(), array))).collect();
    let widest = net.get("l2.net.0.weight").and_then(|array| array.shape.first());
    let dim = *widest.ok_or_else(|| missing("denoise_fn.l2.net.0.weight"))?;
    // What does not fit is out of range.
    let [dim, timesteps] = [dim, timesteps].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    let sinddm = Sinddm { finest: finest.into(), timesteps, dim, scale_factor, coarsest, ..Sinddm::default() };
    let unfit = |misfit: Misfit| Failure::invalid_input(format!("the checkpoint cannot be sampled from: {misfit}"));
    // Before anything is made of what the shapes only claim.
    domain::study::records::sinddm(&sinddm).map_err(unfit)?;
    if scales.checked_mul(timesteps as usize) != Some(gammas.values.len()) {
        return Err(missing("gammas for each scale and time"));
    }
    let schedule = Schedule::new(timesteps, &[]);
    let rescale_losses: Vec<f64> =
        gammas.values.chunks_exact(timesteps as usize).map(|row| schedule.rescale_loss(row)).collect();
    let geometry = Geometry::new(finest, scale_factor, coarsest);
    if geometry.sizes.len() != rescale_losses.len() + 1 {
        return Err(Failure::invalid_input(format!(
            "the checkpoint has {} scales, a finest scale of {}x{} asks for {}: give the size that it was trained with",
            rescale_losses.len() + 1,
            finest[0],
            finest[1],
            geometry.sizes.len()
        )));
    }
    let record = SinddmRecord {
        sinddm,
        sizes: geometry.sizes,
        scale_factor: geometry.factor,
        sampling_steps: schedule.sampling_steps(&rescale_losses),
        rescale_losses,
        parameters: net.values().map(|array| array.values.len() as u64).sum(),
        final_loss: 0.0,
        loss_by_scale: BTreeMap::new(),
        image_ids: Vec::new(),
        fill: None,
        reals: Vec::new(),
        determinism: Determinism::Statistical,
    };
    record.check().map_err(unfit)?;
    Ok((net, record))
}

/// Writes a model as a checkpoint. The averaged weights stand for both models,
/// since nothing else is kept of a training that has ended.
///
/// # Errors
/// If the file cannot be written.
pub fn export(net: &Arrays, record: &SinddmRecord, path: &Path) -> Result<(), Failure> {
    let schedule = Schedule::new(record.sinddm.timesteps, &record.rescale_losses);
    let mut tensors: Vec<(String, Array)> = schedule.buffers();
    tensors.extend(net.iter().map(|(name, array)| (format!("{NETWORK}{name}"), array.clone())));
    let mut file = Pickle::default();
    file.put(&[0x80, 2]); // protocol
    file.dictionary(|file| {
        file.text("step");
        file.integer(record.sinddm.steps);
        for which in [Which::Model, Which::Ema] {
            file.text(which.key());
            file.ordered(|file| tensors.iter().for_each(|(name, array)| file.tensor(name, array)));
        }
        file.text("sched");
        file.dictionary(|file| scheduler(file, &record.sinddm));
        for list in ["running_loss", "running_scale"] {
            file.text(list);
            file.put(b"]");
        }
    });
    file.put(b".");
    let bytes = file.archive().map_err(|error| {
        let message = format!("{}: the model does not fit into a checkpoint: {error}", path.display());
        Failure::new(FailureCode::Storage, message)
    })?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    }
    fs::write(path, bytes).map_err(|error| Failure::io("write", path, &error))
}

/// The state of PyTorch's `MultiStepLR` after the last step.
fn scheduler(file: &mut Pickle, sinddm: &Sinddm) {
    let passed = sinddm.milestones.iter().filter(|milestone| **milestone <= sinddm.steps).count();
    file.text("milestones");
    file.global("collections", "Counter");
    file.dictionary(|file| {
        for milestone in &sinddm.milestones {
            file.integer(*milestone);
            file.integer(1);
        }
    });
    file.put(&[0x85, b'R']); // called with the dictionary
    file.text("gamma");
    file.float(sinddm.lr_gamma);
    for (name, lr) in [("base_lrs", sinddm.lr), ("_last_lr", sinddm.lr * sinddm.lr_gamma.powi(passed as i32))] {
        file.text(name);
        file.put(b"]");
        file.float(lr);
        file.put(b"a");
    }
    for (name, value) in [("last_epoch", sinddm.steps), ("_step_count", sinddm.steps.saturating_add(1))] {
        file.text(name);
        file.integer(value);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use domain::seed::Seed;

    use super::*;
    use crate::models::sinddm::SinDdm;
    use crate::weights;

    #[test]
    fn what_is_exported_is_imported_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("deep/model.pt");
        let net = weights::collect(&weights::initialise(SinDdm::new(8, &Device::flex()), Seed(1)));
        let mut arrays: Arrays = net.iter().map(|(name, array)| (format!("{NETWORK}{name}"), array.clone())).collect();
        let losses = [0.955583, 0.670427, 0.471568, 0.333163];
        arrays.extend(Schedule::new(100, &losses).buffers());
        let (imported, record) = import(arrays, [248, 186], 1.411, None).unwrap();
        assert_eq!(imported, net);
        export(&imported, &record, &path).unwrap();
        for which in [Which::Ema, Which::Model] {
            let (again, record_again) = import(read(&path, which).unwrap(), [248, 186], 1.411, None).unwrap();
            assert_eq!(again, net);
            assert_eq!(record_again.sampling_steps, [100, 48, 37, 27, 19]);
            for (ours, loss) in record_again.rescale_losses.iter().zip(losses) {
                assert!((ours / loss - 1.0).abs() < 1e-6, "{ours} {loss}");
            }
        }
        let failure = import(read(&path, Which::Ema).unwrap(), [64, 48], 1.411, None).unwrap_err();
        assert!(failure.message.contains("has 5 scales, a finest scale of 64x48 asks for 1"), "{failure}");
    }

    #[test]
    fn what_is_no_checkpoint_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.pt");
        assert_eq!(read(&path, Which::Ema).unwrap_err().code, FailureCode::Storage);
        // The last asks to run a command while it is read.
        for bytes in [&b""[..], b"nonsense", b"PK\x03\x04", b"cos\nsystem\n(X\x04\0\0\0true\x85R."] {
            fs::write(&path, bytes).unwrap();
            let failure = read(&path, Which::Ema).unwrap_err();
            assert!(failure.message.contains("x.pt"), "{failure}");
        }
        let failure = import(Arrays::new(), [248, 186], 1.411, None).unwrap_err();
        assert_eq!(failure.message, "the checkpoint holds no gammas");
    }
}
