//! Which instructions of the processor the kernels use.

use std::any::TypeId;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
use pulp::{Scalar128b, Simd, WithSimd};

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug)]
pub enum Path {
    /// What every processor of its architecture has.
    Portable,
    /// The vectors of 64-bit ARM.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// AVX-512 with its extensions BW, CD, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
}

/// Environment variable with the name of the path that a process is to use.
pub const VARIABLE: &str = "LITHOGEN_CPU";

impl Path {
    /// The names of all paths on this architecture, from the most general.
    #[cfg(target_arch = "x86_64")]
    pub const NAMES: &[&str] = &["portable", "avx2", "avx512"];
    /// The names of all paths on this architecture, from the most general.
    #[cfg(target_arch = "aarch64")]
    pub const NAMES: &[&str] = &["portable", "neon"];
    /// The names of all paths on this architecture, from the most general.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const NAMES: &[&str] = &["portable"];

    /// All paths that this processor has, from the most general to the fastest.
    pub fn all() -> Vec<Path> {
        Self::NAMES.iter().filter_map(|name| name.parse().ok()).collect()
    }

    /// The path that [`VARIABLE`] names, if it is set.
    ///
    /// # Errors
    /// If there is none of that name, or this processor lacks it.
    pub fn asked() -> Result<Option<Path>, PathError> {
        std::env::var(VARIABLE).ok().map(|name| name.parse()).transpose()
    }

    /// The path that the process uses: the one that is [asked](Path::asked) for, otherwise the
    /// fastest.
    pub fn current() -> Path {
        static CURRENT: OnceLock<Path> = OnceLock::new();
        let chosen = || Self::asked().ok().flatten().or_else(|| Self::all().pop()).unwrap_or(Path::Portable);
        *CURRENT.get_or_init(chosen)
    }

    /// The name by which it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Path::Portable => "portable",
            #[cfg(target_arch = "aarch64")]
            Path::Neon => "neon",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Path::Avx512(_) => "avx512",
        }
    }

    /// Does the work, compiled for these instructions as far as it is inlined: the closure and
    /// what it calls carry `#[inline(always)]`.
    #[inline]
    pub(crate) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        match self {
            Path::Portable => work(),
            #[cfg(target_arch = "aarch64")]
            Path::Neon => work(),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(simd) => Simd::vectorize(simd, work),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512(simd) => Simd::vectorize(simd, work),
        }
    }

    /// Does work that is written for registers of any size.
    #[inline]
    pub(crate) fn dispatch<W: WithSimd>(self, work: W) -> W::Output {
        match self {
            Path::Portable => work.with_simd(Scalar128b),
            #[cfg(target_arch = "aarch64")]
            Path::Neon => match pulp::aarch64::Neon::try_new() {
                Some(simd) => Simd::vectorize(simd, work),
                None => work.with_simd(Scalar128b),
            },
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(simd) => Simd::vectorize(simd, work),
            #[cfg(target_arch = "x86_64")]
            Path::Avx512(simd) => Simd::vectorize(simd, work),
        }
    }
}

/// `a * b + c`, rounded once where one instruction does it.
#[inline(always)]
pub(crate) fn multiply_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
    // The portable registers would call a function for each value.
    if TypeId::of::<S>() == TypeId::of::<Scalar128b>() {
        simd.add_f32s(simd.mul_f32s(a, b), c)
    } else {
        simd.mul_add_e_f32s(a, b, c)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(name: &str) -> Result<Self, PathError> {
        let path = match name {
            "portable" => Some(Path::Portable),
            #[cfg(target_arch = "aarch64")]
            "neon" => Some(Path::Neon),
            #[cfg(target_arch = "x86_64")]
            "avx2" => V3::try_new().map(Path::Avx2),
            #[cfg(target_arch = "x86_64")]
            "avx512" => V4::try_new().map(Path::Avx512),
            _ => return Err(PathError::Unknown(name.to_owned())),
        };
        path.ok_or_else(|| PathError::Missing(name.to_owned()))
    }
}

/// Why a path cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathError {
    /// No path of this architecture has the name.
    Unknown(String),
    /// This processor lacks the instructions.
    Missing(String),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::Unknown(name) => write!(f, "{VARIABLE}: {name:?} is none of {}", Path::NAMES.join(", ")),
            PathError::Missing(name) => write!(f, "{VARIABLE}: this processor lacks {name}"),
        }
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_by_their_names() {
        assert!(Path::NAMES.iter().all(|name| !matches!(name.parse::<Path>(), Err(PathError::Unknown(_)))));
        let all = Path::all();
        assert_eq!(all[0].name(), "portable");
        assert!(all.iter().all(|path| path.name().parse::<Path>().unwrap().name() == path.name()));
        let problem = "sse9".parse::<Path>().unwrap_err().to_string();
        assert!(problem.starts_with("LITHOGEN_CPU: \"sse9\" is none of portable"), "{problem}");
    }
}
