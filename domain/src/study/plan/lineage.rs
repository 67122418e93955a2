//! The lineage of a plan. The graph is walked, not reconstructed from names, so that a stage
//! inserted in between is included by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::TaskSpec;
use crate::study::lineage::Lineage;
use crate::study::stage::{Patches, Stage};
use crate::study::stone::Dataset;

/// The lineage of the trainings among these tasks, in which every task comes after those that
/// it needs.
pub fn lineage(tasks: &[TaskSpec]) -> Lineage {
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
    Lineage::new(made_from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::experiment::{Experiment, Protocol};
    use crate::study::plan::{Data, plan};

    #[test]
    fn a_second_step_descends_from_the_pictures_that_the_generators_of_its_first_have_seen() {
        let plan = plan(&Experiment::default(), &Data::of_the_paper()).unwrap();
        let lineage = lineage(&plan.tasks);
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
        experiment.upscale.weights = crate::study::experiment::UpscaleWeights::Trained;
        experiment.tl.protocol = vec![Protocol::FixedSplit];
        let plan = plan(&experiment, &Data::of_the_paper()).unwrap();
        let lineage = lineage(&plan.tasks);
        let parents: Vec<&str> = lineage.parents("upscale SUR/IVa").collect();
        assert_eq!(parents, ["sinddm.sample SUR/IVa", "swin2sr.train SUR"]);
        assert_eq!(lineage.parents("swin2sr.train SUR").count(), 6);
    }
}
