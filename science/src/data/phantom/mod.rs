//! Procedural stones that stand in for the data sets, which are not public:
//! the paper's classes and counts (ALGORITHM 0.1) in the layout of real data,
//! so that the whole study runs anywhere. A is sharp, lit from a side on a dark
//! bench; C is an endoscope's view on tissue. A class that both have looks the
//! same in both apart from the imaging. Numbers learnt from these pictures say
//! nothing about kidney stones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;

use domain::seed::Seed;
use domain::study::experiment::Phantom;
use domain::study::paper;
use domain::study::stage::Failure;
use domain::study::stone::{Class, Dataset, View};
use image::RgbImage;
use rayon::prelude::*;

use super::picture::save_png;
use crate::files;
use crate::random;

mod material;
mod noise;
mod scene;

/// Raised whenever the pictures change, so that old ones are not taken for new.
pub const VERSION: u32 = 1;

/// Fewest pictures of a class.
const FEWEST: u32 = 4;

/// The file that says what a folder of pictures is.
const MARKER: &str = "dataset.toml";

/// One picture to draw.
struct Job {
    dataset: Dataset,
    view: View,
    class: Class,
    index: u32,
}

/// Draws both data sets to `out/raw/{A,C}/{SUR,SEC}/<code>/<NNN>.png` and marks
/// the folder as a stand-in with `out/dataset.toml`. `progress` is told
/// (pictures done, pictures in all) now and then.
///
/// The pictures depend on `phantom` and `seed` alone. They appear all at once:
/// drawn beside `out`, then renamed. If `out` already holds the very same
/// pictures, nothing is done.
///
/// # Errors
/// `InvalidInput` if `out` holds anything else; `Storage` if it cannot be written.
pub fn draw(phantom: &Phantom, seed: Seed, out: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Failure> {
    let marker = marker(phantom, seed);
    if holds(out, &marker)? {
        return Ok(());
    }
    let name = out.file_name().map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned());
    let partial = out.with_file_name(format!(".{name}.{}.partial", process::id()));
    let result = draw_into(phantom, seed, &partial, progress)
        .and_then(|()| files::write_bytes(&partial.join(MARKER), marker.as_bytes()))
        .and_then(|()| match fs::rename(&partial, out) {
            Ok(()) => Ok(()),
            // Someone else was faster: the same pictures are as good.
            Err(_) if holds(out, &marker)? => Ok(()),
            Err(error) => Err(Failure::io("create", out, &error)),
        });
    // Gone after a rename; otherwise half a data set that nobody will read.
    let _ = fs::remove_dir_all(&partial);
    result
}

/// One picture of that width and height: the one of that number among those of its
/// class.
pub fn stone(dataset: Dataset, view: View, class: Class, size: [u32; 2], seed: Seed, index: u32) -> RgbImage {
    let mut rng = random::stream(seed, &format!("phantom.{dataset}.{view}.{class}"), u64::from(index));
    scene::draw(dataset, view, class, size, &mut rng)
}

/// The text of the marker file of these pictures.
fn marker(phantom: &Phantom, seed: Seed) -> String {
    let Phantom { size_a, size_c, share } = phantom;
    format!(
        "# Not real data. Drawn by a program so that the study can run without any.\n\
         stand_in = true\n\
         what = \"procedural stones drawn by lithogen, seed {}\"\n\
         version = {VERSION}\n\
         size_a = {size_a:?}\n\
         size_c = {size_c:?}\n\
         share = {share:?}\n",
        seed.0
    )
}

/// Tells whether `out` holds the pictures of that marker; false if there is nothing.
fn holds(out: &Path, marker: &str) -> Result<bool, Failure> {
    let path = out.join(MARKER);
    if path.exists() {
        let found = fs::read(&path).map_err(|error| Failure::io("read", &path, &error))?;
        if found == marker.as_bytes() {
            return Ok(true);
        }
        return Err(Failure::invalid_input(format!(
            "{} holds other pictures ({} differs): choose another folder or remove it",
            out.display(),
            path.display()
        )));
    }
    let empty = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound => true,
            _ => return Err(Failure::io("read", out, &error)),
        },
    };
    if empty {
        Ok(false)
    } else {
        Err(Failure::invalid_input(format!(
            "{} is not empty and has no {MARKER}: choose another folder or empty it",
            out.display()
        )))
    }
}

/// The jobs of all pictures, in order.
fn jobs(share: f64) -> Vec<Job> {
    let mut jobs = Vec::new();
    for dataset in [Dataset::A, Dataset::C] {
        for view in View::ALL {
            for class in dataset.classes() {
                let printed = paper::image_count(dataset, view, class).unwrap_or(0);
                let count = ((f64::from(printed) * share).round() as u32).max(FEWEST);
                jobs.extend((0..count).map(|index| Job { dataset, view, class, index }));
            }
        }
    }
    jobs
}

fn draw_into(phantom: &Phantom, seed: Seed, root: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Failure> {
    let jobs = jobs(phantom.share);
    let total = jobs.len() as u64;
    let mut done = 0;
    for batch in jobs.chunks(4 * rayon::current_num_threads().max(1)) {
        batch.par_iter().try_for_each(|job| job.draw(phantom, seed, root))?;
        done += batch.len() as u64;
        progress(done, total);
    }
    Ok(())
}

impl Job {
    fn path(&self, root: &Path) -> PathBuf {
        let Job { dataset, view, class, index } = self;
        root.join(format!("raw/{dataset}/{view}/{class}/{index:03}.png"))
    }

    fn draw(&self, phantom: &Phantom, seed: Seed, root: &Path) -> Result<(), Failure> {
        let Job { dataset, view, class, index } = self;
        let size = match dataset {
            Dataset::A | Dataset::B => phantom.size_a,
            Dataset::C => phantom.size_c,
        };
        save_png(&self.path(root), &stone(*dataset, *view, *class, size, seed, *index))
    }
}

#[cfg(test)]
mod tests {
    use domain::study::stage::FailureCode;

    use super::*;
    use crate::data::foreground::Mask;
    use crate::data::picture::open_rgb8;

    fn small() -> Phantom {
        Phantom { size_a: [72, 48], size_c: [48, 36], share: 0.0 }
    }

    #[test]
    fn same_seed_same_files_whatever_the_threads() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, other] = ["one", "two", "other"].map(|name| folder.path().join(name));
        let threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        threads(1).install(|| draw(&small(), Seed(1), &one, &mut |_, _| ())).unwrap();
        let mut last = (0, 0);
        threads(3).install(|| draw(&small(), Seed(1), &two, &mut |done, total| last = (done, total))).unwrap();
        draw(&small(), Seed(2), &other, &mut |_, _| ()).unwrap();
        assert_eq!(last, (96, 96)); // 2 data sets, 2 views, 6 classes, 4 pictures
        let mut differing = 0;
        for job in jobs(0.0) {
            let bytes = |root: &Path| fs::read(job.path(root)).unwrap();
            assert_eq!(bytes(&one), bytes(&two));
            differing += usize::from(bytes(&one) != bytes(&other));
        }
        assert_eq!(differing, 96);
    }

    #[test]
    fn finished_pictures_are_kept_and_foreign_ones_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("data");
        draw(&small(), Seed(1), &out, &mut |_, _| ()).unwrap();
        draw(&small(), Seed(1), &out, &mut |_, _| panic!("drawn again")).unwrap();
        let failure = draw(&small(), Seed(2), &out, &mut |_, _| ()).unwrap_err();
        assert_eq!(failure.code, FailureCode::InvalidInput);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1); // nothing half done is left
        assert!(fs::read_to_string(out.join(MARKER)).unwrap().contains("stand_in = true"));
    }

    #[test]
    fn counts_are_the_papers() {
        assert_eq!(jobs(1.0).len(), 366 + 409);
        let brushite = |job: &&Job| (job.dataset, job.view, job.class) == (Dataset::C, View::Sec, Class::Ivd);
        assert_eq!(jobs(1.0).iter().filter(brushite).count(), 4);
    }

    #[test]
    fn the_stone_of_a_is_found_on_its_bench() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("data");
        let phantom = Phantom { size_a: [134, 89], ..small() };
        draw(&phantom, Seed(1), &out, &mut |_, _| ()).unwrap();
        for job in jobs(0.0).iter().filter(|job| job.dataset == Dataset::A) {
            let share = Mask::stone(&open_rgb8(&job.path(&out)).unwrap().image).share();
            assert!((0.08..0.5).contains(&share), "{:?}: {share}", job.path(&out));
        }
    }
}
