//! Removing what no task needs, and looking whether all that one needs is there.
//!
//! Needed is every result and checkpoint of a task and every input from outside, with all files
//! that their manifests list. What was stored or asked for within a grace period
//! is kept as well: an attempt may be about to commit it.
//!
//! The order is what makes it safe. First, commits that were checked but are not
//! journaled yet are waited for. Then the time is taken, then what is needed is
//! read. A commit that begins after that asks for its blobs, and what is asked
//! for after that time is not removed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use domain::digest::Digest;
use domain::plan::Source;
use domain::scheduler::Scheduler;

use crate::blobs::upload::GIVEN_UP;
use crate::blobs::{self, Blobs, Looked, Stored};
use crate::driver::{Gone, Handle};

/// Blobs removed while nobody can ask for any.
const BATCH: usize = 64;

/// Tasks that are named with one problem.
const NAMED: usize = 20;

/// Longest time that the task which made a lost blob is looked for.
const LOOK_FOR_MAKER: Duration = Duration::from_secs(2);

/// How often uploads are looked for that were given up.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// What is kept without being needed, unless somebody says otherwise.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Why a collection or a check could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store says no.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The driver has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// What a manifest lists is not known, and so not what is needed.
    #[error(
        "nothing was removed: the list of files of artifact {artifact}, which {task} made or needs, cannot be read \
         ({source}); `lithogen artifact verify` says what else is wrong, and what computes it again"
    )]
    Unreadable {
        /// The artifact.
        artifact: Digest,
        /// Tasks that made or need it, for people.
        task: String,
        /// Why.
        source: blobs::Error,
    },
}

/// Every artifact that some task made, is given from outside or can go on from,
/// with one or more such tasks.
pub fn roots(scheduler: &Scheduler) -> BTreeMap<Digest, BTreeSet<Digest>> {
    let mut roots: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
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

/// Every artifact that is a task's result, with the tasks whose result it is.
fn results(scheduler: &Scheduler) -> BTreeMap<Digest, BTreeSet<Digest>> {
    let mut results: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
    for task in scheduler.tasks() {
        if let Some(artifact) = task.artifact() {
            results.entry(artifact).or_default().insert(task.spec.key);
        }
    }
    results
}

/// What a collection did, or would do.
#[derive(Debug, Default)]
pub struct Collected {
    /// What went.
    pub removed: Vec<Stored>,
    /// Uploads that were given up.
    pub removed_uploads: u64,
    /// Blobs that stayed.
    pub kept_files: u64,
    /// Their bytes, of the stored form.
    pub kept_bytes: u64,
}

/// Removes what no task needs and nobody has asked for within `grace`; with
/// `dry_run`, says what that would be.
///
/// # Errors
/// If what is needed cannot be known; nothing is removed then.
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
        needed.insert(artifact);
    }
    let listed = blobs.list().await?;
    let is_unused = |blob: &&Stored| blob.used < since && !needed.contains(&blob.digest);
    let unused: Vec<Stored> = listed.iter().filter(is_unused).copied().collect();
    let mut removed = Vec::new();
    for batch in unused.chunks(BATCH) {
        removed.extend(if dry_run { batch.to_vec() } else { blobs.remove(batch, since).await? });
    }
    let bytes = |blobs: &[Stored]| blobs.iter().map(|blob| blob.size).sum::<u64>();
    let kept_files = (listed.len() - removed.len()) as u64;
    let kept_bytes = bytes(&listed) - bytes(&removed);
    let removed_uploads = blobs.remove_uploads(since, dry_run)?;
    Ok(Collected { removed, removed_uploads, kept_files, kept_bytes })
}

/// Removes uploads that were given up, now and then; what goes wrong is logged.
pub async fn keep_tidy(blobs: Blobs) {
    let mut every = tokio::time::interval(TIDY_EVERY);
    loop {
        every.tick().await;
        let blobs = blobs.clone();
        let since = SystemTime::now().checked_sub(GIVEN_UP).unwrap_or(SystemTime::UNIX_EPOCH);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || blobs.remove_uploads(since, false)).await {
            tracing::warn!(%error, "uploads that were given up stay");
        }
    }
}

/// Collects once in each period; what goes wrong is logged.
pub async fn repeat(driver: Handle, blobs: Blobs, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        // Whoever looks at all blobs now is soon done; the next period is near.
        let Some(_turn) = blobs.upkeep() else { continue };
        match collect(&driver, &blobs, GRACE, false).await {
            Ok(collected) => {
                let bytes: u64 = collected.removed.iter().map(|blob| blob.size).sum();
                tracing::info!(files = collected.removed.len(), bytes, "garbage collected");
            }
            Err(error) => tracing::error!(%error, "garbage could not be collected"),
        }
    }
}

/// What is wrong with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Its bytes are others than its name says; it was moved aside.
    Corrupt,
    /// A task needs it, and it is not there.
    Missing,
    /// It could not be read, or is not the list of files that it should be. It stays
    /// where it is.
    Unreadable,
}

/// A blob that cannot be read.
#[derive(Debug)]
pub struct Problem {
    /// Its name.
    pub digest: Digest,
    /// What is wrong.
    pub kind: Damage,
    /// More of what is wrong, for people; empty if the kind says all.
    pub why: String,
    /// Tasks that made or need it, for people.
    pub tasks: Vec<String>,
    /// Tasks whose result it is or belongs to: any of them can make it again.
    pub makers: Vec<Digest>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    /// Blobs read.
    pub checked_files: u64,
    /// Blobs to be read.
    pub total_files: u64,
    /// Bytes read, of the stored form.
    pub checked_bytes: u64,
}

/// What a check has found so far: the kind of each problem and why.
type Found = BTreeMap<Digest, (Damage, String)>;

/// Reads every blob again, moves aside what is damaged, and names what tasks
/// need and lack. `tell` hears after each blob how far it is, and ends the check
/// by returning false.
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

/// Blobs of an artifact with which something is wrong; notes what, if that is new.
/// `there` are those that were listed.
async fn wrong_of(
    blobs: &Blobs,
    artifact: Digest,
    there: &HashSet<Digest>,
    found: &mut Found,
) -> Result<Vec<Digest>, Error> {
    if found.contains_key(&artifact) {
        return Ok(vec![artifact]);
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
            found.insert(artifact, what);
            return Ok(vec![artifact]);
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

/// What to say of a blob that cannot be read where others can; an error if the store
/// as a whole does not answer.
fn only_this_one(error: blobs::Error) -> Result<String, blobs::Error> {
    match error {
        blobs::Error::Unreadable { problem, .. } => Ok(problem),
        blobs::Error::Io(_) => Ok(error.to_string()),
        error => Err(error),
    }
}

/// Says which task a lost blob is of and what computes it again, if that is found
/// within [`LOOK_FOR_MAKER`].
pub async fn way_back(driver: &Handle, blobs: &Blobs, digest: Digest) -> Option<String> {
    let look = async {
        for (artifact, tasks) in driver.read(|knowledge| results(&knowledge.scheduler)).await.ok()? {
            let lists =
                |manifest: domain::artifact::Manifest| manifest.entries().iter().any(|one| one.digest == digest);
            if artifact == digest || blobs.manifest(artifact).await.is_ok_and(lists) {
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

/// The first tasks of these, by stage and subject.
async fn labels(driver: &Handle, tasks: BTreeSet<Digest>) -> Result<Vec<String>, Gone> {
    let label = |knowledge: &crate::reactor::Knowledge, key: Digest| {
        knowledge.scheduler.task(key).ok().map(|task| format!("{} ({})", task.spec.label(), key.short()))
    };
    driver.read(move |knowledge| tasks.into_iter().take(NAMED).filter_map(|key| label(knowledge, key)).collect()).await
}
