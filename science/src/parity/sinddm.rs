//! SinDDM against the reference: every case that is in the folder.

use burn::module::Module;
use domain::seed::Seed;
use domain::study::experiment::{Fit, RescaleLoss, Sampling, Sinddm, shrunk};
use image::RgbImage;
use serde_json::{Value, json as value};

use super::*;
use crate::data::{picture, pyramid::Pyramid, tensors};
use crate::diffusion::guide::Guide;
use crate::diffusion::published::{self, Which};
use crate::diffusion::sampler::{Sampler, Step};
use crate::diffusion::schedule::{Reblurring, Schedule};
use crate::models::sinddm::{SinDdm, embedding};
use crate::stages::sinddm_train::learning_rate;
use crate::training::optimizer::{self, NamedOptimizer};
use crate::weights::{self, torch};

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn list(name: &str) -> Vec<Value> {
    json(name).as_array().unwrap().clone()
}

/// The widest layer of a network with these weights.
fn width(arrays: &Arrays) -> usize {
    arrays["l2.net.0.weight"].shape[0]
}

fn network(arrays: Arrays, device: &Device) -> SinDdm {
    weights::apply(SinDdm::new(width(&arrays), device), arrays).unwrap()
}

/// The numbers of `case0`, `case1` and so on that are in the file.
fn cases(vectors: &Vectors) -> Vec<String> {
    let names = vectors.0.keys().filter_map(|name| name.split_once('.').map(|(case, _)| case.to_owned()));
    let mut names: Vec<String> = names.filter(|name| name.starts_with("case")).collect();
    names.dedup();
    assert!(!names.is_empty());
    names
}

/// The reference's large picture, made by formula.
fn gradient([width, height]: [u32; 2]) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let blue = (7 * x + 13 * y) ^ (x >> 3);
        image::Rgb([255 * x / (width - 1), 255 * y / (height - 1), blue & 255].map(|value| value as u8))
    })
}

/// The pyramid of one picture as the reference makes it.
fn pyramid(image: RgbImage, auto_scale: &Value, scale_factor: &Value, rescale_loss: RescaleLoss) -> Pyramid {
    let size = [image.width(), image.height()];
    let finest = auto_scale.as_f64().map_or(size, |pixels| shrunk(size, pixels));
    let scale_factor = scale_factor.as_f64().unwrap_or(Sinddm::default().scale_factor);
    let sinddm = Sinddm { finest: finest.into(), fit: Fit::Stretch, scale_factor, rescale_loss, ..Sinddm::default() };
    Pyramid::new(&[image], &sinddm).unwrap()
}

fn assert_relative(own: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(own.len(), expected.len(), "{what}");
    for (own, expected) in own.iter().zip(expected) {
        assert!((own - expected).abs() <= tolerance * expected.abs(), "{what}: {own}, not {expected}");
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn pyramid_equals_the_reference() {
    for case in list("sinddm/pyramid/cases.json") {
        let name = case["name"].as_str().unwrap();
        let input = case["input"].as_str().unwrap();
        let image = if input.starts_with("formula") {
            gradient(serde_json::from_value(case["orig_size_wh"].clone()).unwrap())
        } else {
            picture::open_rgb8(&path("sinddm").join(input)).unwrap().image
        };
        let of = |how| pyramid(image.clone(), &case["auto_scale"], &case["scale_factor_in"], how);
        let own = of(RescaleLoss::U8Wrap);
        assert_eq!(value!(own.scales.len()), case["n_scales"], "{name}");
        assert_eq!(value!(own.geometry.sizes), case["sizes_wh"], "{name}");
        assert_relative(&[own.geometry.factor], &[case["scale_factor"].as_f64().unwrap()], 1e-12, name);
        // The reference takes the losses of other modes before it converts them to
        // RGB: with alpha as a fourth channel, or of palette indices.
        if case["mode"] != "RGB" {
            continue;
        }
        assert_relative(&own.rescale_losses, &floats(&case["rescale_losses"]), 1e-9, name);
        let signed = of(RescaleLoss::Signed).rescale_losses;
        assert_relative(&signed, &floats(&case["rescale_losses_if_signed"]), 1e-9, name);
        let timesteps = case["num_timesteps_ideal"][0].as_u64().unwrap() as u32;
        let lengths = Schedule::new(timesteps, &own.rescale_losses).sampling_steps(&own.rescale_losses);
        assert_eq!(value!(lengths), case["num_timesteps_ideal"], "{name}");
        let Some(folder) = case["images"].as_str() else { continue };
        for (s, scale) in own.scales.iter().enumerate() {
            let stored = |file: &str| picture::open_rgb8(&path("sinddm").join(folder).join(file)).unwrap().image;
            assert!(scale.images[0] == stored(&format!("scale_{s}.png")), "{name} scale {s}");
            if let Some(blurred) = scale.blurred.first() {
                assert!(*blurred == stored(&format!("scale_{s}_recon.png")), "{name} scale {s} recon");
            }
        }
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn schedule_equals_the_reference() {
    let vectors = Vectors::open("sinddm/schedule/schedule.safetensors");
    for case in list("sinddm/schedule/schedule.json") {
        let (name, losses) = (case["case"].as_str().unwrap(), floats(&case["scale_losses"]));
        assert_eq!(case["loss_factor"], 1, "{name}");
        let schedule = Schedule::new(case["timesteps"].as_u64().unwrap() as u32, &losses);
        let lengths = schedule.sampling_steps(&losses);
        assert_eq!(value!(lengths), case["num_timesteps_ideal"], "{name}");
        let trained = if case["train_full_t"] == true { vec![schedule.timesteps(); lengths.len()] } else { lengths };
        assert_eq!(value!(trained), case["num_timesteps_trained"], "{name}");

        for (buffer, own) in schedule.buffers() {
            let name = format!("{name}.{buffer}");
            assert_eq!(own.shape, vectors.shape(&name), "{name}");
            let own: Vec<f64> = own.values.into_iter().map(f64::from).collect();
            assert_relative(&own, vectors.values(&name), 1e-6, &name);
        }
    }
}

/// Every `net/<name>_forward.safetensors`, with the weights of `<name>.safetensors`
/// or, where these are not stored, those of the formula.
#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn network_equals_the_reference() {
    let device = device();
    let mut compared = 0;
    for name in names_ending("sinddm/net", "_forward.safetensors") {
        let vectors = Vectors::open(&format!("sinddm/net/{name}_forward.safetensors"));
        let stored = format!("sinddm/net/{name}.safetensors");
        let net = if path(&stored).exists() {
            network(Vectors::open(&stored).arrays(""), &device)
        } else {
            let info = json(&format!("sinddm/net/{name}.json"));
            let shapes = listed(&info["tensors"]);
            let net = SinDdm::new(shapes["l2.net.0.weight"][0], &device);
            assert_eq!(weights::shapes(&net), shapes);
            let mut arrays = weights::collect(&net);
            fill(&mut arrays, info["gain_sq"].as_f64().unwrap(), str::to_owned);
            weights::apply(net, arrays).unwrap()
        };
        for case in cases(&vectors) {
            let part = |what: &str| format!("{case}.{what}");
            let times = vectors.integers(&part("t"));
            let scale = vectors.integers(&part("s"))[0] as usize;
            let x = vectors.tensor::<4>(&part("x"), &device);
            let close = |tensor: Tensor<4>, what: &str| {
                let Some((_, expected)) = vectors.0.get(&part(what)) else { return };
                assert_close(tensor, expected, 2e-5 * largest(expected), &format!("{name} {}", part(what)));
            };
            close(net.forward(x.clone(), &times, scale), "out");
            let condition = net.condition(&times, scale, &device);
            if let Some((_, expected)) = vectors.0.get(&part("cond")) {
                assert_close(condition.clone(), expected, 2e-5, &part("cond"));
            }
            let mut h = x;
            for (block, what) in [&net.l1, &net.l2, &net.l3, &net.l4].into_iter().zip(["l1", "l2", "l3", "l4"]) {
                h = block.forward(h, condition.clone());
                close(h.clone(), what);
            }
            compared += 1;
        }
        for what in ["emb_t", "emb_s"] {
            let Some((shape, expected)) = vectors.0.get(what) else { continue };
            let own = vectors.integers(&format!("{what}_index")).into_iter().flat_map(embedding).collect::<Vec<f32>>();
            assert_close(Tensor::<2>::from_data(TensorData::new(own, shape.clone()), &device), expected, 2e-5, what);
        }
    }
    assert!(compared > 0);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn fresh_weights_are_distributed_as_the_reference() {
    let mut compared = 0;
    for name in names_ending("sinddm/net", ".json") {
        let info = json(&format!("sinddm/net/{name}.json"));
        let Some(expected) = info["default_init"].as_object() else { continue };
        let dim = expected["l2.net.0.weight"]["shape"][0].as_u64().unwrap() as usize;
        let own = weights::collect(&weights::initialise(SinDdm::new(dim, &Device::flex()), Seed(1)));
        assert_eq!(own.len(), expected.len());
        for (name, array) in own {
            let bound = expected[&name]["absmax"].as_f64().unwrap();
            let rms_expected = expected[&name]["rms_mean"].as_f64().unwrap();
            let values: Vec<f64> = array.values.iter().map(|v| f64::from(*v)).collect();
            let rms = (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt();
            // The largest of 20 draws comes near the bound of the distribution.
            assert!(largest(&values) < 1.2 * bound, "{name}: {} {bound}", largest(&values));
            let tolerance = 3.0 / (values.len() as f64).sqrt();
            assert!((rms / rms_expected - 1.0).abs() < tolerance, "{name}: {rms} {rms_expected}");
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn gradients_equal_the_reference() {
    let device = device().autodiff();
    let entries = list("sinddm/train/train.json");
    for entry in entries.iter().filter(|entry| entry["cases"].is_array()) {
        let vectors = Vectors::open(&format!("sinddm/train/{}", entry["file"].as_str().unwrap()));
        let image = picture::open_rgb8(&path("sinddm/train").join(entry["image"].as_str().unwrap())).unwrap().image;
        let own = pyramid(image, &entry["auto_scale"], &Value::Null, RescaleLoss::U8Wrap);
        assert_eq!(value!(own.geometry.sizes), entry["sizes_wh"]);
        assert_relative(&own.rescale_losses, &floats(&entry["rescale_losses"]), 1e-9, "rescale losses");
        let schedule = Schedule::new(entry["num_timesteps_ideal"][0].as_u64().unwrap() as u32, &own.rescale_losses);
        assert_relative(&schedule.gammas.concat(), vectors.values("gammas"), 1e-6, "gammas");
        let net = network(Vectors::open("sinddm/train/grad_net.safetensors").arrays(""), &device);
        for (k, case) in entry["cases"].as_array().unwrap().iter().enumerate() {
            let part = |what: &str| format!("case{k}.{what}");
            let s = case["s"].as_u64().unwrap() as usize;
            let times: Vec<u32> = serde_json::from_value(case["t"].clone()).unwrap();
            let scale = &own.scales[s];
            let pictures = |images: &[RgbImage]| tensors::signed(images, &device).repeat_dim(0, times.len());
            let image = pictures(&scale.images);
            assert_close(image.clone().narrow(0, 0, 1), vectors.values(&format!("scale{s}.image")), 1e-6, "image");
            let blurred = (s > 0).then(|| pictures(&scale.blurred));
            let noise = noise(&format!("train.grad.{}", part("noise")), image.dims(), &device);
            let first: Vec<f32> = noise.to_data().iter::<f32>().take(8).collect();
            assert_close(
                Tensor::<1>::from_floats(first.as_slice(), &device),
                vectors.values(&part("noise_first8")),
                0.0,
                "noise",
            );
            let x = schedule.diffuse(image, blurred, s, &times, noise.clone());
            let stored = |what: &str| vectors.0.get(&part(what)).map(|(_, values)| values.as_slice());
            if let Some(expected) = stored("x_t") {
                assert_close(x.clone(), expected, 2e-6 * largest(expected), &part("x_t"));
            }
            let predicted = net.forward(x, &times, s);
            if let Some(expected) = stored("pred") {
                assert_close(predicted.clone(), expected, 2e-5 * largest(expected), &part("pred"));
            }
            let loss = (predicted - noise).abs().mean();
            assert_close(loss.clone(), vectors.values(&part("loss")), 1e-6, &part("loss"));
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            let named = Gradients::by_name(&gradients, &net);
            let expected = vectors.arrays(&part("grad."));
            assert_eq!(named.len(), expected.len());
            for (name, own) in named {
                let expected: Vec<f64> = expected[&name].values.iter().map(|v| f64::from(*v)).collect();
                let own = Tensor::<1>::from_floats(own.as_slice(), &device);
                assert_close(own, &expected, 1e-4 * largest(&expected), &part(&name));
            }
        }
    }
}

/// Every recorded run of the reference's own loop.
#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn steps_of_training_equal_the_reference() {
    let device = device().autodiff();
    let entries = list("sinddm/train/train.json");
    let loops: Vec<&Value> = entries.iter().filter(|entry| entry["steps"].is_u64()).collect();
    assert!(!loops.is_empty());
    let file = |entry: &Value| Vectors::open(&format!("sinddm/train/{}", entry["file"].as_str().unwrap()));
    let start = loops.iter().map(|entry| file(entry).arrays("init.")).find(|arrays| !arrays.is_empty()).unwrap();
    let pyramids = entries.iter().find(|entry| entry["auto_scale"].is_u64()).unwrap();
    for entry in loops {
        let (name, vectors) = (entry["file"].as_str().unwrap(), file(entry));
        let image = picture::open_rgb8(&path("sinddm/train").join(entry["image"].as_str().unwrap())).unwrap().image;
        let own = pyramid(image, &pyramids["auto_scale"], &Value::Null, RescaleLoss::U8Wrap);
        let schedule = Schedule::new(100, &own.rescale_losses);
        let lrs = floats(&entry["lrs"]);
        let integer = |key: &str| entry[key].as_u64().unwrap() as u32;
        let sinddm = Sinddm {
            lr: lrs[0],
            milestones: serde_json::from_value(entry["milestones"].clone()).unwrap(),
            ema: entry["ema_decay"].as_f64().unwrap(),
            ema_every: integer("update_ema_every"),
            ema_start: integer("step_start_ema"),
            ..Sinddm::default()
        };
        let mut net = network(start.clone(), &device);
        let mut average = net.valid();
        let mut adam = NamedOptimizer::new(optimizer::adam().build());
        for step in 0..integer("steps") {
            let s = vectors.integers(&format!("step{step}.s"))[0] as usize;
            let times = vectors.integers(&format!("step{step}.t"));
            let pictures = |images: &[RgbImage]| tensors::signed(images, &device).repeat_dim(0, times.len());
            let image = pictures(&own.scales[s].images);
            let blurred = (s > 0).then(|| pictures(&own.scales[s].blurred));
            let noise = noise(&format!("train.loop.step{step}.noise"), image.dims(), &device);
            let x = schedule.diffuse(image, blurred, s, &times, noise.clone());
            let loss = (net.forward(x, &times, s) - noise).abs().mean();
            let at = step as usize;
            // The stored loss of a later step carries what the steps before it rounded.
            assert_close(loss.clone(), &vectors.values("loss")[at..=at], 5e-6, &format!("{name} {step}"));
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            assert_relative(&[learning_rate(&sinddm, step)], &lrs[at..=at], 1e-6, "learning rate");
            net = adam.step(learning_rate(&sinddm, step), net, gradients);
            if step.is_multiple_of(sinddm.ema_every) {
                let newest = net.valid();
                average = if step < sinddm.ema_start { newest } else { weights::blend(average, &newest, sinddm.ema) };
            }
        }
        for (own, prefix) in [(weights::collect(&net.valid()), "final."), (weights::collect(&average), "ema.")] {
            let expected = vectors.arrays(prefix);
            assert_eq!(own.len(), expected.len());
            // Adam can move a weight with a vanishing gradient by up to the learning rate.
            let gaps = |limit: f32| {
                let pairs = own.iter().flat_map(|(name, array)| array.values.iter().zip(&expected[name].values));
                pairs.filter(|(a, b)| (*a - *b).abs() > limit).count()
            };
            let all: usize = own.values().map(|array| array.values.len()).sum();
            assert!(gaps(5e-6) * 1000 <= all && gaps(1e-3) == 0, "{name} {prefix} {} {}", gaps(5e-6), gaps(1e-3));
        }
        let moments = adam.collect(&net);
        for (theirs, ours) in [("adam.exp_avg.", "moment_1"), ("adam.exp_avg_sq.", "moment_2")] {
            for (parameter, expected) in vectors.arrays(theirs) {
                let own = &moments[&format!("{parameter}.momentum.{ours}")];
                let own = rows(own, own.shape != expected.shape || is_linear(&parameter));
                let expected: Vec<f64> = expected.values.iter().map(|v| f64::from(*v)).collect();
                let own = Tensor::<1>::from_floats(own.as_slice(), &device);
                assert_close(own, &expected, 2e-3 * largest(&expected), &format!("{name} {theirs}{parameter}"));
            }
        }
        let count = &moments["l1.mlp.1.bias.momentum.time"].values;
        assert_eq!(*count, [integer("steps") as f32]);
    }
    for table in entries.iter().filter_map(|entry| entry["values"].as_object()) {
        for (step, lr) in table {
            let own = learning_rate(&Sinddm::default(), step.parse().unwrap());
            assert_relative(&[own], &[lr.as_f64().unwrap()], 1e-12, step);
        }
    }
}

/// Linear weights, which burn keeps as `[in, out]`.
fn is_linear(parameter: &str) -> bool {
    parameter.ends_with("weight") && (parameter.starts_with("time_mlp") || parameter.contains(".mlp."))
}

/// The values of an array, transposed if asked for.
fn rows(array: &Array, transposed: bool) -> Vec<f32> {
    if !transposed {
        return array.values.clone();
    }
    let [height, width] = *array.shape else { panic!("{:?}", array.shape) };
    (0..width).flat_map(|column| (0..height).map(move |row| array.values[row * width + column])).collect()
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn sampling_steps_equal_the_reference() {
    let device = device();
    let vectors = Vectors::open("sinddm/sample/steps.safetensors");
    let info = json("sinddm/sample/sample.json");
    let schedule =
        Schedule::new(info["num_timesteps_ideal"][0].as_u64().unwrap() as u32, &floats(&info["rescale_losses"]));
    let net = network(Vectors::open("sinddm/sample/net.safetensors").arrays(""), &device);
    for case in list("sinddm/sample/steps.json") {
        let name = |what: &str| format!("case{}.{what}", case["case"]);
        let (scale, t) = (case["s"].as_u64().unwrap() as usize, case["t"].as_u64().unwrap() as usize);
        let tensor = |what: &str| vectors.tensor::<4>(&name(what), &device);
        let predicted = net.forward(tensor("x"), &vectors.integers(&name("t")), scale);
        let step = |noise: Option<Tensor<4>>| {
            if scale > 0 && case["reblurring"] == true {
                let (omega, gamma_clip) = (case["omega"].as_f64().unwrap(), Sampling::default().gamma_clip);
                let at = Reblurring { scale, t, omega, gamma_clip };
                schedule
                    .reblurring_step(tensor("x"), predicted.clone(), tensor("prev_upsample"), noise, at, |clean| clean)
            } else {
                schedule.ancestral_step(tensor("x"), predicted.clone(), t, noise, |clean| clean)
            }
        };
        assert_close(step(Some(tensor("noise"))), vectors.values(&name("out")), 1e-4, &name("out"));
        assert_close(step(None), vectors.values(&name("mean")), 1e-4, &name("mean"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn sampling_over_all_scales_equals_the_reference() {
    let device = device();
    let vectors = Vectors::open("sinddm/sample/sample.safetensors");
    let info = json("sinddm/sample/sample.json");
    let image = picture::open_rgb8(&path("sinddm/sample").join(info["image"].as_str().unwrap())).unwrap().image;
    let own = pyramid(image, &info["auto_scale"], &Value::Null, RescaleLoss::U8Wrap);
    assert_eq!(value!(own.geometry.sizes), info["sizes_wh"]);
    assert_relative(&own.rescale_losses, &floats(&info["rescale_losses"]), 1e-9, "rescale losses");
    let schedule = Schedule::new(info["num_timesteps_ideal"][0].as_u64().unwrap() as u32, &own.rescale_losses);
    let lengths = schedule.sampling_steps(&own.rescale_losses);
    assert_eq!(value!(lengths), info["t_list"]);
    let net = network(Vectors::open("sinddm/sample/net.safetensors").arrays(""), &device);
    let (sampling, guide) = (Sampling::default(), Guide::default());
    let sizes = own.geometry.sizes.clone();
    let sampler =
        Sampler { net: &net, schedule: &schedule, sizes, lengths: &lengths, sampling: &sampling, guide: &guide };
    let (mut canvas, mut compared) = (None, 0);
    for step in sampler.steps() {
        let made = sampler.step(canvas, step, 1, &mut |shape| noise(&step.purpose(), shape, &device));
        let (scale, tensor) = match step {
            Step::Enter { scale, .. } => (scale, None),
            Step::Denoise { scale, t } => (scale, Some(format!("s{scale}.x_after_t{t}"))),
        };
        if let Some((name, (_, expected))) = tensor.and_then(|name| Some((name.clone(), vectors.0.get(&name)?))) {
            assert_close(made.x.clone(), expected, 1e-4, &name);
            compared += 1;
        }
        if matches!(step, Step::Denoise { t: 0, .. }) {
            assert_close(made.x.clone(), vectors.values(&format!("s{scale}.final")), 1e-4, "final");
            let values: Vec<f32> = made.x.to_data().iter::<f32>().collect();
            let own = tensors::to_image(&values, sampler.sizes[scale]);
            assert_within_a_level(&own, &format!("grid_s{scale}.png"));
        }
        canvas = Some(made);
    }
    let stored = vectors.0.keys().filter(|name| name.contains("x_after_t")).count();
    assert_eq!(compared, stored);
    assert_within_a_level(&sampler.pictures(&canvas.unwrap())[0], "final_b0.png");
}

fn assert_within_a_level(own: &RgbImage, file: &str) {
    let expected = picture::open_rgb8(&path("sinddm/sample").join(file)).unwrap().image;
    assert_eq!(own.dimensions(), expected.dimensions(), "{file}");
    let worst = own.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst <= Some(1), "{file} differs by {worst:?} levels");
}

/// Every checkpoint that the reference's trainer or `torch.save` wrote.
#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn checkpoints_of_the_reference_can_be_used_here() {
    for (folder, name) in ["net", "train", "sample"]
        .map(|folder| format!("sinddm/{folder}"))
        .iter()
        .flat_map(|folder| names_ending(folder, ".pth").into_iter().map(move |name| (folder, name)))
    {
        let stored = Vectors::open(&format!("{folder}/{name}.safetensors")).arrays("");
        assert_eq!(torch::read(&path(&format!("{folder}/{name}.pth")), None).unwrap(), stored, "{name}");
    }
    let entries = list("sinddm/train/train.json");
    let pyramids = entries.iter().find(|entry| entry["auto_scale"].is_u64()).unwrap();
    let loops: Vec<Vectors> = entries
        .iter()
        .filter(|entry| entry["steps"].is_u64())
        .map(|entry| Vectors::open(&format!("sinddm/train/{}", entry["file"].as_str().unwrap())))
        .collect();
    let checkpoints = names_ending("sinddm/train", ".pt");
    assert!(!checkpoints.is_empty());
    for name in checkpoints {
        let file = path(&format!("sinddm/train/{name}.pt"));
        let finest: [u32; 2] =
            serde_json::from_value(pyramids["sizes_wh"].as_array().unwrap().last().unwrap().clone()).unwrap();
        let of = |which| {
            published::import(published::read(&file, which).unwrap(), finest, Sinddm::default().scale_factor, None)
                .unwrap()
        };
        let (ema, record) = of(Which::Ema);
        // It is that of one of the recorded runs.
        let same = |vectors: &&Vectors| vectors.arrays("ema.") == ema && vectors.arrays("final.") == of(Which::Model).0;
        assert_eq!(loops.iter().filter(same).count(), 1, "{name}");
        assert_eq!(value!(record.sizes), pyramids["sizes_wh"]);
        assert_eq!(value!(record.sampling_steps), pyramids["num_timesteps_ideal"]);
        assert_relative(&record.rescale_losses, &floats(&pyramids["rescale_losses"]), 1e-6, "rescale losses");

        let copy = tempfile::tempdir().unwrap();
        let copied = copy.path().join("copy.pt");
        published::export(&ema, &record, &copied).unwrap();
        let (theirs, ours) =
            (published::read(&file, Which::Ema).unwrap(), published::read(&copied, Which::Ema).unwrap());
        assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
        for (key, array) in theirs {
            let values = |array: &Array| array.values.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
            assert_eq!(array.shape, ours[&key].shape, "{key}");
            assert_relative(&values(&ours[&key]), &values(&array), 2e-6, &key);
        }
    }
}
