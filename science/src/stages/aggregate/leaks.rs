//! Which test pictures a training has seen before: told by what they show, so that
//! another name, folder or class hides nothing, and by every way on which a picture
//! can have come into the training, through a diffusion model too.

use std::collections::{BTreeMap, BTreeSet};

use domain::lineage::{Lineage, input_of};
use domain::stage::{Failure, Folder};

use super::read_if_there;
use crate::records::{ImageRef, PadRecord, PatchesRecord};

/// The pictures behind the trainings of a study, by digest.
pub(super) struct Pictures<'a> {
    lineage: &'a Lineage,
    /// By the label of a task that cut patches: what is tested, with names for people.
    tested: BTreeMap<&'a str, BTreeMap<String, String>>,
    /// By the label of a task: what it took up to be learnt from.
    learnt: BTreeMap<&'a str, BTreeSet<String>>,
}

impl<'a> Pictures<'a> {
    /// As the records of patches and of canvases have them.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub(super) fn read(folder: &Folder, lineage: &'a Lineage) -> Result<Self, Failure> {
        let (mut tested, mut learnt) = (BTreeMap::new(), BTreeMap::new());
        let digests = |images: &[ImageRef]| images.iter().map(|image| image.digest.clone()).collect();
        for label in lineage.labels() {
            let input = input_of(label);
            if label.starts_with("patches ") {
                let Some(record) = read_if_there::<PatchesRecord>(folder, &input, "patches.json")? else { continue };
                let name =
                    |image: &ImageRef| format!("{}/{}/{}/{}", record.dataset, record.view, image.class, image.file);
                let named = record.test_images.iter().map(|image| (image.digest.clone(), name(image)));
                tested.insert(label, named.collect());
                learnt.insert(label, digests(&record.train_images));
            } else if label.starts_with("pad ") {
                let Some(record) = read_if_there::<PadRecord>(folder, &input, "pad.json")? else { continue };
                learnt.insert(label, digests(&record.images));
            }
        }
        Ok(Self { lineage, tested, learnt })
    }

    /// The test pictures that a training, by its label, has seen, each with the shortest
    /// way on which it came: labels from the training on.
    pub(super) fn seen(&self, training: &str) -> BTreeMap<String, Vec<String>> {
        let mut tested: BTreeMap<&str, &str> = BTreeMap::new();
        for pictures in self.lineage.parents(training).filter_map(|parent| self.tested.get(parent)) {
            tested.extend(pictures.iter().map(|(digest, name)| (digest.as_str(), name.as_str())));
        }
        let mut seen = BTreeMap::new();
        for way in self.lineage.ancestors(training) {
            let Some(learnt) = way.last().and_then(|last| self.learnt.get(last)) else { continue };
            for name in learnt.iter().filter_map(|digest| tested.get(digest.as_str())) {
                seen.entry((*name).to_owned()).or_insert_with(|| way.iter().map(|label| (*label).to_owned()).collect());
            }
        }
        seen
    }
}
