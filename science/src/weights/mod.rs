//! Parameters of a network as named tensors, and the files that hold such: safetensors
//! here, PyTorch's in [`torch`], `guard` and `pickle`.
//!
//! Names and shapes are those of the reference implementations: parts joined by
//! dots, linear weights `[out, in]`. Running statistics of normalisation layers
//! are included. Loading compares names and shapes one by one and refuses at the
//! first difference.

pub(crate) mod guard;
pub(crate) mod pickle;
pub mod torch;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use domain::seed::Seed;
use domain::study::stage::{Failure, FailureCode};
use image::RgbImage;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, View};

use crate::layers::linear;
use crate::random;

/// A tensor outside of any device.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The length of each dimension.
    pub shape: Vec<usize>,
    /// The values in row-major order.
    pub values: Vec<f32>,
}

impl Array {
    /// A copy of a tensor.
    pub fn from_tensor<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self { shape: tensor.dims().to_vec(), values: tensor.to_data().iter::<f32>().collect() }
    }
}

/// Tensors by name.
pub type Arrays = BTreeMap<String, Array>;

/// The length of each dimension of tensors, by name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Every parameter and running statistic. Call it on `module.valid()` while
/// training, so that pending running statistics are included.
pub fn collect<M: Module>(module: &M) -> Arrays {
    let mut collector = Collector::default();
    module.visit(&mut collector);
    collector.arrays
}

/// Names and shapes of all that [`collect`] gives. Makes none of the values, so
/// it costs little for a network of any size.
pub fn shapes<M: Module>(module: &M) -> Shapes {
    let mut measurer = Measurer::default();
    module.visit(&mut measurer);
    measurer.shapes
}

/// Checks that these are tensors of the names and shapes expected, no more and no fewer.
///
/// # Errors
/// `InvalidInput`; names the first that is missing, has another shape or is left over.
pub fn check(arrays: &Arrays, expected: &Shapes) -> Result<(), Failure> {
    let misfit = expected.iter().find_map(|(name, shape)| misfit(name, arrays.get(name), shape));
    match (misfit, arrays.keys().find(|name| !expected.contains_key(*name))) {
        (Some(misfit), _) => Err(Failure::invalid_input(misfit)),
        (None, Some(name)) => Err(Failure::invalid_input(stranger(name))),
        (None, None) => Ok(()),
    }
}

/// The reason why a tensor cannot be had from what was found under its name.
fn misfit(name: &str, found: Option<&Array>, shape: &[usize]) -> Option<String> {
    let Some(array) = found else { return Some(format!("tensor {name} is missing")) };
    if array.shape != shape {
        return Some(format!("tensor {name} has shape {:?}, has to be {shape:?}", array.shape));
    }
    let (found, wanted) = (array.values.len(), shape.iter().product::<usize>());
    (found != wanted).then(|| format!("tensor {name} has {found} values, has to have {wanted}"))
}

fn stranger(name: &str) -> String {
    format!("tensor {name} does not belong to this network")
}

/// The module with all its tensors replaced. Nothing is made room for before all names
/// and shapes are found to be the module's: a blank one has no values yet, whatever its
/// size.
///
/// # Errors
/// If a name is missing, left over or has another shape; names the first one.
pub fn apply<M: Module>(module: M, arrays: Arrays) -> Result<M, Failure> {
    check(&arrays, &shapes(&module))?;
    Ok(module.map(&mut Filler { trail: Trail::default(), arrays }))
}

/// [`apply`] in the middle of a training: every tensor is copied into rows, as
/// steps of training leave them. On the CPU [`apply`] leaves linear weights in
/// columns, and products of the same numbers from there round differently.
///
/// # Errors
/// As [`apply`].
pub fn restore<M: Module>(module: M, arrays: Arrays) -> Result<M, Failure> {
    Ok(apply(module, arrays)?.map(&mut Copier))
}

/// Writes the weights.
///
/// # Errors
/// If the file cannot be written.
pub fn save<M: Module>(module: &M, path: &Path) -> Result<(), Failure> {
    write(&collect(module), path)
}

/// The module with the weights of a file.
///
/// # Errors
/// If the file cannot be read or does not fit the module.
pub fn load<M: Module>(module: M, path: &Path) -> Result<M, Failure> {
    apply(module, read(path)?).map_err(|failure| Failure::new(failure.code, format!("{}: {failure}", path.display())))
}

/// Writes named tensors.
///
/// # Errors
/// If the file cannot be written.
pub fn write(arrays: &Arrays, path: &Path) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Failure::io("create", folder, &error))?;
    }
    safetensors::serialize_to_file(arrays, None, path).map_err(|error| match error {
        SafeTensorError::IoError(error) => Failure::io("write", path, &error),
        error => Failure::new(FailureCode::Internal, format!("{}: {error}", path.display())),
    })
}

/// One tensor's bytes are made at a time.
impl View for &Array {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// A picture as `[height, width, 3]`, for checkpoints.
pub fn of_picture(image: &RgbImage) -> Array {
    let shape = vec![image.height() as usize, image.width() as usize, 3];
    Array { shape, values: image.iter().map(|level| f32::from(*level)).collect() }
}

/// The picture of [`of_picture`], if it is one.
pub fn to_picture(array: &Array) -> Option<RgbImage> {
    let [height, width, 3] = *array.shape else { return None };
    RgbImage::from_raw(width as u32, height as u32, array.values.iter().map(|level| *level as u8).collect())
}

/// Adds tensors under a name of their own: `<name>.<theirs>`.
pub fn put(arrays: &mut Arrays, name: &str, others: Arrays) {
    arrays.extend(others.into_iter().map(|(theirs, array)| (format!("{name}.{theirs}"), array)));
}

/// Takes out the tensors under a name: `<name>.<theirs>` as `<theirs>`.
pub fn take(arrays: &mut Arrays, name: &str) -> Arrays {
    let theirs = |whole: &str| whole.strip_prefix(name)?.strip_prefix('.').map(str::to_owned);
    let taken = arrays.extract_if(.., |whole, _| theirs(whole).is_some());
    taken.filter_map(|(whole, array)| Some((theirs(&whole)?, array))).collect()
}

/// The first tensor that holds something that is not a finite number.
pub fn not_a_number(arrays: &Arrays) -> Option<&str> {
    let broken = |(_, array): &(&String, &Array)| array.values.iter().any(|value| !value.is_finite());
    arrays.iter().find(broken).map(|(name, _)| name.as_str())
}

/// Reads the 32-bit floating-point tensors of a file; others are passed over
/// (counters of batches, which nothing depends on).
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> Result<Arrays, Failure> {
    let bytes = fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    let tensors = SafeTensors::deserialize(&bytes)
        .map_err(|error| Failure::invalid_input(format!("{}: {error}", path.display())))?;
    let floats = tensors.iter().filter(|(_, view)| view.dtype() == Dtype::F32);
    Ok(floats
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            (name.to_owned(), Array { shape: view.shape().to_vec(), values })
        })
        .collect())
}

/// The module with fresh random weights: weights and biases of linear and
/// convolution layers uniform in ±1/√fan-in, PyTorch's default; the constants of
/// normalisation layers are left as they are. Each tensor has a stream of its
/// own, so that one layer more or less leaves the others' numbers alone.
pub fn initialise<M: Module>(module: M, seed: Seed) -> M {
    let mut arrays = collect(&module);
    let fan_in: BTreeMap<String, usize> = arrays
        .iter()
        .filter(|(name, array)| name.ends_with("weight") && array.shape.len() > 1)
        .map(|(name, array)| (owner(name).to_owned(), array.shape[1..].iter().product()))
        .collect();
    for (name, array) in &mut arrays {
        if let Some(&fan_in) = fan_in.get(owner(name)) {
            let bound = 1.0 / (fan_in as f64).sqrt();
            let mut rng = random::stream(seed, &format!("init.{name}"), 0);
            array.values.fill_with(|| ((2.0 * random::uniform(&mut rng) - 1.0) * bound) as f32);
        }
    }
    apply(module, arrays).expect("the names and shapes are the module's own")
}

/// A moving average of the weights: `decay · average + (1 − decay) · newest`.
/// Both are on a device without gradients.
pub fn blend<M: Module>(average: M, newest: &M, decay: f64) -> M {
    let mut flat = Flat::default();
    newest.visit(&mut flat);
    average.map(&mut Blender { newest: flat.tensors.into_iter(), decay })
}

/// The number of parameters that are learnt, without running statistics.
pub fn parameters<M: Module>(module: &M) -> u64 {
    let learnt = collect(module).into_iter().filter(|(name, _)| !name.contains("running_"));
    learnt.map(|(_, array)| array.values.len() as u64).sum()
}

/// The layer that a tensor belongs to.
fn owner(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(owner, _)| owner)
}

/// The way from the network to the tensor at hand.
#[derive(Default)]
pub(crate) struct Trail {
    parts: Vec<String>,
    kinds: Vec<String>,
}

impl Trail {
    pub(crate) fn enter(&mut self, name: &str, kind: &str) {
        self.parts.push(name.to_owned());
        self.kinds.push(kind.to_owned());
    }

    pub(crate) fn exit(&mut self) {
        self.parts.pop();
        self.kinds.pop();
    }

    /// The name of the tensor: variants of enums are no part of it.
    pub(crate) fn name(&self) -> String {
        let parts = self.parts.iter().zip(&self.kinds).filter(|(_, kind)| !kind.starts_with("Enum:"));
        parts.map(|(part, _)| part.as_str()).collect::<Vec<_>>().join(".")
    }

    /// Tells whether burn keeps the tensor as `[in, out]`.
    pub(crate) fn transposed(&self) -> bool {
        self.kinds.last().is_some_and(|kind| kind == linear::KIND)
            && self.parts.last().is_some_and(|part| part == "weight")
    }
}

#[derive(Default)]
struct Collector {
    trail: Trail,
    arrays: Arrays,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.trail.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.trail.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = if self.trail.transposed() { param.val().transpose() } else { param.val() };
        self.arrays.insert(self.trail.name(), Array::from_tensor(&tensor));
    }
}

#[derive(Default)]
struct Measurer {
    trail: Trail,
    shapes: Shapes,
}

impl ModuleVisitor for Measurer {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.trail.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.trail.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut shape: Vec<usize> = param.lazy_shape().iter().copied().collect();
        if self.trail.transposed() {
            shape.reverse();
        }
        self.shapes.insert(self.trail.name(), shape);
    }
}

#[derive(Default)]
struct Flat {
    tensors: Vec<Tensor<1>>,
}

impl ModuleVisitor for Flat {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.tensors.push(param.val().reshape([-1]));
    }
}

struct Blender {
    newest: std::vec::IntoIter<Tensor<1>>,
    decay: f64,
}

impl ModuleMapper for Blender {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let newest = self.newest.next().expect("the same network visits as many tensors");
        param.map(|average| {
            let newest: Tensor<D> = newest.reshape(average.shape());
            average * self.decay + newest * (1.0 - self.decay)
        })
    }
}

struct Copier;

impl ModuleMapper for Copier {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let learnt = tensor.is_require_grad();
            (tensor.detach() * 1.0).detach().set_require_grad(learnt)
        })
    }
}

struct Filler {
    trail: Trail,
    /// The tensors, by all names of the module, in its shapes.
    arrays: Arrays,
}

impl ModuleMapper for Filler {
    fn enter_module(&mut self, name: &str, kind: &str) {
        self.trail.enter(name, kind);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.trail.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(array) = self.arrays.remove(&self.trail.name()) else { return param };
        let old = param.val();
        let data = TensorData::new(array.values, array.shape);
        let new = Tensor::<D>::from_data(data, &old.device());
        // Copied after transposing, since products read it row by row.
        let new = if self.trail.transposed() { Tensor::cat(vec![new.transpose()], 0) } else { new };
        let learnt = old.is_require_grad();
        param.map(|_| new.detach().set_require_grad(learnt))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::layers::linear::{Linear, linear as blank};

    fn layer() -> Linear {
        initialise(blank(4, 3, &Device::flex()), Seed(1))
    }

    #[test]
    fn a_file_gives_back_what_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let saved = layer();
        save(&saved, &path).unwrap();
        let blank = blank(4, 3, &Device::flex());
        let loaded = load(blank, &path).unwrap();
        assert_eq!(collect(&loaded), collect(&saved));
        assert_eq!(collect(&loaded)["weight"].shape, [3, 4]);
        let x = Tensor::<2>::from_floats([[1.0, -2.0, 3.0, 0.5]], &Device::flex());
        let (a, b) = (saved.forward(x.clone()), loaded.forward(x));
        assert_eq!(a.into_data(), b.into_data());
    }

    #[test]
    fn seeds_tell_weights_apart_and_bound_them() {
        assert_eq!(collect(&layer()), collect(&layer()));
        let other = initialise(layer(), Seed(2));
        assert_ne!(collect(&layer()), collect(&other));
        let widest = collect(&other).values().flat_map(|a| a.values.clone()).fold(0.0, |w: f32, v| w.max(v.abs()));
        assert!(widest <= 0.5 && widest > 0.2, "{widest}");
    }

    #[test]
    fn an_average_lies_between_old_and_new() {
        let other = initialise(layer(), Seed(2));
        let average = collect(&blend(layer(), &other, 0.75));
        let [old, new, mean] = [&collect(&layer()), &collect(&other), &average].map(|arrays| arrays["bias"].values[1]);
        assert!((mean - (0.75 * old + 0.25 * new)).abs() < 1e-6);
    }

    #[test]
    fn a_wrong_shape_a_missing_and_an_extra_name_are_refused() {
        let refusal = |change: fn(&mut Arrays)| {
            let mut arrays = collect(&layer());
            change(&mut arrays);
            apply(layer(), arrays).unwrap_err().to_string()
        };
        assert_eq!(
            refusal(|arrays| arrays.get_mut("weight").unwrap().shape = vec![4, 3]),
            "tensor weight has shape [4, 3], has to be [3, 4]"
        );
        assert_eq!(refusal(|arrays| drop(arrays.remove("bias"))), "tensor bias is missing");
        assert_eq!(
            refusal(|arrays| drop(arrays.insert("gain".into(), Array { shape: vec![1], values: vec![0.0] }))),
            "tensor gain does not belong to this network"
        );
    }

    #[test]
    fn shapes_are_those_of_the_tensors_and_tell_whether_others_fit() {
        let mut arrays = collect(&layer());
        let expected = shapes(&layer());
        assert_eq!(expected, Shapes::from([("bias".to_owned(), vec![3]), ("weight".to_owned(), vec![3, 4])]));
        check(&arrays, &expected).unwrap();
        arrays.get_mut("weight").unwrap().values.pop();
        let message = "tensor weight has 11 values, has to have 12";
        assert_eq!(check(&arrays, &expected).unwrap_err().message, message);
        assert_eq!(apply(layer(), arrays.clone()).unwrap_err().message, message);
        arrays.insert("gain".to_owned(), arrays["bias"].clone());
        arrays.remove("bias");
        assert_eq!(check(&arrays, &expected).unwrap_err().message, "tensor bias is missing");
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        save(&layer(), &path).unwrap();
        let whole = fs::read(&path).unwrap();
        for bytes in [&b"nonsense"[..], &whole[..whole.len() - 4], &whole[..20], b""] {
            fs::write(&path, bytes).unwrap();
            assert!(read(&path).unwrap_err().message.contains("model.safetensors"));
        }
    }
}
