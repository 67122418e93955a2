//! The data that a study starts from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::id::ArtifactId;
use crate::study::experiment::{PICTURES_MAX, Pick};
use crate::study::paper;
use crate::study::pretrained::Pretrained;
use crate::study::stone::{Class, Dataset, View};

/// One class folder of the given data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawClass {
    /// The data set: A or C.
    pub dataset: Dataset,
    pub view: View,
    pub class: Class,
    /// Digest of the folder as an artifact.
    pub artifact: ArtifactId,
    /// Number of pictures in the folder.
    pub images: u32,
    /// Digest of an artifact with masks of the stone for some of the pictures: `<file
    /// stem>.png`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<ArtifactId>,
    /// Number of the stone in each picture, by file name; a picture that is not named shows a
    /// stone of its own. Only equality of the numbers matters: names of stones or patients are
    /// not kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stones: BTreeMap<String, u32>,
}

impl RawClass {
    /// A folder without masks, whose stones are not known.
    pub fn new((dataset, view, class): (Dataset, View, Class), artifact: ArtifactId, images: u32) -> Self {
        Self { dataset, view, class, artifact, images, masks: None, stones: BTreeMap::new() }
    }

    /// Number of pictures that a diffusion model may learn from under this choice.
    pub fn learnable(&self, pick: Pick) -> u32 {
        match pick {
            Pick::RandomFromAll => self.images,
            Pick::RandomFromTrainSplit => self.spare(),
        }
    }

    /// Number of pictures left when the stone with the fewest pictures is kept for testing.
    pub fn spare(&self) -> u32 {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        self.stones.values().for_each(|stone| *counts.entry(*stone).or_default() += 1);
        let named: u32 = counts.values().sum();
        let alone = (named < self.images).then_some(1);
        self.images - counts.into_values().chain(alone).min().unwrap_or(0).min(self.images)
    }
}

/// The data that a study starts from: every class folder of A and C.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// 24 folders: two data sets, two views, six classes.
    pub classes: Vec<RawClass>,
    /// What the pictures are, if they only stand in for real ones.
    pub stand_in: Option<String>,
    /// Published weights, each as an artifact with the file [`WEIGHTS_FILE`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<Pretrained, ArtifactId>,
    /// Which of the weights came from a file that is not the published one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unpublished: BTreeSet<Pretrained>,
}

/// Most bytes of all names in [`RawClass::stones`] together.
const NAMES_MAX: usize = 1 << 20;

/// Most bytes of one name in [`RawClass::stones`].
const NAME_MAX: usize = 255;

/// Most bytes of [`Data::stand_in`].
const STAND_IN_MAX: usize = 1000;

/// Which field of the submitted data is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidData {
    /// The field, for instance `classes A/SUR/Ia images`.
    pub field: String,
    /// What the field has to be.
    pub problem: String,
}

/// Name of the file in an artifact of published weights.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// Something that a study needs and that the data lack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A class folder.
    #[error("no pictures of class {class} in data set {dataset}, view {view}")]
    Class {
        /// The data set: A or C.
        dataset: Dataset,
        view: View,
        class: Class,
    },
    /// Published weights.
    #[error("the study needs the weights {0}, which were not handed in with it")]
    Weights(Pretrained),
}

impl Data {
    /// Every folder of A and C that a study needs.
    pub fn folders() -> impl Iterator<Item = (Dataset, View, Class)> {
        [Dataset::A, Dataset::C].into_iter().flat_map(|dataset| {
            View::ALL
                .into_iter()
                .flat_map(move |view| dataset.classes().into_iter().map(move |class| (dataset, view, class)))
        })
    }

    /// Checks that nothing in the data is more than a study can have.
    ///
    /// # Errors
    /// The first invalid field.
    pub fn check(&self) -> Result<(), InvalidData> {
        let most = |field: &dyn Fn() -> String, value: usize, most: usize, unit: &str| {
            if value > most {
                let problem = format!("is {value}{unit}, has to be at most {most}");
                return Err(InvalidData { field: field(), problem });
            }
            Ok(())
        };
        let stand_in = self.stand_in.as_deref().map_or(0, str::len);
        most(&|| "stand_in".to_owned(), stand_in, STAND_IN_MAX, " bytes long")?;
        let (mut places, mut bytes) = (BTreeSet::new(), 0);
        for raw in &self.classes {
            let RawClass { dataset, view, class, .. } = raw;
            let field = |name: &str| format!("classes {dataset}/{view}/{class}{name}");
            if !places.insert((*dataset, *view, *class)) {
                return Err(InvalidData { field: field(""), problem: "stands twice".to_owned() });
            }
            most(&|| field(" images"), raw.images as usize, PICTURES_MAX as usize, "")?;
            most(&|| field(" stones"), raw.stones.len(), PICTURES_MAX as usize, " long")?;
            for name in raw.stones.keys() {
                most(&|| field(" stones, a name"), name.len(), NAME_MAX, " bytes long")?;
                bytes += name.len();
            }
        }
        most(&|| "classes, the names of all stones together".to_owned(), bytes, NAMES_MAX, " bytes long")
    }

    /// Data with the paper's numbers of pictures but without pictures, for planning.
    pub fn of_the_paper() -> Self {
        let raw = |(dataset, view, class)| {
            let images = paper::image_count(dataset, view, class).unwrap_or(0);
            RawClass::new((dataset, view, class), ArtifactId(Digest::of_json(&(dataset, view, class))), images)
        };
        let weights = Pretrained::ALL.map(|which| (which, Self::unknown(which))).into();
        Self { classes: Self::folders().map(raw).collect(), stand_in: None, weights, unpublished: BTreeSet::new() }
    }

    /// A digest that stands for missing weights, for planning.
    pub fn unknown(which: Pretrained) -> ArtifactId {
        ArtifactId(Digest::of_json(&which))
    }

    /// Why results on these data are not comparable with the paper's.
    pub fn stand_ins(&self) -> Vec<String> {
        let foreign = |which: &Pretrained| format!("the weights {which} are not those of the published file");
        self.of_pictures().into_iter().chain(self.unpublished.iter().map(foreign)).collect()
    }

    /// How the numbers of pictures per view differ from the paper's, which prints these and no
    /// others.
    fn of_pictures(&self) -> Option<String> {
        if let Some(stand_in) = &self.stand_in {
            return Some(format!("stand-in data: {stand_in}"));
        }
        let differs = |(dataset, view): (Dataset, View)| {
            let found: u32 = self.of(dataset, view).map(|raw| raw.images).sum();
            let printed = paper::image_total(dataset, view)?;
            (found != printed).then(|| format!("{dataset}/{view} has {found} pictures, the paper's {printed}"))
        };
        let views = [Dataset::A, Dataset::C].into_iter().flat_map(|dataset| View::ALL.map(|view| (dataset, view)));
        let differing: Vec<String> = views.filter_map(differs).collect();
        (!differing.is_empty()).then(|| format!("not the paper's data: {}", differing.join("; ")))
    }

    /// The classes whose numbers of pictures differ from earlier work on the same data sets:
    /// the paper prints no numbers per class. Such a difference makes nothing incomparable.
    pub fn unlike_earlier_work(&self) -> Option<String> {
        let differs = |raw: &&RawClass| paper::image_count(raw.dataset, raw.view, raw.class) != Some(raw.images);
        match self.classes.iter().filter(differs).count() {
            0 => None,
            count => Some(format!(
                "{count} of {} classes have another number of pictures than in earlier work on these data sets; \
                 the paper prints no numbers by class",
                self.classes.len()
            )),
        }
    }

    fn of(&self, dataset: Dataset, view: View) -> impl Iterator<Item = &RawClass> {
        self.classes.iter().filter(move |raw| (raw.dataset, raw.view) == (dataset, view))
    }

    pub(super) fn get(&self, dataset: Dataset, view: View, class: Class) -> Result<&RawClass, Missing> {
        let found = self.classes.iter().find(|raw| (raw.dataset, raw.view, raw.class) == (dataset, view, class));
        found.ok_or(Missing::Class { dataset, view, class })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spoil: impl FnOnce(&mut Data)) -> String {
        let mut data = Data::of_the_paper();
        assert_eq!(data.check(), Ok(()));
        spoil(&mut data);
        data.check().unwrap_err().to_string()
    }

    #[test]
    fn what_there_is_too_much_of_is_named_and_counted() {
        assert_eq!(refused(|data| data.classes.extend(data.classes[..1].to_vec())), "classes A/SUR/IVa: stands twice");
        let images = refused(|data| data.classes[0].images = u32::MAX);
        assert_eq!(images, "classes A/SUR/IVa images: is 4294967295, has to be at most 100000");
        let stand_in = refused(|data| data.stand_in = Some("x".repeat(1001)));
        assert_eq!(stand_in, "stand_in: is 1001 bytes long, has to be at most 1000");
        let name = refused(|data| data.classes[0].stones = BTreeMap::from([("x".repeat(256), 1)]));
        assert_eq!(name, "classes A/SUR/IVa stones, a name: is 256 bytes long, has to be at most 255");
        let names = refused(|data| {
            data.classes[0].stones = (0..5000).map(|number| (format!("{number:0>250}"), number)).collect();
        });
        let expected = "classes, the names of all stones together: is 1250000 bytes long, has to be at most 1048576";
        assert_eq!(names, expected);
    }
}
