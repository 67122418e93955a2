//! What changes from step to step of a training that goes on from checkpoints:
//! weights, their moving average, the optimiser's moments and the losses.

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
