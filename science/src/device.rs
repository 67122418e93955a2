//! Which processor computes. Chosen by configuration, never by what happens to
//! be compiled in.

use burn::tensor::Device;
use domain::study::records::Determinism;
use kernels::memory;
use kernels::path::{Path, PathError};

/// A kind of processor that this build may or may not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The central processor (burn's `flex`): the reference, bit for bit reproducible.
    Cpu,
    /// A GPU through WGSL (feature `webgpu`).
    Webgpu,
    /// A GPU through SPIR-V (feature `vulkan`).
    Vulkan,
    /// An NVIDIA GPU (feature `cuda`).
    Cuda,
}

/// The device cannot be used by this build.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such kind.
    #[error("unknown device {0:?}: known are cpu, webgpu, vulkan, cuda")]
    Unknown(String),
    /// The kind was left out at build time.
    #[error("this build has no {0} support: build with `--features {0}`")]
    NotBuilt(&'static str),
    /// The processor cannot compute by what was asked for.
    #[error(transparent)]
    Instructions(#[from] PathError),
}

/// Checks that the processor can compute as it is asked to, by the environment variable
/// `LITHOGEN_CPU`.
///
/// # Errors
/// [`Error::Instructions`] if no instructions have the name, or this processor lacks them.
pub fn check_instructions() -> Result<(), Error> {
    Path::asked()?;
    Ok(())
}

/// Readies the process for computing on such a processor and nothing else until it ends. Its memory
/// does not shrink any more, and the thread that computes on the central processor is the first of
/// the pool: a call into it from outside would wake a thread and wait for it, which takes longer
/// than a small network's kernels do.
///
/// # Errors
/// As [`check_instructions`].
pub fn dedicate(kind: Kind) -> Result<(), Error> {
    check_instructions()?;
    memory::keep();
    if kind == Kind::Cpu {
        // The pool that is made without this serves as well, only more slowly.
        let _there_is_one = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    }
    Ok(())
}

/// The agreement that two runs of one task on this device have.
pub fn determinism(device: &Device) -> Determinism {
    if *device == Device::flex() { Determinism::Bitwise } else { Determinism::Statistical }
}

/// The name of the device in records.
pub fn name(device: &Device) -> String {
    if *device == Device::flex() { format!("cpu, {}", Path::current()) } else { format!("{device:?}") }
}

impl Kind {
    /// The kind of that name.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "cpu" => Ok(Kind::Cpu),
            "webgpu" => Ok(Kind::Webgpu),
            "vulkan" => Ok(Kind::Vulkan),
            "cuda" => Ok(Kind::Cuda),
            other => Err(Error::Unknown(other.to_owned())),
        }
    }

    /// The first device of that kind.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] if its feature is off.
    pub fn open(self) -> Result<Device, Error> {
        match self {
            Kind::Cpu => Ok(Device::flex()),
            #[cfg(feature = "webgpu")]
            Kind::Webgpu => Ok(Device::wgpu(Default::default())),
            #[cfg(not(feature = "webgpu"))]
            Kind::Webgpu => Err(Error::NotBuilt("webgpu")),
            #[cfg(feature = "vulkan")]
            Kind::Vulkan => Ok(Device::vulkan(Default::default())),
            #[cfg(not(feature = "vulkan"))]
            Kind::Vulkan => Err(Error::NotBuilt("vulkan")),
            #[cfg(feature = "cuda")]
            Kind::Cuda => Ok(Device::cuda(0)),
            #[cfg(not(feature = "cuda"))]
            Kind::Cuda => Err(Error::NotBuilt("cuda")),
        }
    }
}
