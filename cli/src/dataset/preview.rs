//! The patches of a data set, cut in this process by the stages of a study, to be
//! looked at before one is begun.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use domain::seed::Seed;
use domain::study::experiment::Experiment;
use domain::study::plan::{self, Data};
use domain::study::records::{ClassPatches, ImageList, PatchesRecord, Record};
use domain::study::stage::{Failure, FailureCode, Folder, Ingest, Monitor, Patches, Progress, Stage};
use domain::study::stone::{Dataset, View};
use domain::study::trial::Split;
use science::device::Kind;
use science::stages::{Attempt, patches};
use serde::Serialize;

use super::folders::{self, Layout};
use super::stones::Place;
use crate::exit::{self, Problem};

/// The folder of what the stages leave for each other, below the folder asked for.
const WORK: &str = ".work";

/// What was cut, as `lithogen dataset patches --json` prints it.
#[derive(Debug, Serialize)]
pub struct Preview {
    /// Version of the document.
    pub schema_version: u32,
    /// Which images are on the test side.
    pub split: Split,
    /// Both views of A and C.
    pub views: Vec<ViewPreview>,
    /// Every patch with its place, in one table.
    pub table: PathBuf,
    /// What a person should know, one line each.
    pub notes: Vec<String>,
}

/// One view of a data set.
#[derive(Debug, Serialize)]
pub struct ViewPreview {
    pub dataset: Dataset,
    pub view: View,
    /// The first patches of each class.
    pub sheet: PathBuf,
    /// The pictures with the places of their patches.
    pub windows: PathBuf,
    /// Pictures of each class, in label order.
    pub pictures: Vec<usize>,
    /// Classes in label order.
    pub classes: Vec<ClassPatches>,
}

/// Cuts the patches of one fold and leaves sheets and a table in `out`; `tell` hears
/// how many of how many pictures are done.
///
/// # Errors
/// Exit code 4 if a study could not use the data, with all that is wrong.
pub fn cut(
    root: &Path,
    experiment: &Experiment,
    out: &Path,
    tell: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Preview> {
    let mut data = folders::find(root)?.data;
    data.weights = experiment.weights().into_iter().map(|which| (which, Data::unknown(which))).collect();
    let plan = plan::plan(experiment, &data).map_err(|error| Problem::new(exit::DATA, error.to_string()))?;
    let Layout { raw, folders, .. } = folders::layout(root)?;
    let work = out.join(WORK);
    std::fs::create_dir_all(&work).with_context(|| format!("cannot use {}", out.display()))?;
    let mut cutter = Cutter {
        raw,
        folders: folders.into_iter().collect(),
        work: work.clone(),
        out: out.to_owned(),
        // Each picture is opened by both stages.
        told: Told {
            tell,
            log: Vec::new(),
            done: 0,
            before: 0,
            total: 2 * data.classes.iter().map(|class| u64::from(class.images)).sum::<u64>(),
        },
        notes: Vec::new(),
        table: String::new(),
    };
    let split = Split { folds: experiment.tl.trials().first().map_or(1, |trials| trials.folds), ..Split::default() };
    let (mut views, mut failures) = (Vec::new(), Vec::new());
    for task in plan.tasks {
        let images = |dataset: Dataset, view: View| -> u64 {
            let of_it = data.classes.iter().filter(|class| (class.dataset, class.view) == (dataset, view));
            of_it.map(|class| u64::from(class.images)).sum()
        };
        let (done, images) = match &task.stage {
            Stage::Ingest(ingest) => (cutter.ingest(ingest, task.seed), images(ingest.dataset, ingest.view)),
            Stage::Patches(patches) if patches.dataset != Dataset::B && patches.split == split => {
                let view = cutter.patches(patches, task.seed).map(|view| views.extend(view));
                (view, images(patches.dataset, patches.view))
            }
            _ => continue,
        };
        failures.extend(done.err());
        cutter.told.before += images;
    }
    // What cannot be removed is small, and made anew next time.
    let _ = std::fs::remove_dir_all(&work);
    if let Some(first) = failures.first() {
        let code = if first.code == FailureCode::InvalidInput { exit::DATA } else { exit::ERROR };
        let all: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
        return Err(Problem::new(code, all.join("\n")).into());
    }
    let table = out.join("patches.csv");
    let Cutter { notes, table: rows, .. } = cutter;
    std::fs::write(&table, rows).with_context(|| format!("cannot write {}", table.display()))?;
    Ok(Preview { schema_version: 1, split, views, table, notes })
}

/// The stages on the folders of a data set.
struct Cutter<'a> {
    raw: PathBuf,
    folders: BTreeMap<Place, PathBuf>,
    work: PathBuf,
    out: PathBuf,
    told: Told<'a>,
    notes: Vec<String>,
    table: String,
}

impl Cutter<'_> {
    /// The folder of an attempt, which reads the pictures where they are.
    fn folder(&self, stage: &str, dataset: Dataset, view: View) -> Folder {
        let mut folder = Folder::new(self.work.join(format!("{dataset}-{view}-{stage}")));
        for class in dataset.classes() {
            if let Some(pictures) = self.folders.get(&(dataset, view, class)) {
                let masks = folders::masks_of(&self.raw, (dataset, view, class), pictures);
                folder =
                    folder.with_input(format!("raw.{class}"), pictures).with_input(format!("masks.{class}"), masks);
            }
        }
        folder
    }

    fn ingest(&mut self, ingest: &Ingest, seed: Seed) -> Result<(), Failure> {
        let folder = self.folder("ingest", ingest.dataset, ingest.view);
        self.attempt(&folder, seed, |attempt| science::run(&Stage::Ingest(ingest.clone()), attempt))
    }

    /// Cuts a view, unless what it needs has failed.
    fn patches(&mut self, of: &Patches, seed: Seed) -> Result<Option<ViewPreview>, Failure> {
        let Patches { dataset, view, .. } = *of;
        let ingested = self.folder("ingest", dataset, view).outputs();
        if !ingested.join(ImageList::FILE).exists() {
            return Ok(None);
        }
        let folder = self.folder("patches", dataset, view).with_input("ingest", ingested);
        let record = self.attempt(&folder, seed, |attempt| patches::preview(of, attempt))?;
        let noted = std::mem::take(&mut self.told.log);
        self.notes.extend(noted.into_iter().map(|line| format!("{dataset}/{view}: {line}")));
        let moved = |from: &str, to: String| {
            let (from, to) = (folder.output(from), self.out.join(to));
            std::fs::rename(&from, &to).map_err(|error| Failure::io("write", &to, &error)).map(|()| to)
        };
        let sheet = moved("sheet.png", format!("{dataset}-{view}.png"))?;
        let windows = moved("windows.png", format!("{dataset}-{view}-windows.png"))?;
        let path = folder.output("patches.csv");
        let rows = std::fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))?;
        for (number, row) in rows.lines().enumerate() {
            // Writing to a string cannot fail.
            let _ = match number {
                0 if self.table.is_empty() => writeln!(self.table, "dataset,view,{row}"),
                0 => Ok(()),
                _ => writeln!(self.table, "{dataset},{view},{row}"),
            };
        }
        let PatchesRecord { classes, train_images, test_images, .. } = record;
        let all = || train_images.iter().chain(&test_images);
        let pictures = classes.iter().map(|of| all().filter(|image| image.class == of.class).count()).collect();
        Ok(Some(ViewPreview { dataset, view, sheet, windows, pictures, classes }))
    }

    fn attempt<T>(
        &mut self,
        folder: &Folder,
        seed: Seed,
        work: impl FnOnce(Attempt<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // Neither stage computes with tensors.
        let device = Kind::Cpu.open().map_err(|error| Failure::new(FailureCode::Internal, error.to_string()))?;
        work(Attempt { seed, folder, monitor: &mut self.told, device: &device, memory: 0 })
    }
}

/// Hears of pictures that are done, over all stages.
struct Told<'a> {
    tell: &'a mut dyn FnMut(u64, u64),
    done: u64,
    /// Pictures of the stages that have ended.
    before: u64,
    total: u64,
    log: Vec<String>,
}

impl Monitor for Told<'_> {
    fn progress(&mut self, progress: Progress) {
        // Pictures that are cut once more count once.
        self.done = self.done.max(self.before + progress.done).min(self.total);
        (self.tell)(self.done, self.total);
    }

    fn stopping(&self) -> bool {
        false
    }

    fn log(&mut self, line: &str) {
        self.log.push(line.to_owned());
    }
}

/// The preview for people.
pub fn text(preview: &Preview) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["class", "", "pictures", "patches", "coverage", "stride", "moved", "masks"]);
    for view in &preview.views {
        for (class, pictures) in view.classes.iter().zip(&view.pictures) {
            let both = |column: usize| format!("{} + {}", class.train[column], class.test[column]);
            table.add_row([
                format!("{}/{}/{}", view.dataset, view.view, class.class),
                class.class.mineral().to_owned(),
                both(0),
                both(1),
                format!("{:.2}", class.coverage),
                class.stride.to_string(),
                class.moved.to_string(),
                format!("{} of {pictures}", class.masks),
            ]);
        }
    }
    let mut text = format!("{table}\n\n");
    text.push_str("pictures and patches: to learn from + to test on; coverage and stride: the least that was needed\n");
    for note in &preview.notes {
        text.push_str(&format!("note     {note}\n"));
    }
    for ViewPreview { dataset, view, sheet, windows, .. } in &preview.views {
        text.push_str(&format!("{dataset}/{view}    {} · {}\n", windows.display(), sheet.display()));
    }
    text.push_str(&format!("table    {}", preview.table.display()));
    text
}
