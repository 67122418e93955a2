//! Garbage collection: removing blobs that no task needs, and checking that all needed ones are
//! intact.
//!
//! Every result and checkpoint of a task and every input from outside is needed, with all files
//! that their manifests list. Blobs that were stored or asked for within a grace period are
//! kept as well: an attempt may be about to commit them.
//!
//! The order of steps makes it safe. First, the collection waits for commits that were checked
//! but are not journaled yet. Then it takes the time, then it reads what is needed. A commit
//! that begins after that asks for its blobs, and blobs that are asked for after the taken time
//! are not removed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use domain::digest::Digest;
use domain::id::{ArtifactId, TaskKey};
use domain::runner::scheduler::Scheduler;
use domain::study::plan::Source;

use crate::blobs::upload::GIVEN_UP;
use crate::blobs::{self, Blobs, Looked, Stored};
use crate::driver::{Gone, Handle};
use crate::telemetry;

/// Blobs removed at a time, while nobody can ask for any.
const BATCH: usize = 64;

/// Most tasks that are named with one problem.
const NAMED: usize = 20;

/// Longest search for the task that made a lost blob.
const LOOK_FOR_MAKER: Duration = Duration::from_secs(2);

/// Time between two rounds of removing abandoned uploads.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// Default grace period, in which blobs are kept without being needed.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Why a collection or a check failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob store failed.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The driver has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The files of a manifest are unknown, and so is what is needed.
    #[error(
        "nothing was removed: the list of files of artifact {artifact}, which {task} made or needs, cannot be read \
         ({source}); `lithogen artifact verify` says what else is wrong, and what computes it again"
    )]
    Unreadable {
        artifact: ArtifactId,
        /// Labels of tasks that made or need the artifact.
        task: String,
        source: blobs::Error,
    },
}

/// Every artifact that some task made, was given from outside or can resume from, with the keys
/// of one or more such tasks.
pub fn roots(scheduler: &Scheduler) -> BTreeMap<ArtifactId, BTreeSet<TaskKey>> {
    let mut roots: BTreeMap<ArtifactId, BTreeSet<TaskKey>> = BTreeMap::new();
    for task in scheduler.tasks() {
        let given = task.spec.inputs.iter().filter_map(|(_, input)| match input.from {
            Source::Artifact(artifact) => Some(artifact),
            Source::Task(_) => None,
        });
        let checkpoint = task.checkpoint.as_ref().map(|checkpoint| checkpoint.artifact);
        for artifact in given.chain(task.artifact()).chain(checkpoint) {
            roots.entry(artifact).or_default().insert(task.spec.key);
        }
    }
    roots
}

/// Every artifact that is a task's result, with the keys of the tasks whose result it is.
fn results(scheduler: &Scheduler) -> BTreeMap<ArtifactId, BTreeSet<TaskKey>> {
    let mut results: BTreeMap<ArtifactId, BTreeSet<TaskKey>> = BTreeMap::new();
    for task in scheduler.tasks() {
        if let Some(artifact) = task.artifact() {
            results.entry(artifact).or_default().insert(task.spec.key);
        }
    }
    results
}

/// What a collection removed, or would remove.
#[derive(Debug, Default)]
pub struct Collected {
    pub removed: Vec<Stored>,
    /// Number of abandoned uploads that were removed.
    pub removed_uploads: u64,
    /// Number of blobs that were kept.
    pub kept_files: u64,
    /// Length of the kept blobs in their stored form.
    pub kept_bytes: u64,
}

/// Removes the blobs that no task needs and that nobody has asked for within `grace`; with
/// `dry_run`, only reports them.
///
/// # Errors
/// If the needed blobs cannot be determined; nothing is removed then.
pub async fn collect(driver: &Handle, blobs: &Blobs, grace: Duration, dry_run: bool) -> Result<Collected, Error> {
    blobs.settle().await;
    let since = SystemTime::now().checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
    let roots = driver.read(|knowledge| roots(&knowledge.scheduler)).await?;
    let mut needed = HashSet::new();
    for (artifact, tasks) in roots {
        match blobs.manifest(artifact).await {
            Ok(manifest) => needed.extend(manifest.entries().iter().map(|entry| entry.digest)),
            Err(source) => {
                let task = labels(driver, tasks).await?.join(", ");
                return Err(Error::Unreadable { artifact, task, source });
            }
        }
        needed.insert(artifact.0);
    }
    let listed = blobs.list().await?;
    let is_unused = |blob: &&Stored| blob.used < since && !needed.contains(&blob.digest);
    let unused: Vec<Stored> = listed.iter().filter(is_unused).copied().collect();
    let mut removed = Vec::new();
    for batch in unused.chunks(BATCH) {
        removed.extend(if dry_run { batch.to_vec() } else { blobs.remove(batch, since).await? });
    }
    let kept_files = (listed.len() - removed.len()) as u64;
    let kept_bytes = bytes(&listed) - bytes(&removed);
    if !dry_run {
        telemetry::stored(kept_bytes);
    }
    let removed_uploads = blobs.remove_uploads(since, dry_run)?;
    Ok(Collected { removed, removed_uploads, kept_files, kept_bytes })
}

fn bytes(blobs: &[Stored]) -> u64 {
    blobs.iter().map(|blob| blob.size).sum()
}

/// Removes abandoned uploads from time to time, and counts what is stored if anybody may look;
/// errors are logged.
pub async fn keep_tidy(blobs: Blobs) {
    let mut every = tokio::time::interval(TIDY_EVERY);
    loop {
        every.tick().await;
        let since = SystemTime::now().checked_sub(GIVEN_UP).unwrap_or(SystemTime::UNIX_EPOCH);
        let uploads = blobs.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || uploads.remove_uploads(since, false)).await {
            tracing::warn!(%error, "uploads that were given up stay");
        }
        if telemetry::is_counting() {
            match blobs.list().await {
                Ok(listed) => telemetry::stored(bytes(&listed)),
                Err(error) => tracing::warn!(%error, "what is stored could not be counted"),
            }
        }
    }
}

/// Runs a collection once in each period; errors are logged.
pub async fn repeat(driver: Handle, blobs: Blobs, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        // Whoever looks at all blobs now is soon done; the next period is near.
        let Some(_turn) = blobs.upkeep() else { continue };
        match collect(&driver, &blobs, GRACE, false).await {
            Ok(collected) => {
                let bytes = bytes(&collected.removed);
                tracing::info!(files = collected.removed.len(), bytes, "garbage collected");
            }
            Err(error) => tracing::error!(%error, "garbage could not be collected"),
        }
    }
}

/// What is wrong with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The bytes do not match the digest; the blob was moved to quarantine.
    Corrupt,
    /// A task needs the blob, and it is not stored.
    Missing,
    /// The blob could not be read, or is not the manifest that it should be. It stays in place.
    Unreadable,
}

/// A blob with which something is wrong.
#[derive(Debug)]
pub struct Problem {
    pub digest: Digest,
    pub kind: Damage,
    /// Details for people; empty if the kind says everything.
    pub why: String,
    /// Labels of tasks that made or need the blob.
    pub tasks: Vec<String>,
    /// Keys of the tasks whose result the blob is or belongs to: any of them can make it again.
    pub makers: Vec<TaskKey>,
}

/// Progress of a check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Number of blobs read.
    pub checked_files: u64,
    /// Number of blobs to be read.
    pub total_files: u64,
    /// Bytes read, in the stored form.
    pub checked_bytes: u64,
}

/// The problems that a check has found so far.
type Found = BTreeMap<Digest, (Damage, String)>;

/// Reads every blob, moves damaged ones to quarantine, and reports these and the blobs that
/// tasks need and that are missing. `tell` receives the progress after each blob, and ends the
/// check by returning false.
///
/// # Errors
/// If the store cannot be listed, or does not answer.
pub async fn verify(driver: &Handle, blobs: &Blobs, mut tell: impl FnMut(Scan) -> bool) -> Result<Vec<Problem>, Error> {
    let listed = blobs.list().await?;
    let mut progress = Scan { total_files: listed.len() as u64, ..Scan::default() };
    let there: HashSet<Digest> = listed.iter().map(|blob| blob.digest).collect();
    let mut found = Found::new();
    for blob in listed {
        match blobs.look(blob.digest, blob.encoding).await {
            Ok(Looked::Whole | Looked::Gone) => {}
            Ok(Looked::Damaged) => {
                found.insert(blob.digest, (Damage::Corrupt, String::new()));
            }
            Err(error) => {
                found.insert(blob.digest, (Damage::Unreadable, only_this_one(error)?));
            }
        }
        progress.checked_files += 1;
        progress.checked_bytes += blob.size;
        if !tell(progress) {
            return Ok(vec![]);
        }
    }
    let (roots, results) =
        driver.read(|knowledge| (roots(&knowledge.scheduler), results(&knowledge.scheduler))).await?;
    let (mut needed, mut made) = (BTreeMap::new(), BTreeMap::new());
    for (artifact, tasks) in roots {
        for digest in wrong_of(blobs, artifact, &there, &mut found).await? {
            needed.entry(digest).or_insert_with(BTreeSet::new).extend(&tasks);
            made.entry(digest).or_insert_with(BTreeSet::new).extend(results.get(&artifact).into_iter().flatten());
        }
    }
    let mut problems = Vec::new();
    for (digest, (kind, why)) in found {
        let tasks = labels(driver, needed.remove(&digest).unwrap_or_default()).await?;
        let makers = made.remove(&digest).unwrap_or_default().into_iter().take(NAMED).collect();
        problems.push(Problem { digest, kind, why, tasks, makers });
    }
    Ok(problems)
}

/// The blobs of an artifact with which something is wrong; problems not known before are noted.
/// `there` are the blobs that were listed.
async fn wrong_of(
    blobs: &Blobs,
    artifact: ArtifactId,
    there: &HashSet<Digest>,
    found: &mut Found,
) -> Result<Vec<Digest>, Error> {
    if found.contains_key(&artifact.0) {
        return Ok(vec![artifact.0]);
    }
    let manifest = match blobs.manifest(artifact).await {
        Ok(manifest) => manifest,
        Err(error) => {
            let what = match error {
                blobs::Error::Unknown(_) => (Damage::Missing, String::new()),
                blobs::Error::Damaged { .. } => (Damage::Corrupt, String::new()),
                blobs::Error::NotAManifest { problem, .. } => (Damage::Unreadable, problem),
                error => (Damage::Unreadable, only_this_one(error)?),
            };
            found.insert(artifact.0, what);
            return Ok(vec![artifact.0]);
        }
    };
    let files: BTreeSet<Digest> = manifest.entries().iter().map(|entry| entry.digest).collect();
    // What was not listed is new, or gone behind the coordinator's back.
    files.iter().filter(|digest| !there.contains(digest)).for_each(|digest| blobs.forget(*digest));
    for digest in blobs.missing(files.iter().copied().collect()).await? {
        found.entry(digest).or_insert((Damage::Missing, String::new()));
    }
    Ok(files.into_iter().filter(|digest| found.contains_key(digest)).collect())
}

/// The message for a blob that cannot be read while others can; an error if the store as a
/// whole does not answer.
fn only_this_one(error: blobs::Error) -> Result<String, blobs::Error> {
    match error {
        blobs::Error::Unreadable { problem, .. } => Ok(problem),
        blobs::Error::Io(_) => Ok(error.to_string()),
        error => Err(error),
    }
}

/// A message that names the task a lost blob belongs to and what computes it again, if found
/// within [`LOOK_FOR_MAKER`].
pub async fn way_back(driver: &Handle, blobs: &Blobs, digest: Digest) -> Option<String> {
    let look = async {
        for (artifact, tasks) in driver.read(|knowledge| results(&knowledge.scheduler)).await.ok()? {
            let lists =
                |manifest: domain::artifact::Manifest| manifest.entries().iter().any(|one| one.digest == digest);
            if artifact.0 == digest || blobs.manifest(artifact).await.is_ok_and(lists) {
                let key = *tasks.first()?;
                let label = labels(driver, [key].into()).await.ok()?.pop()?;
                return Some(format!(
                    "it is of the result of {label}: `lithogen task recompute {key}` computes it again"
                ));
            }
        }
        None
    };
    tokio::time::timeout(LOOK_FOR_MAKER, look).await.ok().flatten()
}

/// Labels, made of stage and subject, of the first of these tasks.
async fn labels(driver: &Handle, tasks: BTreeSet<TaskKey>) -> Result<Vec<String>, Gone> {
    let label = |knowledge: &crate::reactor::Knowledge, key: TaskKey| {
        knowledge.scheduler.task(key).ok().map(|task| format!("{} ({})", task.spec.label(), key.short()))
    };
    driver.read(move |knowledge| tasks.into_iter().take(NAMED).filter_map(|key| label(knowledge, key)).collect()).await
}
