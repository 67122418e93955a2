//! Inception and the Fréchet distance against pytorch-fid and SinGAN's SIFID:
//! every case that is in the folder.

use nalgebra::{DMatrix, DVector};
use serde_json::Value;

use super::*;
use crate::data::picture;
use crate::frechet::{Rooted, Statistics};
use crate::layers::resample::{pool, spatial_mean};
use crate::models::inception::{Block, Inception, Variant, fid_input, published_name};
use crate::stages::sifid::samples;
use crate::weights;

/// The network with the reference's weights.
fn filled(blank: Inception) -> Inception {
    let mut arrays = weights::collect(&blank);
    fill(&mut arrays, json("fid/sifid.json")["gain_sq"].as_f64().unwrap(), published_name);
    weights::apply(blank, arrays).unwrap()
}

/// A file's bytes as −1..1, after dividing by 255 so many times.
fn signed(name: &str, times: i32, device: &Device) -> Tensor<4> {
    let image = picture::open_rgb8(&path("fid").join(name)).unwrap().image;
    let (width, height) = image.dimensions();
    let value = |level: u8| (f64::from(level) / 255f64.powi(times) * 2.0 - 1.0) as f32;
    let values: Vec<f32> = (0..3).flat_map(|channel| image.pixels().map(move |pixel| value(pixel[channel]))).collect();
    Tensor::from_data(TensorData::new(values, [1, 3, height as usize, width as usize]), device)
}

/// The upper left of a map, as large as the shape.
fn corner(map: Tensor<4>, shape: &[usize]) -> Tensor<4> {
    map.slice([0..shape[0], 0..shape[1], 0..shape[2], 0..shape[3]])
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn tensors_are_those_of_the_reference() {
    let info = json("fid/sifid.json");
    let own = Inception::tensors(Variant::Fid);
    assert_eq!(own, listed(&info["tensors"]));
    assert_eq!(with_counters(&own), listed(&info["all_keys"]));
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn sifid_equals_the_reference() {
    let device = Device::flex();
    let stem = filled(Inception::new(&device));
    let vectors = Vectors::open("fid/sifid.safetensors");
    let pairs = json("fid/sifid.json")["pairs"].as_array().unwrap().clone();
    assert!(!pairs.is_empty());
    for pair in &pairs {
        let number = |what: &str| pair[what].as_f64().unwrap();
        let name = pair["pair"].as_str().unwrap();
        for (block, channels) in [(Block::C64, 64), (Block::C192, 192)] {
            let of =
                |side: &str, times| samples(stem.forward(signed(pair[side].as_str().unwrap(), times, &device), block));
            let near = |distance: f64, what: &str, rounding: f64| {
                for what in [format!("{what}{channels}"), format!("{what}{channels}_eigen")] {
                    let expected = number(&what);
                    let tolerance = 1e-3 * expected + rounding;
                    assert!((distance - expected).abs() < tolerance, "{name} {what}: {distance}, not {expected}");
                }
            };
            for side in ["real", "fake"] {
                let positions = pair[format!("n_positions_{side}")][channels.to_string()].as_u64().unwrap();
                let own = of(side, 1);
                assert_eq!(own.ncols() as u64, positions, "{name} {side} {channels}");
                compare(&Statistics::from_samples(own), &vectors, &format!("{name}.{side}"), channels);
                for part in ["", "_corner"] {
                    let what = format!("{name}.{side}.feat{channels}{part}");
                    let Some((shape, expected)) = vectors.0.get(&what) else { continue };
                    let map = stem.forward(signed(pair[side].as_str().unwrap(), 1, &device), block);
                    assert_close(corner(map, shape), expected, 1e-4, &what);
                }
            }
            let distance =
                |times| Rooted::from_samples(of("real", times)).distance(&Statistics::from_samples(of("fake", times)));
            near(distance(1), "rgb01_sifid", 0.0);
            // The published script divides files of PNG by 255 twice. Features of
            // almost black pictures differ little more than they are rounded.
            near(distance(2), "png_divided_twice_sifid", 5e-6);
        }
    }
}

fn compare(own: &Statistics, vectors: &Vectors, prefix: &str, channels: usize) {
    let name = format!("{prefix}.mu{channels}_f64");
    assert!(own.mean.iter().zip(vectors.values(&name)).all(|(a, b)| (a - b).abs() < 1e-4), "{name}");
    let name = format!("{prefix}.sigma{channels}_f64");
    let Some((_, expected)) = vectors.0.get(&name) else { return };
    assert_eq!(own.covariance.len(), expected.len(), "{name}");
    let tolerance = 1e-5 * largest(expected);
    assert!(own.covariance.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance), "{name}");
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn features_of_pictures_equal_the_reference() {
    let device = Device::flex();
    let net = filled(Inception::whole(Variant::Fid, &device));
    let vectors = Vectors::open("fid/pool3.safetensors");
    let images = json("fid/sifid.json")["pool3_images"].as_array().unwrap().clone();
    assert!(!images.is_empty());
    for (i, image) in images.iter().enumerate() {
        let image = picture::open_rgb8(&path("fid").join(image.as_str().unwrap())).unwrap().image;
        let x = fid_input(&[image], &device);
        let part = |what: &str| format!("img{i}.{what}");
        if let Some((shape, expected)) = vectors.0.get(&part("resized299_scaled_corner")) {
            assert_close(corner(x.clone(), shape), expected, 1e-5, &part("resized299_scaled_corner"));
        }
        let map = |block| net.forward(x.clone(), block);
        let maps = [pool(0).forward(map(Block::C64)), pool(0).forward(map(Block::C192)), map(Block::C768)];
        for (k, map) in maps.into_iter().enumerate() {
            let what = part(&format!("block{k}_spatial_mean"));
            assert_close(spatial_mean(map), vectors.values(&what), 1e-4, &what);
        }
        assert_close(map(Block::C2048), vectors.values(&part("pool3")), 1e-4, &part("pool3"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn frechet_distance_equals_the_reference() {
    let vectors = Vectors::open("fid/frechet.safetensors");
    let cases: Vec<Value> = json("fid/frechet.json").as_array().unwrap().clone();
    assert!(!cases.is_empty());
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let features = case["n"].as_u64().unwrap() as usize;
        let given = |which: u32| Statistics {
            mean: DVector::from_row_slice(vectors.values(&format!("{name}.mu{which}_f64"))),
            covariance: DMatrix::from_row_slice(
                features,
                features,
                vectors.values(&format!("{name}.sigma{which}_f64")),
            ),
        };
        let (one, other) = (given(1), given(2));
        let same = one.mean == other.mean && one.covariance == other.covariance;
        let full = |which: &str| case[which].as_u64() == Some(features as u64);
        let relative = if full("rank1") && full("rank2") { 1e-9 } else { 1e-6 };
        for distance in [Rooted::new(one.clone()).distance(&other), Rooted::new(other).distance(&one)] {
            let expected = case["frechet"].as_f64().unwrap();
            let tolerance = if same { 1e-9 } else { relative * expected };
            assert!((distance - expected).abs() < tolerance, "{name}: {distance}, not {expected}");
        }
    }
}
