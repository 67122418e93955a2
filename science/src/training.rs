//! What changes from step to step of a training that goes on from checkpoints:
//! weights, their moving average, the optimiser's moments and the losses; and what each
//! step draws, made ahead of it.

use std::ops::Range;
use std::sync::mpsc;
use std::thread::Scope;

use burn::module::Module;
use burn::optim::Adam;
use domain::stage::Failure;

use crate::losses::Losses;
use crate::optimizer::NamedOptimizer;
use crate::weights::{self, Arrays};

/// With the parameters, the inputs and the seed, the rest of the training
/// depends on nothing else.
pub struct Training<M> {
    /// The weights.
    pub net: M,
    /// Of the weights, without gradients.
    pub average: M,
    /// With its moments.
    pub adam: NamedOptimizer<Adam>,
    /// Of the steps done.
    pub losses: Losses,
}

impl<M: Module> Training<M> {
    /// Before the first step.
    pub fn start(net: M, adam: Adam) -> Self {
        let average = net.valid();
        Self { net, average, adam: NamedOptimizer::new(adam), losses: Losses::default() }
    }

    /// Goes on from the [`state`] after so many steps; takes its tensors out.
    ///
    /// # Errors
    /// If something is missing or does not fit; names the first.
    pub fn resume(blank: M, adam: Adam, step: u64, state: &mut Arrays) -> Result<Self, Failure> {
        let net = weights::restore(blank, weights::take(state, "net"))?;
        let average = weights::restore(net.valid(), weights::take(state, "average"))?;
        let adam = NamedOptimizer::restore(adam, &net, weights::take(state, "adam"))?;
        let losses = Losses::of(weights::take(state, "losses"), step)?;
        Ok(Self { net, average, adam, losses })
    }
}

/// All of it by name.
pub fn state<M: Module>(net: &M, average: &M, adam: &NamedOptimizer<Adam>, losses: &Losses) -> Arrays {
    let mut state = Arrays::new();
    weights::put(&mut state, "net", weights::collect(&net.valid()));
    weights::put(&mut state, "average", weights::collect(average));
    weights::put(&mut state, "adam", adam.collect(net));
    weights::put(&mut state, "losses", losses.arrays());
    state
}

/// Every step with what `draw` gives for it, which another thread makes while
/// the step before is at work.
pub fn ahead<'scope, D: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    steps: Range<u32>,
    draw: impl Fn(u32) -> D + Send + 'scope,
) -> impl Iterator<Item = (u32, D)> {
    let (sender, drawn) = mpsc::sync_channel(1);
    let all = steps.clone();
    // A receiver that is gone means that the steps have ended early.
    scope.spawn(move || all.map(draw).try_for_each(|draw| sender.send(draw)));
    steps.zip(drawn)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn every_step_gets_what_was_drawn_for_it() {
        let seen: Vec<(u32, u32)> = thread::scope(|scope| ahead(scope, 3..9, |step| step * step).collect());
        assert_eq!(seen, [(3, 9), (4, 16), (5, 25), (6, 36), (7, 49), (8, 64)]);
        assert_eq!(thread::scope(|scope| ahead(scope, 0..1_000_000, |step| step).next()), Some((0, 0)));
    }
}
