//! What has to be known of the numbers in a table.

use std::collections::{BTreeMap, BTreeSet};

use domain::study::experiment::{Correction, Varied};
use domain::study::results::{Cell, Results};
use domain::study::stone::View;

use crate::format::{count, passing};

/// The remarks below every table.
pub fn notes(results: &Results) -> Vec<String> {
    let asked = u64::from(results.repeats) * u64::from(results.folds);
    let mut notes = vec![
        format!(
            "Accuracy of patches in percent; chance is {:.1}. ± of ours is the {}, n = {asked} unless said \
             otherwise, all seeds derived from {}. Over what the paper's ± is, and over how many runs, it does not say.",
            results.chance, results.spread, results.seed
        ),
        intervals(results.varied),
        format!(
            "EQUIVALENT: nearer than {} points (TOST); CONSISTENT: inconclusive; HIGHER, LOWER: a difference is shown. {} \
             Detects: the smallest true difference, in points, that such a test finds with a power of 80 %. Needs s: the \
             largest ± with which as many runs can be EQUIVALENT. In ±: whether the difference is at most the paper's ±.",
            results.margin,
            correction(results)
        ),
    ];
    let short = results.cells.iter().filter(|cell| !cell.missing.is_empty());
    notes.extend(short.map(|cell| format!("{}: {} runs, without {}", cell.id, count(cell), cell.missing.join(", "))));
    notes.extend(results.cells.iter().flat_map(untested));
    notes.extend(results.cells.iter().filter_map(leaks));
    notes.extend(
        results
            .others
            .iter()
            .map(|other| format!("± of {} is the {}. {}", other.protocol, other.spread, intervals(other.varied))),
    );
    notes.extend(absent(results).into_iter().map(|(score, why)| format!("{score} is absent: {why}")));
    notes.extend(View::ALL.into_iter().filter_map(|view| gate(results, view)));
    notes.extend(results.readings.iter().map(|reading| format!("reading of the paper, with the default: {reading}")));
    if !results.comparable {
        notes.push("STAND-IN: NOT COMPARABLE WITH THE PAPER".to_owned());
        notes.extend(results.stand_ins.iter().map(|reason| format!("not comparable: {reason}")));
    }
    notes
}

/// What the intervals hold for.
fn intervals(varied: Varied) -> String {
    let words = varied.words();
    match varied {
        Varied::PicturesAndSeeds => format!(
            "95 % intervals hold for {words}; their variance is corrected for shared training images (Nadeau and Bengio \
             2003). They are cut at 0 and 100."
        ),
        Varied::SeedsOnly => format!(
            "95 % intervals hold for {words}: with other pictures the accuracy may lie far outside. They are cut at 0 and 100."
        ),
    }
}

/// How the verdicts are corrected for their number.
fn correction(results: &Results) -> String {
    let tested = results.cells.iter().filter(|cell| cell.p_adjusted.is_some());
    let trainings: BTreeSet<(View, &str)> = tested.map(|cell| (cell.view, cell.training.as_str())).collect();
    match results.correction {
        Correction::Holm if trainings.is_empty() => "Verdicts are corrected for their number (Holm).".to_owned(),
        Correction::Holm => format!(
            "Verdicts are corrected for their number by Holm over {} trainings; intervals hold each for itself.",
            trainings.len()
        ),
        Correction::None => "Verdicts are not corrected for their number (tl.correction=none).".to_owned(),
    }
}

/// The classes that runs of a cell do not test.
fn untested(cell: &Cell) -> impl Iterator<Item = String> {
    cell.untested.iter().map(|untested| {
        let classes: Vec<&str> = untested.classes.iter().map(|class| class.code()).collect();
        let full = cell.mean_of_full_runs.map_or_else(
            || "no run tests all classes".to_owned(),
            |mean| format!("the mean of runs that test all classes is {mean:.2}"),
        );
        format!(
            "* {}: no picture of {} is tested in {}; their accuracy is over the other classes; {full}",
            cell.id,
            classes.join(", "),
            untested.runs.join(", ")
        )
    })
}

/// The first picture that leaks into a cell, its way, and how many more there are.
fn leaks(cell: &Cell) -> Option<String> {
    let (leak, others) = cell.leaks.split_first()?;
    let more = if others.is_empty() { String::new() } else { format!("; so were {} more pictures", others.len()) };
    let what = match cell.mean {
        None => "REFUSED, for it leaks (--allow-leak fills it)",
        Some(_) => "LEAKS, which was allowed",
    };
    let (runs, path) = (leak.runs.join(", "), leak.path.join(" ← "));
    Some(format!("{}: {what}: {} is tested ({runs}) and was learnt from: {path}{more}", cell.id, leak.image))
}

/// The scores of synthetic pictures that are absent, and why.
fn absent(results: &Results) -> Vec<(String, String)> {
    let of_properties = results.drift.iter().map(|score| (format!("drift of {}", score.view), &score.why));
    let of_views = results.sifid.iter().map(|score| (format!("SIFID of {}", score.view), &score.why));
    let of_maps = results.heatmap.iter().map(|score| (format!("the heat map of {}", score.view), &score.why));
    let sinddm = of_properties.chain(of_views).chain(of_maps);
    let mut absent: Vec<(String, String)> = sinddm.filter_map(|(score, why)| Some((score, why.clone()?))).collect();
    for score in &results.compared {
        let of_model = |(kind, why): (&String, &String)| {
            (format!("{kind} of the {} of {}", score.system.name(), score.model().dotted()), why.clone())
        };
        absent.extend(score.why.iter().map(of_model));
    }
    // All properties of a view are absent for one reason.
    absent.dedup();
    absent
}

/// How many synthetic pictures of a view pass the gate, and what is wrong with the others.
fn gate(results: &Results, view: View) -> Option<String> {
    let gate = results.gate(view)?;
    let generators = || results.generators.iter().filter(|generator| generator.view == view);
    let mut faults = BTreeMap::new();
    for (fault, count) in generators().flat_map(|generator| &generator.faults) {
        *faults.entry(fault).or_insert(0) += u64::from(*count);
    }
    let faults: Vec<String> = faults.into_iter().map(|(fault, count)| format!("{count} {}", fault.words())).collect();
    let mut note = format!(
        "B of {view}: {} of {} synthetic pictures ({}) show one central object as the pictures that their models \
         learnt from do",
        gate.passed,
        gate.samples,
        passing(Some(gate.passing()))
    );
    if !faults.is_empty() {
        note += &format!("; of the others, {}", faults.join(", "));
    }
    let drawn: u64 = generators().filter_map(|generator| generator.drawn).map(u64::from).sum();
    if drawn > 0 {
        note += &format!("; {drawn} were drawn, as those that did not were drawn again (sinddm.reject_empty)");
    }
    Some(note + ". The column “B passes” has this share beside every number that rests on them.")
}
