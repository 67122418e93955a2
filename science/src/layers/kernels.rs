//! The crate `kernels` as operations of burn, with their gradients, for its backend `flex`.
//!
//! burn has the extension mechanism for it: a trait that the backends implement, and a node of
//! the graph of gradients for each operation. [`serve`] and [`serve_narrow`] tell for which tensors
//! they stand in.

use std::borrow::Cow;

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
use kernels::{Finish, activation, bf16, conv, norm};

#[cfg(test)]
mod tests;

/// Whether a tensor is one that the kernels are made for.
pub(super) fn serve<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device().without_autodiff() == Device::flex()
}

/// Whether a tensor is one that [`convolve`] and [`gelu`] take: these also compute with values that
/// are kept in 16 bits.
pub(super) fn serve_narrow<const D: usize>(x: &Tensor<D>) -> bool {
    serve(x) || x.dtype() == DType::BF16 && x.device().without_autodiff() == Device::flex()
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

/// A rectifier in the same pass.
pub(super) struct Rectifier<const D: usize> {
    /// What is added before it.
    pub(super) other: Option<Tensor<D>>,
}

/// The output of a batch normalisation that uses the statistics of its input, and these:
/// mean and variance of each channel, outside of the graph of gradients.
pub(super) fn batch_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
    after: Option<Rectifier<D>>,
) -> (Tensor<D>, [Tensor<1>; 2]) {
    let [x, weight, bias] = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    let (output, statistics) = match after {
        None => Dispatch::normalise(x, weight, bias, epsilon),
        Some(Rectifier { other: None }) => Dispatch::normalise_rectify(x, weight, bias, epsilon),
        Some(Rectifier { other: Some(other) }) => {
            Dispatch::normalise_add_rectify(x, weight, bias, other.into_dispatch(), epsilon)
        }
    };
    let statistics = Tensor::<2>::from_dispatch(statistics); // [2, channels]
    let one = |which| statistics.clone().narrow(0, which, 1).squeeze_dim(0);
    (Tensor::from_dispatch(output), [one(0), one(1)])
}

/// A convolution and a rectifier, with other values added between if there are any; without
/// gradients.
pub(super) fn convolve_rectify(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    other: Option<Tensor<4>>,
    shapes: Conv,
) -> Tensor<4> {
    let [x, weight, bias] = [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
    Tensor::from_dispatch(match other {
        Some(other) => Dispatch::conv_add_rectify(x, weight, bias, other.into_dispatch(), shapes),
        None => Dispatch::conv_rectify(x, weight, bias, shapes),
    })
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

    /// As [`Kernels::normalise`], rectified.
    fn normalise_rectify(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// As [`Kernels::normalise`], with other values added and rectified.
    fn normalise_add_rectify(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        other: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// What the kernels compute where nothing is learnt.
#[backend_extension(Flex)]
trait Inference: Backend {
    fn conv_rectify(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shapes: Conv,
    ) -> FloatTensor<Self>;

    fn conv_add_rectify(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        other: FloatTensor<Self>,
        shapes: Conv,
    ) -> FloatTensor<Self>;
}

/// The gradients of [`Kernels`], which have no gradients themselves.
trait KernelGradients: Kernels {
    fn conv_by_input(gradient: FloatTensor<Self>, weight: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self>;
    fn conv_by_weight(x: FloatTensor<Self>, gradient: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self>;
    fn conv_by_bias(gradient: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self>;
    fn exact_gelu_by_input(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;
    fn rectifier_by_input(output: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self>;

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

/// The values of a contiguous tensor, in 32 bits.
fn values(x: &FlexTensor) -> Cow<'_, [f32]> {
    if x.dtype() == DType::BF16 {
        Cow::Owned(bf16::widen(Path::current(), x.storage()))
    } else {
        Cow::Borrowed(x.storage())
    }
}

/// A tensor of the kind of number that another has.
fn like(other: &FlexTensor, values: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> FlexTensor {
    if other.dtype() == DType::BF16 {
        FlexTensor::from_data(TensorData::new(bf16::narrow(Path::current(), &values), shape))
    } else {
        tensor(values, shape)
    }
}

fn maps(x: &FlexTensor) -> Maps {
    let shape = x.shape();
    Maps { batch: shape[0], channels: shape[1], pixels: shape.iter().skip(2).product() }
}

/// A convolution of tensors.
fn conv_of(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    other: Option<FlexTensor>,
    rectifies: bool,
    shapes: &Conv,
) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let [bias, other] = [bias, other].map(|tensor| tensor.map(|tensor| tensor.to_contiguous()));
    let [height, width] = shapes.output_size();
    let finish = Finish { residual: other.as_ref().map(FlexTensor::storage), rectifies };
    let bias = bias.as_ref().map(values);
    let output = conv::forward(Path::current(), shapes, &values(&x), &values(&weight), bias.as_deref(), finish);
    like(&x, output, [shapes.batch, shapes.outputs, height, width])
}

/// A batch normalisation of tensors, and the statistics.
fn normalised(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    other: Option<FlexTensor>,
    rectifies: bool,
    epsilon: f64,
) -> (FlexTensor, FlexTensor) {
    let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.to_contiguous());
    let other = other.map(|tensor| tensor.to_contiguous());
    let finish = Finish { residual: other.as_ref().map(FlexTensor::storage), rectifies };
    let known = norm::statistics(Path::current(), maps(&x), x.storage());
    let scale = [weight.storage(), bias.storage()];
    let output = norm::batch_norm(Path::current(), maps(&x), x.storage(), &known, scale, epsilon as f32, finish);
    let Statistics { mut mean, variance } = known;
    let channels = mean.len();
    mean.extend(variance);
    (tensor(output, x.shape()), tensor(mean, [2, channels]))
}

impl Kernels for Flex {
    fn conv(x: FlexTensor, weight: FlexTensor, shapes: Conv) -> FlexTensor {
        conv_of(x, weight, None, None, false, &shapes)
    }

    fn biased_conv(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, shapes: Conv) -> FlexTensor {
        conv_of(x, weight, Some(bias), None, false, &shapes)
    }

    fn exact_gelu(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        like(&x, activation::gelu(Path::current(), &values(&x)), x.shape())
    }

    fn normalise(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, epsilon: f64) -> (FlexTensor, FlexTensor) {
        normalised(x, weight, bias, None, false, epsilon)
    }

    fn normalise_rectify(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, FlexTensor) {
        normalised(x, weight, bias, None, true, epsilon)
    }

    fn normalise_add_rectify(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        other: FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, FlexTensor) {
        normalised(x, weight, bias, Some(other), true, epsilon)
    }
}

impl Inference for Flex {
    fn conv_rectify(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, shapes: Conv) -> FlexTensor {
        conv_of(x, weight, Some(bias), None, true, &shapes)
    }

    fn conv_add_rectify(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        other: FlexTensor,
        shapes: Conv,
    ) -> FlexTensor {
        conv_of(x, weight, Some(bias), Some(other), true, &shapes)
    }
}

impl KernelGradients for Flex {
    fn conv_by_input(gradient: FlexTensor, weight: FlexTensor, shapes: Conv) -> FlexTensor {
        let (gradient, weight) = (gradient.to_contiguous(), weight.to_contiguous());
        let [height, width] = shapes.size;
        let input = conv::input_gradient(Path::current(), &shapes, &values(&gradient), &values(&weight));
        like(&gradient, input, [shapes.batch, shapes.inputs, height, width])
    }

    fn conv_by_weight(x: FlexTensor, gradient: FlexTensor, shapes: Conv) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let [height, width] = shapes.kernel;
        let weight = conv::weight_gradient(Path::current(), &shapes, &values(&x), &values(&gradient));
        like(&x, weight, [shapes.outputs, shapes.inputs / shapes.groups, height, width])
    }

    fn conv_by_bias(gradient: FlexTensor, shapes: Conv) -> FlexTensor {
        let gradient = gradient.to_contiguous();
        like(&gradient, conv::bias_gradient(Path::current(), &shapes, &values(&gradient)), [shapes.outputs])
    }

    fn exact_gelu_by_input(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        like(&x, activation::gelu_gradient(Path::current(), &values(&x), &values(&gradient)), x.shape())
    }

    fn rectifier_by_input(output: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (output, gradient) = (output.to_contiguous(), gradient.to_contiguous());
        let input = activation::rectifier_gradient(Path::current(), output.storage(), gradient.storage());
        tensor(input, output.shape())
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

/// What a convolution leaves for its gradients.
#[derive(Clone, Debug)]
struct Convolved {
    x: NodeId,
    weight: NodeId,
    shapes: Conv,
}

impl Convolved {
    /// Registers the gradients by input and weight, as far as somebody wants them.
    fn register<B: KernelGradients>(
        self,
        [x_node, weight_node]: [Option<NodeId>; 2],
        gradient: FloatTensor<B>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, weight) = (checkpointer.retrieve_node_output(self.x), checkpointer.retrieve_node_output(self.weight));
        if let Some(node) = x_node {
            gradients.register::<B>(node, B::conv_by_input(gradient.clone(), weight, self.shapes));
        }
        if let Some(node) = weight_node {
            gradients.register::<B>(node, B::conv_by_weight(x, gradient, self.shapes));
        }
    }
}

impl<B: KernelGradients> Backward<B, 2> for ConvGradients {
    type State = Convolved;

    fn backward(self, ops: Ops<Convolved, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        let gradient = gradients.consume::<B>(&ops.node);
        ops.state.register::<B>(nodes, gradient, gradients, checkpointer);
    }
}

impl<B: KernelGradients> Backward<B, 3> for ConvGradients {
    type State = Convolved;

    fn backward(self, ops: Ops<Convolved, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let [x_node, weight_node, bias_node] = ops.parents.map(|node| node.map(|node| node.id));
        let gradient = gradients.consume::<B>(&ops.node);
        if let Some(node) = bias_node {
            gradients.register::<B>(node, B::conv_by_bias(gradient.clone(), ops.state.shapes));
        }
        ops.state.register::<B>([x_node, weight_node], gradient, gradients, checkpointer);
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

/// The gradients of a normalisation: by input, weight and bias, and by what was added if it
/// has four parents.
#[derive(Debug)]
struct NormaliseGradients;

/// What a normalisation leaves for its gradients.
#[derive(Clone, Debug)]
struct Normalised<B: Backend> {
    x: NodeId,
    weight: NodeId,
    statistics: FloatTensor<B>,
    /// The output, if it was rectified.
    rectified: Option<FloatTensor<B>>,
    epsilon: f64,
}

impl<B: KernelGradients> Normalised<B> {
    /// The gradient before the rectifier, and those by input, weight and bias.
    fn gradients(
        self,
        gradient: FloatTensor<B>,
        checkpointer: &mut Checkpointer,
    ) -> (FloatTensor<B>, [FloatTensor<B>; 3]) {
        let (x, weight) = (checkpointer.retrieve_node_output(self.x), checkpointer.retrieve_node_output(self.weight));
        let before = match self.rectified {
            Some(output) => B::rectifier_by_input(output, gradient),
            None => gradient,
        };
        let by_all = B::normalise_by_all(x, weight, self.statistics, before.clone(), self.epsilon);
        (before, by_all)
    }
}

/// Registers gradients where somebody wants them.
fn register<B: Backend, const N: usize>(
    nodes: [Option<NodeId>; N],
    found: [FloatTensor<B>; N],
    gradients: &mut Gradients,
) {
    for (node, gradient) in nodes.into_iter().zip(found) {
        if let Some(node) = node {
            gradients.register::<B>(node, gradient);
        }
    }
}

impl<B: KernelGradients> Backward<B, 3> for NormaliseGradients {
    type State = Normalised<B>;

    fn backward(self, ops: Ops<Normalised<B>, 3>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (_, by_all) = ops.state.gradients(gradients.consume::<B>(&ops.node), checkpointer);
        register::<B, 3>(ops.parents.map(|node| node.map(|node| node.id)), by_all, gradients);
    }
}

impl<B: KernelGradients> Backward<B, 4> for NormaliseGradients {
    type State = Normalised<B>;

    fn backward(self, ops: Ops<Normalised<B>, 4>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (before, [x, weight, bias]) = ops.state.gradients(gradients.consume::<B>(&ops.node), checkpointer);
        let nodes = ops.parents.map(|node| node.map(|node| node.id));
        register::<B, 4>(nodes, [x, weight, bias, before], gradients);
    }
}

impl<B: KernelGradients, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, shapes: Conv) -> FloatTensor<Self> {
        match ConvGradients.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut node) => {
                let state = Convolved { x: node.checkpoint(&x), weight: node.checkpoint(&weight), shapes };
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
                let state = Convolved { x: node.checkpoint(&x), weight: node.checkpoint(&weight), shapes };
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

    fn normalise(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f64) -> Pair<Self> {
        tracked_norm::<B, C>([x, weight, bias], epsilon, false, |[x, weight, bias]| {
            B::normalise(x, weight, bias, epsilon)
        })
    }

    fn normalise_rectify(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> Pair<Self> {
        tracked_norm::<B, C>([x, weight, bias], epsilon, true, |[x, weight, bias]| {
            B::normalise_rectify(x, weight, bias, epsilon)
        })
    }

    fn normalise_add_rectify(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        other: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let parents = [x.node(), weight.node(), bias.node(), other.node()];
        let node = NormaliseGradients.prepare::<C>(parents).compute_bound().stateful();
        let (nodes, [x, weight, bias, other]) =
            ([x.clone(), weight.clone()], [x, weight, bias, other].map(Self::inner));
        let (output, statistics) = B::normalise_add_rectify(x, weight, bias, other, epsilon);
        let output = match node {
            OpsKind::Tracked(mut node) => {
                let [x, weight] = nodes.each_ref().map(|tensor| node.checkpoint(tensor));
                let rectified = Some(output.clone());
                node.finish(Normalised { x, weight, statistics: statistics.clone(), rectified, epsilon }, output)
            }
            OpsKind::UnTracked(node) => node.finish(output),
        };
        (output, Self::from_inner(statistics))
    }
}

/// An output, and the statistics of the input.
type Pair<B> = (FloatTensor<B>, FloatTensor<B>);

/// A normalisation of three parents in the graph of gradients.
fn tracked_norm<B: KernelGradients, C: CheckpointStrategy>(
    parents: [FloatTensor<Autodiff<B, C>>; 3],
    epsilon: f64,
    rectifies: bool,
    normalise: impl FnOnce([FloatTensor<B>; 3]) -> Pair<B>,
) -> Pair<Autodiff<B, C>> {
    let node = NormaliseGradients.prepare::<C>(parents.each_ref().map(|tensor| tensor.node()));
    let node = node.compute_bound().stateful();
    let [x, weight, _] = parents.clone();
    let nodes = [x, weight];
    let (output, statistics) = normalise(parents.map(Autodiff::<B, C>::inner));
    let output = match node {
        OpsKind::Tracked(mut node) => {
            let [x, weight] = nodes.each_ref().map(|tensor| node.checkpoint(tensor));
            let rectified = rectifies.then(|| output.clone());
            node.finish(Normalised { x, weight, statistics: statistics.clone(), rectified, epsilon }, output)
        }
        OpsKind::UnTracked(node) => node.finish(output),
    };
    (output, Autodiff::<B, C>::from_inner(statistics))
}
