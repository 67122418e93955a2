//! ResNets against torchvision's: every case that is in the folder.

use burn::optim::momentum::MomentumConfig;
use burn::optim::{Sgd, SgdConfig};
use domain::study::experiment::{Network, Stem};
use domain::study::stone::CLASSES;
use serde_json::Value;

use super::*;
use crate::layers::activation::log_softmax;
use crate::layers::resample::spatial_mean;
use crate::models::resnet::ResNet;
use crate::training::optimizer::NamedOptimizer;
use crate::weights::{self, torch};

/// Mean and deviation of ImageNet's channels.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Gradients below this are rounding: a bias before a normalisation has none.
const NO_GRADIENT: f64 = 1e-6;

/// Bytes `[batch, height, width, 3]`, normalised: `[batch, 3, height, width]`.
fn input(vectors: &Vectors, name: &str, device: &Device) -> Tensor<4> {
    let x = vectors.tensor::<4>(name, device).permute([0, 3, 1, 2]) / 255.0;
    let channel = |values: [f32; 3]| Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), device);
    (x - channel(MEAN)) / channel(DEVIATION)
}

/// The blank network that tensors of these shapes are of.
fn blank(shapes: &Shapes, device: &Device) -> ResNet {
    let rows = |name: &str| shapes.get(name).map(|shape| shape[0]);
    let blocks_of = |stage: usize| {
        let blocks = (0..).map(|block| format!("layer{stage}.{block}.conv1.weight"));
        blocks.take_while(|name| shapes.contains_key(name)).count() as u32
    };
    let linear: Vec<u32> = (1..).step_by(4).map_while(|k| Some(rows(&format!("fc.{k}.weight"))? as u32)).collect();
    let network = Network {
        stem: Stem::Imagenet,
        width: rows("conv1.weight").unwrap() as u32,
        blocks: (1..=4).map(blocks_of).collect(),
        head: linear[..linear.len().saturating_sub(1)].to_vec(),
        dropout: 0.0,
    };
    let net = match rows("fc.weight") {
        Some(classes) => ResNet::plain(&network, classes, device),
        None => ResNet::with_planes(&network, rows("layer1.0.conv1.weight").unwrap(), device),
    };
    assert_eq!(weights::shapes(&net), *shapes);
    net
}

/// The network with the weights of the formula that a file describes.
fn filled(info: &Value, device: &Device) -> ResNet {
    let blank = blank(&listed(&info["tensors"]), device);
    let mut arrays = weights::collect(&blank);
    let prefix = info["prefix"].as_str().unwrap_or_default();
    fill(&mut arrays, info["gain_sq"].as_f64().unwrap(), |name| format!("{prefix}{name}"));
    weights::apply(blank, arrays).unwrap()
}

/// The network with these weights.
fn network(arrays: Arrays, device: &Device) -> ResNet {
    let shapes = arrays.iter().map(|(name, array)| (name.clone(), array.shape.clone())).collect();
    weights::apply(blank(&shapes, device), arrays).unwrap()
}

/// Scores of a recorded batch, and the cross entropy.
fn loss(net: &ResNet, vectors: &Vectors, prefix: &str, device: &Device) -> (Tensor<2>, Tensor<1>) {
    let labels = vectors.integers(&format!("{prefix}target"));
    let mut truth = vec![0.0f32; labels.len() * CLASSES];
    labels.iter().enumerate().for_each(|(row, label)| truth[row * CLASSES + *label as usize] = 1.0);
    let truth = Tensor::<2>::from_data(TensorData::new(truth, [labels.len(), CLASSES]), device);
    let scores = net.forward(input(vectors, &format!("{prefix}input_u8"), device), None);
    let loss = (log_softmax(scores.clone(), 1) * truth).sum() / -(labels.len() as f64);
    (scores, loss)
}

fn sgd(settings: &Value) -> NamedOptimizer<Sgd> {
    let momentum = MomentumConfig::new().with_momentum(settings["momentum"].as_f64().unwrap()).with_dampening(0.0);
    NamedOptimizer::new(SgdConfig::new().with_momentum(Some(momentum)).build())
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

fn numbers(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Gradients against those stored: `tolerance` is a share of the largest of a tensor.
fn assert_gradients(
    own: &BTreeMap<String, Vec<f32>>,
    expected: &Arrays,
    tolerance: impl Fn(&str) -> f64,
    device: &Device,
) {
    assert!(!expected.is_empty());
    for (name, array) in expected {
        let expected = numbers(&array.values);
        if largest(&expected) < NO_GRADIENT {
            continue;
        }
        let own = Tensor::<1>::from_floats(&own[name][..expected.len()], device); // perhaps the first rows only
        assert_close(own, &expected, tolerance(name) * largest(&expected), name);
    }
}

/// Running statistics, relative to the largest of a tensor, and weights if there are any.
fn assert_weights(own: &Arrays, expected: &Arrays) {
    assert!(!expected.is_empty());
    for (name, expected) in expected {
        let expected = numbers(&expected.values);
        let tolerance = if name.contains("running_") { 1e-4 * largest(&expected) } else { 5e-5 };
        let own = Tensor::<1>::from_floats(own[name].values.as_slice(), &Device::flex());
        assert_close(own, &expected, tolerance, name);
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn published_networks_equal_the_reference() {
    let device = Device::flex();
    let mut compared = 0;
    for name in names_ending("resnet50", "_forward.safetensors") {
        let info = json(&format!("resnet50/{name}.json"));
        let channels = |what: &str| serde_json::from_value::<[f32; 3]>(info["normalise"][what].clone()).unwrap();
        assert_eq!((channels("mean"), channels("std")), (MEAN, DEVIATION));
        let net = filled(&info, &device);
        assert_eq!(with_counters(&weights::shapes(&net)), listed(&info["all_keys"]));
        assert_eq!(info["n_params"], weights::parameters(&net));
        let vectors = Vectors::open(&format!("resnet50/{name}_forward.safetensors"));
        for case in vectors.0.keys().filter_map(|name| name.strip_suffix(".input_u8")) {
            let part = |what: &str| format!("{case}.{what}");
            let x = input(&vectors, &part("input_u8"), &device);
            let [batch, _, height, width] = x.dims();
            let values: Vec<f64> = x.to_data().iter::<f32>().map(f64::from).collect();
            let planes = values.chunks_exact(height * width);
            let sums: Vec<f32> = planes.map(|plane| plane.iter().sum::<f64>() as f32).collect();
            let sums = Tensor::<2>::from_data(TensorData::new(sums, [batch, 3]), &device);
            assert_close(sums, vectors.values(&part("input_sum")), 1e-6 * (height * width) as f64, &part("input_sum"));

            let mut h = net.stem(x.clone());
            let close = |map: Tensor<4>, what: &str| {
                assert_close(spatial_mean(map), vectors.values(&part(what)), 1e-4, &part(what));
            };
            close(h.clone(), "maxpool_spatial_mean");
            for (stage, blocks) in net.stages().into_iter().enumerate() {
                h = blocks.iter().fold(h, |h, block| block.forward(h));
                close(h.clone(), &format!("layer{}_spatial_mean", stage + 1));
            }
            assert_close(net.features(x.clone()), vectors.values(&part("avgpool")), 1e-4, &part("avgpool"));
            assert_close(net.forward(x, None), vectors.values(&part("logits")), 1e-4, &part("logits"));
            compared += 1;
        }
    }
    assert!(compared > 0);
}

/// Every run `small/train_<name>`, with the weights after it.
#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn steps_of_training_equal_the_reference() {
    let device = Device::flex().autodiff();
    let runs: Vec<String> =
        names_ending("resnet50/small", ".json").into_iter().filter(|name| name.starts_with("train_")).collect();
    assert!(!runs.is_empty());
    for run in runs {
        let settings = json(&format!("resnet50/small/{run}.json"));
        let vectors = Vectors::open(&format!("resnet50/small/{run}.safetensors"));
        let mut net = network(Vectors::open("resnet50/small/init.safetensors").arrays(""), &device);
        let (lr, mut sgd) = (settings["lr"].as_f64().unwrap(), sgd(&settings));
        let steps = settings["steps"].as_array().unwrap();
        for (step, recorded) in steps.iter().enumerate() {
            let part = |what: &str| format!("step{step}.{what}");
            let (scores, loss) = loss(&net, &vectors, &part(""), &device);
            assert_close(scores, vectors.values(&part("logits")), 2e-3, &part("logits"));
            assert_close(loss.clone(), vectors.values(&part("loss")), 1e-4, &part("loss"));
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            let named = Gradients::by_name(&gradients, &net);
            if step == 0 {
                for prefix in ["grad.", "grad_first4rows."] {
                    assert_gradients(&named, &vectors.arrays(&part(prefix)), |_| 5e-4, &device);
                }
            }
            for (name, norm) in recorded["grad_norm"].as_object().unwrap() {
                let (norm, own) = (norm.as_f64().unwrap(), length(&named[name]));
                assert!(norm < NO_GRADIENT || (own / norm - 1.0).abs() < 5e-4, "step {step}: {name} {own} {norm}");
            }
            net = sgd.step(lr, net, gradients);
            // The file calls them "after step 0"; its counter of batches says what they are.
            let own = weights::collect(&net.valid());
            if vectors.values("after_step0.bn1.num_batches_tracked") == [step as f64 + 1.0] {
                assert_weights(&own, &vectors.arrays("after_step0."));
            }
        }

        let after = format!("after{}_{}.pth", steps.len(), run.trim_start_matches("train_"));
        let stored = torch::read(&path("resnet50/small").join(after), None).unwrap();
        let own = weights::collect(&net.valid());
        assert_eq!(own.keys().collect::<Vec<_>>(), stored.keys().collect::<Vec<_>>());
        assert_weights(&own, &stored);
        let plain = Device::flex();
        for net in [net.valid(), network(stored, &plain)] {
            let scores = net.forward(input(&vectors, "step0.input_u8", &plain), None);
            assert_close(scores, vectors.values("eval_logits_after"), 2e-3, "logits after training");
        }
    }
}

/// Every `small/<name>_losses.json`: from the same start, with the same batches.
#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn losses_at_other_rates_equal_the_reference() {
    let device = Device::flex().autodiff();
    let batches = names_ending("resnet50/small", ".safetensors").into_iter().find(|name| name.starts_with("train_"));
    let vectors = Vectors::open(&format!("resnet50/small/{}.safetensors", batches.unwrap()));
    let names = names_ending("resnet50/small", "_losses.json");
    assert!(!names.is_empty());
    for name in names {
        let settings = json(&format!("resnet50/small/{name}_losses.json"));
        let mut net = network(Vectors::open("resnet50/small/init.safetensors").arrays(""), &device);
        let mut sgd = sgd(&settings);
        let recorded = (0..).map_while(|step| settings[format!("loss_step{step}")].as_f64());
        for (step, expected) in recorded.enumerate() {
            let (_, loss) = loss(&net, &vectors, &format!("step{step}."), &device);
            assert_close(loss.clone(), &[expected], 1e-4, &format!("{name} {step}"));
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = sgd.step(settings["lr"].as_f64().unwrap(), net, gradients);
        }
    }
}

/// Every `<name>_train`: one step forwards and backwards at full size. The
/// reference's own 32-bit gradients are off by up to two percent.
#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn gradients_of_full_networks_equal_the_reference() {
    let device = Device::flex().autodiff();
    let names = names_ending("resnet50", "_train.json");
    assert!(!names.is_empty());
    for name in names {
        let info = json(&format!("resnet50/{name}_train.json"));
        let vectors = Vectors::open(&format!("resnet50/{name}_train.safetensors"));
        let net = filled(&info, &device);
        let (scores, loss) = loss(&net, &vectors, "", &device);
        assert_close(scores, vectors.values("logits"), 2e-3, "logits");
        for expected in [vectors.values("loss")[0], info["loss_f64"].as_f64().unwrap()] {
            assert_close(loss.clone(), &[expected], 1e-4, "loss");
        }
        let gradients = Gradients::by_name(&GradientsParams::from_grads(loss.backward(), &net), &net);
        assert_weights(&weights::collect(&net.valid()), &vectors.arrays("running."));

        let recorded = info["grads"].as_object().unwrap();
        assert_eq!(gradients.keys().collect::<Vec<_>>(), recorded.keys().collect::<Vec<_>>());
        let tolerance = |name: &str| {
            let error = recorded[name]["relative_error_of_f32_gradient"].as_f64().unwrap();
            (5.0 * error).max(1e-3)
        };
        for (name, own) in &gradients {
            let (own, norm) = (length(own), recorded[name]["norm_f64"].as_f64().unwrap());
            assert!(norm < NO_GRADIENT || (own / norm - 1.0).abs() < tolerance(name), "{name}: {own} {norm}");
        }
        assert_gradients(&gradients, &vectors.arrays("grad."), tolerance, &device);
    }
}
