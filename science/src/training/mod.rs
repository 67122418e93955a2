//! What trainings share: all that changes from step to step of one that goes on from
//! checkpoints, what each step draws, made ahead of it, and what is left at the end. The
//! loops themselves are in the stages.
//!
//! | module | what it holds |
//! |---|---|
//! | here | weights, their moving average, the optimiser's moments and the losses |
//! | [`losses`] | the loss of every step by scales |
//! | [`optimizer`] | burn's optimisers with their state by name |
//! | [`pace`] | how fast a training goes, for people |
//! | [`precision`] | networks that compute in other numbers than they are kept in |

pub mod losses;
pub mod optimizer;
pub mod pace;
pub mod precision;

use std::ops::Range;
use std::sync::mpsc;
use std::thread::Scope;

use burn::module::Module;
use burn::optim::Adam;
use domain::study::records::Record;
use domain::study::stage::{Failure, FailureCode, Folder};
use serde::Serialize;

use self::losses::Losses;
use self::optimizer::NamedOptimizer;
use crate::files;
use crate::weights::{self, Arrays};

/// The number of steps between readings of the loss: each waits for the device.
pub const READ_EVERY: usize = 10;

/// The state of a training between two steps. With the parameters, the inputs and the
/// seed, the rest of the training depends on nothing else.
pub struct Training<M> {
    /// The network that learns.
    pub net: M,
    /// The moving average of the weights, without gradients.
    pub average: M,
    /// The optimiser with its moments.
    pub adam: NamedOptimizer<Adam>,
    /// The losses of the steps done.
    pub losses: Losses,
}

impl<M: Module> Training<M> {
    /// The state before the first step.
    pub fn start(net: M, adam: Adam) -> Self {
        let average = net.valid();
        Self { net, average, adam: NamedOptimizer::new(adam), losses: Losses::default() }
    }

    /// The state after so many steps, from the tensors of [`state`], which it takes out.
    ///
    /// # Errors
    /// If something is missing or does not fit; names the first.
    pub fn resume(blank: M, adam: Adam, step: u64, state: &mut Arrays) -> Result<Self, Failure> {
        let net = weights::restore(blank, weights::take(state, "net"))?;
        let average = weights::restore(net.valid(), weights::take(state, "average"))?;
        let adam = NamedOptimizer::restore(adam, &net, weights::take(state, "adam"))?;
        let losses = Losses::from_arrays(weights::take(state, "losses"), step)?;
        Ok(Self { net, average, adam, losses })
    }
}

/// The state of a training as named tensors.
pub fn state<M: Module>(net: &M, average: &M, adam: &NamedOptimizer<Adam>, losses: &Losses) -> Arrays {
    let mut state = Arrays::new();
    weights::put(&mut state, "net", weights::collect(&net.valid()));
    weights::put(&mut state, "average", weights::collect(average));
    weights::put(&mut state, "adam", adam.collect(net));
    weights::put(&mut state, "losses", losses.arrays());
    state
}

/// Every step with what `draw` gives for it. Another thread makes it while the step before is at
/// work, unless the caller is the only thread of its pool, which `draw` may need.
pub fn ahead<'scope, D: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    steps: Range<u32>,
    draw: impl Fn(u32) -> D + Send + 'scope,
) -> Box<dyn Iterator<Item = (u32, D)> + 'scope> {
    if rayon::current_num_threads() == 1 && rayon::current_thread_index().is_some() {
        return Box::new(steps.map(move |step| (step, draw(step))));
    }
    let (sender, drawn) = mpsc::sync_channel(1);
    let all = steps.clone();
    // A receiver that is gone means that the steps have ended early.
    scope.spawn(move || all.map(draw).try_for_each(|draw| sender.send(draw)));
    Box::new(steps.zip(drawn))
}

/// The averaged weights after the last step. `knob` is what the learning rate comes from.
///
/// # Errors
/// [`FailureCode::NotANumber`] if a weight is none.
pub fn averaged<M: Module>(average: &M, knob: &str) -> Result<Arrays, Failure> {
    let arrays = weights::collect(average);
    if let Some(name) = weights::not_a_number(&arrays) {
        let message = format!("{name} is not a number after the last step: lower {knob}");
        return Err(Failure::new(FailureCode::NotANumber, message));
    }
    Ok(arrays)
}

/// Writes `model.safetensors`, the record and `loss.csv`.
///
/// # Errors
/// If a file cannot be written.
pub fn finish<R: Record + Serialize>(
    arrays: &Arrays,
    record: &R,
    losses: &Losses,
    folder: &Folder,
) -> Result<(), Failure> {
    weights::write(arrays, &folder.output("model.safetensors"))?;
    files::write(&folder.output(R::FILE), record)?;
    files::write_bytes(&folder.output("loss.csv"), losses.csv().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rayon::prelude::*;

    use super::*;

    #[test]
    fn every_step_gets_what_was_drawn_for_it() {
        let seen: Vec<(u32, u32)> = thread::scope(|scope| ahead(scope, 3..9, |step| step * step).collect());
        assert_eq!(seen, [(3, 9), (4, 16), (5, 25), (6, 36), (7, 49), (8, 64)]);
        assert_eq!(thread::scope(|scope| ahead(scope, 0..1_000_000, |step| step).next()), Some((0, 0)));
    }

    #[test]
    fn the_only_thread_of_a_pool_does_not_wait_for_itself() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let in_pool = |step: u32| (0..step).into_par_iter().sum::<u32>();
        let seen: Vec<(u32, u32)> = pool.install(|| thread::scope(|scope| ahead(scope, 2..5, in_pool).collect()));
        assert_eq!(seen, [(2, 1), (3, 3), (4, 6)]);
    }
}
