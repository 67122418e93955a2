use proptest::prelude::*;

use super::*;

/// A convolution in 64 bits, written out as it is defined. Calls `visit` with the places in
/// output, input and weight of every product.
fn products(conv: &Conv, mut visit: impl FnMut(usize, usize, usize)) {
    let [height, width] = conv.output_size();
    let (inputs, outputs) = (conv.inputs / conv.groups, conv.outputs / conv.groups);
    for (item, output) in (0..conv.batch).flat_map(|item| (0..conv.outputs).map(move |output| (item, output))) {
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            for (i, tap) in (0..inputs).flat_map(|i| (0..conv.taps()).map(move |tap| (i, tap))) {
                let at = |n: usize, out: usize, tap: usize| {
                    (out * conv.stride[n] + tap * conv.dilation[n])
                        .checked_sub(conv.padding[n])
                        .filter(|&at| at < conv.size[n])
                };
                let (from_y, from_x) = (at(0, y, tap / conv.kernel[1]), at(1, x, tap % conv.kernel[1]));
                let (Some(from_y), Some(from_x)) = (from_y, from_x) else { continue };
                let input = output / outputs * inputs + i;
                visit(
                    ((item * conv.outputs + output) * height + y) * width + x,
                    ((item * conv.inputs + input) * conv.size[0] + from_y) * conv.size[1] + from_x,
                    (output * inputs + i) * conv.taps() + tap,
                );
            }
        }
    }
}

/// Values between −1 and 1 that look random.
fn noise(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..length).map(|_| next()).collect()
}

/// The largest difference, as a share of the largest value that could have been summed up.
fn error(ours: &[f32], reference: &[(f64, f64)]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let largest = reference.iter().map(|&(_, size)| size).fold(1e-30, f64::max);
    let difference = |(&ours, &(value, _)): (&f32, &(f64, f64))| (f64::from(ours) - value).abs();
    ours.iter().zip(reference).map(difference).fold(0.0, f64::max) / largest
}

/// All four results of a convolution are those of the definition and the same on any number of
/// threads, and the output can be finished.
fn check(conv: Conv, seed: u64) {
    let (x, w) = (noise(conv.input_len(), seed), noise(conv.weight_len(), seed + 1));
    let (bias, dy) = (noise(conv.outputs, seed + 2), noise(conv.output_len(), seed + 3));
    let mut sums = [x.len(), w.len(), dy.len(), conv.outputs].map(|length| vec![(0.0, 0.0); length]);
    let mut add = |which: usize, at: usize, left: f32, right: f32| {
        let product = f64::from(left) * f64::from(right);
        sums[which][at].0 += product;
        sums[which][at].1 += product.abs();
    };
    products(&conv, |out, input, tap| {
        add(0, input, dy[out], w[tap]);
        add(1, tap, dy[out], x[input]);
        add(2, out, w[tap], x[input]);
    });
    for (out, &value) in dy.iter().enumerate() {
        let channel = out / conv.output_pixels() % conv.outputs;
        add(2, out, bias[channel], 1.0);
        add(3, channel, value, 1.0);
    }
    let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let (one, three) = (pool(1), pool(3));
    for path in Path::all() {
        let all = || {
            [
                input_gradient(path, &conv, &dy, &w),
                weight_gradient(path, &conv, &x, &dy),
                forward(path, &conv, &x, &w, Some(&bias), Finish::default()),
                bias_gradient(path, &conv, &dy),
            ]
        };
        let ours = one.install(all);
        for (which, (ours, sums)) in ours.iter().zip(&sums).enumerate() {
            let error = error(ours, sums);
            assert!(error < 2e-6, "{path}, {conv:?}, {:?}: result {which} is off by {error:e}", conv.way());
        }
        let finish = Finish { residual: Some(&dy), rectifies: true };
        let finished: Vec<f32> = ours[2].iter().zip(&dy).map(|(value, more)| (value + more).max(0.0)).collect();
        assert_eq!(forward(path, &conv, &x, &w, Some(&bias), finish), finished, "{path}, {conv:?}");
        let bits = |all: &[Vec<f32>; 4]| all.each_ref().map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        assert_eq!(bits(&ours), bits(&three.install(all)), "{path}, {conv:?}");
    }
}

fn square(inputs: usize, outputs: usize, size: [usize; 2], kernel: usize) -> Conv {
    let (kernel, padding) = ([kernel; 2], [kernel / 2; 2]);
    Conv { batch: 2, inputs, outputs, size, kernel, stride: [1; 2], padding, dilation: [1; 2], groups: 1 }
}

#[test]
fn the_shapes_of_the_networks_take_the_ways_that_are_made_for_them() {
    let way = |conv: Conv| (conv.way(), conv.output_size());
    assert_eq!(way(square(160, 160, [100, 132], 3)), (Way::Winograd, [100, 132]));
    assert_eq!(way(Conv { groups: 160, ..square(160, 160, [100, 132], 5) }), (Way::Depthwise, [100, 132]));
    assert_eq!(way(square(80, 160, [100, 132], 1)), (Way::Columns, [100, 132]));
    assert_eq!(way(square(3, 80, [100, 132], 3)), (Way::Columns, [100, 132]));
    assert_eq!(way(square(16, 16, [25, 33], 3)), (Way::Direct, [25, 33]));
    assert_eq!(way(Conv { stride: [2; 2], ..square(3, 64, [256, 256], 7) }), (Way::Columns, [128, 128]));
    assert_eq!(way(Conv { padding: [0; 2], ..square(32, 64, [7, 1], 3) }), (Way::Winograd, [5, 0]));
    assert_eq!(way(square(8, 8, [0, 7], 3)), (Way::Winograd, [0, 7]));
}

#[test]
fn every_way_is_the_definition_at_the_edges() {
    for size in [[1, 1], [1, 9], [4, 4], [5, 3], [8, 17], [13, 66], [2, 70]] {
        for [inputs, outputs] in [[8, 9], [40, 33]] {
            check(square(inputs, outputs, size, 3), 1);
            check(Conv { padding: [0, 2], ..square(inputs, outputs, size, 3) }, 2);
        }
        for kernel in [3, 5, 7] {
            check(Conv { groups: 3, ..square(3, 3, size, kernel) }, 3);
        }
        check(square(5, 3, size, 1), 4);
        check(Conv { stride: [2; 2], ..square(3, 4, size, 7) }, 5);
    }
    check(square(40, 24, [40, 36], 3), 6); // several blocks
    check(square(3, 70, [24, 30], 3), 7); // several runs of columns, and parts
    check(square(70, 9, [9, 65], 1), 8);
}

#[test]
fn nothing_comes_of_an_empty_batch_or_a_kernel_that_does_not_fit() {
    let empty = Conv { batch: 0, ..square(8, 8, [5, 5], 3) };
    check(empty, 1);
    assert!(forward(Path::Portable, &empty, &[], &[0.0; 576], None, Finish::default()).is_empty());
    assert_eq!(weight_gradient(Path::Portable, &empty, &[], &[]), [0.0; 576]);
    check(Conv { padding: [0; 2], ..square(8, 8, [2, 5], 3) }, 2);
    check(Conv { padding: [0; 2], dilation: [4; 2], ..square(2, 3, [5, 5], 3) }, 2);
}

#[test]
fn what_is_not_finite_is_so_wherever_it_reaches() {
    for (conv, bad) in [
        (square(8, 8, [9, 10], 3), f32::NAN),
        (square(8, 8, [9, 10], 3), f32::INFINITY),
        (square(2, 2, [9, 10], 3), f32::INFINITY),
        (Conv { groups: 4, ..square(4, 4, [9, 10], 5) }, f32::NEG_INFINITY),
    ] {
        let (mut x, w) = (noise(conv.input_len(), 1), noise(conv.weight_len(), 2));
        let dy = noise(conv.output_len(), 3);
        x[37] = bad;
        for path in Path::all() {
            let (out, by_weight) =
                (forward(path, &conv, &x, &w, None, Finish::default()), weight_gradient(path, &conv, &x, &dy));
            products(&conv, |to, from, tap| {
                if from == 37 {
                    assert!(!out[to].is_finite() && !by_weight[tap].is_finite(), "{path}, {conv:?}");
                }
            });
            let other_picture = conv.output_len() / 2..;
            assert!(out[other_picture].iter().all(|value| value.is_finite()), "{path}, {conv:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_shape_is_computed_as_it_is_defined(
        batch in 0..4_usize,
        channels in (1..5_usize, 1..5_usize, prop_oneof![4 => Just(1_usize), 1 => 2..4_usize]),
        wide in prop_oneof![Just(1_usize), Just(9)],
        size in [0..20_usize, 0..20_usize],
        kernel in [1..6_usize, 1..6_usize],
        stride in [1..4_usize, 1..4_usize],
        padding in [0..4_usize, 0..4_usize],
        dilation in [1..3_usize, 1..3_usize],
        seed in any::<u32>(),
    ) {
        let (inputs, outputs, groups) = channels;
        let (inputs, outputs) = (inputs * groups * wide, outputs * groups * wide);
        check(Conv { batch, inputs, outputs, size, kernel, stride, padding, dilation, groups }, seed.into());
    }

    #[test]
    fn small_kernels_that_move_by_one_pixel_are_computed_as_they_are_defined(
        batch in 1..4_usize,
        inputs in 8..60_usize,
        outputs in 8..60_usize,
        size in [0..24_usize, 0..40_usize],
        padding in [0..3_usize, 0..3_usize],
        seed in any::<u32>(),
    ) {
        check(Conv { batch, padding, ..square(inputs, outputs, size, 3) }, seed.into());
    }
}
