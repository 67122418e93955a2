//! Properties of pictures and their drift against deepchecks.

use domain::study::paper::DRIFT_PROPERTIES;
use domain::study::stats::distance::{earth_movers, kolmogorov_smirnov};
use serde_json::Value;

use super::*;
use crate::data::picture::{files, open_rgb8};
use crate::stages::drift::properties;

fn close(value: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((value - expected).abs() < 1e-9, "{what}: {value} is not {expected}");
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn properties_and_scores_equal_deepchecks() {
    for case in json("drift/drift.json")["cases"].as_array().unwrap() {
        let measure = |side: &str| -> Vec<[f64; 5]> {
            // `train:-5` is all but the last five of `train`; the count says so too.
            let name = case[side].as_str().unwrap().split(':').next().unwrap();
            let pictures = files(&path("drift").join(name)).unwrap();
            let count = case[format!("n_{side}")].as_u64().unwrap() as usize;
            pictures[..count].iter().map(|path| properties(&open_rgb8(path).unwrap().image)).collect()
        };
        let (train, test) = (measure("train"), measure("test"));
        for (i, name) in DRIFT_PROPERTIES.iter().enumerate() {
            let what = format!("{} {name}", case["name"]);
            for (side, values) in [("train", &train), ("test", &test)] {
                let expected = case[format!("properties_{side}")][name].as_array().unwrap();
                let scale = if i < 2 { 255.0 } else { 1.0 };
                for (value, expected) in values.iter().zip(expected) {
                    close(value[i] * scale, expected, &what);
                }
            }
            // Rounded as the expected scores were: where all values lie close
            // together, rounding shows in the earth mover's distance.
            let scale = if i < 2 { 255.0 } else { 1.0 };
            let rounded = |values: &[f64; 5]| (values[i] * scale * 1e9).round() / 1e9;
            let [train, test] = [&train, &test].map(|side| side.iter().map(rounded).collect::<Vec<f64>>());
            let scores = &case["drift_of_values_rounded_1e-9"];
            close(kolmogorov_smirnov(&train, &test), &scores["KS"][name], &what);
            close(earth_movers(&train, &test, 0.025).unwrap(), &scores["EMD"][name], &what);
        }
    }
}
