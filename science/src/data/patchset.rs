//! Patches with their labels, and how a batch of them becomes a tensor.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use domain::seed::Seed;
use domain::stage::Failure;
use safetensors::tensor::{Dtype, SafeTensors};

use crate::models::resnet::CLASSES;
use crate::random;

/// Mean and standard deviation of ImageNet's pixels, red, green, blue, 0..1.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Largest rotation of an augmented patch in either direction, in degrees.
const ROTATION_MAX: f64 = 45.0;

/// Square patches of one size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatchSet {
    /// Width and height in pixels.
    pub size: usize,
    /// Bytes, patch after patch, each `[3, size, size]`.
    pub pixels: Vec<u8>,
    /// Label of each patch, below 6.
    pub labels: Vec<u8>,
    /// Image of each patch: number of the data set in the order appended, image id.
    pub images_of: Vec<(u32, u32)>,
    /// Data sets appended.
    sets: u32,
}

impl PatchSet {
    /// Reads `images`, `labels` and `image_ids` of a patches file.
    ///
    /// # Errors
    /// If the file cannot be read or is not of that form.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let refuse = |problem: String| Failure::invalid_input(format!("{}: {problem}", path.display()));
        let bytes = fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| refuse(error.to_string()))?;
        let tensor = |name: &str, dtype: Dtype| {
            let view = file.tensor(name).map_err(|error| refuse(error.to_string()))?;
            match view.dtype() == dtype {
                true => Ok(view),
                false => Err(refuse(format!("{name} is of type {:?}, has to be {dtype:?}", view.dtype()))),
            }
        };
        let (images, labels, ids) =
            (tensor("images", Dtype::U8)?, tensor("labels", Dtype::U8)?, tensor("image_ids", Dtype::U32)?);
        let &[n, 3, size, width] = images.shape() else {
            return Err(refuse(format!("images has shape {:?}, has to be [n, 3, size, size]", images.shape())));
        };
        if size != width || size == 0 || labels.shape() != [n] || ids.shape() != [n] {
            let shapes = (images.shape(), labels.shape(), ids.shape());
            return Err(refuse(format!("shapes {shapes:?} of images, labels and image_ids do not agree")));
        }
        if let Some(label) = labels.data().iter().find(|label| usize::from(**label) >= CLASSES) {
            return Err(refuse(format!("label {label} is not below {CLASSES}")));
        }
        let ids = ids.data().chunks_exact(4).map(|b| (0, u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        Ok(Self {
            size,
            pixels: images.data().to_vec(),
            labels: labels.data().to_vec(),
            images_of: ids.collect(),
            sets: 1,
        })
    }

    /// Adds another data set's patches after these.
    ///
    /// # Errors
    /// If they are of another size.
    pub fn append(&mut self, other: PatchSet) -> Result<(), Failure> {
        if self.sets > 0 && self.size != other.size {
            let message = format!("patches of {} and {} pixels cannot be mixed", self.size, other.size);
            return Err(Failure::invalid_input(message));
        }
        self.size = other.size;
        self.pixels.extend(other.pixels);
        self.labels.extend(other.labels);
        self.images_of.extend(other.images_of.into_iter().map(|(set, id)| (self.sets + set, id)));
        self.sets += other.sets;
        Ok(())
    }

    /// Number of patches.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Keeps a share of each class for validation: (training, validation).
    pub fn split(self, seed: Seed, share: f64) -> (PatchSet, PatchSet) {
        let mut kept = vec![false; self.len()];
        for label in 0..CLASSES as u8 {
            let mut own: Vec<usize> = (0..self.len()).filter(|&index| self.labels[index] == label).collect();
            random::shuffle(&mut random::stream(seed, "validation", u64::from(label)), &mut own);
            let quota = (own.len() as f64 * share).round() as usize;
            own[..quota].iter().for_each(|&index| kept[index] = true);
        }
        if !kept.contains(&true) {
            return (self, PatchSet::default());
        }
        (self.filtered(|index| !kept[index]), self.filtered(|index| kept[index]))
    }

    fn filtered(&self, keep: impl Fn(usize) -> bool) -> PatchSet {
        let indices: Vec<usize> = (0..self.len()).filter(|&index| keep(index)).collect();
        PatchSet {
            size: self.size,
            pixels: indices.iter().flat_map(|&index| self.patch(index)).copied().collect(),
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
            images_of: indices.iter().map(|&index| self.images_of[index]).collect(),
            sets: self.sets,
        }
    }

    /// The bytes of one patch, `[3, size, size]`.
    fn patch(&self, index: usize) -> &[u8] {
        let each = 3 * self.size * self.size;
        &self.pixels[index * each..][..each]
    }

    /// Patches turned and flipped each in its own way, then normalised with
    /// ImageNet's statistics: `[batch, 3, size, size]`.
    pub fn batch(&self, indices: &[usize], augmentations: &[Augmentation], device: &Device) -> Tensor<4> {
        let plane = self.size * self.size;
        let mut values = Vec::with_capacity(indices.len() * 3 * plane);
        for (&index, augmentation) in indices.iter().zip(augmentations) {
            let patch = self.patch(index);
            let sources = augmentation.sources(self.size);
            for channel in 0..3 {
                let bytes = &patch[channel * plane..][..plane];
                values.extend(sources.iter().map(|source| {
                    let byte = source.map_or(0, |at| bytes[at]);
                    (f32::from(byte) / 255.0 - MEAN[channel]) / STD[channel]
                }));
            }
        }
        Tensor::from_data(TensorData::new(values, [indices.len(), 3, self.size, self.size]), device)
    }

    /// 1 at the label of each patch, 0 elsewhere: `[batch, 6]`.
    pub fn one_hot(&self, indices: &[usize], device: &Device) -> Tensor<2> {
        let mut values = vec![0.0f32; indices.len() * CLASSES];
        for (row, &index) in indices.iter().enumerate() {
            values[row * CLASSES + usize::from(self.labels[index])] = 1.0;
        }
        Tensor::from_data(TensorData::new(values, [indices.len(), CLASSES]), device)
    }
}

/// How a patch is turned and flipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// Left and right change places.
    pub flip_x: bool,
    /// Top and bottom change places.
    pub flip_y: bool,
    /// Rotation about the centre, in degrees.
    pub degrees: f64,
}

impl Augmentation {
    /// The patch as it is.
    pub const NONE: Augmentation = Augmentation { flip_x: false, flip_y: false, degrees: 0.0 };

    /// Flips with probability one half each, rotation by up to 45°: a function
    /// of the seed, the epoch and the patch alone.
    pub fn draw(seed: Seed, epoch: u32, index: usize) -> Self {
        let mut rng = random::stream(seed, "augment", u64::from(epoch) << 32 | index as u64);
        Self {
            flip_x: random::uniform(&mut rng) < 0.5,
            flip_y: random::uniform(&mut rng) < 0.5,
            degrees: (2.0 * random::uniform(&mut rng) - 1.0) * ROTATION_MAX,
        }
    }

    /// For each pixel the one it comes from: the nearest, none outside (black).
    fn sources(&self, size: usize) -> Vec<Option<usize>> {
        let centre = (size as f64 - 1.0) / 2.0;
        let (sin, cos) = self.degrees.to_radians().sin_cos();
        let inside = |at: f64| (at >= 0.0 && at < size as f64).then_some(at as usize);
        let mut sources = Vec::with_capacity(size * size);
        for y in 0..size {
            for x in 0..size {
                let x = if self.flip_x { size - 1 - x } else { x } as f64 - centre;
                let y = if self.flip_y { size - 1 - y } else { y } as f64 - centre;
                let column = inside((cos * x + sin * y + centre + 0.5).floor());
                let row = inside((cos * y - sin * x + centre + 0.5).floor());
                sources.push(row.zip(column).map(|(row, column)| row * size + column));
            }
        }
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(n: usize) -> PatchSet {
        PatchSet {
            size: 2,
            pixels: (0..n * 12).map(|v| v as u8).collect(),
            labels: (0..n).map(|index| (index % CLASSES) as u8).collect(),
            images_of: (0..n).map(|index| (0, index as u32)).collect(),
            sets: 1,
        }
    }

    #[test]
    fn augmentations_move_pixels_as_named() {
        let turned = |flip_x, flip_y, degrees| Augmentation { flip_x, flip_y, degrees }.sources(2);
        let whole = |sources: [usize; 4]| sources.map(Some).to_vec();
        assert_eq!(turned(false, false, 0.0), whole([0, 1, 2, 3]));
        assert_eq!(turned(true, false, 0.0), whole([1, 0, 3, 2]));
        assert_eq!(turned(false, true, 0.0), whole([2, 3, 0, 1]));
        assert_eq!(turned(false, false, 90.0), whole([2, 0, 3, 1]));
        let corners = Augmentation { flip_x: false, flip_y: false, degrees: 45.0 }.sources(9);
        assert_eq!((corners[0], corners[40]), (None, Some(40)));
    }

    #[test]
    fn augmentation_is_a_function_of_seed_epoch_and_patch() {
        let one = Augmentation::draw(Seed(1), 2, 3);
        assert_eq!(one, Augmentation::draw(Seed(1), 2, 3));
        for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)] {
            assert_ne!(one.degrees, Augmentation::draw(Seed(other.0), other.1, other.2).degrees);
        }
        assert!((0..500).all(|i| Augmentation::draw(Seed(1), 0, i).degrees.abs() <= ROTATION_MAX));
    }

    #[test]
    fn validation_takes_the_same_share_of_every_class() {
        let (train, validation) = set(60).split(Seed(1), 0.2);
        assert_eq!((train.len(), validation.len()), (48, 12));
        for label in 0..6 {
            assert_eq!(validation.labels.iter().filter(|own| **own == label).count(), 2);
        }
        let (train, validation) = set(60).split(Seed(1), 0.0);
        assert_eq!((train.len(), validation.is_empty()), (60, true));
    }

    #[test]
    fn pixels_are_normalised_with_imagenets_statistics() {
        let tensor = set(2).batch(&[1], &[Augmentation::NONE], &Device::flex());
        let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
        assert!((values[0] - (12.0 / 255.0 - 0.485) / 0.229).abs() < 1e-6);
        assert!((values[11] - (23.0 / 255.0 - 0.406) / 0.225).abs() < 1e-6);
    }

    #[test]
    fn equal_image_ids_of_two_data_sets_stay_apart() {
        let mut both = PatchSet::default();
        both.append(set(2)).unwrap();
        both.append(set(2)).unwrap();
        assert_eq!(both.images_of, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        let other = PatchSet { size: 3, ..set(0) };
        assert!(both.append(other).unwrap_err().message.contains("cannot be mixed"));
    }
}
