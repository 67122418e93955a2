//! The table of knobs: which values each knob may have, what a change means for a comparison
//! with the paper, and, where the paper leaves a choice open, on which of its words the default
//! rests (the ambiguity ledger).
//!
//! Each section of the spec lists its own knobs in a table beside its fields. Checks, the JSON
//! Schema, the ledger and the suggestions of `--set` follow from these tables.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::knob::{Kind, Knob};
use super::range::{Checked, SIDE_MAX};
use super::{Experiment, ddpm, evaluation, pad, patch, sinddm, tl, upscale};

/// Knobs of the study as a whole.
const ROOT: &[Knob] = &[
    Knob::execution("seed"),
    // Stand-ins are drawn only where no pictures are given, and nothing that is
    // measured on them is compared.
    Knob::execution("phantom.size_a").whole(8, SIDE_MAX),
    Knob::execution("phantom.size_c").whole(8, SIDE_MAX),
    Knob::execution("phantom.share").real(0.0, 10.0),
];

/// Every knob, section by section in the order of the spec.
pub fn all() -> impl Iterator<Item = &'static Knob> {
    let sections =
        [ROOT, pad::KNOBS, sinddm::KNOBS, ddpm::KNOBS, upscale::KNOBS, evaluation::KNOBS, patch::KNOBS, tl::KNOBS];
    sections.into_iter().flatten()
}

/// A knob with a value other than the default.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub knob: &'static Knob,
    /// The knob's value as in `--set`; none if the value is left to a rule.
    pub value: Option<&'a Value>,
    /// The default: the paper's value, or what is taken for it.
    pub default: Option<&'a Value>,
}

impl std::fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = {} ({})", self.knob.name, text(self.value), text(self.default))
    }
}

/// Formats a value as `--set` takes it.
pub fn text(value: Option<&Value>) -> String {
    match value {
        None => "unset".to_owned(),
        Some(Value::String(word)) => word.clone(),
        Some(Value::Array(values)) => {
            format!("[{}]", values.iter().map(within).collect::<Vec<_>>().join(", "))
        }
        Some(Value::Object(entries)) => {
            let entries = entries.iter().map(|(name, value)| format!("{name} = {}", within(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        Some(value) => value.to_string(),
    }
}

/// Formats a value within another one, where words are quoted.
fn within(value: &Value) -> String {
    match value {
        Value::String(_) => value.to_string(),
        value => text(Some(value)),
    }
}

pub(super) fn json(experiment: &Experiment) -> Value {
    serde_json::to_value(experiment).unwrap_or_default()
}

/// Checks that every knob of a spec that has a value lies in its range.
///
/// # Errors
/// The first knob that does not, in the order of the spec.
pub(super) fn check(experiment: &Experiment) -> Checked {
    let values = values(experiment);
    all().try_for_each(|knob| values.get(knob.name).map_or(Ok(()), |value| knob.range.check(knob.name, value)))
}

/// The JSON Schema of a spec, with the range of every knob.
pub fn schema() -> Value {
    let mut schema = serde_json::to_value(schemars::schema_for!(Experiment)).unwrap_or_default();
    for knob in all() {
        if let Some(way) = leaf(&schema, knob.name)
            && let Some(leaf) = schema.pointer_mut(&way)
        {
            knob.range.describe(leaf);
        }
    }
    schema
}

/// JSON pointer to the schema of a knob within the schema of the spec.
fn leaf(schema: &Value, name: &str) -> Option<String> {
    // A section or a type of its own has a schema that is named where it is used.
    let named = |way: String| match schema.pointer(&way)?.get("$ref").and_then(Value::as_str) {
        Some(other) => Some(other.trim_start_matches('#').to_owned()),
        None => Some(way),
    };
    name.split('.').try_fold(String::new(), |way, part| named(format!("{way}/properties/{part}")))
}

/// The value of every knob that has one, by full name.
pub fn values(experiment: &Experiment) -> BTreeMap<String, Value> {
    fn below(value: Value, name: String, values: &mut BTreeMap<String, Value>) {
        match value {
            // A knob may be a table itself, such as a colour.
            Value::Object(section) if !all().any(|knob| knob.name == name) => {
                for (key, value) in section {
                    let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                    below(value, name, values);
                }
            }
            value => {
                values.insert(name, value);
            }
        }
    }
    let mut values = BTreeMap::new();
    below(json(experiment), String::new(), &mut values);
    values
}

impl Experiment {
    /// Whether a changed value of this knob makes the study's numbers incomparable with the
    /// paper's: always for a deviation, and for a reading if the paper's words do not allow the
    /// value.
    pub(super) fn is_deviation(&self, knob: &Knob) -> bool {
        match &knob.kind {
            Kind::Execution => false,
            Kind::Reading(reading) => !(reading.allows)(self),
            Kind::Deviation => true,
        }
    }

    /// The readings that differ from the defaults, as `knob = value (default)`. Knobs without
    /// effect given the others are left out.
    pub fn readings(&self) -> Vec<String> {
        let effective = self.effective();
        effective.changes(|change| {
            let is_open = matches!(change.knob.kind, Kind::Reading(_)) && !effective.is_deviation(change.knob);
            is_open.then(|| change.to_string())
        })
    }

    /// Applies `of` to each knob that differs from its default, in the order of the spec, and
    /// collects the results.
    pub(super) fn changes<T>(&self, of: impl Fn(Change<'_>) -> Option<T>) -> Vec<T> {
        let (own, paper) = (values(self), values(&Experiment::default()));
        let change = |knob: &'static Knob| {
            let (value, default) = (own.get(knob.name), paper.get(knob.name));
            (value != default).then_some(Change { knob, value, default }).and_then(&of)
        };
        all().filter_map(change).collect()
    }
}

/// One line of the ledger as `lithogen config ledger --json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Full name of the knob.
    pub knob: &'static str,
    /// `execution`, `reading` or `deviation`.
    pub kind: &'static str,
    /// The default as in `--set`; `unset` if the value is left to a rule.
    pub default: String,
    /// The allowed values in words; absent if the knob's type says everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// For a reading: section, table or figure of the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section: Option<&'static str>,
    /// For a reading: what the paper says there, paraphrased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paper: Option<&'static str>,
    /// For a reading: the other values that the paper's words allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternatives: Option<&'static str>,
    /// For a reading: the reason for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// The ledger: every knob with its kind, and every reading with the words of the paper that it
/// rests on.
pub fn ledger() -> Vec<Entry> {
    let defaults = values(&Experiment::default());
    let entry = |knob: &'static Knob| {
        let reading = match &knob.kind {
            Kind::Reading(reading) => Some(reading),
            Kind::Execution | Kind::Deviation => None,
        };
        Entry {
            knob: knob.name,
            kind: knob.kind.name(),
            default: text(defaults.get(knob.name)),
            range: knob.range.words(),
            section: reading.map(|reading| reading.section),
            paper: reading.map(|reading| reading.paper),
            alternatives: reading.map(|reading| reading.alternatives),
            reason: reading.map(|reading| reading.reason),
        }
    };
    all().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::range::Range;
    use super::*;

    /// Collects the full names of all leaves of a schema, below `name`.
    fn leaves(schema: &Value, root: &Value, name: String, found: &mut BTreeSet<String>) {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| root.pointer(&path[1..]));
        let schema = target.unwrap_or(schema);
        match schema.get("properties").and_then(Value::as_object) {
            Some(properties) => {
                for (key, property) in properties {
                    let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    leaves(property, root, name, found);
                }
            }
            None => {
                found.insert(name);
            }
        }
    }

    #[test]
    fn every_knob_of_the_schema_has_one_kind() {
        let schema = serde_json::to_value(schemars::schema_for!(Experiment)).unwrap();
        let mut found = BTreeSet::new();
        leaves(&schema, &schema, String::new(), &mut found);
        // Names a preset; its values are knobs of their own.
        found.remove("scale");
        let listed: BTreeSet<String> = all().map(|knob| knob.name.to_owned()).collect();
        assert_eq!(found, listed);
        assert_eq!(all().count(), listed.len(), "a knob is listed twice");
    }

    #[test]
    fn every_range_stands_in_the_schema() {
        let schema = schema();
        for knob in all() {
            let leaf = schema.pointer(&leaf(&schema, knob.name).unwrap()).unwrap().to_string();
            let expected = match knob.range {
                Range::Any => continue,
                Range::Whole { most, .. } => format!(r#""maximum":{most}"#),
                Range::Real { most, .. } => format!(r#""maximum":{}"#, serde_json::json!(most)),
                Range::Among(values) => format!(r#""enum":{}"#, serde_json::json!(values)),
                Range::List { entries, .. } => format!(r#""maxItems":{}"#, entries[1]),
            };
            assert!(leaf.contains(&expected), "{}: {leaf} lacks {expected}", knob.name);
        }
        let dim = schema.pointer(&leaf(&schema, "ddpm.training.dim").unwrap()).unwrap();
        assert_eq!((&dim["minimum"], &dim["multipleOf"]), (&8.into(), &8.into()));
        let range = |name: &str| ledger().into_iter().find(|entry| entry.knob == name).unwrap().range;
        assert_eq!(range("ddpm.training.dim").unwrap(), "multiples of 8 from 8 to 1024");
        assert_eq!((range("sifid.block").unwrap().as_str(), range("ddpm.models")), ("64 or 192", None));
    }

    #[test]
    fn knobs_are_named_and_written_as_overrides_take_them() {
        let set = |sets: &[String]| {
            crate::study::overrides::resolve(crate::study::experiment::Scale::Paper, None, sets).unwrap()
        };
        let given = [
            "tl.lr=[0.1, 0.2]",
            "sinddm.fit=stretch",
            "patch.max_overlap=20",
            "tl.protocol=[\"resplit\"]",
            "pad.fill={rgb=[1, 2, 3]}",
        ];
        let spec = set(&given.map(str::to_owned));
        let knobs = values(&spec);
        let of = |name: &str| text(knobs.get(name));
        assert_eq!([of("tl.lr"), of("sinddm.fit"), of("patch.max_overlap")], ["[0.1, 0.2]", "stretch", "20"]);
        assert_eq!(of("pad.fill"), "{rgb = [1, 2, 3]}");
        assert_eq!(spec.readings().last().unwrap(), "tl.protocol = [\"resplit\"] ([\"repeated_cv\"])");
        let named = knobs.keys().filter(|name| *name != "scale");
        let sets: Vec<String> = named.map(|name| format!("{name}={}", text(knobs.get(name)))).collect();
        assert_eq!(set(&sets), spec);
        // As it may come from elsewhere.
        let huge = Experiment { seed: u64::MAX, ..spec };
        assert_eq!(text(values(&huge).get("seed")), u64::MAX.to_string());
    }

    #[test]
    fn every_default_is_what_the_paper_allows_and_every_reading_is_whole() {
        let paper = Experiment::default();
        for knob in all() {
            if let Kind::Reading(reading) = &knob.kind {
                assert!((reading.allows)(&paper), "{}", knob.name);
                for text in [reading.section, reading.paper, reading.alternatives, reading.reason] {
                    assert!(!text.is_empty() && !text.contains('|') && !text.ends_with('.'), "{}: {text}", knob.name);
                }
            }
        }
        let entry = ledger().into_iter().find(|entry| entry.knob == "sinddm.finest").unwrap();
        assert_eq!((entry.kind, entry.default.as_str(), entry.section), ("reading", "[264, 200]", Some("V-A")));
    }
}
