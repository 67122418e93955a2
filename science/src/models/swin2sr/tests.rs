use domain::seed::Seed;
use image::RgbImage;

use super::script::{Script, Tiling};
use super::*;
use crate::weights;

/// A network of two stages.
pub(super) fn small(variant: Variant) -> Swin2SrConfig {
    let (depths, heads) = (vec![2, 1], vec![2, 4]);
    Swin2SrConfig { embed_dim: 8, depths, heads, ..Swin2SrConfig::published(variant, 16) }
}

const VARIANTS: [Variant; 3] = [Variant::Classical, Variant::Compressed, Variant::RealWorld];

fn random(variant: Variant) -> Swin2Sr {
    weights::initialise(Swin2Sr::new(&small(variant), &Device::flex()), Seed(1))
}

fn picture(shape: [usize; 4]) -> Tensor<4> {
    let values = crate::random::normals(&mut crate::random::stream(Seed(5), "x", 0), shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn difference(a: Tensor<4>, b: Tensor<4>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).abs().max().into_scalar()
}

#[test]
fn has_as_many_parameters_as_the_published_networks() {
    for (config, parameters) in [
        (Swin2SrConfig::classical(), 12_239_283),
        (Swin2SrConfig::compressed(), 12_244_598),
        (Swin2SrConfig::real_world(), 12_054_643),
    ] {
        assert_eq!(weights::parameters(&Swin2Sr::new(&config, &Device::flex())), parameters);
    }
}

#[test]
fn pictures_of_any_size_become_four_times_as_large() {
    for (variant, [height, width]) in VARIANTS.into_iter().zip([[13, 9], [1, 17], [8, 3]]) {
        let net = random(variant);
        let made = net.forward(picture([1, 3, height, width]));
        assert_eq!(made.picture.dims(), [1, 3, 4 * height, 4 * width]);
        let padded = [1, 3, height.next_multiple_of(8), width.next_multiple_of(8)];
        let aux = (variant == Variant::Compressed).then_some(padded);
        assert_eq!(made.aux.map(|aux| aux.dims()), aux);
        let whole = net.script(picture([1, 3, height, width]), Script { crop: false, tiling: None });
        assert_eq!(whole.picture.dims(), [1, 3, 4 * (height / 8 + 1) * 8, 4 * (width / 8 + 1) * 8]);
        assert_eq!(
            net.script(picture([1, 3, height, width]), Script::default()).picture.dims()[2..],
            [4 * height, 4 * width]
        );
    }
}

#[test]
fn pictures_of_a_batch_do_not_see_each_other() {
    let (net, x) = (random(Variant::Compressed), picture([2, 3, 8, 16]));
    let both = net.forward(x.clone());
    let second = net.forward(x.narrow(0, 1, 1));
    assert_eq!(difference(both.picture.narrow(0, 1, 1), second.picture), 0.0);
    assert_eq!(difference(both.aux.unwrap().narrow(0, 1, 1), second.aux.unwrap()), 0.0);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for variant in VARIANTS {
        let (net, x) = (random(variant), picture([1, 3, 72, 136])); // more than one part and one band
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| net.forward(x.clone()).picture.into_data())
        };
        assert_eq!(with(1), with(3));
    }
}

/// A picture on its side is divided into other bands and other parts, and becomes
/// the same in a network that treats rows as columns.
#[test]
fn bands_and_parts_leave_no_seams() {
    for variant in VARIANTS {
        let (net, x) = (symmetrical(random(variant)), picture([1, 3, 48, 256])); // two bands, six parts
        let turned = |x: Tensor<4>| x.swap_dims(2, 3);
        let (upright, lying) = (net.forward(x.clone()).picture, net.forward(turned(x)).picture);
        assert!(difference(upright, turned(lying)) < 1e-4, "{variant:?}");
    }
}

/// The network with kernels, and attention, that treat rows as columns.
fn symmetrical(net: Swin2Sr) -> Swin2Sr {
    let mut arrays = weights::collect(&net);
    let folded = |name: &str| name.starts_with("head.upsample.");
    for (name, array) in &mut arrays {
        let values = array.values.clone();
        match array.shape[..] {
            [_, _, 3, 3] => {
                for (kernel, old) in array.values.chunks_exact_mut(9).zip(values.chunks_exact(9)) {
                    (0..9).for_each(|at| kernel[at] = (old[at] + old[at % 3 * 3 + at / 3]) / 2.0);
                }
                // What is folded goes to rows and columns by its number.
                if folded(name) {
                    let one = array.values.len() / array.shape[0];
                    for four in array.values.chunks_exact_mut(4 * one) {
                        let (a, b) = four.split_at_mut(2 * one);
                        a[one..].copy_from_slice(&b[..one]);
                    }
                }
            }
            [_, 2] => array.values.chunks_exact_mut(2).for_each(|pair| pair[1] = pair[0]),
            [_] if folded(name) => {
                array.values.chunks_exact_mut(4).for_each(|four| four[1] = four[2]);
            }
            _ => {}
        }
    }
    weights::apply(net, arrays).unwrap()
}

#[test]
fn tiles_of_a_network_that_sees_nothing_are_the_whole() {
    for variant in VARIANTS {
        let blank = Swin2Sr::new(&small(variant), &Device::flex());
        let mut arrays = weights::collect(&blank);
        arrays.get_mut("head.conv_last.bias").unwrap().values = vec![0.1, -0.2, 0.3];
        let net = weights::apply(blank, arrays).unwrap();
        let x = picture([1, 3, 20, 30]);
        let tiling = Some(Tiling::new(16, 8).unwrap());
        let whole = net.script(x.clone(), Script::default()).picture;
        let tiled = net.script(x, Script { tiling, ..Script::default() });
        assert!(difference(whole, tiled.picture) < 1e-6);
        let bytes = net.enlarge(&RgbImage::new(20, 30), Script { tiling, ..Script::default() }, &Device::flex());
        assert_eq!(bytes.dimensions(), (80, 120));
        assert_eq!(bytes[(79, 119)].0, [140, 60, 180]); // the mean and the bias
    }
}

#[test]
fn one_tile_is_the_whole() {
    let (net, x) = (random(Variant::Classical), picture([2, 3, 10, 12]));
    let tiling = Some(Tiling::new(64, 32).unwrap());
    let whole = net.script(x.clone(), Script::default()).picture;
    assert_eq!(difference(whole, net.script(x, Script { tiling, ..Script::default() }).picture), 0.0);
}
