//! What each training has learnt from, by the graph of tasks: from its patches and those of its
//! first step; for synthetic patches, also from the pictures that they were cut from, the model
//! that drew these pictures, and the pictures that the model has learnt from.
//!
//! The graph is walked, not reconstructed from names, so that a stage inserted in between is
//! included by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::plan::TaskSpec;
use crate::stage::{Patches, Stage};
use crate::stone::Dataset;

/// The direct origins of each task behind the trainings of a study; tasks are named by their
/// labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage {
    made_from: BTreeMap<String, BTreeSet<String>>,
}

impl Lineage {
    /// The lineage of these tasks, in which every task comes after those that it needs.
    pub fn of(tasks: &[TaskSpec]) -> Self {
        let labels: BTreeMap<_, _> = tasks.iter().map(|task| (task.key, task.label())).collect();
        let mut made_from: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut wanted = BTreeSet::new();
        for task in tasks.iter().rev() {
            let label = task.label();
            if !matches!(task.stage, Stage::ClassifyTrain(_)) && !wanted.contains(&label) {
                continue;
            }
            // Records say which given pictures these hold.
            let needs = match &task.stage {
                Stage::Pad(_) => BTreeSet::new(),
                Stage::Patches(Patches { dataset: Dataset::A | Dataset::C, .. }) => BTreeSet::new(),
                _ => task.needs().filter_map(|need| labels.get(&need).cloned()).collect(),
            };
            wanted.extend(needs.iter().cloned());
            made_from.insert(label, needs);
        }
        Self { made_from }
    }

    /// Labels of the tasks whose results a task reads.
    pub fn parents(&self, label: &str) -> impl Iterator<Item = &str> {
        self.made_from.get(label).into_iter().flatten().map(String::as_str)
    }

    /// Everything that a task descends from, each by one of the shortest paths: labels from the
    /// task itself on. Nearest first, then by label.
    pub fn ancestors<'a>(&'a self, label: &'a str) -> Vec<Vec<&'a str>> {
        let (mut found, mut seen) = (Vec::new(), BTreeSet::from([label]));
        let mut queue = VecDeque::from([vec![label]]);
        while let Some(way) = queue.pop_front() {
            let last = way.last().copied().unwrap_or(label);
            for parent in self.parents(last).filter(|parent| seen.insert(parent)) {
                let way: Vec<&str> = way.iter().copied().chain([parent]).collect();
                found.push(way.clone());
                queue.push_back(way);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Experiment, Protocol};
    use crate::plan::{self, Data};

    #[test]
    fn a_second_step_descends_from_the_pictures_that_the_generators_of_its_first_have_seen() {
        let plan = plan::plan(&Experiment::default(), &Data::of_the_paper()).unwrap();
        let lineage = Lineage::of(&plan.tasks);
        let ancestors = lineage.ancestors("classify.train SUR B-A repeat 1 fold 2");
        let way = ancestors.iter().find(|way| way.last() == Some(&"pad SUR/IVa")).unwrap();
        let expected = [
            "classify.train SUR B-A repeat 1 fold 2",
            "classify.train SUR B repeat 1 fold 2",
            "patches B/SUR split 1 fold 2",
            "upscale SUR/IVa",
            "sinddm.sample SUR/IVa",
            "sinddm.train SUR/IVa",
            "pad SUR/IVa",
        ];
        assert_eq!(way.as_slice(), expected);
        let pads =
            |label| lineage.ancestors(label).iter().filter(|way| way.last().unwrap().starts_with("pad ")).count();
        assert_eq!(
            (pads("classify.train SUR B-A repeat 1 fold 2"), pads("classify.train SEC A-C repeat 0 fold 0")),
            (6, 0)
        );
        // Ingest and pictures as given are behind records.
        assert!(ancestors.iter().all(|way| !way.last().unwrap().starts_with("ingest")));
    }

    #[test]
    fn with_a_network_of_ones_own_all_pictures_of_the_view_are_behind_each_class() {
        let mut experiment = Experiment::default();
        experiment.upscale.weights = crate::experiment::UpscaleWeights::Trained;
        experiment.tl.protocol = vec![Protocol::FixedSplit];
        let plan = plan::plan(&experiment, &Data::of_the_paper()).unwrap();
        let lineage = Lineage::of(&plan.tasks);
        let parents: Vec<&str> = lineage.parents("upscale SUR/IVa").collect();
        assert_eq!(parents, ["sinddm.sample SUR/IVa", "swin2sr.train SUR"]);
        assert_eq!(lineage.parents("swin2sr.train SUR").count(), 6);
    }
}
