//! Patches with their labels, and how a batch of them becomes numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use domain::seed::Seed;
use domain::study::experiment::{Validation, Whiten};
use domain::study::stage::Failure;
use domain::study::stone::CLASSES;
use mmap_guard::FileData;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::augment::Augmentation;
use crate::random;

/// The moments of ImageNet's pixels.
const IMAGENET: Moments = Moments { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

/// Least standard deviation that pixels are divided by: that of one grey level.
const STD_MIN: f32 = 1.0 / 255.0;

/// Square patches of one size. Their pixels stay in the files, which are mapped into
/// memory: what is read is the system's to keep or to drop, and nothing is copied. Files
/// are those of an attempt's folder, that nothing else writes to; one cut short
/// meanwhile ends the process of that attempt, as a killed one ends.
#[derive(Clone, Debug, Default)]
pub struct PatchSet {
    /// Width and height in pixels.
    size: usize,
    /// One for each data set.
    files: Vec<Arc<Packed>>,
    patches: Vec<Patch>,
}

/// One patch, without its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The number of its data set in the order appended.
    pub set: u32,
    /// Id of its image in that data set.
    pub image: u32,
    /// The label of its class, below [`CLASSES`].
    pub label: u8,
    /// The number of the patch in its file.
    place: u32,
}

/// A file whose bytes from `pixels` on are the patches, each `[3, size, size]`.
#[derive(Debug)]
struct Packed {
    file: FileData,
    pixels: usize,
}

/// Mean and standard deviation of pixels, red, green, blue, 0..1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moments {
    mean: [f32; 3],
    std: [f32; 3],
}

/// The normalisation of pixels: their mean is subtracted, then they are divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation(Norm);

#[derive(Clone, Debug, PartialEq)]
enum Norm {
    /// Moments of each data set.
    Sets(Vec<Moments>),
    /// Each patch is normalised by its own moments.
    Own,
}

impl PatchSet {
    /// Opens a file with the tensors `images`, `labels` and `image_ids`.
    ///
    /// # Errors
    /// If the file cannot be read or is not of that form.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let refuse = |problem: String| Failure::invalid_input(format!("{}: {problem}", path.display()));
        let file = mmap_guard::map_file(path).map_err(|error| Failure::io("map", path, &error))?;
        let (header, metadata) = SafeTensors::read_metadata(&file)
            .map_err(|error| refuse(format!("is no safetensors file of patches, or is truncated: {error}")))?;
        // The form: the length of the header in eight bytes, the header, the tensors.
        let data = 8 + header;
        let tensor = |name: &str, dtype: Dtype| {
            let info = metadata.info(name).ok_or_else(|| refuse(format!("tensor {name} is missing")))?;
            if info.dtype != dtype {
                return Err(refuse(format!("{name} is of type {:?}, has to be {dtype:?}", info.dtype)));
            }
            let (start, end) = info.data_offsets;
            Ok((info.shape.clone(), data + start..data + end))
        };
        let (images, pixels) = tensor("images", Dtype::U8)?;
        let (labels, labels_at) = tensor("labels", Dtype::U8)?;
        let (ids, ids_at) = tensor("image_ids", Dtype::U32)?;
        let &[n, 3, size, width] = images.as_slice() else {
            return Err(refuse(format!("images has shape {images:?}, has to be [n, 3, size, size]")));
        };
        if size != width || size == 0 || labels != [n] || ids != [n] {
            let shapes = (images, labels, ids);
            return Err(refuse(format!("shapes {shapes:?} of images, labels and image_ids do not agree")));
        }
        let labels = &file[labels_at];
        if let Some(label) = labels.iter().find(|label| usize::from(**label) >= CLASSES) {
            return Err(refuse(format!("label {label} is not below {CLASSES}")));
        }
        let patch = |((place, &label), id): ((u32, &u8), &[u8; 4])| Patch {
            set: 0,
            image: u32::from_le_bytes(*id),
            label,
            place,
        };
        let patches = (0..).zip(labels).zip(file[ids_at].as_chunks().0).map(patch).collect();
        Ok(Self { size, files: vec![Arc::new(Packed { pixels: pixels.start, file })], patches })
    }

    /// Adds another data set's patches after these.
    ///
    /// # Errors
    /// If they are of another size.
    pub fn append(&mut self, other: PatchSet) -> Result<(), Failure> {
        if !self.files.is_empty() && self.size != other.size {
            let message = format!("patches of {} and {} pixels cannot be mixed", self.size, other.size);
            return Err(Failure::invalid_input(message));
        }
        let sets = self.files.len() as u32;
        self.size = other.size;
        self.files.extend(other.files);
        self.patches.extend(other.patches.into_iter().map(|patch| Patch { set: sets + patch.set, ..patch }));
        Ok(())
    }

    /// The patches with other labels; `labels` has the new one of each.
    pub fn relabelled(mut self, labels: [u8; CLASSES]) -> Self {
        self.patches.iter_mut().for_each(|patch| patch.label = labels[usize::from(patch.label)]);
        self
    }

    /// The patches, without their pixels.
    pub fn patches(&self) -> &[Patch] {
        &self.patches
    }

    /// Number of patches.
    pub fn len(&self) -> usize {
        self.patches.len()
    }

    /// Tells whether there are no patches.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// The k-th part of each label of each of k data sets: as many as one has.
    pub fn resampled(self, seed: Seed) -> PatchSet {
        let sets = self.files.len();
        let mut kept = BTreeSet::new();
        for set in 0..sets as u32 {
            for label in 0..CLASSES as u8 {
                let mut own = self.indices(|patch| (patch.set, patch.label) == (set, label));
                let step = u64::from(set) << 8 | u64::from(label);
                random::shuffle(&mut random::stream(seed, "mix", step), &mut own);
                kept.extend(own[..own.len() / sets].iter().copied());
            }
        }
        self.filtered(|index| kept.contains(&index))
    }

    /// Keeps a share of each label for validation: (training, validation).
    pub fn split(self, seed: Seed, share: f64, how: Validation) -> (PatchSet, PatchSet) {
        let mut kept = BTreeSet::new();
        for label in 0..CLASSES as u8 {
            let mut rng = random::stream(seed, "validation", u64::from(label));
            let mut own = self.indices(|patch| patch.label == label);
            let quota = (own.len() as f64 * share).round() as usize;
            match how {
                Validation::PatchStratified => {
                    random::shuffle(&mut rng, &mut own);
                    kept.extend(own.into_iter().take(quota));
                }
                Validation::ImageDisjoint => kept.extend(self.whole_images(&own, quota, &mut rng)),
            }
        }
        (self.filtered(|index| !kept.contains(&index)), self.filtered(|index| kept.contains(&index)))
    }

    /// All of these patches of as many images, drawn at random, as make up a number of
    /// patches. One image at least is left over.
    fn whole_images(&self, own: &[usize], quota: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let mut by_image: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
        for &index in own {
            let patch = self.patches[index];
            by_image.entry((patch.set, patch.image)).or_default().push(index);
        }
        let mut images: Vec<Vec<usize>> = by_image.into_values().collect();
        random::shuffle(rng, &mut images);
        images.pop();
        let mut taken = Vec::new();
        for image in images {
            if taken.len() >= quota {
                break;
            }
            taken.extend(image);
        }
        taken
    }

    fn indices(&self, wanted: impl Fn(&Patch) -> bool) -> Vec<usize> {
        (0..self.len()).filter(|&index| wanted(&self.patches[index])).collect()
    }

    fn filtered(&self, keep: impl Fn(usize) -> bool) -> PatchSet {
        let patches = (0..self.len()).filter(|&index| keep(index)).map(|index| self.patches[index]).collect();
        PatchSet { size: self.size, files: self.files.clone(), patches }
    }

    /// The pixels of one patch, `[3, size, size]`.
    fn pixels(&self, index: usize) -> &[u8] {
        let Patch { set, place, .. } = self.patches[index];
        let Packed { file, pixels } = &*self.files[set as usize];
        let length = 3 * self.size * self.size;
        &file[pixels + place as usize * length..][..length]
    }

    /// The normalisation of these patches, and of those tested with them.
    pub fn normalisation(&self, whiten: Whiten) -> Normalisation {
        Normalisation(match whiten {
            Whiten::None => Norm::Sets(vec![IMAGENET; self.files.len()]),
            Whiten::PerPatch => Norm::Own,
            Whiten::PerDataset => Norm::Sets((0..self.files.len() as u32).map(|set| self.moments(set)).collect()),
        })
    }

    fn moments(&self, set: u32) -> Moments {
        let own = self.indices(|patch| patch.set == set);
        // Whole numbers: their order does not matter.
        let add = |a: Sums, b: Sums| [0, 1, 2].map(|channel| [0, 1, 2].map(|of| a[channel][of] + b[channel][of]));
        Moments::from_sums(own.into_par_iter().map(|index| sums(self.pixels(index))).reduce(Sums::default, add))
    }

    /// Patches, each varied in its own way, then normalised: `[batch, 3, size, size]`.
    pub fn values(&self, indices: &[usize], augmentations: &[Augmentation], normalisation: &Normalisation) -> Vec<f32> {
        let plane = self.size * self.size;
        let mut values = vec![0.0; indices.len() * 3 * plane];
        let each = values.par_chunks_mut(3 * plane).zip(indices).zip(augmentations);
        each.for_each(|((values, &index), augmentation)| {
            let pixels = self.pixels(index);
            let sources = augmentation.sources(self.size);
            let Moments { mean, std } = match &normalisation.0 {
                Norm::Sets(moments) => moments[self.patches[index].set as usize],
                Norm::Own => Moments::from_sums(sums(pixels)),
            };
            for (channel, values) in values.chunks_exact_mut(plane).enumerate() {
                let bytes = &pixels[channel * plane..][..plane];
                for (value, source) in values.iter_mut().zip(&sources) {
                    *value = f32::from(source.map_or(0, |at| bytes[at])) / 255.0;
                }
                augmentation.soften(values, self.size);
                values.iter_mut().for_each(|value| *value = (*value - mean[channel]) / std[channel]);
            }
        });
        values
    }

    /// Width and height of a patch in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// 1 at the label of each patch, 0 elsewhere: `[batch, 6]`.
    pub fn one_hot(&self, indices: &[usize]) -> Vec<f32> {
        let mut values = vec![0.0; indices.len() * CLASSES];
        for (row, &index) in indices.iter().enumerate() {
            values[row * CLASSES + usize::from(self.patches[index].label)] = 1.0;
        }
        values
    }
}

/// The number, sum and sum of squares of the grey levels of each channel.
type Sums = [[u64; 3]; 3];

fn sums(pixels: &[u8]) -> Sums {
    let mut sums = Sums::default();
    for (sums, bytes) in sums.iter_mut().zip(pixels.chunks_exact(pixels.len() / 3)) {
        let of = |level: fn(u64) -> u64| bytes.iter().map(|&byte| level(u64::from(byte))).sum();
        *sums = [bytes.len() as u64, of(|level| level), of(|level| level * level)];
    }
    sums
}

impl Moments {
    fn from_sums(sums: Sums) -> Self {
        let mean = sums.map(|[count, sum, _]| sum as f64 / count.max(1) as f64);
        let variance = |channel: usize| {
            let [count, _, squares] = sums[channel];
            squares as f64 / count.max(1) as f64 - mean[channel] * mean[channel]
        };
        let std = [0, 1, 2].map(|channel| (variance(channel).max(0.0).sqrt() / 255.0) as f32);
        Self { mean: mean.map(|mean| (mean / 255.0) as f32), std: std.map(|std| std.max(STD_MIN)) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    /// Writes patches of `[3, size, size]` bytes as the stage `patches` does.
    pub(crate) fn write(path: &Path, size: usize, pixels: &[u8], labels: &[u8], images: &[u32]) {
        let ids: Vec<u8> = images.iter().flat_map(|id| id.to_le_bytes()).collect();
        let n = labels.len();
        let tensors = [
            ("images", TensorView::new(Dtype::U8, vec![n, 3, size, size], pixels).unwrap()),
            ("labels", TensorView::new(Dtype::U8, vec![n], labels).unwrap()),
            ("image_ids", TensorView::new(Dtype::U32, vec![n], &ids).unwrap()),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        crate::files::write_bytes(path, &bytes).unwrap();
    }

    /// Patches of 2 × 2 pixels, `each` of an image, labels in turn.
    fn set(n: usize, each: usize) -> PatchSet {
        let folder = tempfile::tempdir().unwrap();
        let pixels: Vec<u8> = (0..n * 12).map(|value| value as u8).collect();
        let labels: Vec<u8> = (0..n).map(|index| (index % CLASSES) as u8).collect();
        let images: Vec<u32> =
            (0..n).map(|index| ((index / CLASSES / each) * CLASSES + index % CLASSES) as u32).collect();
        write(&folder.path().join("p"), 2, &pixels, &labels, &images);
        // A mapped file stays when its name goes.
        PatchSet::open(&folder.path().join("p")).unwrap()
    }

    fn count(set: &PatchSet, label: u8) -> usize {
        set.patches().iter().filter(|patch| patch.label == label).count()
    }

    #[test]
    fn validation_takes_the_same_share_of_every_class() {
        let split = |share| set(60, 1).split(Seed(1), share, Validation::PatchStratified);
        let (train, validation) = split(0.2);
        assert_eq!((train.len(), validation.len()), (48, 12));
        assert!((0..6).all(|label| count(&validation, label) == 2));
        let (train, validation) = split(0.0);
        assert_eq!((train.len(), validation.is_empty()), (60, true));
    }

    #[test]
    fn validation_by_image_shares_no_image_and_leaves_one() {
        let images = |set: &PatchSet| set.patches().iter().map(|patch| patch.image).collect::<BTreeSet<_>>();
        // Ten patches of each label, two of an image.
        let (train, validation) = set(60, 2).split(Seed(1), 0.3, Validation::ImageDisjoint);
        assert!(images(&train).is_disjoint(&images(&validation)));
        assert!((0..6).all(|label| count(&validation, label) == 4), "3 of 10 are of two images");
        // All ten of one image.
        let (train, validation) = set(60, 10).split(Seed(1), 0.3, Validation::ImageDisjoint);
        assert_eq!((train.len(), validation.len()), (60, 0));
    }

    #[test]
    fn mixing_as_many_as_one_has_takes_half_of_each_label_of_each() {
        let mut both = set(60, 1);
        both.append(set(60, 1)).unwrap();
        let mixed = both.resampled(Seed(1));
        assert_eq!(mixed.len(), 60);
        for (set, label) in (0..2).flat_map(|set| (0..6).map(move |label| (set, label))) {
            assert_eq!(mixed.indices(|patch| (patch.set, patch.label) == (set, label)).len(), 5);
        }
    }

    #[test]
    fn pixels_are_normalised_as_asked() {
        let set = set(2, 1);
        let values = |whiten| {
            let normalisation = set.normalisation(whiten);
            set.values(&[1], &[Augmentation::NONE], &normalisation)
        };
        let values_of_imagenet = values(Whiten::None);
        assert!((values_of_imagenet[0] - (12.0 / 255.0 - 0.485) / 0.229).abs() < 1e-6);
        assert!((values_of_imagenet[11] - (23.0 / 255.0 - 0.406) / 0.225).abs() < 1e-6);
        // The second patch's red channel is 12, 13, 14, 15; both patches' 0..4 and 12..16.
        let std = |variance: f32| variance.sqrt();
        assert!((values(Whiten::PerPatch)[0] + 1.5 / std(1.25)).abs() < 1e-5);
        assert!((values(Whiten::PerDataset)[0] - (12.0 - 7.5) / std(37.25)).abs() < 1e-5);
    }

    #[test]
    fn a_patch_of_one_colour_is_no_division_by_zero() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("p"), 2, &[7; 12], &[0], &[0]);
        let set = PatchSet::open(&folder.path().join("p")).unwrap();
        let values = set.values(&[0], &[Augmentation::NONE], &set.normalisation(Whiten::PerPatch));
        assert_eq!(values, [0.0; 12]);
    }

    #[test]
    fn equal_image_ids_of_two_data_sets_stay_apart() {
        let mut both = PatchSet::default();
        both.append(set(2, 1)).unwrap();
        both.append(set(2, 1).relabelled([5, 4, 3, 2, 1, 0])).unwrap();
        let seen: Vec<_> = both.patches().iter().map(|patch| (patch.set, patch.image, patch.label)).collect();
        assert_eq!(seen, [(0, 0, 0), (0, 1, 1), (1, 0, 5), (1, 1, 4)]);
        let other = PatchSet { size: 3, ..set(1, 1) };
        assert!(both.append(other).unwrap_err().message.contains("cannot be mixed"));
    }

    #[test]
    fn files_of_another_form_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            PatchSet::open(&path).unwrap_err().message
        };
        assert!(refused(b"abc").contains("no safetensors file"));
        assert!(refused(&[0xff; 64]).contains("truncated"));
        write(&path, 2, &[0; 12], &[6], &[0]);
        let whole = std::fs::read(&path).unwrap();
        assert!(refused(&whole).contains("label 6 is not below 6"));
        assert!(refused(&whole[..whole.len() - 1]).contains("truncated"));
    }
}
