//! Networks that compute in other numbers than their weights are kept in.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor};
use domain::study::experiment::Precision;

/// The network with its weights in other numbers: a copy, whose gradients are
/// known by the same parameters.
pub fn cast<M: Module>(net: &M, precision: Precision) -> M {
    match precision {
        Precision::F32 => net.clone(),
        Precision::Bf16 => net.clone().map(&mut Narrower),
    }
}

/// The gradients in 32-bit numbers.
pub fn widened<M: Module>(gradients: GradientsParams, net: &M) -> GradientsParams {
    let mut widener = Widener { gradients };
    net.visit(&mut widener);
    widener.gradients
}

struct Narrower;

impl ModuleMapper for Narrower {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| Tensor::from_inner(tensor.inner().cast(FloatDType::BF16)).require_grad())
    }
}

struct Widener {
    gradients: GradientsParams,
}

impl ModuleVisitor for Widener {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient.cast(FloatDType::F32));
        }
    }
}
