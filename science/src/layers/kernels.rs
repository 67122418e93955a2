//! The crate `kernels` as operations of burn, with their gradients, for its backend `flex`.
//!
//! burn has the extension mechanism for it: a trait that the backends implement, and a node of
//! the graph of gradients for each operation. [`serve`] tells for which tensors they stand in.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};
use kernels::conv::Conv;
use kernels::norm::{Maps, Statistics};
use kernels::path::Path;
use kernels::{activation, conv, norm};

/// Whether a tensor is one that the kernels are made for.
pub(super) fn serve<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device().without_autodiff() == Device::flex()
}

/// See [`conv::forward`].
pub(super) fn convolve(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, shapes: Conv) -> Tensor<4> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::biased_conv(x, weight, bias.into_dispatch(), shapes),
        None => Dispatch::conv(x, weight, shapes),
    })
}

/// See [`activation::gelu`].
pub(super) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::exact_gelu(x.into_dispatch()))
}

/// The output of a batch normalisation that uses the statistics of its input, and these:
/// mean and variance of each channel, outside of the graph of gradients.
pub(super) fn batch_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    let [x, weight, bias] = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    let (output, statistics) = Dispatch::normalise(x, weight, bias, epsilon);
    let statistics = Tensor::<2>::from_dispatch(statistics); // [2, channels]
    let one = |which| statistics.clone().narrow(0, which, 1).squeeze_dim(0);
    (Tensor::from_dispatch(output), [one(0), one(1)])
}

/// What the kernels compute, by burn's tensors.
#[backend_extension(Autodiff, Flex)]
trait Kernels: Backend {
    fn conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self>;

    fn biased_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shapes: Conv,
    ) -> FloatTensor<Self>;

    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// A batch normalisation, and mean and variance of each channel: `[2, channels]`.
    fn normalise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// The gradients of [`Kernels`], which have no gradients themselves.
trait KernelGradients: Kernels {
    fn conv_by_input(gradient: FloatTensor<Self>, weight: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self>;
    fn conv_by_weight(x: FloatTensor<Self>, gradient: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self>;
    fn conv_by_bias(gradient: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self>;
    fn exact_gelu_by_input(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;

    /// By input, weight and bias.
    fn normalise_by_all(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f64,
    ) -> [FloatTensor<Self>; 3];
}

fn tensor(values: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

fn maps(x: &FlexTensor) -> Maps {
    let shape = x.shape();
    Maps { batch: shape[0], channels: shape[1], pixels: shape.iter().skip(2).product() }
}

impl Kernels for Flex {
    fn conv(x: FlexTensor, weight: FlexTensor, shapes: Conv) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [height, width] = shapes.output_size();
        let output = conv::forward(Path::current(), &shapes, x.storage(), weight.storage(), None);
        tensor(output, [shapes.batch, shapes.outputs, height, width])
    }

    fn biased_conv(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, shapes: Conv) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let [height, width] = shapes.output_size();
        let output = conv::forward(Path::current(), &shapes, x.storage(), weight.storage(), Some(bias.storage()));
        tensor(output, [shapes.batch, shapes.outputs, height, width])
    }

    fn exact_gelu(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        tensor(activation::gelu(Path::current(), x.storage()), x.shape())
    }

    fn normalise(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f64) -> (FlexTensor, FlexTensor) {
        let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.to_contiguous());
        let known = norm::statistics(Path::current(), maps(&x), x.storage());
        let scale = [weight.storage(), bias.storage()];
        let output = norm::batch_norm(Path::current(), maps(&x), x.storage(), &known, scale, epsilon as f32);
        let Statistics { mut mean, variance } = known;
        let channels = mean.len();
        mean.extend(variance);
        (tensor(output, x.shape()), tensor(mean, [2, channels]))
    }
}

impl KernelGradients for Flex {
    fn conv_by_input(gradient: FlexTensor, weight: FlexTensor, shapes: Conv) -> FlexTensor {
        let (gradient, weight) = (gradient.to_contiguous(), weight.to_contiguous());
        let [height, width] = shapes.size;
        let input = conv::input_gradient(Path::current(), &shapes, gradient.storage(), weight.storage());
        tensor(input, [shapes.batch, shapes.inputs, height, width])
    }

    fn conv_by_weight(x: FlexTensor, gradient: FlexTensor, shapes: Conv) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let [height, width] = shapes.kernel;
        let weight = conv::weight_gradient(Path::current(), &shapes, x.storage(), gradient.storage());
        tensor(weight, [shapes.outputs, shapes.inputs / shapes.groups, height, width])
    }

    fn conv_by_bias(gradient: FlexTensor, shapes: Conv) -> FlexTensor {
        let gradient = gradient.to_contiguous();
        tensor(conv::bias_gradient(Path::current(), &shapes, gradient.storage()), [shapes.outputs])
    }

    fn exact_gelu_by_input(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        tensor(activation::gelu_gradient(Path::current(), x.storage(), gradient.storage()), x.shape())
    }

    fn normalise_by_all(
        x: FlexTensor,
        weight: FlexTensor,
        known: FlexTensor,
        gradient: FlexTensor,
        epsilon: f64,
    ) -> [FlexTensor; 3] {
        let [x, weight, gradient, known] = [x, weight, gradient, known].map(|tensor| tensor.to_contiguous());
        let (mean, variance) = known.storage::<f32>().split_at(weight.shape()[0]);
        let known = Statistics { mean: mean.to_vec(), variance: variance.to_vec() };
        let pair = [x.storage(), gradient.storage()];
        let [by_x, by_weight, by_bias] =
            norm::batch_norm_gradient(Path::current(), maps(&x), pair, &known, weight.storage(), epsilon as f32);
        [tensor(by_x, x.shape()), tensor(by_weight, weight.shape()), tensor(by_bias, weight.shape())]
    }
}

/// The gradients of a convolution, with a bias if it has three parents.
#[derive(Debug)]
struct ConvGradients;

/// Input and weight, and the shapes.
type ConvState = (NodeId, NodeId, Conv);

impl<B: KernelGradients> Backward<B, 2> for ConvGradients {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node] = ops.parents;
        let (x, weight, shapes) = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight) = (checkpointer.retrieve_node_output(x), checkpointer.retrieve_node_output(weight));
        if let Some(node) = x_node {
            gradients.register::<B>(node.id, B::conv_by_input(gradient.clone(), weight, shapes));
        }
        if let Some(node) = weight_node {
            gradients.register::<B>(node.id, B::conv_by_weight(x, gradient, shapes));
        }
    }
}

impl<B: KernelGradients> Backward<B, 3> for ConvGradients {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let (x, weight, shapes) = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight) = (checkpointer.retrieve_node_output(x), checkpointer.retrieve_node_output(weight));
        if let Some(node) = x_node {
            gradients.register::<B>(node.id, B::conv_by_input(gradient.clone(), weight, shapes));
        }
        if let Some(node) = weight_node {
            gradients.register::<B>(node.id, B::conv_by_weight(x, gradient.clone(), shapes));
        }
        if let Some(node) = bias_node {
            gradients.register::<B>(node.id, B::conv_by_bias(gradient, shapes));
        }
    }
}

#[derive(Debug)]
struct GeluGradient;

impl<B: KernelGradients> Backward<B, 1> for GeluGradient {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 1>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node] = ops.parents;
        let gradient = gradients.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output(ops.state);
        if let Some(node) = x_node {
            gradients.register::<B>(node.id, B::exact_gelu_by_input(x, gradient));
        }
    }
}

#[derive(Debug)]
struct NormaliseGradients;

impl<B: KernelGradients> Backward<B, 3> for NormaliseGradients {
    /// Input, weight, statistics of the input, and the guard against division by zero.
    type State = (NodeId, NodeId, FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents;
        let (x, weight, statistics, epsilon) = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let (x, weight) = (checkpointer.retrieve_node_output(x), checkpointer.retrieve_node_output(weight));
        let by_all = B::normalise_by_all(x, weight, statistics, gradient, epsilon);
        for (node, gradient) in [x_node, weight_node, bias_node].into_iter().zip(by_all) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: KernelGradients, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self> {
        match ConvGradients.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let state = (node.checkpoint(&x), node.checkpoint(&weight), shapes);
                node.finish(state, B::conv(x.into_primitive(), weight.into_primitive(), shapes))
            }
            OpsKind::UnTracked(node) => node.finish(B::conv(x.into_primitive(), weight.into_primitive(), shapes)),
        }
    }

    fn biased_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shapes: Conv,
    ) -> FloatTensor<Self> {
        match ConvGradients.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let state = (node.checkpoint(&x), node.checkpoint(&weight), shapes);
                node.finish(
                    state,
                    B::biased_conv(x.into_primitive(), weight.into_primitive(), bias.into_primitive(), shapes),
                )
            }
            OpsKind::UnTracked(node) => {
                node.finish(B::biased_conv(x.into_primitive(), weight.into_primitive(), bias.into_primitive(), shapes))
            }
        }
    }

    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match GeluGradient.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let state = node.checkpoint(&x);
                node.finish(state, B::exact_gelu(x.into_primitive()))
            }
            OpsKind::UnTracked(node) => node.finish(B::exact_gelu(x.into_primitive())),
        }
    }

    fn normalise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let parents = [x.node(), weight.node(), bias.node()];
        match NormaliseGradients.prepare::<C>(parents).compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let (x_state, weight_state) = (node.checkpoint(&x), node.checkpoint(&weight));
                let (output, statistics) =
                    B::normalise(x.into_primitive(), weight.into_primitive(), bias.into_primitive(), epsilon);
                let state = (x_state, weight_state, statistics.clone(), epsilon);
                (node.finish(state, output), Self::from_inner(statistics))
            }
            OpsKind::UnTracked(node) => {
                let (output, statistics) =
                    B::normalise(x.into_primitive(), weight.into_primitive(), bias.into_primitive(), epsilon);
                (node.finish(output), Self::from_inner(statistics))
            }
        }
    }
}
