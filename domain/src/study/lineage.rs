//! What each training has learnt from, by the graph of tasks: from its patches and those of its
//! first step; for synthetic patches, also from the pictures that they were cut from, the model
//! that drew these pictures, and the pictures that the model has learnt from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

/// The direct origins of each task behind the trainings of a study; tasks are named by their
/// labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage {
    made_from: BTreeMap<String, BTreeSet<String>>,
}

impl Lineage {
    /// The lineage in which each task, by its label, is made from the results of those tasks.
    pub fn new(made_from: BTreeMap<String, BTreeSet<String>>) -> Self {
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
