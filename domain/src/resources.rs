//! What a task needs while it runs, what a worker offers, and whether they fit.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most labels of a worker.
pub const LABELS_MAX: usize = 64;

/// Most bytes of a label's name, and of its value.
pub const LABEL_MAX: usize = 200;

/// Memory that an attempt on processors assumes, whatever the machine has: the way a batch is
/// split decides how sums are rounded, and results must be the same bytes everywhere.
pub const CPU_MEMORY_BYTES: u64 = 4 << 30;

/// Memory assumed for a GPU that does not report its memory.
pub const GPU_MEMORY_BYTES: u64 = 8 << 30;

/// Thousandths that make one whole GPU.
pub const WHOLE_GPU: u32 = 1000;

/// The resources that one attempt occupies. Slots, memory and shares of GPUs are counted, not
/// enforced: a task that uses more than it asked for is not stopped, except that it sees no
/// GPUs but its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Number of the worker's slots.
    pub slots: u32,
    /// Thousandths of a GPU: a fraction, or whole GPUs. Without a value, the task takes its
    /// slot's share of the worker's GPUs, if there are any.
    pub gpu_milli: Option<u32>,
    /// Memory on each of the task's GPUs, in MiB.
    pub gpu_memory_mib: u64,
    /// Main memory in MiB.
    pub memory_mib: u64,
    /// Labels that the worker has to carry.
    pub labels: BTreeMap<String, String>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { slots: 1, gpu_milli: None, gpu_memory_mib: 0, memory_mib: 0, labels: BTreeMap::new() }
    }
}

/// Why no worker could ever provide the requested resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResources {
    /// No slot is requested.
    #[error("a task takes at least one slot")]
    NoSlot,
    /// More than one GPU is requested, but not a whole number.
    #[error("{0} thousandths of a GPU: ask for a fraction of one GPU or for whole ones")]
    Gpus(u32),
    /// GPU memory is requested without a GPU.
    #[error("memory on a GPU is asked for, but no GPU")]
    MemoryWithoutGpu,
    /// More labels are requested than a worker may have.
    #[error("{0} labels: a worker has {LABELS_MAX} at most")]
    Labels(usize),
    /// A label is longer than allowed or holds control characters.
    #[error("a label has at most {LABEL_MAX} bytes for its name and for its value, and no control characters")]
    Label,
}

impl Resources {
    /// Whether a worker could provide these resources.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn check(&self) -> Result<(), InvalidResources> {
        match self.gpu_milli {
            _ if self.slots == 0 => Err(InvalidResources::NoSlot),
            Some(milli) if milli > WHOLE_GPU && milli % WHOLE_GPU != 0 => Err(InvalidResources::Gpus(milli)),
            Some(0) if self.gpu_memory_mib > 0 => Err(InvalidResources::MemoryWithoutGpu),
            _ if self.labels.len() > LABELS_MAX => Err(InvalidResources::Labels(self.labels.len())),
            _ if !self.labels.iter().flat_map(|(name, value)| [name, value]).all(|text| is_plain(text)) => {
                Err(InvalidResources::Label)
            }
            _ => Ok(()),
        }
    }
}

fn is_plain(text: &str) -> bool {
    text.len() <= LABEL_MAX && !text.chars().any(char::is_control)
}

/// One GPU of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Name for people, for instance `NVIDIA H200`.
    pub name: String,
    /// Memory in MiB; 0 if unknown.
    pub memory_mib: u64,
}

/// What a worker offers: stages, slots, GPUs, memory and labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Stages that the worker can run, by name and version.
    pub stages: BTreeSet<(String, u32)>,
    /// Number of attempts of one slot each that the worker runs at once.
    pub slots: u32,
    /// The worker's GPUs, by index.
    pub gpus: Vec<Gpu>,
    /// Main memory for attempts in MiB; 0 if unlimited.
    pub memory_mib: u64,
    /// Labels that tasks may ask for.
    pub labels: BTreeMap<String, String>,
}

/// The part of one GPU that belongs to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuPart {
    /// Index among the worker's GPUs.
    pub index: u32,
    /// Thousandths of the GPU.
    pub milli: u32,
}

/// Why a worker can never run a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The worker does not have the stage in that version.
    #[error("does not run {0} version {1}")]
    Stage(String, u32),
    /// A label is missing or has another value.
    #[error("has no label {0}={1}")]
    Label(String, String),
    /// The worker has fewer slots in all.
    #[error("has {has} of {wanted} slots")]
    Slots {
        /// Slots of the worker.
        has: u32,
        /// Slots that the task needs.
        wanted: u32,
    },
    /// The worker has less memory in all.
    #[error("has {has} of {wanted} MiB of memory")]
    Memory {
        /// Memory of the worker in MiB.
        has: u64,
        /// Memory that the task needs in MiB.
        wanted: u64,
    },
    /// The worker's GPUs are too few or too small.
    #[error("lacks GPUs: needs {}", in_gpus(*wanted_milli, *wanted_mib))]
    Gpus {
        /// Thousandths of a GPU that the task needs.
        wanted_milli: u32,
        /// Memory that the task needs on each GPU, in MiB.
        wanted_mib: u64,
    },
}

/// A demand for GPUs in words, for instance `0.5 with 8192 MiB each`.
fn in_gpus(milli: u32, mib: u64) -> String {
    let gpus = f64::from(milli) / f64::from(WHOLE_GPU);
    if mib == 0 { gpus.to_string() } else { format!("{gpus} with {mib} MiB each") }
}

impl Offer {
    /// Whether an idle worker with this offer could run a task with these demands.
    ///
    /// # Errors
    /// The first demand that the worker does not meet.
    pub fn could_run(&self, stage: &str, version: u32, resources: &Resources) -> Result<(), Unfit> {
        if !self.stages.iter().any(|(name, known)| name == stage && *known == version) {
            return Err(Unfit::Stage(stage.to_owned(), version));
        }
        if let Some((key, value)) = resources.labels.iter().find(|(key, value)| self.labels.get(*key) != Some(value)) {
            return Err(Unfit::Label(key.clone(), value.clone()));
        }
        let idle = Free::of(self);
        if idle.lacks_slots(resources) {
            return Err(Unfit::Slots { has: self.slots, wanted: resources.slots });
        }
        if self.memory_mib > 0 && resources.memory_mib > self.memory_mib {
            return Err(Unfit::Memory { has: self.memory_mib, wanted: resources.memory_mib });
        }
        match idle.allot(self, resources) {
            Some(_) => Ok(()),
            None => Err(Unfit::Gpus {
                wanted_milli: resources.gpu_milli.unwrap_or(0),
                wanted_mib: resources.gpu_memory_mib,
            }),
        }
    }

    /// A slot's share of the GPUs in thousandths: whole GPUs unless slots outnumber them.
    fn share_of_slot(&self) -> u32 {
        let gpus = u32::try_from(self.gpus.len()).unwrap_or(u32::MAX);
        (gpus.saturating_mul(WHOLE_GPU) / self.slots.max(1)).min(WHOLE_GPU)
    }
}

/// The unused part of an offer. Values are negative after a worker has reduced its offer below
/// what is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Free {
    slots: i64,
    memory_mib: i64,
    /// Free thousandths and free MiB of each GPU.
    gpus: Vec<(i64, i64)>,
}

/// Stands for no limit, and leaves room to count.
const UNLIMITED: i64 = i64::MAX / 2;

fn mib(memory: u64) -> i64 {
    i64::try_from(memory).unwrap_or(UNLIMITED).min(UNLIMITED)
}

fn limit(memory: u64) -> i64 {
    if memory == 0 { UNLIMITED } else { mib(memory) }
}

impl Free {
    /// The whole offer.
    pub(crate) fn of(offer: &Offer) -> Self {
        Self {
            slots: i64::from(offer.slots),
            memory_mib: limit(offer.memory_mib),
            gpus: offer.gpus.iter().map(|gpu| (i64::from(WHOLE_GPU), limit(gpu.memory_mib))).collect(),
        }
    }

    /// Whether any slot is free.
    pub(crate) fn has_slot(&self) -> bool {
        self.slots > 0
    }

    /// Whether slots are what an attempt lacks.
    pub(crate) fn lacks_slots(&self, wanted: &Resources) -> bool {
        i64::from(wanted.slots) > self.slots
    }

    /// The parts of GPUs that an attempt would get; `None` if the attempt does not fit now.
    /// Fractions go where least is left, so that whole GPUs stay whole.
    pub(crate) fn allot(&self, offer: &Offer, wanted: &Resources) -> Option<Vec<GpuPart>> {
        if self.lacks_slots(wanted) || mib(wanted.memory_mib) > self.memory_mib {
            return None;
        }
        let milli = match wanted.gpu_milli {
            None if offer.gpus.is_empty() => 0,
            None => offer.share_of_slot(),
            Some(milli) => milli,
        };
        if milli == 0 {
            return Some(vec![]);
        }
        let (count, each) = if milli >= WHOLE_GPU { ((milli / WHOLE_GPU) as usize, WHOLE_GPU) } else { (1, milli) };
        let fits = |(free, memory): &(i64, i64)| *free >= i64::from(each) && *memory >= mib(wanted.gpu_memory_mib);
        let mut fitting: Vec<(i64, u32)> =
            (0u32..).zip(&self.gpus).filter(|(_, gpu)| fits(gpu)).map(|(index, gpu)| (gpu.0, index)).collect();
        fitting.sort_unstable();
        let parts: Vec<GpuPart> =
            fitting.iter().take(count).map(|(_, index)| GpuPart { index: *index, milli: each }).collect();
        (parts.len() == count).then_some(parts)
    }

    /// Takes the resources of an attempt.
    pub(crate) fn take(&mut self, wanted: &Resources, parts: &[GpuPart]) {
        self.change(wanted, parts, -1);
    }

    /// Gives back the resources of an attempt.
    pub(crate) fn give(&mut self, wanted: &Resources, parts: &[GpuPart]) {
        self.change(wanted, parts, 1);
    }

    fn change(&mut self, wanted: &Resources, parts: &[GpuPart], sign: i64) {
        self.slots += sign * i64::from(wanted.slots);
        self.memory_mib += sign * mib(wanted.memory_mib);
        for part in parts {
            if let Some((milli, memory)) = self.gpus.get_mut(part.index as usize) {
                *milli += sign * i64::from(part.milli);
                *memory += sign * mib(wanted.gpu_memory_mib);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(slots: u32, gpus: usize) -> Offer {
        Offer {
            stages: BTreeSet::from([("pad".to_owned(), 1)]),
            slots,
            gpus: vec![Gpu { name: "G".to_owned(), memory_mib: 1000 }; gpus],
            memory_mib: 64,
            labels: BTreeMap::from([("site".to_owned(), "lab".to_owned())]),
        }
    }

    fn milli(milli: u32) -> Resources {
        Resources { gpu_milli: Some(milli), ..Resources::default() }
    }

    fn fill(offer: &Offer, wanted: &Resources) -> usize {
        let mut free = Free::of(offer);
        (0..100)
            .take_while(|_| {
                let parts = free.allot(offer, wanted);
                parts.inspect(|parts| free.take(wanted, parts)).is_some()
            })
            .count()
    }

    #[test]
    fn a_slot_has_its_share_of_the_gpus_unless_a_task_says_otherwise() {
        assert_eq!(fill(&offer(4, 4), &Resources::default()), 4);
        let shared = Free::of(&offer(4, 1)).allot(&offer(4, 1), &Resources::default());
        assert_eq!(shared, Some(vec![GpuPart { index: 0, milli: 250 }]));
        assert_eq!(fill(&offer(4, 1), &Resources::default()), 4);
        assert_eq!(Free::of(&offer(4, 4)).allot(&offer(4, 4), &milli(0)), Some(vec![]));
        assert_eq!(fill(&offer(2, 0), &Resources::default()), 2);
    }

    #[test]
    fn fractions_fill_one_gpu_before_the_next() {
        let offer = offer(8, 2);
        let mut free = Free::of(&offer);
        for index in [0, 0, 1, 1] {
            let parts = free.allot(&offer, &milli(500)).unwrap();
            assert_eq!(parts, [GpuPart { index, milli: 500 }]);
            free.take(&milli(500), &parts);
        }
        assert_eq!(free.allot(&offer, &milli(1)), None);
    }

    #[test]
    fn memory_of_a_gpu_is_counted_as_its_share_is() {
        let wanted = Resources { gpu_memory_mib: 600, ..milli(100) };
        assert_eq!(fill(&offer(8, 2), &wanted), 2);
        let too_much = Resources { gpu_memory_mib: 1001, ..milli(100) };
        assert!(matches!(offer(8, 2).could_run("pad", 1, &too_much), Err(Unfit::Gpus { .. })));
    }

    #[test]
    fn what_no_idle_worker_could_run_is_named() {
        let offer = offer(2, 1);
        let plain = Resources::default();
        assert_eq!(offer.could_run("pad", 1, &plain), Ok(()));
        assert!(matches!(offer.could_run("pad", 2, &plain), Err(Unfit::Stage(..))));
        let labelled = |value: &str| Resources {
            labels: BTreeMap::from([("site".to_owned(), value.to_owned())]),
            ..Resources::default()
        };
        assert_eq!(offer.could_run("pad", 1, &labelled("lab")), Ok(()));
        assert!(matches!(offer.could_run("pad", 1, &labelled("ward")), Err(Unfit::Label(..))));
        let wide = Resources { slots: 3, ..Resources::default() };
        assert!(matches!(offer.could_run("pad", 1, &wide), Err(Unfit::Slots { has: 2, wanted: 3 })));
        let heavy = Resources { memory_mib: 65, ..Resources::default() };
        assert!(matches!(offer.could_run("pad", 1, &heavy), Err(Unfit::Memory { has: 64, wanted: 65 })));
        assert!(matches!(offer.could_run("pad", 1, &milli(2000)), Err(Unfit::Gpus { .. })));
    }

    #[test]
    fn requests_that_mean_nothing_are_refused() {
        assert_eq!(Resources::default().check(), Ok(()));
        assert_eq!(Resources { slots: 0, ..Resources::default() }.check(), Err(InvalidResources::NoSlot));
        assert_eq!(milli(1500).check(), Err(InvalidResources::Gpus(1500)));
        let nowhere = Resources { gpu_memory_mib: 1, ..milli(0) };
        assert_eq!(nowhere.check(), Err(InvalidResources::MemoryWithoutGpu));
    }
}
