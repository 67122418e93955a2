//! Resizing against Pillow and OpenCV.

use image::{GrayImage, RgbImage};

use super::*;
use crate::data::resize::{Filter, resize, resize_area};

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn resize_equals_pillow_byte_for_byte() {
    let bytes = fs::read(path("imageops/pillow_resize.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let picture = |name: &str| {
        let tensor = tensors.tensor(name).unwrap();
        let [height, width, 3] = *tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
        RgbImage::from_raw(width as u32, height as u32, tensor.data().to_vec()).unwrap()
    };
    let mut compared = 0;
    for name in tensors.names() {
        let (source, case) = name.split_once('.').unwrap();
        let Some((filter, _)) = case.split_once('_') else { continue };
        let filter = match filter {
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            "lanczos" => Filter::Lanczos,
            other => panic!("{other}"),
        };
        let expected = picture(name);
        let result = resize(&picture(&format!("{source}.input")), expected.width(), expected.height(), filter);
        assert!(result == expected, "{name} differs");
        compared += 1;
    }
    assert!(compared > 50, "{compared}");
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn resized_grey_is_within_one_level_of_opencv() {
    let bytes = fs::read(path("drift/heatmaps.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let picture = |name: &str| {
        let tensor = tensors.tensor(name).unwrap();
        let [height, width] = *tensor.shape() else { panic!("{name}") };
        GrayImage::from_raw(width as u32, height as u32, tensor.data().to_vec()).unwrap()
    };
    let mut compared = 0;
    for name in tensors.names() {
        let Some((source, _)) = name.split_once(".area_") else { continue };
        let expected = picture(name);
        let result = resize_area(&picture(&format!("{source}.gray")), expected.width(), expected.height());
        let worst = result.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{name}: {worst:?}");
        compared += 1;
    }
    assert!(compared > 3, "{compared}");
}
