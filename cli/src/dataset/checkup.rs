//! A data set looked at before a study meets it: every picture decoded, counted,
//! compared with all others and put on its side of the split.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use domain::seed::Seed;
use domain::study::experiment::Experiment;
use domain::study::paper;
use domain::study::plan::{self, Data};
use domain::study::stage::{Failure, Ingest, Monitor, Patches, Stage};
use domain::study::stone::{Class, Dataset, View};
use science::data::checkup::{Look, alike};
use science::data::split::{self, Role};
use science::data::{batch, picture};
use science::stages::{ingest, patches};
use serde::Serialize;

use super::folders::{self, Layout};
use super::stones::Place;

/// Findings of one kind that are listed one by one.
const LISTED: usize = 20;

/// Tested pictures up to which a class deserves a warning: each decides a large part
/// of its accuracy.
const FEW_TESTED: usize = 2;

/// What was found, as `lithogen dataset check --json` prints it.
#[derive(Debug, Serialize)]
pub struct Checkup {
    /// Version of the document.
    pub schema_version: u32,
    /// What the pictures are, if they only stand in for real ones.
    pub stand_in: Option<String>,
    /// Every class of A and C.
    pub classes: Vec<ClassCheck>,
    /// All findings, the worst first.
    pub findings: Vec<Finding>,
}

/// One class folder.
#[derive(Debug, Serialize)]
pub struct ClassCheck {
    pub dataset: Dataset,
    pub view: View,
    pub class: Class,
    /// The folder of the class, or what it would be called.
    pub folder: PathBuf,
    /// Pictures, those that cannot be opened included.
    pub pictures: usize,
    /// Pictures in earlier work on the same data sets: the paper prints no numbers by class.
    pub paper: u32,
    /// Width and height of the smallest and the largest picture, by area.
    pub sizes: Option<[[u32; 2]; 2]>,
    /// Colour types as stored.
    pub colors: BTreeSet<String>,
    /// Pictures whose file says that they have to be turned.
    pub turned: usize,
    /// Pictures with a mask.
    pub masks: usize,
    /// Stones that the pictures are of; absent if nothing names them.
    pub stones: Option<usize>,
    /// Pictures that a diffusion model learns from.
    pub generator: usize,
    /// Pictures on the test side of each fold of the first split; empty if the class
    /// cannot be split.
    pub tested: Vec<usize>,
}

/// Something that a person should know.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// What is wrong, where, and what to do.
    pub text: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A study refuses these data, or its results would be wrong.
    Blocking,
    /// Results may be less than they seem.
    Warning,
    /// Good to know.
    Note,
}

/// How the pictures of one view of a data set are split: the parameters and seeds of
/// the study's own tasks.
struct Splits {
    ingest: Ingest,
    /// The parameters of each split, whichever the fold, and its seed.
    patches: Vec<(Patches, Seed)>,
}

/// What the pictures of one class are for.
struct Sides {
    roles: Vec<Role>,
    /// Folds of the first split.
    folds: u32,
    /// For each split, the fold in which each picture is tested, if any.
    tested: Vec<Vec<Option<u32>>>,
}

impl Sides {
    /// The folds of the splits in which a picture is tested.
    fn of(&self, picture: usize) -> Vec<Option<u32>> {
        self.tested.iter().map(|folds| folds[picture]).collect()
    }

    /// Pictures on the test side of each fold of the first split.
    fn counts(&self) -> Vec<usize> {
        let Some(first) = self.tested.first() else { return Vec::new() };
        (0..self.folds).map(|fold| first.iter().filter(|tested| **tested == Some(fold)).count()).collect()
    }
}

/// A class with its pictures.
struct Member {
    of: Place,
    folder: PathBuf,
    files: Vec<PathBuf>,
    /// Stones by number, as far as they are known.
    stones: Vec<Option<u32>>,
}

impl Member {
    /// Stones that the pictures are of; absent if nothing names them.
    fn stones(&self) -> Option<usize> {
        self.stones.iter().any(Option::is_some).then(|| split::count(&self.stones))
    }
}

/// Looks at all pictures below `root`; `tell` hears how many of how many are done.
///
/// # Errors
/// If `root` is no folder, or a folder in it cannot be read.
pub fn check(root: &Path, experiment: &Experiment, tell: &mut dyn FnMut(u64, u64)) -> anyhow::Result<Checkup> {
    let Layout { raw, folders, problems } = folders::layout(root)?;
    let mut findings = Findings::default();
    problems.into_iter().for_each(|problem| findings.add(Severity::Blocking, problem));
    let mut members = Vec::new();
    for (of, folder) in folders {
        let files = if folder.is_dir() { picture::files(&folder)? } else { Vec::new() };
        if !folder.is_dir() {
            findings.add(Severity::Blocking, format!("{}: missing; every class needs a folder", folder.display()));
        }
        members.push(Member { of, folder, files, stones: Vec::new() });
    }
    name_stones(&raw, &mut members, &mut findings);

    let with_mask = |member: &Member| {
        let masks = folders::masks_of(&raw, member.of, &member.folder);
        member.files.iter().map(|path| (path.clone(), picture::mask_of(&masks, path))).collect::<Vec<_>>()
    };
    let files: Vec<(PathBuf, Option<PathBuf>)> = members.iter().flat_map(with_mask).collect();
    let opened =
        batch::map(&files, "picture", &mut Telling(tell), |(path, mask)| Ok(Opened::at(path, mask.as_deref())))?;
    let mut opened = opened.into_iter();
    let splits = splits(experiment)?;
    let (mut classes, mut looks, mut placed) = (Vec::new(), Vec::new(), Vec::new());
    for member in &members {
        let own: Vec<Opened> = opened.by_ref().take(member.files.len()).collect();
        let sides = splits.get(&(member.of.0, member.of.1)).and_then(|splits| sides(member, splits, &mut findings));
        classes.push(class_of(member, &own, sides.as_ref(), &mut findings));
        for (number, Opened { look, mask }) in own.into_iter().enumerate() {
            if let Some(Err(failure)) = mask {
                findings.add(Severity::Blocking, failure.message);
            }
            match look {
                Ok(look) => {
                    placed.push((member.of, sides.as_ref().map(|sides| sides.of(number))));
                    small(&look, experiment, &mut findings);
                    looks.push(look);
                }
                Err(failure) => findings.add(Severity::Blocking, failure.message),
            }
        }
    }
    let others = classes.iter().filter(|class: &&ClassCheck| class.pictures != class.paper as usize).count();
    if others > 0 {
        let text = format!(
            "{others} of {} classes have another number of pictures than in earlier work on these data sets",
            classes.len()
        );
        findings.add(Severity::Note, text);
    }
    for (earlier, path) in folders::same_files(looks.iter().map(|look| (look.digest, &look.path))) {
        let text = format!("{} and {} are the same file; remove one", earlier.display(), path.display());
        findings.add(Severity::Blocking, text);
    }
    look_alikes(&looks, &placed, &mut findings);
    let stand_in = folders::stand_in(&raw)?;
    if let Some(what) = &stand_in {
        findings
            .add(Severity::Note, format!("stand-in data: {what}; nothing made with them is compared with the paper"));
    }
    Ok(Checkup { schema_version: 1, stand_in, classes, findings: findings.sorted() })
}

/// A picture as it was found.
struct Opened {
    look: Result<Look, Failure>,
    /// Whether its mask can be used, if it has one.
    mask: Option<Result<(), Failure>>,
}

impl Opened {
    fn at(path: &Path, mask: Option<&Path>) -> Self {
        let look = Look::at(path);
        let open = |mask| Some(picture::open_mask(mask, path, look.as_ref().ok()?.size).map(drop));
        Self { mask: mask.and_then(open), look }
    }
}

/// Reads `manifest.csv`, and says what follows from it.
fn name_stones(raw: &Path, members: &mut [Member], findings: &mut Findings) {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pictures = members.iter().map(|member| (member.of, member.files.iter().map(name).collect())).collect();
    let folders = members.iter().map(|member| (member.of, member.folder.clone())).collect();
    let stones = folders::stones(raw, &pictures, &folders);
    stones.problems.iter().for_each(|problem| findings.add(Severity::Blocking, problem.clone()));
    for member in &mut *members {
        let numbers = stones.numbers(member.of);
        member.stones = member.files.iter().map(|path| numbers.get(&name(path)).copied()).collect();
    }
    let [named, count] = stones.counts();
    if named == 0 {
        return;
    }
    let text = format!("manifest.csv names {count} stones of {named} pictures: each stone is on one side of a split");
    findings.add(Severity::Note, text);
    let all: usize = members.iter().map(|member| member.files.len()).sum();
    if named < all {
        let text = format!("manifest.csv names no stone of {} pictures: each counts as one of its own", all - named);
        findings.add(Severity::Warning, text);
    }
    let both = stones.in_both();
    if !both.is_empty() {
        let some = both.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        let text = format!(
            "{} stones are in A and in C ({some}{}): what is learnt from one may be tested on the other",
            both.len(),
            if both.len() > 5 { ", …" } else { "" }
        );
        findings.add(Severity::Warning, text);
    }
}

impl Checkup {
    /// Whether a study refuses the data.
    pub fn blocks(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Blocking)
    }
}

/// How each view of A and C is split, as the study's own tasks do it.
fn splits(experiment: &Experiment) -> anyhow::Result<BTreeMap<(Dataset, View), Splits>> {
    let plan = plan::plan(experiment, &Data::of_the_paper())?;
    let mut splits = BTreeMap::new();
    // A task stands after those that it needs: the view is known when it is split.
    for task in plan.tasks {
        match task.stage {
            Stage::Ingest(ingest) => {
                splits.insert((ingest.dataset, ingest.view), Splits { ingest, patches: Vec::new() });
            }
            Stage::Patches(patches) if patches.split.fold == 0 => {
                if let Some(of) = splits.get_mut(&(patches.dataset, patches.view)) {
                    of.patches.push((patches, task.seed));
                }
            }
            _ => {}
        }
    }
    Ok(splits)
}

fn sides(member: &Member, splits: &Splits, findings: &mut Findings) -> Option<Sides> {
    let (dataset, view, class) = member.of;
    let ingest = &splits.ingest;
    let Some(roles) = split::roles(ingest.choice.as_ref(), class, &member.stones) else {
        findings.add(Severity::Blocking, ingest::too_few(ingest, class, &member.stones).message);
        return None;
    };
    let testable: Vec<bool> = roles.iter().map(|role| role.testable).collect();
    let folds = |(patches, seed): &(Patches, Seed)| patches::folds(patches, class, &member.stones, &testable, *seed);
    let tested = splits.patches.iter().map(folds).collect::<Option<Vec<_>>>()?;
    let folds = splits.patches.first().map_or(1, |(patches, _)| patches.split.folds);
    let sides = Sides { roles, folds, tested };
    let counts = sides.counts();
    let fewest = counts.iter().copied().min().unwrap_or(0);
    if fewest == 0 {
        let without = counts.iter().filter(|count| **count == 0).count();
        findings.add(
            Severity::Warning,
            format!(
                "{dataset}/{view}/{class} ({}) has {} pictures, of which {} may be tested, fewer than there are folds: in \
                 {without} of {} splits it is not tested, and the accuracy there is over the other classes",
                class.mineral(),
                member.files.len(),
                testable.iter().filter(|testable| **testable).count(),
                counts.len()
            ),
        );
    } else if fewest <= FEW_TESTED {
        let points = 100.0 / (dataset.classes().len() * fewest.max(1)) as f64;
        findings.add(
            Severity::Warning,
            format!(
                "{dataset}/{view}/{class} ({}) has {} pictures, of which {fewest} are tested at a time: one of them more \
                 or less recognised moves the accuracy of {view} by {points:.1} points",
                class.mineral(),
                member.files.len(),
            ),
        );
    }
    Some(sides)
}

fn class_of(member: &Member, opened: &[Opened], sides: Option<&Sides>, findings: &mut Findings) -> ClassCheck {
    let (dataset, view, class) = member.of;
    let name = format!("{dataset}/{view}/{class}");
    let good: Vec<&Look> = opened.iter().flat_map(|opened| &opened.look).collect();
    let mut sizes: Vec<[u32; 2]> = good.iter().map(|look| look.size).collect();
    sizes.sort_by_key(|[width, height]| u64::from(*width) * u64::from(*height));
    let colors: BTreeSet<String> = good.iter().map(|look| look.color.clone()).collect();
    if colors.iter().any(|color| color != "Rgb8") {
        let colors: Vec<&str> = colors.iter().map(String::as_str).collect();
        findings.add(Severity::Note, format!("{name}: {} are read as 8-bit RGB", colors.join(", ")));
    }
    let turned = good.iter().filter(|look| look.turned).count();
    if turned > 0 {
        findings.add(Severity::Note, format!("{name}: {turned} are turned upright, as their EXIF data say"));
    }
    ClassCheck {
        dataset,
        view,
        class,
        folder: member.folder.clone(),
        pictures: member.files.len(),
        paper: paper::image_count(dataset, view, class).unwrap_or(0),
        sizes: sizes.first().zip(sizes.last()).map(|(small, large)| [*small, *large]),
        colors,
        turned,
        masks: opened.iter().filter(|opened| matches!(opened.mask, Some(Ok(())))).count(),
        stones: member.stones(),
        generator: sides.map_or(0, |sides| sides.roles.iter().filter(|role| role.generator).count()),
        tested: sides.map_or_else(Vec::new, Sides::counts),
    }
}

fn small(look: &Look, experiment: &Experiment, findings: &mut Findings) {
    let ([width, height], least) = (look.size, experiment.patch.size);
    if width.min(height) < least {
        let path = look.path.display();
        let text =
            format!("{path} has {width}x{height} pixels, but a patch {least}x{least}: remove it or lower patch.size");
        findings.add(Severity::Blocking, text);
    }
}

/// A class, and the folds of the splits in which one of its pictures is tested;
/// unknown where the class cannot be split.
type Placed = (Place, Option<Vec<Option<u32>>>);

/// Pictures that are nearly the same, and what that does to the study.
fn look_alikes(looks: &[Look], placed: &[Placed], findings: &mut Findings) {
    for (first, second) in alike(looks) {
        let ((class, tested), (other, other_tested)) = (&placed[first], &placed[second]);
        let what = if class.0 != other.0 {
            "one in A and one in C: what is learnt from one may be tested on the other"
        } else if class != other {
            "in different classes or views"
        } else if tested != other_tested {
            "one is tested while the other is learnt from"
        } else {
            "on the same side of the split"
        };
        let [one, two] = [first, second].map(|place| looks[place].path.display());
        findings.add(Severity::Warning, format!("{one} and {two} look alike, {what}"));
    }
}

/// Findings in the order in which they are made.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, text: String) {
        self.0.push(Finding { severity, text });
    }

    /// All findings, the worst first, otherwise in the order in which they were made.
    fn sorted(mut self) -> Vec<Finding> {
        self.0.sort_by_key(|finding| finding.severity);
        self.0
    }
}

/// Hears of pictures that have been opened.
struct Telling<'a>(&'a mut dyn FnMut(u64, u64));

impl Monitor for Telling<'_> {
    fn progress(&mut self, progress: domain::study::stage::Progress) {
        (self.0)(progress.done, progress.total);
    }

    fn stopping(&self) -> bool {
        false
    }
}

/// The checkup for people.
pub fn text(checkup: &Checkup) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "class",
        "",
        "pictures",
        "earlier",
        "pixels",
        "colours",
        "masks",
        "stones",
        "for SinDDM",
        "tested per fold",
    ]);
    for class in &checkup.classes {
        let size = |[width, height]: [u32; 2]| format!("{width}x{height}");
        let sizes = match class.sizes {
            None => "–".to_owned(),
            Some([small, large]) if small == large => size(small),
            Some([small, large]) => format!("{} – {}", size(small), size(large)),
        };
        let colors: Vec<&str> = class.colors.iter().map(String::as_str).collect();
        let tested: Vec<String> = class.tested.iter().map(ToString::to_string).collect();
        table.add_row([
            format!("{}/{}/{}", class.dataset, class.view, class.class),
            class.class.mineral().to_owned(),
            class.pictures.to_string(),
            class.paper.to_string(),
            sizes,
            colors.join(" "),
            class.masks.to_string(),
            class.stones.map_or_else(|| "–".to_owned(), |stones| stones.to_string()),
            class.generator.to_string(),
            tested.join(" "),
        ]);
    }
    let mut text = format!("{table}\n\n");
    for severity in [Severity::Blocking, Severity::Warning, Severity::Note] {
        let of_it: Vec<&Finding> = checkup.findings.iter().filter(|finding| finding.severity == severity).collect();
        let word = match severity {
            Severity::Blocking => "blocking",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        for finding in of_it.iter().take(LISTED) {
            text.push_str(&format!("{word:8} {}\n", finding.text));
        }
        if of_it.len() > LISTED {
            text.push_str(&format!("{word:8} and {} more; --json lists all\n", of_it.len() - LISTED));
        }
    }
    text
}
