//! Blobs in a bucket that speaks S3: `PREFIX/ab/cdef…`, compressed ones with the ending `.zst`.
//!
//! Credentials, region and endpoint come from the usual `AWS_…` environment variables. A bucket
//! keeps no time of last use, so this process remembers it; a blob that was last used before
//! the process started counts as used at the start.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use domain::digest::Digest;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use proto::address::is_plain_loopback;
use proto::encoding::Encoding;
use proto::path_error::io_error;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::folder::parse;
use super::upload::Checked;
use super::{Error, Reader, Stored};

/// Bytes of one part of a large upload; files up to this size are sent in one call.
const PART: usize = 8 * 1024 * 1024;

/// Parts of one file that are sent at once.
const PARTS: usize = 4;

/// Lookups that are under way at once.
const QUESTIONS: usize = 32;

/// Folder for damaged blobs, below the prefix.
const QUARANTINE: &str = "quarantine";

/// A blob store in a bucket.
#[derive(Debug)]
pub struct Bucket {
    name: String,
    prefix: Path,
    store: Arc<dyn ObjectStore>,
    opened: SystemTime,
    known: Mutex<HashMap<Digest, Known>>,
}

/// What is known of a blob without asking the bucket.
#[derive(Clone, Copy, Debug)]
struct Known {
    used: SystemTime,
    /// None if the blob is not known to be stored.
    encoding: Option<Encoding>,
    /// Number of calls that are looking the blob up or storing it.
    calls: usize,
}

/// A call about a blob. When the last call ends, nothing is remembered of a blob that is not
/// stored.
#[derive(Debug)]
struct Call<'a> {
    bucket: &'a Bucket,
    digest: Digest,
    /// Encoding in which the call has found the blob.
    found: Option<Encoding>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut all = self.bucket.known();
        let Some(known) = all.get_mut(&self.digest) else { return };
        known.calls -= 1;
        known.encoding = self.found.or(known.encoding);
        if known.calls == 0 && known.encoding.is_none() {
            all.remove(&self.digest);
        }
    }
}

impl Bucket {
    /// Opens `s3://BUCKET/PREFIX` and checks that it is writable.
    ///
    /// # Errors
    /// If `url` has another form, or the bucket does not answer as it should.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let place = || Error::Place(url.to_owned());
        let rest = url.strip_prefix("s3://").ok_or_else(place)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(place());
        }
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|_| place())?;
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(name);
        let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
        if endpoint.as_deref().is_some_and(is_plain_loopback) {
            builder = builder.with_allow_http(true);
        }
        let error = |what| bucket_error(name, what);
        let store = builder.build().map_err(error("be opened"))?;
        Self::of(name, prefix, Arc::new(store)).await
    }

    /// A bucket on `store`, after a check that it is writable.
    pub(super) async fn of(name: &str, prefix: Path, store: Arc<dyn ObjectStore>) -> Result<Self, Error> {
        let error = |what| bucket_error(name, what);
        // Better to find out now than with the first result.
        let probe = prefix.clone().join("probe");
        store.put(&probe, PutPayload::from_static(b"lithogen")).await.map_err(error("be written"))?;
        store.delete(&probe).await.map_err(error("be deleted from"))?;
        Ok(Self { name: name.to_owned(), prefix, store, opened: SystemTime::now(), known: Mutex::default() })
    }

    fn key(&self, digest: Digest, encoding: Encoding) -> Path {
        let name = digest.to_string();
        self.prefix.clone().join(&name[..2]).join(format!("{}{}", &name[2..], encoding.suffix()))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Known>> {
        // A map is whole after any panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of blobs of which something is remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.known().len()
    }

    /// Notes that a blob is used and that a call is about it; also returns the encoding in
    /// which the blob is known to be stored.
    fn call(&self, digest: Digest) -> (Call<'_>, Option<Encoding>) {
        let now = SystemTime::now();
        let mut known = self.known();
        let known = known.entry(digest).or_insert(Known { used: now, encoding: None, calls: 0 });
        (known.used, known.calls) = (now, known.calls + 1);
        (Call { bucket: self, digest, found: None }, known.encoding)
    }

    /// Whether a blob is stored; also notes that the blob is used.
    ///
    /// # Errors
    /// If the bucket does not answer.
    pub async fn touch(&self, digest: Digest) -> Result<bool, Error> {
        let (mut call, known) = self.call(digest);
        if known.is_some() {
            return Ok(true);
        }
        for encoding in Encoding::ALL {
            match self.store.head(&self.key(digest, encoding)).await {
                Ok(_) => {
                    call.found = Some(encoding);
                    return Ok(true);
                }
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(bucket_error(&self.name, "be asked")(error)),
            }
        }
        Ok(false)
    }

    /// The digests whose blobs are not stored; notes that the other blobs are used.
    ///
    /// # Errors
    /// If the bucket does not answer.
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, Error> {
        let look = |digest| async move { Ok((!self.touch(digest).await?).then_some(digest)) };
        let found = futures_util::stream::iter(digests).map(look).buffered(QUESTIONS);
        found.try_filter_map(|missing| async move { Ok(missing) }).try_collect().await
    }

    /// Opens a blob that is stored with that encoding; none if there is no such blob. The bytes
    /// are read where a thread may block.
    ///
    /// # Errors
    /// If the bucket does not answer.
    pub async fn reader(&self, digest: Digest, encoding: Encoding) -> Result<Option<Reader>, Error> {
        match self.store.get(&self.key(digest, encoding)).await {
            Ok(found) => {
                let (size, version) = (found.meta.size, found.meta.e_tag.clone());
                let bytes = StreamReader::new(found.into_stream().map_err(io::Error::from));
                Ok(Some(Reader::new(encoding, size, version, SyncIoBridge::new(Box::pin(bytes)))))
            }
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(bucket_error(&self.name, "be read")(error)),
        }
    }

    /// Forgets a blob, so that the bucket is asked the next time.
    pub fn forget(&self, digest: Digest) {
        if let Some(known) = self.known().get_mut(&digest) {
            known.encoding = None;
        }
    }

    /// Stores a checked file.
    ///
    /// # Errors
    /// If the bucket does not take the file.
    pub async fn publish(&self, checked: &Checked) -> Result<(), Error> {
        // Noted first: a collection that looks from here on leaves it alone.
        let (mut call, _) = self.call(checked.digest);
        let key = self.key(checked.digest, checked.encoding);
        let error = bucket_error(&self.name, "be written");
        let read_error = |source| io_error("read", &checked.path)(source);
        let mut file = std::fs::File::open(&checked.path).map_err(read_error)?;
        let mut part = next_part(&mut file).map_err(read_error)?;
        if part.len() < PART {
            self.store.put(&key, part.into()).await.map_err(error)?;
        } else {
            let upload = self.store.put_multipart(&key).await.map_err(error)?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
            while !part.is_empty() {
                let room = upload.wait_for_capacity(PARTS).await;
                room.map_err(bucket_error(&self.name, "be written"))?;
                upload.write(&part);
                let read = tokio::task::spawn_blocking(move || next_part(&mut file).map(|part| (part, file)));
                (part, file) = read.await?.map_err(read_error)?;
            }
            // Parts of an upload without its end are the bucket's to expire.
            upload.finish().await.map_err(bucket_error(&self.name, "be written"))?;
        }
        call.found = Some(checked.encoding);
        Ok(())
    }

    /// Moves a blob to quarantine if it still is of version `of`; returns whether it was moved.
    ///
    /// # Errors
    /// If the bucket refuses the move.
    pub async fn quarantine(&self, digest: Digest, encoding: Encoding, of: Option<&str>) -> Result<bool, Error> {
        self.forget(digest);
        let key = self.key(digest, encoding);
        let aside = self.prefix.clone().join(QUARANTINE).join(format!("{digest}{}", encoding.suffix()));
        let moved = match self.store.head(&key).await {
            Ok(meta) if of.is_some() && meta.e_tag.as_deref() != of => return Ok(false),
            Ok(_) => self.store.rename(&key, &aside).await,
            Err(error) => Err(error),
        };
        match moved {
            Ok(()) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(bucket_error(&self.name, "be renamed in")(error)),
        }
    }

    /// All stored blobs.
    ///
    /// # Errors
    /// If the bucket cannot be listed.
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut objects = self.store.list(Some(&self.prefix));
        let mut stored = Vec::new();
        while let Some(object) = objects.next().await {
            let object = object.map_err(bucket_error(&self.name, "be listed"))?;
            let Some(parts) = object.location.prefix_match(&self.prefix) else { continue };
            let parts: Vec<_> = parts.collect();
            let [beginning, rest] = parts.as_slice() else { continue };
            let Some((digest, encoding)) = parse(&format!("{}{}", beginning.as_ref(), rest.as_ref())) else { continue };
            let last = SystemTime::from(object.last_modified).max(self.opened);
            let used = self.known().get(&digest).map_or(last, |known| known.used.max(last));
            stored.push(Stored { digest, encoding, size: object.size, used });
        }
        Ok(stored)
    }

    /// Removes the blobs in `unused` that were not used since `since`; returns the removed
    /// ones.
    ///
    /// # Errors
    /// If the bucket refuses a removal.
    pub async fn remove(&self, unused: &[Stored], since: SystemTime) -> Result<Vec<Stored>, Error> {
        let is_unused = |known: &Known| known.used < since && known.calls == 0;
        let still_unused = |blob: &&Stored| self.known().get(&blob.digest).is_none_or(is_unused);
        let unused: Vec<Stored> = unused.iter().filter(still_unused).copied().collect();
        for blob in &unused {
            self.known().remove(&blob.digest);
        }
        let keys: Vec<_> = unused.iter().map(|blob| Ok(self.key(blob.digest, blob.encoding))).collect();
        let removed = self.store.delete_stream(futures_util::stream::iter(keys).boxed());
        removed.try_collect::<Vec<_>>().await.map_err(bucket_error(&self.name, "be deleted from"))?;
        Ok(unused)
    }
}

fn bucket_error(bucket: &str, what: &'static str) -> impl Fn(StoreError) -> Error + use<> {
    let bucket = bucket.to_owned();
    move |source| Error::Bucket { bucket: bucket.clone(), what, source: Box::new(source) }
}

/// The next part of a file; only the last part may be shorter than [`PART`].
fn next_part(file: &mut std::fs::File) -> io::Result<Vec<u8>> {
    let mut part = Vec::new();
    file.take(PART as u64).read_to_end(&mut part)?;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_bucket_is_refused() {
        for bad in ["s3://", "s3:///prefix", "gs://bucket", "s3://bucket/a//b"] {
            assert!(matches!(Bucket::open(bad).await, Err(Error::Place(_))), "{bad}");
        }
    }
}
