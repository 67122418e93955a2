//! Which test pictures a training has seen before: told by what they show, so that
//! another name, folder or class hides nothing, and by every way on which a picture
//! can have come into the training, through a diffusion model too.

use std::collections::{BTreeMap, BTreeSet};

use domain::study::lineage::Lineage;
use domain::study::records::{ImageRef, PadRecord, PatchesRecord};
use domain::study::stage::{Aggregate, Failure, Folder, InputName, StageKind, Subject};
use domain::study::stone::{Dataset, View};
use domain::study::system::Model;
use domain::study::trial::{Split, Training, Trial};

use super::read_if_there;

/// The pictures behind the trainings of a study, by digest.
pub(super) struct Pictures<'a> {
    lineage: &'a Lineage,
    /// The pictures that are tested, with names for people, by the label of the task that cut
    /// patches of them.
    tested: BTreeMap<String, BTreeMap<String, String>>,
    /// The pictures that a task took up to be learnt from, by its label.
    learnt: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Pictures<'a> {
    /// The pictures that the records of patches and of canvases tell of.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub(super) fn read(folder: &Folder, aggregate: &'a Aggregate) -> Result<Self, Failure> {
        let (mut tested, mut learnt) = (BTreeMap::new(), BTreeMap::new());
        let digests = |images: &[ImageRef]| images.iter().map(|image| image.digest.clone()).collect();
        let splits: &BTreeSet<Split> =
            &aggregate.trials.iter().copied().flat_map(Trial::all).map(Trial::split).collect();
        let of_view = |view| {
            Dataset::ALL.into_iter().flat_map(move |dataset| splits.iter().map(move |split| (dataset, view, *split)))
        };
        for (dataset, view, split) in View::ALL.into_iter().flat_map(of_view) {
            let subject = Subject::Split(dataset, view, split);
            let name = InputName::RecordOf(StageKind::Patches, subject);
            let Some(record) = read_if_there::<PatchesRecord>(folder, name)? else { continue };
            let name = |image: &ImageRef| format!("{dataset}/{view}/{}/{}", image.class, image.file);
            let named = record.test_images.iter().map(|image| (image.digest.clone(), name(image)));
            let label = StageKind::Patches.label(&subject.to_string());
            tested.insert(label.clone(), named.collect());
            learnt.insert(label, digests(&record.train_images));
        }
        for (view, class) in View::ALL.into_iter().flat_map(|view| Dataset::A.classes().map(|class| (view, class))) {
            let subject = Subject::Model(Model::Class(view, class));
            let name = InputName::RecordOf(StageKind::Pad, subject);
            let Some(record) = read_if_there::<PadRecord>(folder, name)? else { continue };
            learnt.insert(StageKind::Pad.label(&subject.to_string()), digests(&record.images));
        }
        Ok(Self { lineage: &aggregate.lineage, tested, learnt })
    }

    /// The test pictures that a training has seen, each with the shortest way on which it
    /// came: labels from the training on.
    pub(super) fn seen(&self, trial: Trial, training: Training) -> BTreeMap<String, Vec<String>> {
        let training = &StageKind::ClassifyTrain.label(&Subject::Training(trial, training).to_string());
        let mut tested: BTreeMap<&str, &str> = BTreeMap::new();
        for pictures in self.lineage.parents(training).filter_map(|parent| self.tested.get(parent)) {
            tested.extend(pictures.iter().map(|(digest, name)| (digest.as_str(), name.as_str())));
        }
        let mut seen = BTreeMap::new();
        for way in self.lineage.ancestors(training) {
            let Some(learnt) = way.last().and_then(|last| self.learnt.get(*last)) else { continue };
            for name in learnt.iter().filter_map(|digest| tested.get(digest.as_str())) {
                seen.entry((*name).to_owned()).or_insert_with(|| way.iter().map(|label| (*label).to_owned()).collect());
            }
        }
        seen
    }
}
