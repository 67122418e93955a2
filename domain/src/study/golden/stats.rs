//! Against scipy and scikit-learn: `stats/stats.json`, `stats/classification.json`.

use std::path::PathBuf;

use serde_json::Value;

use crate::study::stats::classification::{Confusion, Score};
use crate::study::stats::estimate::Estimate;
use crate::study::stats::multiple::{benjamini_hochberg, holm};
use crate::study::stats::ranks::{Side, SignedRanks, Zeros};
use crate::study::stats::{mean, quantile, sample_std};

fn json(name: &str) -> Value {
    let folder = PathBuf::from(std::env::var("LITHOGEN_GOLDEN").unwrap());
    serde_json::from_slice(&std::fs::read(folder.join("stats").join(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(ours: f64, theirs: &Value) {
    let theirs = theirs.as_f64().unwrap();
    assert!((ours - theirs).abs() <= 1e-10 * theirs.abs().max(1.0), "{ours} is not {theirs}");
}

#[track_caller]
fn all_close(ours: &[f64], theirs: &Value) {
    let theirs = theirs.as_array().unwrap();
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).for_each(|(ours, theirs)| close(*ours, theirs));
}

/// p-values by their ratio: a small one has to have its digits.
#[track_caller]
fn p_close(ours: f64, theirs: &Value) {
    let theirs = theirs.as_f64().unwrap();
    assert!((ours - theirs).abs() <= 1e-8 * theirs, "{ours} is not {theirs}");
}

/// Accuracies of a method, row after row, and row by row.
fn accuracies(golden: &Value, method: &Value) -> (Vec<f64>, Vec<Vec<f64>>) {
    let rows: Vec<Vec<f64>> = golden["acc"][method.as_str().unwrap()].as_array().unwrap().iter().map(numbers).collect();
    (rows.concat(), rows)
}

fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn summaries_are_those_of_scipy() {
    let golden = json("stats.json");
    let summaries = golden["summary"].as_object().unwrap();
    assert_eq!(summaries.len(), 4);
    for (method, summary) in summaries {
        let (values, rows) = accuracies(&golden, &Value::from(method.as_str()));
        assert_eq!(values.len() as u64, summary["n"].as_u64().unwrap());
        let std = sample_std(&values).unwrap();
        close(mean(&values).unwrap(), &summary["mean"]);
        close(std, &summary["std_ddof1"]);
        close(std * (49.0_f64 / 50.0).sqrt(), &summary["std_ddof0"]);
        let estimate = Estimate::of(&values).unwrap();
        close(estimate.std_error, &summary["sem"]);
        let standard = Estimate { value: 0.0, std_error: 1.0, freedom: 49.0 };
        close(standard.interval(0.95)[1], &summary["t975"]);
        all_close(&estimate.interval(0.95), &summary["ci95"]);
        let mut sorted = values;
        sorted.sort_by(f64::total_cmp);
        for (share, name) in [(0.0, "min"), (0.25, "q25"), (0.5, "median"), (0.75, "q75"), (1.0, "max")] {
            close(quantile(&sorted, share), &summary[name]);
        }
        let of_repeats: Vec<f64> = rows.iter().map(|row| mean(row).unwrap()).collect();
        all_close(&of_repeats, &summary["repeat_means"]);
        close(mean(&of_repeats).unwrap(), &summary["repeat_means_mean"]);
        close(sample_std(&of_repeats).unwrap(), &summary["repeat_means_std_ddof1"]);
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn t_tests_of_pairs_are_those_of_scipy() {
    let golden = json("stats.json");
    let pairs = golden["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 6);
    for pair in pairs {
        let [a, b] = [0, 1].map(|side| accuracies(&golden, &pair["pair"][side]).0);
        let differences = differences(&a, &b);
        for name in ["nadeau_bengio_1_over_4", "nadeau_bengio_2400_9600", "nadeau_bengio_ratio_1_over_9"] {
            let theirs = &pair[name];
            let ours = Estimate::corrected(&differences, theirs["test_over_train"].as_f64().unwrap()).unwrap();
            close(ours.t(0.0), &theirs["t"]);
            close(ours.freedom, &theirs["df"]);
            close(ours.value, &theirs["mean_diff"]);
            close(sample_std(&differences).unwrap().powi(2), &theirs["var_diff_ddof1"]);
            p_close(ours.p(0.0), &theirs["p_two_sided"]);
            p_close(ours.p_greater(0.0), &theirs["p_greater"]);
        }
        let plain = Estimate::of(&differences).unwrap();
        close(plain.t(0.0), &pair["plain_paired_t"]["t"]);
        p_close(plain.p(0.0), &pair["plain_paired_t"]["p"]);
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn signed_ranks_are_those_of_scipy() {
    let golden = json("stats.json");
    for pair in golden["pairs"].as_array().unwrap() {
        let [(a, a_rows), (b, b_rows)] = [0, 1].map(|side| accuracies(&golden, &pair["pair"][side]));
        let theirs = &pair["wilcoxon"];
        for (zeros, word) in [(Zeros::Dropped, "wilcox"), (Zeros::Ranked, "pratt")] {
            let ranks = SignedRanks::of(&differences(&a, &b), zeros);
            for (corrected, flag) in [(false, "False"), (true, "True")] {
                let theirs = &theirs[format!("asymptotic_{word}_correction{flag}")];
                close(ranks.statistic(), &theirs["statistic"]);
                p_close(ranks.p_normal(Side::Both, corrected), &theirs["p"]);
            }
        }
        let ranks = SignedRanks::of(&differences(&a, &b), Zeros::Dropped);
        for (side, name) in [(Side::Greater, "asymptotic_greater"), (Side::Less, "asymptotic_less")] {
            close(ranks.positive, &theirs[name]["statistic"]);
            p_close(ranks.p_normal(side, false), &theirs[name]["p"]);
        }
        close(ranks.statistic(), &theirs["scipy_default"]["statistic"]);
        p_close(ranks.p(Side::Both), &theirs["scipy_default"]["p"]);

        let theirs = &pair["wilcoxon_exact_repeat_means"];
        let means = |rows: &[Vec<f64>]| rows.iter().map(|row| mean(row).unwrap()).collect::<Vec<f64>>();
        all_close(&differences(&means(&a_rows), &means(&b_rows)), &theirs["diffs"]);
        let ranks = SignedRanks::of(&numbers(&theirs["diffs"]), Zeros::Dropped);
        close(ranks.statistic(), &theirs["statistic"]);
        p_close(ranks.p_exact(Side::Both).unwrap(), &theirs["p"]);
        p_close(ranks.p_exact(Side::Greater).unwrap(), &theirs["p_greater"]);
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn families_of_p_values_are_adjusted_as_theirs() {
    let golden = json("stats.json");
    for (name, adjust) in
        [("holm", holm as fn(&[f64]) -> Vec<f64>), ("holm_example", holm), ("bh_example", benjamini_hochberg)]
    {
        let adjusted = adjust(&numbers(&golden[name]["raw"]));
        let theirs = golden[name]["adjusted"].as_array().unwrap();
        assert_eq!(adjusted.len(), theirs.len());
        adjusted.iter().zip(theirs).for_each(|(ours, theirs)| p_close(*ours, theirs));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs LITHOGEN_GOLDEN: the folder of reference vectors")]
fn scores_of_classifiers_are_those_of_scikit_learn() {
    let golden = json("classification.json");
    assert_eq!(golden["zero_division"], 0);
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let labels = |name: &str| numbers(&case[name]).into_iter().map(|label| label as usize).collect::<Vec<usize>>();
        let all = labels("labels");
        let confusion = Confusion::of(labels("y_true").into_iter().zip(labels("y_pred")), all.len());
        for (ours, theirs) in confusion.counts().iter().zip(case["confusion"].as_array().unwrap()) {
            assert_eq!(ours.iter().map(|count| *count as f64).collect::<Vec<f64>>(), numbers(theirs));
        }
        close(confusion.accuracy(), &case["accuracy"]);
        let per_class = confusion.per_class();
        let column = |value: fn(&Score) -> f64| per_class.iter().map(value).collect::<Vec<f64>>();
        all_close(&column(|score| score.precision), &case["per_class"]["precision"]);
        all_close(&column(|score| score.recall), &case["per_class"]["recall"]);
        all_close(&column(|score| score.f1), &case["per_class"]["f1"]);
        let support: Vec<f64> = all.iter().map(|&label| confusion.support(label) as f64).collect();
        all_close(&support, &case["per_class"]["support"]);
        for (ours, name) in
            [(confusion.macro_over(&all), "macro"), (confusion.weighted(), "weighted"), (confusion.micro(), "micro")]
        {
            close(ours.precision, &case[name]["precision"]);
            close(ours.recall, &case[name]["recall"]);
            close(ours.f1, &case[name]["f1"]);
        }
        close(confusion.kappa().unwrap(), &case["kappa"]);
        close(confusion.matthews(), &case["mcc"]);
        // Theirs is absent where labels are predicted that nothing carries.
        if !case["balanced_accuracy"].is_null() {
            close(confusion.balanced_accuracy().unwrap(), &case["balanced_accuracy"]);
        }
    }
}
