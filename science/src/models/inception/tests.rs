use super::*;
use crate::weights::Array;

#[test]
fn maps_have_as_many_positions_as_the_reference() {
    let device = Device::flex();
    let stem = Inception::fixed(&device);
    let x = Tensor::zeros([1, 3, 200, 264], &device);
    assert_eq!(stem.forward(x.clone(), Block::C192).dims(), [1, 192, 46, 62]);
    assert_eq!(stem.forward(x, Block::C64).dims()[1], 64);
    assert_eq!(stem.forward(Tensor::zeros([1, 3, 15, 15], &device), Block::C192).dims()[1], 192);
}

#[test]
fn features_tell_a_stripe_from_a_plain() {
    let device = Device::flex();
    let stem = Inception::fixed(&device);
    let plain = stem.forward(Tensor::zeros([1, 3, 32, 32], &device), Block::C192);
    let striped = Tensor::cat(vec![Tensor::ones([1, 3, 32, 16], &device), Tensor::zeros([1, 3, 32, 16], &device)], 3);
    let striped = stem.forward(striped, Block::C192);
    assert!((plain - striped).abs().max().into_scalar::<f32>() > 1e-3);
}

#[test]
fn deep_maps_have_the_sizes_of_the_paper() {
    let device = Device::flex();
    let x = Tensor::zeros([1, 3, 75, 80], &device);
    for variant in [Variant::Torchvision, Variant::Fid] {
        let net = Inception::whole(variant, &device);
        assert_eq!(net.forward(x.clone(), Block::C768).dims(), [1, 768, 3, 3]);
        assert_eq!(net.forward(x.clone(), Block::C2048).dims(), [1, 2048, 1, 1]);
        assert_eq!(net.logits(x.clone()).dims(), [1, variant.classes()]);
    }
}

#[test]
fn variants_differ_in_what_they_pool_at_the_border() {
    let x = || Tensor::<4>::ones([1, 1, 4, 4], &Device::flex());
    let corner = |map: Tensor<4>| map.into_data().iter::<f32>().next().unwrap();
    assert!((corner(average(x(), true)) - 4.0 / 9.0).abs() < 1e-6);
    assert!((corner(average(x(), false)) - 1.0).abs() < 1e-6);
    assert!((corner(largest(-x())) + 1.0).abs() < 1e-6); // padding is no value
}

#[test]
fn pictures_of_any_size_become_those_of_the_network() {
    let even = RgbImage::from_pixel(7, 400, image::Rgb([0, 255, 51]));
    let of = |images: &[RgbImage]| fid_input(images, &Device::flex());
    let x = of(&[even.clone(), RgbImage::new(299, 299)]);
    assert_eq!(x.dims(), [2, 3, 299, 299]);
    let values: Vec<f32> = x.into_data().iter::<f32>().collect();
    for (channel, expected) in [-1.0, 1.0, -0.6].into_iter().enumerate() {
        let plane = &values[channel * 299 * 299..][..299 * 299];
        assert!(plane.iter().all(|value| (value - expected).abs() < 1e-6), "{channel}");
    }
}

/// A file of these tensors. Its zeros take no memory as long as nobody writes.
fn file(shapes: Shapes) -> Arrays {
    let array = |shape: Vec<usize>| Array { values: vec![0.0; shape.iter().product()], shape };
    shapes.into_iter().map(|(name, shape)| (name, array(shape))).collect()
}

#[test]
fn published_files_are_known_by_their_tensors() {
    assert_eq!(published_name("deep.mixed_5b.branch_pool.bn.bias"), "Mixed_5b.branch_pool.bn.bias");
    assert_eq!(published_name("conv2d_1a_3x3.conv.weight"), "Conv2d_1a_3x3.conv.weight");
    assert_eq!(published_name("deep.fc.bias"), "fc.bias");

    let mut theirs = file(Inception::tensors(Variant::Torchvision));
    Inception::check(Variant::Torchvision, &theirs).unwrap();
    theirs.extend(file(Inception::aux_tensors()));
    Inception::check(Variant::Torchvision, &theirs).unwrap();
    let learnt = |(name, array): (&String, &Array)| if name.contains("running_") { 0 } else { array.values.len() };
    assert_eq!(theirs.iter().map(learnt).sum::<usize>(), 27_161_264); // torchvision's own count
    let net = Inception::published(Variant::Torchvision, theirs, &Device::flex()).unwrap();
    assert_eq!(weights::shapes(&net.stem()), weights::shapes(&Inception::new(&Device::flex())));
}

#[test]
fn what_is_not_a_published_file_is_refused_by_tensor() {
    let mut fid = file(Inception::tensors(Variant::Fid));
    Inception::check(Variant::Fid, &fid).unwrap();
    let refusal = |variant, tensors: &Arrays| Inception::check(variant, tensors).unwrap_err().message;
    assert_eq!(refusal(Variant::Torchvision, &fid), "tensor fc.bias has shape [1008], has to be [1000]");

    let name = "Mixed_6b.branch7x7_2.conv.weight";
    fid.get_mut(name).unwrap().shape = vec![128, 128, 7, 1];
    assert_eq!(
        refusal(Variant::Fid, &fid),
        format!("tensor {name} has shape [128, 128, 7, 1], has to be [128, 128, 1, 7]")
    );
    fid.get_mut(name).unwrap().shape = vec![128, 128, 1, 7];
    fid.get_mut(name).unwrap().values.pop();
    assert_eq!(refusal(Variant::Fid, &fid), format!("tensor {name} has 114687 values, has to have 114688"));
    fid.remove(name);
    assert_eq!(refusal(Variant::Fid, &fid), format!("tensor {name} is missing"));

    let mut fid = file(Inception::tensors(Variant::Fid));
    fid.extend(file(Inception::aux_tensors()));
    assert_eq!(refusal(Variant::Fid, &fid), "tensor AuxLogits.conv0.bn.bias does not belong to this network");
}
