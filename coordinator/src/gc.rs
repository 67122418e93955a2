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
use proto::encoding::Check;
use tokio_util::sync::CancellationToken;

use crate::blobs::{self, Blobs, Stored};
use crate::driver::{Gone, Handle};

/// Blobs removed while nobody can ask for any.
const BATCH: usize = 64;

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
        "nothing was removed: the list of files of artifact {artifact}, which {task} needs, cannot be read ({source}); \
         see `lithogen artifact verify`"
    )]
    Unreadable {
        /// The artifact.
        artifact: Digest,
        /// A task that needs it, for people.
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

/// Collects once in each period until told to stop; what goes wrong is logged.
pub async fn repeat(driver: Handle, blobs: Blobs, period: Duration, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = closing.cancelled() => return,
        }
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
pub enum Kind {
    /// Its bytes are others than its name says; it was moved aside.
    Corrupt,
    /// A task needs it, and it is not there.
    Missing,
}

/// A blob that cannot be read.
#[derive(Debug)]
pub struct Problem {
    /// Its name.
    pub digest: Digest,
    /// What is wrong.
    pub kind: Kind,
    /// Tasks that made or need it, for people.
    pub tasks: Vec<String>,
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Blobs read.
    pub checked_files: u64,
    /// Blobs to be read.
    pub total_files: u64,
    /// Bytes read, of the stored form.
    pub checked_bytes: u64,
}

/// Reads every blob again, moves aside what is damaged, and names what tasks
/// need and lack. `tell` hears after each blob how far it is, and ends the check
/// by returning false.
///
/// # Errors
/// If the store cannot be listed.
pub async fn verify(
    driver: &Handle,
    blobs: &Blobs,
    mut tell: impl FnMut(Progress) -> bool,
) -> Result<Vec<Problem>, Error> {
    let listed = blobs.list().await?;
    let mut progress = Progress { total_files: listed.len() as u64, ..Progress::default() };
    let mut corrupt = BTreeSet::new();
    for blob in listed {
        if !is_whole(blobs, blob).await? {
            // Stored again in the other form, perhaps: the reader takes either.
            blobs.damaged(blob.digest).await;
            corrupt.insert(blob.digest);
        }
        progress.checked_files += 1;
        progress.checked_bytes += blob.size;
        if !tell(progress) {
            return Ok(vec![]);
        }
    }
    let mut lacking: BTreeMap<Digest, BTreeSet<Digest>> = corrupt.iter().map(|digest| (*digest, [].into())).collect();
    for (artifact, tasks) in driver.read(|knowledge| roots(&knowledge.scheduler)).await? {
        let lacks = match blobs.manifest(artifact).await {
            Ok(manifest) => blobs.missing(manifest.entries().iter().map(|entry| entry.digest).collect()).await?,
            Err(_) => vec![artifact],
        };
        for digest in lacks {
            lacking.entry(digest).or_default().extend(&tasks);
        }
    }
    let mut problems = Vec::new();
    for (digest, tasks) in lacking {
        let kind = if corrupt.contains(&digest) { Kind::Corrupt } else { Kind::Missing };
        problems.push(Problem { digest, kind, tasks: labels(driver, tasks).await? });
    }
    Ok(problems)
}

async fn is_whole(blobs: &Blobs, blob: Stored) -> Result<bool, Error> {
    let reader = match blobs.reader(blob.digest).await {
        // Removed since it was listed.
        Err(blobs::Error::Unknown(_)) => return Ok(true),
        reader => reader?,
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut check = Check::new(reader.encoding, u64::MAX)?;
        check.update_reader(reader.bytes)?;
        check.finish()
    });
    Ok(read.await.map_err(blobs::Error::from)?.is_ok_and(|(digest, _)| digest == blob.digest))
}

/// The first tasks of these, by stage and subject.
async fn labels(driver: &Handle, tasks: BTreeSet<Digest>) -> Result<Vec<String>, Gone> {
    let label = |knowledge: &crate::reactor::Knowledge, key: Digest| {
        knowledge.scheduler.task(key).ok().map(|task| format!("{} ({})", task.spec.label(), key.short()))
    };
    driver.read(move |knowledge| tasks.into_iter().take(20).filter_map(|key| label(knowledge, key)).collect()).await
}
