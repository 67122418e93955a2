//! What distinguishes studies that have the same title.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::study::experiment::{Experiment, knobs};
use crate::study::plan::Data;
use crate::study::stage::StageKind;

/// Everything that a study's results follow from.
#[derive(Clone, Debug)]
pub struct Study {
    pub experiment: Experiment,
    /// The pictures and weights.
    pub data: Data,
    /// The version of each stage of the study.
    pub versions: BTreeMap<StageKind, u32>,
}

impl Study {
    /// The spec by names: knobs as `--set` takes them, and `data`, which stands for a digest.
    fn asked(&self) -> BTreeMap<String, String> {
        let values = knobs::values(&self.experiment);
        let mut asked: BTreeMap<String, String> =
            values.into_iter().map(|(name, value)| (name, knobs::text(Some(&value)))).collect();
        let data = serde_json::to_vec(&self.data).unwrap_or_default();
        asked.insert("data".to_owned(), Digest::of(&data).short());
        asked
    }
}

/// For each study, its values that are not the same in all studies, for instance
/// `tl.repeats=3`, values that the fewest studies share first; a knob without a value is
/// `none`. Versions are compared for stages that the studies have in common: `report
/// version=3`.
pub fn differences(studies: &[Study]) -> Vec<Vec<String>> {
    let all: Vec<BTreeMap<String, String>> = studies.iter().map(Study::asked).collect();
    let names: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let differs = |name: &&String| all.windows(2).any(|pair| pair[0].get(*name) != pair[1].get(*name));
    let names: Vec<&String> = names.into_iter().filter(differs).collect();
    let mut versions: BTreeMap<StageKind, BTreeSet<u32>> = BTreeMap::new();
    for (stage, version) in studies.iter().flat_map(|study| &study.versions) {
        versions.entry(*stage).or_default().insert(*version);
    }
    let mut shared: BTreeMap<(&String, Option<&String>), usize> = BTreeMap::new();
    for (asked, name) in all.iter().flat_map(|asked| names.iter().map(move |name| (asked, *name))) {
        *shared.entry((name, asked.get(name))).or_default() += 1;
    }
    let of = |(study, asked): (&Study, &BTreeMap<String, String>)| {
        let value = |name: &String| asked.get(name).map_or("none", String::as_str);
        let mut own = names.clone();
        own.sort_by_key(|name| shared.get(&(*name, asked.get(*name))));
        let knobs = own.into_iter().map(|name| format!("{name}={}", value(name)));
        let several = study.versions.iter().filter(|(stage, _)| versions[stage].len() > 1);
        knobs.chain(several.map(|(stage, version)| format!("{stage} version={version}"))).collect()
    };
    studies.iter().zip(&all).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::experiment::Scale;

    fn study(sets: &[&str]) -> Study {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let experiment = crate::study::overrides::resolve(Scale::Smoke, None, &sets).unwrap();
        Study { experiment, data: Data::of_the_paper(), versions: BTreeMap::from([(StageKind::Report, 2)]) }
    }

    #[test]
    fn only_what_differs_is_named_and_in_each_study() {
        let studies = [study(&[]), study(&["tl.repeats=3", "patch.max_overlap=4"]), study(&["sinddm.fit=stretch"])];
        assert_eq!(
            differences(&studies),
            [
                ["patch.max_overlap=none", "sinddm.fit=letterbox", "tl.repeats=1"],
                ["patch.max_overlap=4", "tl.repeats=3", "sinddm.fit=letterbox"],
                ["sinddm.fit=stretch", "patch.max_overlap=none", "tl.repeats=1"],
            ]
        );
        assert_eq!(differences(&studies[..1]), [Vec::<String>::new()]);
    }

    #[test]
    fn other_data_and_other_programs_are_told_too() {
        let (mut data, mut program) = (study(&[]), study(&[]));
        data.data.stand_in = Some("drawn".to_owned());
        let [first, second] = differences(&[study(&[]), data]).try_into().unwrap();
        assert!(first.len() == 1 && first[0].starts_with("data=") && first != second, "{first:?}");
        program.versions = BTreeMap::from([(StageKind::Report, 3), (StageKind::DdpmTrain, 1)]);
        assert_eq!(differences(&[study(&[]), program]), [["report version=2"], ["report version=3"]]);
    }
}
