//! Forms of before the present one that documents may still have.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::ComparedScore;
use crate::study::stone::{Class, View};
use crate::study::system::{Model, System};

/// A compared score of any version: before 4, all were of plain diffusion and `model` named
/// the network.
#[derive(Deserialize)]
struct Compared {
    system: Option<System>,
    view: Option<View>,
    class: Option<Class>,
    model: Option<String>,
    drift: Vec<(String, Option<f64>, Option<f64>)>,
    sifid: Option<f64>,
    mean_difference: Option<f64>,
    #[serde(default)]
    why: BTreeMap<String, String>,
    passing: Option<f64>,
}

/// Reads the scores of compared systems.
pub(super) fn compared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ComparedScore>, D::Error> {
    Vec::<Compared>::deserialize(deserializer)?.into_iter().map(score).collect()
}

fn score<E: de::Error>(stored: Compared) -> Result<ComparedScore, E> {
    let Compared { system, view, class, model, drift, sifid, mean_difference, why, passing } = stored;
    let (view, class) = match (view, model) {
        (Some(view), _) => (view, class),
        (None, Some(name)) => named(&name).ok_or_else(|| E::custom(format!("there is no model {name:?}")))?,
        (None, None) => return Err(E::missing_field("view")),
    };
    let system = system.unwrap_or(System::Ddpm);
    Ok(ComparedScore { system, view, class, drift, sifid, mean_difference, why, passing })
}

fn named(name: &str) -> Option<(View, Option<Class>)> {
    let model = View::ALL.into_iter().flat_map(Model::of_view).find(|model| model.dotted() == name)?;
    Some((model.view(), model.class()))
}
