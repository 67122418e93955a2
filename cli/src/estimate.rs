//! What a study costs: arithmetic, time and memory, as far as can be told before.

use domain::resources::CPU_MEMORY_BYTES;
use domain::study::experiment::Experiment;
use domain::study::plan::{Plan, cost};

/// Floating-point operations per second that one core reaches on these stages,
/// measured on two cores of a server with AVX-512 (docs/benchmarks.md).
const CORE_FLOPS: f64 = 8e9;

/// Seconds that each task takes beyond its arithmetic: starting a process,
/// moving its files.
const TASK_SECONDS: f64 = 0.1;

/// Floating-point operations per second that an A100 is expected to sustain: 30 % of its TF32 peak
/// of 156 TFLOP/s (ALGORITHM 9).
pub const A100_FLOPS: f64 = 0.3 * 156e12;

/// How training on the finest scale fits into the memory of devices.
pub fn memory(experiment: &Experiment) -> String {
    let (sinddm, finest) = (&experiment.sinddm, experiment.finest());
    let [width, height] = finest.map(f64::from);
    let bytes = sinddm.activation_bytes(width * height) * f64::from(sinddm.batch);
    let part = |memory: u64| sinddm.at_once(finest, memory);
    format!(
        "{:.1} GB for a batch of {} at the finest scale, so {} pictures at once on a processor, {} on a GPU of 8 GiB, \
         {} of 24 GiB, {} of 80 GiB",
        bytes / 1e9,
        sinddm.batch,
        part(CPU_MEMORY_BYTES),
        part(8 << 30),
        part(24 << 30),
        part(80 << 30)
    )
}

/// The floating-point operations of a plan.
pub fn total_flop(plan: &Plan) -> f64 {
    cost::flops(plan).iter().sum()
}

/// Seconds that a plan takes on so many cores, within a factor of two.
pub fn seconds(plan: &Plan, cores: usize) -> f64 {
    (total_flop(plan) / CORE_FLOPS + plan.tasks.len() as f64 * TASK_SECONDS) / cores.max(1) as f64
}

/// Floating-point operations with the prefix that fits.
pub fn arithmetic(flop: f64) -> String {
    let (size, prefix) = match flop {
        f if f < 1e12 => (1e9, 'G'),
        f if f < 1e15 => (1e12, 'T'),
        f if f < 1e18 => (1e15, 'P'),
        _ => (1e18, 'E'),
    };
    format!("{:.2} {prefix}FLOP", flop / size)
}

/// A span of time in the two units that matter.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s if s < 63e6 => format!("{:.0} days", s / 86_400.0),
        s => format!("{:.0} years", s / 31_557_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_read_well() {
        assert_eq!(duration(61.0), "61 s");
        assert_eq!(duration(7200.0), "2.0 h");
    }
}
