//! Places where the text contradicts itself, its tables or earlier work, and gaps in the
//! text that decide a number.

use super::{Finding, finding};
use crate::study::paper;
use crate::study::stone::{Class, Dataset, View};

/// All contradictions and gaps; those about pictures come first.
pub(super) fn findings() -> Vec<Finding> {
    [data(), generation(), evaluation(), training()].concat()
}

/// Findings that are not computed from numbers.
fn said(id: &str, what: &str, evidence: &[&str]) -> Finding {
    finding(id, what.to_owned(), evidence.iter().map(|&place| place.to_owned()).collect())
}

/// Findings about the data sets.
fn data() -> Vec<Finding> {
    let shared = Dataset::A.classes().into_iter().filter(|class| Dataset::C.classes().contains(class)).count();
    vec![
        class_counts(),
        few_pictures(),
        finding(
            "classes",
            format!("A and B share {shared} of six classes with C, so Accuracy I and II are not on one scale"),
            vec!["A, B: CAR, CAR2".to_owned(), "C: UA, WD".to_owned()],
        ),
        said(
            "class-names",
            "carbapatite has two names, IVa and IVa1; both are taken for the class IVa",
            &["the lists of classes"],
        ),
        said(
            "dataset-b",
            "“Dataset B” stands for the endoscopic pictures in two places, which are data set C everywhere else",
            &["Fig. 3", "the paragraph on data set C"],
        ),
        said(
            "unseen",
            "the abstract speaks of unseen intra-operative data; data set C shows fragments ex vivo in a simulated \
             scene, and every model that is scored on it has been trained on its other pictures",
            &["abstract", "the description of data set C", "Table I, rows 3 and 6 to 8"],
        ),
        finding(
            "sides",
            "sizes have the height first in some places and the width first in others, if all pictures lie".to_owned(),
            [
                &paper::text().canvas_in_figure,
                &paper::text().endoscopic_size,
                &paper::text().sample_size,
                &paper::text().enlarged_size,
            ]
            .map(|size| size.quote.clone())
            .to_vec(),
        ),
    ]
}

/// Findings about the counts of pictures that the paper prints.
fn class_counts() -> Finding {
    let sets = [Dataset::A, Dataset::C].into_iter().flat_map(|dataset| View::ALL.map(|view| (dataset, view)));
    let (mut totals, mut evidence) = (vec![], vec![]);
    for (dataset, view) in sets {
        let total = paper::image_total(dataset, view).unwrap_or_default();
        let counts = dataset.classes().into_iter().filter_map(|class| paper::image_count(dataset, view, class));
        let counts: Vec<String> = counts.map(|count| count.to_string()).collect();
        evidence.push(format!("{dataset}/{view}: {total} printed; {} in earlier work", counts.join(" + ")));
        totals.push(total.to_string());
    }
    finding(
        "class-counts",
        format!(
            "four totals of pictures are printed ({}) and no count of a class; counts of classes come from earlier work \
             on the same data sets and add up to these totals",
            totals.join(", ")
        ),
        evidence,
    )
}

/// Classes so small that a fifth of their pictures is one picture.
fn few_pictures() -> Finding {
    let text = paper::text();
    let share = f64::from(text.test_patches_per_class.value) / f64::from(text.patches_per_class.value);
    let all = [Dataset::A, Dataset::C].into_iter().flat_map(|dataset| {
        let classes = move |view| dataset.classes().map(move |class| (dataset, view, class));
        View::ALL.into_iter().flat_map(classes)
    });
    let counted = all
        .filter_map(|(dataset, view, class)| Some((dataset, view, class, paper::image_count(dataset, view, class)?)));
    let few: Vec<(Dataset, View, Class, u32)> =
        counted.filter(|(.., count)| (share * f64::from(*count)).round() <= 1.0).collect();
    let points = 100.0 / Dataset::C.classes().len() as f64;
    let named = few
        .iter()
        .map(|(dataset, view, class, count)| format!("{dataset}/{view}/{class} ({}): {count}", class.mineral()));
    let smallest = few.iter().map(|(.., count)| *count).min().unwrap_or_default();
    finding(
        "few-pictures",
        format!(
            "one class has {smallest} pictures, by earlier work: if whole pictures are tested, one of them carries all \
             {} test patches of its class, and whether it is recognised moves the accuracy by up to {points:.1} points",
            text.test_patches_per_class.value
        ),
        named.chain([text.test_patches_per_class.quote.clone()]).collect(),
    )
}

/// Findings about padding, SinDDM and Swin2SR.
fn generation() -> Vec<Finding> {
    let text = paper::text();
    let aspect = |size: &paper::Quoted<[u32; 2]>| {
        format!("{}: aspect {:.2}", size.quote, f64::from(size.value[0]) / f64::from(size.value[1]))
    };
    let [width, height] = text.sample_size.value;
    let models = View::ALL.len() * Dataset::A.classes().len();
    let samples = models as u32 * text.samples_per_model.value;
    vec![
        finding(
            "canvas",
            "the canvas is 2848×4288 in one place and 2448×4288 in another; neither has the shape of 264×200 samples"
                .to_owned(),
            vec![
                aspect(&text.canvas_in_figure),
                aspect(&text.canvas_in_text),
                aspect(&text.sample_size),
                format!(
                    "264×200 has {} pixels; the published program of SinDDM, whose details are said to be kept, allows \
                     50000",
                    width * height
                ),
                "a canvas of aspect 1.33, padded for Swin2SR as in Hugging Face's port, gives 264×200 and 1056×800"
                    .to_owned(),
            ],
        ),
        said(
            "single-image",
            "SinDDM learns from one picture; the paper trains eight per model and does not say how",
            &["what the text says of its diffusion models"],
        ),
        said(
            "which-pictures",
            "which eight pictures each model learns from is not said, nor whether they are tested as pictures of A \
             later: rows 4 and 5 may then test what the generator has seen",
            &["the choice is said to be random", "Table I, rows 4 and 5"],
        ),
        finding(
            "samples",
            format!(
                "“a total of {} images” stands where the counts give {samples}, {} for each of {models} models",
                text.samples_in_words.value, text.samples_per_model.value
            ),
            vec![text.samples_in_words.quote.clone(), text.samples_per_model.quote.clone(), text.samples.quote.clone()],
        ),
        said(
            "rescale-loss",
            "the loss that sets SinDDM's noise levels is called a mean squared error; the published program divides the \
             norm of differences that wrap around at 256 by their number, which is another quantity",
            &["what the text says of SinDDM", "the published program of SinDDM, 2023"],
        ),
        said(
            "swin2sr",
            "which weights of Swin2SR are used is not said; the branch that the text describes is only in those for \
             compressed pictures",
            &["what the text says of Swin2SR", "the published program of Swin2SR, 2023"],
        ),
    ]
}

/// Findings about drift, SIFID, FID and experts, without the drift scores themselves.
fn evaluation() -> Vec<Finding> {
    let text = paper::text();
    let sifid = View::ALL.map(|view| {
        let score = paper::sifid(view);
        format!("SIFID of SinDDM, {view}: {:.2} ± {:.2}", score.mean, score.std)
    });
    vec![
        said(
            "property",
            "the fourth property is printed without its colour; by its place it is the mean red relative intensity",
            &["the list of properties"],
        ),
        said(
            "sifid",
            "SIFID compares one real with one synthetic picture; how 25 and 8 were paired, and at which size, is not said",
            &["SIFID", "printed elsewhere for generators of single pictures: 0.03 to 0.8"],
        ),
        finding(
            "fid",
            "the FID of one generator is ranked against the SIFID of another: distances of different features of \
             different things, which have no common scale"
                .to_owned(),
            [text.fid_ddpm.quote.clone()].into_iter().chain(sifid).collect(),
        ),
        said(
            "ddpm",
            "of the DDPM that SinDDM is compared with, neither program, resolution, number of models, steps nor the \
             number of pictures behind its FID is said",
            &["the comparison with Ho et al. (2020)"],
        ),
        said(
            "experts",
            "a validation by experts is mentioned; who looked at what, how, and with which result is not printed",
            &["what the text says of experts"],
        ),
    ]
}

/// Findings about patches and classifiers.
fn training() -> Vec<Finding> {
    vec![
        said(
            "whole-images",
            "training on whole images is claimed; the experiments train on patches",
            &["what the text claims", "V: patches of 256×256"],
        ),
        overlap(),
        magnification(),
        said(
            "split",
            "“patches from the same image were excluded from both the training/validation and test” leaves, by the \
             letter, no patch; it is taken to mean that no image is on both sides",
            &["the paragraph on patches"],
        ),
        said(
            "baseline",
            "baselines are trained “from scratch” in one place and from ImageNet in another",
            &["IV-B", "V-B, Table I"],
        ),
        said(
            "head",
            "“fully connected layers were omitted” in the second step: whether no new ones were added or those of the \
             first were taken off is not said",
            &["what the text says of the second step"],
        ),
        said(
            "mix",
            "how A and B are mixed, and on which pictures Accuracy I of row 8 is tested, is not said",
            &["Table I, row 8"],
        ),
        said(
            "settings",
            "not said: the epochs of the first step, how learning rates fall, how much is held out for validation, \
             whether patches are whitened as in earlier work, and which epoch is tested",
            &["the settings of training"],
        ),
        spread(),
        order(),
    ]
}

/// The number of patches that fit into a picture by the rule of earlier work.
fn overlap() -> Finding {
    let (text, earlier) = (paper::text(), paper::earlier());
    let (side, most) = (text.patch_size.value, earlier.overlap.value);
    let room = |size: [u32; 2]| -> u32 { size.map(|length| (length - side) / (side - most) + 1).into_iter().product() };
    let needed = |pictures: u32| text.patches_per_class.value.div_ceil(pictures);
    let fewest = |dataset: Dataset| {
        let counts = View::ALL.into_iter().flat_map(|view| {
            dataset.classes().into_iter().filter_map(move |class| paper::image_count(dataset, view, class))
        });
        counts.min().unwrap_or(text.samples_per_model.value)
    };
    let line = |dataset: Dataset, size: [u32; 2]| {
        let pictures = fewest(dataset);
        format!(
            "{dataset}: room for {} patches in {}×{} pixels; the class with fewest pictures ({pictures}) needs {} of each",
            room(size),
            size[0],
            size[1],
            needed(pictures)
        )
    };
    finding(
        "overlap",
        format!(
            "how far patches overlap is not said; {most} pixels at most, as earlier work can be read, leave room for \
             {} patches in a picture of C and {} in one of B, where {} per class need more",
            room(text.endoscopic_size.value),
            room(text.enlarged_size.value),
            text.patches_per_class.value
        ),
        vec![
            earlier.overlap.quote.clone(),
            line(Dataset::C, text.endoscopic_size.value),
            line(Dataset::B, text.enlarged_size.value),
            line(Dataset::A, text.canvas_in_figure.value),
        ],
    )
}

/// The share of a picture that a patch shows.
fn magnification() -> Finding {
    let text = paper::text();
    let share = |[width, _]: [u32; 2]| 100.0 * f64::from(text.patch_size.value) / f64::from(width);
    finding(
        "magnification",
        format!(
            "a patch spans {:.0} % of the width of a CCD picture, {:.0} % of a synthetic and {:.0} % of an endoscopic \
             one, if each is cut at its own size: what synthetic patches add may be their scale; it is not discussed",
            share(text.canvas_in_figure.value),
            share(text.enlarged_size.value),
            share(text.endoscopic_size.value)
        ),
        vec![
            text.patch_size.quote.clone(),
            text.canvas_in_figure.quote.clone(),
            text.enlarged_size.quote.clone(),
            text.endoscopic_size.quote.clone(),
        ],
    )
}

/// The size of the printed ± beside those of earlier work.
fn spread() -> Finding {
    let earlier = paper::earlier();
    let cells = paper::TABLE_1.iter().flat_map(|row| [Some(row.accuracy_1), row.accuracy_2]).flatten();
    let stds: Vec<f64> = cells.map(|cell| cell.std).collect();
    let [low, high] = earlier.spread_of_executions.value;
    let larger = stds.iter().filter(|std| **std > high).count();
    let smallest = stds.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = stds.iter().copied().fold(0.0, f64::max);
    finding(
        "spread",
        format!(
            "{larger} of {} ± are larger than any that earlier work prints over its runs of the same method, the largest \
             like spreads over classes there; over what they are is not said",
            stds.len()
        ),
        vec![
            format!("Table I: {smallest:.2} to {largest:.2}"),
            format!("{low:.1} to {high:.1} ({}; {})", earlier.spread_of_executions.quote, earlier.executions.quote),
            format!(
                "{:.1} to {:.1} ({})",
                earlier.spread_of_classes.value[0], earlier.spread_of_classes.value[1], earlier.spread_of_classes.quote
            ),
        ],
    )
}

/// The view that is harder to classify, by this paper and by earlier work.
fn order() -> Finding {
    let earlier = paper::earlier();
    let here =
        ["SUR-2-1", "SEC-2-1"].map(|id| format!("{id}: {:.2}", paper::cell(id).map_or(f64::NAN, |cell| cell.mean)));
    let there =
        [&earlier.accuracy_sur, &earlier.accuracy_sec].map(|found| format!("{:.1} ({})", found.value, found.quote));
    finding(
        "order-of-views",
        "on A, sections are harder than surfaces here and easier in earlier work on the same pictures by the same \
         method; why is not said"
            .to_owned(),
        [here, there].concat(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(id: &str) -> Finding {
        findings().into_iter().find(|finding| finding.id == id).unwrap_or_else(|| panic!("no {id}"))
    }

    #[test]
    fn one_brushite_section_is_a_sixth_of_the_accuracy() {
        let found = get("few-pictures");
        assert!(found.finding.starts_with("one class has 4 pictures") && found.finding.ends_with("up to 16.7 points"));
        assert_eq!(found.evidence[0], "C/SEC/IVd (BRU): 4");
        assert_eq!(found.evidence.len(), 2, "no other class has so few: {found:?}");
    }

    #[test]
    fn counts_of_classes_are_told_apart_from_what_is_printed() {
        let found = get("class-counts");
        assert!(found.finding.starts_with("four totals of pictures are printed (209, 157, 246, 163) and no count"));
        assert_eq!(found.evidence[3], "C/SEC: 163 printed; 50 + 12 + 24 + 4 + 25 + 48 in earlier work");
    }

    #[test]
    fn twenty_five_are_three_hundred() {
        assert!(get("samples").finding.contains("where the counts give 300, 25 for each of 12 models"));
        assert_eq!(paper::text().samples.value, 300);
    }

    /// ALGORITHM 6.
    #[test]
    fn patches_that_hardly_overlap_have_no_room() {
        let found = get("overlap");
        assert!(found.finding.contains("room for 6 patches in a picture of C and 12 in one of B"), "{found:?}");
        assert!(
            found.evidence[1].ends_with("(4) needs 250 of each")
                && found.evidence[2].ends_with("(25) needs 40 of each")
        );
        assert_eq!(
            found.evidence[3],
            "A: room for 198 patches in 4288×2848 pixels; the class with fewest pictures (11) needs 91 of each"
        );
    }

    #[test]
    fn sizes_and_shares_are_those_of_the_specification() {
        let canvas = get("canvas").evidence;
        assert!(canvas[0].ends_with("aspect 1.51") && canvas[1].ends_with("1.75") && canvas[2].ends_with("1.32"));
        assert!(canvas[3].starts_with("264×200 has 52800 pixels"));
        assert!(
            get("magnification").finding.contains("6 % of the width of a CCD picture, 24 % of a synthetic and 33 %")
        );
    }

    #[test]
    fn most_spreads_are_larger_than_those_of_earlier_runs() {
        let found = get("spread");
        assert!(found.finding.starts_with("19 of 26 ±"), "{}", found.finding);
        assert_eq!(found.evidence[0], "Table I: 3.65 to 17.87");
        assert_eq!(get("order-of-views").evidence[..2], ["SUR-2-1: 81.72", "SEC-2-1: 71.95"]);
    }

    #[test]
    fn distances_on_different_scales_are_named() {
        let fid = get("fid");
        assert_eq!(fid.evidence[0], paper::text().fid_ddpm.quote);
        assert_eq!(fid.evidence[1..], ["SIFID of SinDDM, SUR: 3.14 ± 0.93", "SIFID of SinDDM, SEC: 3.79 ± 1.71"]);
    }
}
