//! burn's rules of optimisation, with their state kept by the names of the
//! parameters rather than by numbers drawn at random, so that a checkpoint can
//! hold it.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{AdamConfig, DynState, GradientsParams, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Tensor, TensorData};
use domain::study::stage::Failure;

use crate::weights::{Array, Arrays, Trail, take};

/// Adam as PyTorch has it: burn's guard against division by zero is larger.
pub fn adam() -> AdamConfig {
    AdamConfig::new().with_epsilon(1e-8)
}

/// A rule with what it remembers of each parameter.
pub struct NamedOptimizer<O> {
    rule: O,
    states: BTreeMap<String, DynState>,
}

impl<O: Optimizer> NamedOptimizer<O> {
    /// An optimiser that has taken no step.
    pub fn new(rule: O) -> Self {
        Self { rule, states: BTreeMap::new() }
    }

    /// The module after one step along its gradients.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, gradients: GradientsParams) -> M {
        module.map(&mut Stepper { trail: Trail::default(), optimizer: self, lr, gradients })
    }

    /// All that the rule remembers, as `<parameter>.<what>`, laid out as burn does; a count is
    /// a tensor without dimensions.
    pub fn collect<M: Module>(&self, module: &M) -> Arrays {
        let mut collector = Collector { trail: Trail::default(), optimizer: self, arrays: Arrays::new() };
        module.visit(&mut collector);
        collector.arrays
    }

    /// An optimiser that remembers what another did of the same module.
    ///
    /// # Errors
    /// If something is missing, left over or has another shape; names the first.
    pub fn restore<M: Module>(rule: O, module: &M, arrays: Arrays) -> Result<Self, Failure> {
        let mut restorer = Restorer { trail: Trail::default(), optimizer: Self::new(rule), arrays, problem: None };
        module.visit(&mut restorer);
        match (restorer.problem, restorer.arrays.keys().next()) {
            (Some(name), _) => Err(Failure::invalid_input(format!("the optimiser's state of {name} does not fit"))),
            (None, Some(name)) => Err(Failure::invalid_input(format!("{name} is no state of the optimiser"))),
            (None, None) => Ok(restorer.optimizer),
        }
    }
}

/// The gradients, shortened to a length over all parameters if they are longer.
pub fn clip<M: Module>(gradients: GradientsParams, module: &M, longest: f64) -> GradientsParams {
    let mut clipper = Clipper { gradients, squares: None, factor: None };
    module.visit(&mut clipper);
    let Some(squares) = clipper.squares.take() else { return clipper.gradients };
    clipper.factor = Some((squares.sqrt() + 1e-6).recip().mul_scalar(longest).clamp_max(1.0));
    module.visit(&mut clipper);
    clipper.gradients
}

/// Adds up squares; once a factor is known, applies it. Both stay on the device.
struct Clipper {
    gradients: GradientsParams,
    squares: Option<Tensor<1>>,
    factor: Option<Tensor<1>>,
}

impl ModuleVisitor for Clipper {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return };
        let gradient = match &self.factor {
            Some(factor) => gradient * factor.clone().reshape([1; D]),
            None => {
                let squares = gradient.clone().square().sum();
                self.squares = Some(self.squares.take().map_or(squares.clone(), |sum| sum + squares));
                gradient
            }
        };
        self.gradients.register(param.id, gradient);
    }
}

struct Stepper<'a, O> {
    trail: Trail,
    optimizer: &'a mut NamedOptimizer<O>,
    lr: f64,
    gradients: GradientsParams,
}

impl<O: Optimizer> ModuleMapper for Stepper<'_, O> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.trail.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.trail.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let name = self.trail.name();
        let state = self.optimizer.states.remove(&name).map(DynState::downcast::<O::State<D>>);
        param.map(|tensor| {
            let (tensor, state) = self.optimizer.rule.step(self.lr, tensor.inner(), gradient, state);
            if let Some(state) = state {
                self.optimizer.states.insert(name, DynState::create(state, D));
            }
            Tensor::from_inner(tensor).require_grad()
        })
    }
}

struct Collector<'a, O> {
    trail: Trail,
    optimizer: &'a NamedOptimizer<O>,
    arrays: Arrays,
}

impl<O: Optimizer> ModuleVisitor for Collector<'_, O> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.trail.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.trail.exit();
    }

    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        let name = self.trail.name();
        let Some(state) = self.optimizer.states.get(&name) else { return };
        let mut sink = StateSink::default();
        state.downcast_ref::<O::State<D>>().state_flatten(&name, &mut sink);
        for (name, data) in sink.tensors {
            let array = Array { shape: data.shape().to_vec(), values: data.iter::<f32>().collect() };
            self.arrays.insert(name, array);
        }
        for (name, value) in sink.scalars {
            // Adam's count of steps: above 2²⁴ it is rounded, and its powers of β are 0.
            if let Ok(count) = usize::try_from(value) {
                self.arrays.insert(name, Array { shape: Vec::new(), values: vec![count as f32] });
            }
        }
    }
}

struct Restorer<O> {
    trail: Trail,
    optimizer: NamedOptimizer<O>,
    arrays: Arrays,
    problem: Option<String>,
}

impl<O: Optimizer> ModuleVisitor for Restorer<O> {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.trail.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.trail.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        if !tensor.is_require_grad() {
            return;
        }
        let name = self.trail.name();
        let own = take(&mut self.arrays, &name);
        let (counts, tensors): (Arrays, Arrays) = own.into_iter().partition(|(_, array)| array.shape.is_empty());
        // burn panics at data of another rank.
        let fits = !tensors.is_empty() && tensors.values().all(|array| array.shape == tensor.dims());
        let counts =
            counts.into_iter().filter_map(|(leaf, array)| Some((leaf, (*array.values.first()? as u64).into())));
        let mut source = StateSource::new(counts.collect());
        for (leaf, array) in tensors {
            source.insert_tensor(leaf, TensorData::new(array.values, array.shape));
        }
        let device = tensor.inner().device();
        let state = fits.then(|| O::State::<D>::state_unflatten("", &mut source, &device)).flatten();
        match state {
            Some(state) => {
                self.optimizer.states.insert(name, DynState::create(state, D));
            }
            None => {
                self.problem.get_or_insert(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use domain::seed::Seed;

    use super::*;
    use crate::layers::linear::{Linear, linear};
    use crate::weights;

    fn layer() -> Linear {
        weights::initialise(linear(3, 2, &Device::flex().autodiff()), Seed(1))
    }

    /// The layer after some steps towards nothing.
    fn steps(layer: Linear, count: usize, mut step: impl FnMut(Linear, GradientsParams) -> Linear) -> Linear {
        (0..count).fold(layer, |layer, k| {
            let x = Tensor::<2>::ones([4, 3], &Device::flex().autodiff()) * (k as f32 + 0.5);
            let gradients = GradientsParams::from_grads(layer.forward(x).square().mean().backward(), &layer);
            step(layer, gradients)
        })
    }

    #[test]
    fn steps_are_those_of_burns_own_optimiser() {
        let mut burns = AdamConfig::new().init();
        let mut named = NamedOptimizer::new(AdamConfig::new().build());
        let theirs = steps(layer(), 5, |layer, gradients| burns.step(0.01, layer, gradients));
        let ours = steps(layer(), 5, |layer, gradients| named.step(0.01, layer, gradients));
        assert_eq!(weights::collect(&theirs), weights::collect(&ours));
        assert_ne!(weights::collect(&layer()), weights::collect(&ours));
    }

    #[test]
    fn long_gradients_are_shortened_and_short_ones_left_alone() {
        let layer = layer();
        let x = Tensor::<2>::ones([4, 3], &Device::flex().autodiff());
        let gradients = || GradientsParams::from_grads(layer.forward(x.clone()).sum().backward(), &layer);
        let length = |gradients: &GradientsParams| {
            let weight: Tensor<2> = gradients.get(layer.weight.id).unwrap();
            let bias: Tensor<1> = gradients.get(layer.bias.as_ref().unwrap().id).unwrap();
            (weight.square().sum() + bias.square().sum()).sqrt().into_scalar::<f32>()
        };
        let whole = length(&gradients()); // eight numbers, each 4
        assert!((whole - 128f32.sqrt()).abs() < 1e-4);
        assert!((length(&clip(gradients(), &layer, 2.0)) - 2.0).abs() < 1e-4);
        assert_eq!(length(&clip(gradients(), &layer, 100.0)), whole);
    }

    #[test]
    fn a_state_of_another_form_is_refused_by_name() {
        let mut named = NamedOptimizer::new(AdamConfig::new().build());
        let layer = steps(layer(), 2, |layer, gradients| named.step(0.01, layer, gradients));
        let arrays = named.collect(&layer);
        assert_eq!(arrays["weight.momentum.time"].values, [2.0]);
        let refusal = |change: fn(&mut Arrays)| {
            let mut arrays = arrays.clone();
            change(&mut arrays);
            NamedOptimizer::restore(AdamConfig::new().build(), &layer, arrays).err().map(|failure| failure.message)
        };
        assert_eq!(refusal(|_| {}), None);
        let unfit = Some("the optimiser's state of bias does not fit".to_owned());
        assert_eq!(refusal(|arrays| drop(arrays.remove("bias.momentum.moment_2"))), unfit);
        assert_eq!(refusal(|arrays| arrays.retain(|name, _| !name.starts_with("bias"))), unfit);
        assert_eq!(refusal(|arrays| arrays.get_mut("bias.momentum.moment_1").unwrap().shape = vec![1, 2]), unfit);
        let extra = |arrays: &mut Arrays| drop(arrays.insert("gain.time".into(), arrays["bias.momentum.time"].clone()));
        assert_eq!(refusal(extra), Some("gain.time is no state of the optimiser".to_owned()));
    }
}
