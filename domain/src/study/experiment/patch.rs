//! Cutting pictures into patches (ALGORITHM 6).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::knob::{Knob, Reading};
use super::range::{Checked, within};
use super::{PICTURES_MAX, Whiten};

/// Patches cut from pictures (ALGORITHM 6).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Patch {
    /// Width and height of a patch in pixels.
    pub size: u32,
    /// Patches of each class of a view, for training and test together.
    pub per_class_view: u32,
    /// Share kept for testing: of the patches, and with one fold of the images.
    pub test_fraction: f64,
    /// Share of a patch that should show stone; lowered in steps of 0.1 to no less than 0.5
    /// where a picture has too few such places.
    pub coverage: f64,
    /// What classifiers subtract from patches and divide them by.
    pub whiten: Whiten,
    /// Most pixels by which two patches of a picture overlap along both sides; a class may then
    /// get fewer patches. Without a value, patches overlap as much as their number requires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_overlap: Option<u32>,
    /// How patches are chosen among the places found.
    pub method: PatchMethod,
    /// The pictures that the patches of A are cut from.
    pub source_a: PatchSource,
    /// Chooses which pictures are tested, in all three data sets; without a value, this follows
    /// from `seed`. The training pictures of the diffusion models do not depend on this knob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_seed: Option<u64>,
}

impl Default for Patch {
    fn default() -> Self {
        Self {
            size: 256,
            per_class_view: 1000,
            test_fraction: 0.2,
            coverage: 0.9,
            whiten: Whiten::None,
            max_overlap: None,
            method: PatchMethod::AdaptiveGrid,
            source_a: PatchSource::Original,
            split_seed: None,
        }
    }
}

/// A choice among the places found; see [`Patch::method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PatchMethod {
    /// The first place at random, then always the one farthest from all chosen.
    AdaptiveGrid,
    /// Places at random.
    Random,
}

/// Pictures that patches of A are cut from; see [`Patch::source_a`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PatchSource {
    /// The pictures as given.
    Original,
    /// The pictures on the canvas of `pad`, scaled down where they are larger. No patch is cut
    /// from the padding.
    Padded,
}

impl Patch {
    pub(super) fn check(&self) -> Checked {
        within("patch.max_overlap", self.max_overlap.unwrap_or(0), 0..=self.size - 1)
    }

    /// Number of patches of one class and view for (training, test).
    pub fn quota(&self) -> (u32, u32) {
        let test = (f64::from(self.per_class_view) * self.test_fraction).round() as u32;
        (self.per_class_view - test, test)
    }
}

/// The reading for how densely patches lie and which of them are taken.
const PLACES: Reading = Reading {
    section: "V-B",
    paper: "1000 patches per class are cut; where from is not said, and the overlap of earlier work leaves room for too few",
    alternatives: "another coverage; an upper limit of the overlap; random places",
    reason: "a grid as dense as the number needs, of places that show stone, spread far apart",
    allows: |_| true,
};

/// The knobs of [`Patch`].
pub(super) const KNOBS: &[Knob] = &[
    Knob::deviation("patch.size").whole(16, 4096),
    Knob::reading(
        "patch.per_class_view",
        Reading {
            section: "V-B",
            paper: "12 000 patches, 1000 per class; whether for each data set or for all is not said",
            alternatives: "none: 1000 × 6 classes × 2 views are 12 000 for each data set",
            reason: "six classes in two views of one data set make 12 000",
            allows: |it| it.patch.per_class_view == 1000,
        },
    )
    .whole(10, PICTURES_MAX),
    Knob::reading(
        "patch.test_fraction",
        Reading {
            section: "V-B",
            paper: "20 % of the patches are for testing, 200 per class; per view or for both is not said",
            alternatives: "none: 200 of 1000 per class and view",
            reason: "a fifth of the patches of each class and view",
            allows: |it| it.patch.test_fraction == 0.2,
        },
    )
    .real(0.05, 0.5),
    Knob::reading("patch.coverage", PLACES).real(0.5, 1.0),
    Knob::reading(
        "patch.whiten",
        Reading {
            section: "V-B",
            paper: "how patches are normalised is not said; earlier work whitened each, later code takes ImageNet's mean and deviation",
            alternatives: "per_patch; per_dataset",
            reason: "the weights that networks start from expect ImageNet's",
            allows: |_| true,
        },
    ),
    Knob::reading("patch.max_overlap", PLACES).whole(0, 4095),
    Knob::reading("patch.method", PLACES),
    Knob::reading(
        "patch.source_a",
        Reading {
            section: "V-A; V-B",
            paper: "pictures of A are padded for the diffusion models; whether patches come from these is not said",
            alternatives: "padded",
            reason: "padding is for the generators",
            allows: |_| true,
        },
    ),
    Knob::execution("patch.split_seed"),
];
