//! Which GPUs this machine has, which of them are offered, and how an attempt is
//! made to see no others than its own.
//!
//! NVIDIA's driver is asked through its library, which is opened when it is
//! needed. GPUs that cannot be looked at can be offered by their number.

use std::collections::BTreeSet;
use std::str::FromStr;

use domain::resources::{Gpu, GpuPart};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Nvml, cuda_driver_version_major, cuda_driver_version_minor};

/// The variable by which CUDA is told which GPUs there are.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// The variables that attempts get: CUDA's, and the one that AMD's HIP heeds first.
const VARIABLES: [&str; 2] = [VISIBLE, "HIP_VISIBLE_DEVICES"];

/// The value that hides all GPUs. An empty value would mean all GPUs to HIP.
const NONE: &str = "-1";

/// Most GPUs that one worker offers.
const GPUS_MAX: usize = 256;

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The GPU as it is offered.
    pub gpu: Gpu,
    /// What programs call the GPU: its UUID, which no reordering changes, or its index.
    pub handle: String,
}

impl Device {
    /// A GPU that cannot be looked at.
    fn unknown(handle: impl Into<String>) -> Self {
        Self { gpu: Gpu { name: "GPU".to_owned(), memory_mib: 0 }, handle: handle.into() }
    }
}

/// What NVIDIA's driver tells.
#[derive(Clone, Debug)]
pub struct Driver {
    pub version: String,
    /// The newest version of CUDA that the driver can run.
    pub cuda: String,
    /// The GPUs that this process may use, in the driver's order.
    pub devices: Vec<Device>,
}

/// Why no GPU could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine has no NVIDIA driver.
    #[error("there is no NVIDIA driver here")]
    NoDriver,
    /// The driver does not answer.
    #[error("the NVIDIA driver does not answer: {0}; what does `nvidia-smi` say?")]
    Driver(#[source] NvmlError),
}

/// Looks for GPUs.
///
/// # Errors
/// If there is no driver, or it does not answer.
pub fn look() -> Result<Driver, Error> {
    let nvml = Nvml::init().map_err(|error| match error {
        NvmlError::LibloadingError(_) => Error::NoDriver,
        error => Error::Driver(error),
    })?;
    let cuda = nvml.sys_cuda_driver_version().map_or_else(
        |_| "unknown".to_owned(),
        |version| format!("{}.{}", cuda_driver_version_major(version), cuda_driver_version_minor(version)),
    );
    let version = nvml.sys_driver_version().map_err(Error::Driver)?;
    let mut devices = vec![];
    for index in 0..nvml.device_count().map_err(Error::Driver)? {
        match device(&nvml, index) {
            Ok(device) => devices.push(device),
            // Those of other jobs are counted too.
            Err(NvmlError::NoPermission) => {}
            Err(error) => tracing::warn!(%error, index, "a GPU does not answer and is not used"),
        }
    }
    Ok(Driver { version, cuda, devices })
}

fn device(nvml: &Nvml, index: u32) -> Result<Device, NvmlError> {
    let device = nvml.device_by_index(index)?;
    // Old drivers and some virtual GPUs do not say.
    let memory_mib = device.memory_info().map_or(0, |memory| memory.total >> 20);
    Ok(Device { gpu: Gpu { name: device.name()?, memory_mib }, handle: device.uuid()? })
}

/// Which GPUs to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All GPUs that were found.
    All,
    /// So many GPUs, the first ones, also if none can be looked at.
    First(usize),
    /// The GPUs with these indices.
    Listed(BTreeSet<usize>),
}

/// The GPUs that are asked for are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("GPU {index} is asked for, but this machine has {there}, counted from 0; give --gpus fewer, or {VISIBLE} more")]
pub struct Missing {
    index: usize,
    there: usize,
}

impl FromStr for Choice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected all, none, a number of GPUs, or a list of them such as 0,2";
        let number = |text: &str| text.parse().ok().filter(|number| *number <= GPUS_MAX).ok_or(expected);
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::First(0)),
            list if list.contains(',') => {
                let listed: Vec<usize> = list.split(',').map(number).collect::<Result<_, _>>()?;
                let set: BTreeSet<usize> = listed.iter().copied().collect();
                if set.len() == listed.len() { Ok(Self::Listed(set)) } else { Err("a GPU is listed twice") }
            }
            count => number(count).map(Self::First),
        }
    }
}

impl Choice {
    /// The GPUs that are meant: of those `found`, the ones that `visible` leaves,
    /// which is what [`VISIBLE`] says in this process's environment.
    ///
    /// # Errors
    /// If one that is asked for is not among them.
    pub fn of(&self, found: &[Device], visible: Option<&str>) -> Result<Vec<Device>, Missing> {
        let seen: Option<Vec<Device>> = match visible {
            Some(list) => Some(left(found, list)),
            None if found.is_empty() => None,
            None => Some(found.to_vec()),
        };
        let pick = |index: usize| match &seen {
            // Nothing is known, so whoever asks is believed.
            None => Ok(Device::unknown(index.to_string())),
            Some(seen) => seen.get(index).cloned().ok_or(Missing { index, there: seen.len() }),
        };
        match self {
            Self::All if found.is_empty() => Ok(vec![]),
            Self::All => Ok(seen.unwrap_or_default()),
            Self::First(count) => (0..*count).map(pick).collect(),
            Self::Listed(indices) => indices.iter().copied().map(pick).collect(),
        }
    }
}

/// The GPUs that are left by a list of indices and UUIDs. As with CUDA, the first
/// item that means nothing ends it.
fn left(found: &[Device], list: &str) -> Vec<Device> {
    let meant = |item: &str| match item.parse() {
        Ok(index) if !found.is_empty() => found.get::<usize>(index).cloned(),
        Err(_) if item.is_empty() || item.starts_with('-') => None,
        // A part of a GPU (MIG) has an UUID that no whole one has.
        Ok(_) | Err(_) => {
            let whole = found.iter().find(|device| device.handle.starts_with(item));
            Some(whole.cloned().unwrap_or_else(|| Device::unknown(item)))
        }
    };
    list.split(',').map(str::trim).map_while(meant).take(GPUS_MAX).collect()
}

/// The variables that make an attempt see its parts of the worker's GPUs.
pub(crate) fn environment(devices: &[Device], parts: &[GpuPart]) -> Vec<(String, String)> {
    let own = parts.iter().filter_map(|part| devices.get(part.index as usize));
    let own: Vec<&str> = own.map(|device| device.handle.as_str()).collect();
    let own = if own.is_empty() { NONE.to_owned() } else { own.join(",") };
    VARIABLES.map(|variable| (variable.to_owned(), own.clone())).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(count: usize) -> Vec<Device> {
        let gpu = |memory_mib| Gpu { name: "NVIDIA".to_owned(), memory_mib };
        (0..count).map(|index| Device { gpu: gpu(1000), handle: format!("GPU-{index}abc") }).collect()
    }

    fn handles(choice: &str, found: &[Device], visible: Option<&str>) -> Result<Vec<String>, Missing> {
        let chosen = choice.parse::<Choice>().unwrap().of(found, visible)?;
        Ok(chosen.into_iter().map(|device| device.handle).collect())
    }

    fn expected(handles: &[&str]) -> Result<Vec<String>, Missing> {
        Ok(handles.iter().map(|handle| (*handle).to_owned()).collect())
    }

    #[test]
    fn looking_ends_well_on_any_machine() {
        match look() {
            Ok(driver) => assert!(driver.devices.iter().all(|device| device.handle.starts_with("GPU-"))),
            Err(Error::NoDriver | Error::Driver(_)) => {}
        }
    }

    #[test]
    fn gpus_are_chosen_by_number_or_by_index() {
        assert_eq!(handles("all", &found(2), None), expected(&["GPU-0abc", "GPU-1abc"]));
        assert_eq!(handles("none", &found(2), None), expected(&[]));
        assert_eq!(handles("1", &found(2), None), expected(&["GPU-0abc"]));
        assert_eq!(handles("2,0", &found(3), None), expected(&["GPU-0abc", "GPU-2abc"]));
        assert_eq!(handles("3", &found(2), None), Err(Missing { index: 2, there: 2 }));
        assert_eq!(handles("0,7", &found(2), None), Err(Missing { index: 7, there: 2 }));
        for wrong in ["", "some", "-1", "0,,1", "0,0", "1.5", "257", "0,x"] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn gpus_that_cannot_be_looked_at_are_offered_only_to_who_asks() {
        assert_eq!(handles("all", &[], None), expected(&[]));
        assert_eq!(handles("all", &[], Some("0")), expected(&[]));
        assert_eq!(handles("2", &[], None), expected(&["0", "1"]));
        assert_eq!(handles("0,2", &[], None), expected(&["0", "2"]));
        assert_eq!(handles("1", &[], Some("3,5")), expected(&["3"]));
        assert_eq!(handles("3", &[], Some("3,5")), Err(Missing { index: 2, there: 2 }));
        assert_eq!(Choice::First(1).of(&[], None).unwrap()[0].gpu.memory_mib, 0);
    }

    #[test]
    fn what_the_environment_hides_is_not_offered() {
        let all = |visible| handles("all", &found(3), Some(visible));
        assert_eq!(all("2,0"), expected(&["GPU-2abc", "GPU-0abc"]));
        assert_eq!(all("GPU-1"), expected(&["GPU-1abc"]));
        assert_eq!(all("MIG-9"), expected(&["MIG-9"]));
        assert_eq!(all("1,-1,0"), expected(&["GPU-1abc"]));
        assert_eq!(all("0,9,1"), expected(&["GPU-0abc"]));
        assert_eq!(all(""), expected(&[]));
        assert_eq!(handles("1", &found(3), Some("2")), expected(&["GPU-2abc"]));
    }

    #[test]
    fn an_attempt_sees_its_own_gpus_or_none() {
        let part = |index| GpuPart { index, milli: 500 };
        let told = |parts: &[GpuPart]| environment(&found(3), parts)[0].clone();
        assert_eq!(told(&[part(2), part(0)]), (VISIBLE.to_owned(), "GPU-2abc,GPU-0abc".to_owned()));
        assert_eq!(told(&[]).1, "-1");
        assert!(environment(&found(1), &[]).iter().all(|(_, own)| own == "-1"));
    }
}
