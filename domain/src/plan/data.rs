//! What a study starts from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::experiment::Pick;
use crate::paper;
use crate::pretrained::Pretrained;
use crate::stone::{Class, Dataset, View};

/// One class folder of the data as given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawClass {
    /// A or C.
    pub dataset: Dataset,
    /// Which half of it.
    pub view: View,
    /// Which class.
    pub class: Class,
    /// The folder as an artifact.
    pub artifact: Digest,
    /// Pictures in it.
    pub images: u32,
    /// Where the stone is in some of them, as an artifact: `<file stem>.png`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<Digest>,
    /// Which stone a picture shows, by file name; what is not named shows one of its
    /// own. Only which are equal counts: names of stones or patients stay where they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stones: BTreeMap<String, u32>,
}

impl RawClass {
    /// A folder without masks, of whose stones nothing is known.
    pub fn new((dataset, view, class): (Dataset, View, Class), artifact: Digest, images: u32) -> Self {
        Self { dataset, view, class, artifact, images, masks: None, stones: BTreeMap::new() }
    }

    /// Pictures that a diffusion model may learn from by this choice.
    pub fn learnable(&self, pick: Pick) -> u32 {
        match pick {
            Pick::RandomFromAll => self.images,
            Pick::RandomFromTrainSplit => self.spare(),
        }
    }

    /// Pictures that are left when the stone with fewest of them is kept for the test.
    pub fn spare(&self) -> u32 {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        self.stones.values().for_each(|stone| *counts.entry(*stone).or_default() += 1);
        let named: u32 = counts.values().sum();
        let alone = (named < self.images).then_some(1);
        self.images - counts.into_values().chain(alone).min().unwrap_or(0).min(self.images)
    }
}

/// What the study starts from: every class folder of A and C.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// 24 folders: two data sets, two views, six classes.
    pub classes: Vec<RawClass>,
    /// What the pictures are, if they only stand in for real ones.
    pub stand_in: Option<String>,
    /// Published weights, each an artifact with the file [`WEIGHTS_FILE`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<Pretrained, Digest>,
    /// Which of these came from a file that is not the published one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unpublished: BTreeSet<Pretrained>,
}

/// The file of an artifact of published weights.
pub const WEIGHTS_FILE: &str = "weights.safetensors";

/// What a study needs and is not among the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A class folder.
    #[error("no pictures of class {class} in data set {dataset}, view {view}")]
    Class {
        /// A or C.
        dataset: Dataset,
        /// Which half of it.
        view: View,
        /// Which class.
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

    /// Data with the paper's counts and no pictures behind them, to plan with.
    pub fn of_the_paper() -> Self {
        let raw = |(dataset, view, class)| {
            let images = paper::image_count(dataset, view, class).unwrap_or(0);
            RawClass::new((dataset, view, class), Digest::of_json(&(dataset, view, class)), images)
        };
        let weights = Pretrained::ALL.map(|which| (which, Self::unknown(which))).into();
        Self { classes: Self::folders().map(raw).collect(), stand_in: None, weights, unpublished: BTreeSet::new() }
    }

    /// A digest that stands for weights that are not here, to plan with.
    pub fn unknown(which: Pretrained) -> Digest {
        Digest::of_json(&which)
    }

    /// Why results on these data cannot be set beside the paper's.
    pub fn stand_ins(&self) -> Vec<String> {
        let foreign = |which: &Pretrained| format!("the weights {which} are not those of the published file");
        self.of_pictures().into_iter().chain(self.unpublished.iter().map(foreign)).collect()
    }

    /// The paper prints how many pictures each view of a data set has, and no more.
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

    /// Where the number of pictures of a class is not that of earlier work on the same data
    /// sets: the paper prints none. It makes nothing incomparable.
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
