use std::time::Duration;

use domain::artifact::Entry;
use domain::runner::registry::IdentityId;
use futures_util::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;

async fn store() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(folder.path(), None).await.unwrap();
    (folder, blobs)
}

async fn put(blobs: &Blobs, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    blobs.put_bytes(digest, bytes).await.unwrap();
    digest
}

fn start(digest: Digest, size: u64, offset: u64) -> Start {
    Start { digest, session: "s".to_owned(), encoding: Encoding::Raw, size, offset, identity: None }
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn what_is_stored_comes_back_in_either_form() {
    let (folder, blobs) = store().await;
    for (bytes, suffix) in [(b"stone".to_vec(), ""), (vec![b'x'; 100_000], ".zst")] {
        let digest = put(&blobs, &bytes).await;
        assert!(blobs.has(digest).await.unwrap());
        assert_eq!(blobs.bytes(digest).await.unwrap(), bytes);
        let name = digest.to_string();
        assert!(folder.path().join(format!("blobs/{}/{}{suffix}", &name[..2], &name[2..])).is_file());
    }
    assert!(matches!(blobs.bytes(Digest::of(b"other")).await, Err(Error::Unknown(_))));
    assert_eq!(count(&folder.path().join("blobs/partial")), 0);
}

#[tokio::test]
async fn another_place_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (state, place) = (folder.path().join("state"), folder.path().join("elsewhere"));
    std::fs::create_dir(&state).unwrap();
    let digest = put(&Blobs::open(&state, place.to_str()).await.unwrap(), b"stone").await;
    assert!(Blobs::open(&state, None).await.unwrap().has(digest).await.unwrap());
    assert!(matches!(Blobs::open(&state, Some("gs://bucket")).await, Err(Error::Place(_))));
}

#[tokio::test]
async fn all_blobs_are_looked_at_by_one_at_a_time() {
    let (_folder, blobs) = store().await;
    let turn = blobs.upkeep().unwrap();
    assert!(blobs.clone().upkeep().is_none());
    drop(turn);
    assert!(blobs.upkeep().is_some());
}

#[tokio::test]
async fn other_bytes_than_named_are_refused_and_leave_nothing() {
    let (folder, blobs) = store().await;
    let digest = Digest::of(b"stone");
    assert!(matches!(blobs.put_bytes(digest, b"sand").await, Err(Error::Mismatch { .. })));
    let mut upload = blobs.begin(start(digest, 4, 0)).unwrap();
    upload.write(b"sand").unwrap();
    assert!(matches!(blobs.finish(upload).await, Err(Error::Mismatch { .. })));
    assert!(!blobs.has(digest).await.unwrap());
    assert_eq!(count(&folder.path().join("blobs/partial")), 0);
}

#[tokio::test]
async fn more_or_fewer_bytes_than_announced_are_refused_and_leave_nothing() {
    let (folder, blobs) = store().await;
    let mut upload = blobs.begin(start(Digest::of(b"stone"), 4, 0)).unwrap();
    let error = upload.write(b"stone").unwrap_err().to_string();
    assert_eq!(error, "data: there are more than the 4 bytes announced");
    drop(upload);
    let mut upload = blobs.begin(start(Digest::of(b"stone"), 6, 0)).unwrap();
    upload.write(b"stone").unwrap();
    assert_eq!(blobs.finish(upload).await.unwrap_err().to_string(), "size: is 6, but 5 bytes came");
    assert_eq!(count(&folder.path().join("blobs/partial")), 0);
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_cut_off_also_after_a_restart() {
    let (folder, blobs) = store().await;
    let digest = Digest::of(b"stone");
    blobs.begin(start(digest, 5, 0)).unwrap().write(b"sto").unwrap();
    drop(blobs);
    let blobs = Blobs::open(folder.path(), None).await.unwrap();
    assert_eq!(blobs.arrived(digest, "s", Encoding::Raw), 3);
    assert_eq!(blobs.arrived(digest, "another", Encoding::Raw), 0);
    let beyond = blobs.begin(start(digest, 5, 4)).unwrap_err().to_string();
    assert_eq!(beyond, "offset: is 4, but 3 bytes have arrived");
    let mut upload = blobs.begin(start(digest, 5, 3)).unwrap();
    assert!(matches!(blobs.begin(start(digest, 5, 3)), Err(Error::Busy(_))), "one call at a time");
    upload.write(b"ne").unwrap();
    blobs.finish(upload).await.unwrap();
    assert_eq!(blobs.bytes(digest).await.unwrap(), b"stone");
}

#[tokio::test]
async fn a_blob_that_cannot_fit_is_refused_before_it_is_sent() {
    let (folder, blobs) = store().await;
    let refused = blobs.begin(start(Digest::of(b"stone"), u64::MAX, 0)).unwrap_err();
    assert!(matches!(refused, Error::NoRoom { .. }), "{refused}");
    assert_eq!(count(&folder.path().join("blobs/partial")), 0);
}

#[tokio::test]
async fn a_session_is_a_plain_name() {
    let (_folder, blobs) = store().await;
    for bad in ["", "../x", "a/b", "A", "a.b", &"a".repeat(65)] {
        let start = Start { session: bad.to_owned(), ..start(Digest::of(b"stone"), 5, 0) };
        assert!(matches!(blobs.begin(start), Err(Error::Invalid { field: "session", .. })), "{bad:?}");
    }
}

#[tokio::test]
async fn an_artifact_is_whole_only_with_all_its_files() {
    let (_folder, blobs) = store().await;
    let file = Digest::of(b"late");
    let manifest = Manifest::new(vec![Entry { path: "a".to_owned(), digest: file, size: 4 }]).unwrap();
    assert_eq!(blobs.first_missing_of(manifest.id()).await.unwrap(), Some(manifest.id().0));
    let artifact = put(&blobs, &manifest.to_bytes()).await;
    assert_eq!(blobs.first_missing_of(ArtifactId(artifact)).await.unwrap(), Some(file));
    put(&blobs, b"late").await;
    assert_eq!(blobs.first_missing_of(ArtifactId(artifact)).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_asked_for_is_not_removed() {
    let (_folder, blobs) = store().await;
    let (wanted, forgotten) = (put(&blobs, b"wanted").await, put(&blobs, b"forgotten").await);
    let since = SystemTime::now();
    let listed = blobs.list().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(blobs.has(wanted).await.unwrap());
    let removed = blobs.remove(&listed, since).await.unwrap();
    assert_eq!(removed.iter().map(|blob| blob.digest).collect::<Vec<_>>(), [forgotten]);
    assert!(blobs.has(wanted).await.unwrap() && !blobs.has(forgotten).await.unwrap());
}

#[tokio::test]
async fn damaged_bytes_are_noticed_moved_aside_and_can_be_stored_again() {
    let (folder, blobs) = store().await;
    let digest = put(&blobs, b"stone").await;
    let name = digest.to_string();
    std::fs::write(folder.path().join(format!("blobs/{}/{}", &name[..2], &name[2..])), b"sand!").unwrap();
    assert!(matches!(blobs.bytes(digest).await, Err(Error::Damaged { .. })));
    assert!(!blobs.has(digest).await.unwrap());
    assert_eq!(std::fs::read(folder.path().join("blobs/quarantine").join(&name)).unwrap(), b"sand!");
    put(&blobs, b"stone").await;
    assert_eq!(blobs.bytes(digest).await.unwrap(), b"stone");
}

#[tokio::test]
async fn uploads_that_were_given_up_go_and_those_under_way_stay() {
    let (_folder, blobs) = store().await;
    blobs.begin(start(Digest::of(b"given up"), 8, 0)).unwrap().write(b"giv").unwrap();
    let mut under_way = blobs.begin(start(Digest::of(b"under way"), 9, 0)).unwrap();
    under_way.write(b"und").unwrap();
    let later = SystemTime::now() + Duration::from_secs(1);
    assert_eq!(blobs.remove_uploads(later, true).unwrap(), 1);
    assert_eq!(blobs.remove_uploads(later, false).unwrap(), 1);
    assert_eq!(blobs.remove_uploads(later, false).unwrap(), 0);
    under_way.write(b"er way").unwrap();
    blobs.finish(under_way).await.unwrap();
}

#[tokio::test]
async fn a_collection_waits_for_leases_of_before() {
    let (_folder, blobs) = store().await;
    let hold = blobs.hold().await;
    let settled = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.settle().await }
    });
    tokio::task::yield_now().await;
    assert!(!settled.is_finished());
    drop(hold);
    settled.await.unwrap();
}

/// Path of a blob that is stored raw.
fn raw_path(folder: &Path, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    folder.join("blobs").join(&name[..2]).join(&name[2..])
}

#[tokio::test]
async fn a_large_file_is_no_manifest_and_stays_where_it_is() {
    let (folder, blobs) = store().await;
    // Takes no room on the disk, and would take a day to read.
    let raw = Digest::of(b"raw");
    let path = raw_path(folder.path(), raw);
    std::fs::File::create(&path).unwrap().set_len(1 << 43).unwrap();
    let packed = put(&blobs, &vec![0; MANIFEST_MAX + 1]).await;
    for large in [raw, packed] {
        let refused = blobs.first_missing_of(ArtifactId(large)).await.unwrap_err();
        assert!(matches!(refused, Error::NotAManifest { .. }), "{refused}");
        assert!(refused.to_string().contains("a list of files has at most 15728640"), "{refused}");
        assert!(blobs.has(large).await.unwrap());
    }
    assert!(!folder.path().join("blobs/quarantine").exists());
}

#[tokio::test]
async fn what_cannot_be_read_is_not_moved_aside() {
    let (folder, blobs) = store().await;
    let digest = Digest::of(b"stone");
    let path = raw_path(folder.path(), digest);
    // Opens and cannot be read, as a file does on a disk that fails.
    std::fs::create_dir(&path).unwrap();
    let ended = blobs.look(digest, Encoding::Raw).await;
    assert!(matches!(ended, Err(Error::Unreadable { .. })), "{ended:?}");
    assert!(matches!(blobs.bytes(digest).await, Err(Error::Unreadable { .. })));
    assert!(matches!(blobs.suspect(digest).await, Error::Unreadable { .. }));
    assert!(path.is_dir() && !folder.path().join("blobs/quarantine").exists());
}

#[tokio::test]
async fn of_two_forms_only_the_damaged_one_is_moved_aside() {
    let (folder, blobs) = store().await;
    let bytes = vec![b'x'; 100_000];
    let digest = put(&blobs, &bytes).await;
    std::fs::write(raw_path(folder.path(), digest), b"sand").unwrap();
    assert!(matches!(blobs.bytes(digest).await, Err(Error::Damaged { .. })));
    assert_eq!(blobs.bytes(digest).await.unwrap(), bytes);
    assert_eq!(count(&folder.path().join("blobs/quarantine")), 1);
    assert_eq!(blobs.look(digest, Encoding::Zstd).await.unwrap(), Looked::Whole);
    assert_eq!(blobs.look(digest, Encoding::Raw).await.unwrap(), Looked::Gone);
}

#[tokio::test]
async fn what_was_stored_anew_meanwhile_is_not_moved_aside() {
    let (folder, blobs) = store().await;
    let digest = put(&blobs, b"stone").await;
    let Backend::Folder(backend) = &blobs.backend else { panic!("a folder") };
    let before = backend.reader(digest, Encoding::Raw).unwrap().unwrap();
    let path = raw_path(folder.path(), digest);
    std::fs::write(folder.path().join("anew"), b"stone").unwrap();
    std::fs::rename(folder.path().join("anew"), &path).unwrap();
    assert!(!backend.quarantine(digest, Encoding::Raw, before.version.as_deref()).unwrap());
    assert!(blobs.has(digest).await.unwrap());
}

/// A store on a disk with as much room as `free` says, whatever is written.
async fn store_with_room(free: crate::room::Free) -> (tempfile::TempDir, Blobs) {
    let (folder, mut blobs) = store().await;
    Arc::get_mut(&mut blobs.staging).unwrap().free = free;
    (folder, blobs)
}

#[tokio::test]
async fn room_that_is_announced_is_no_other_uploads() {
    let (folder, blobs) = store_with_room(|_| Ok(crate::room::RESERVE + 100)).await;
    let (one, other) = (vec![b'1'; 60], vec![b'2'; 60]);
    let announce = |bytes: &[u8]| blobs.begin(start(Digest::of(bytes), bytes.len() as u64, 0));
    let mut first = announce(&one).unwrap();
    let refused = announce(&other).unwrap_err();
    assert!(matches!(refused, Error::NoRoom { free, .. } if free == crate::room::RESERVE + 40), "{refused}");
    assert_eq!(count(&folder.path().join("blobs/partial")), 1, "nothing is kept of what is refused");
    first.write(&one).unwrap();
    blobs.finish(first).await.unwrap();
    let mut second = announce(&other).unwrap();
    second.write(&other).unwrap();
    blobs.finish(second).await.unwrap();
    assert!(blobs.has(Digest::of(&one)).await.unwrap() && blobs.has(Digest::of(&other)).await.unwrap());
    drop(announce(&[b'3'; 100]).unwrap());
    announce(&[b'4'; 100]).unwrap();
}

#[tokio::test]
async fn who_announces_everything_leaves_half_of_the_room_to_others() {
    let (_folder, blobs) = store_with_room(|_| Ok(crate::room::RESERVE + 100)).await;
    let announce = |name: &[u8], size, identity: Option<&str>| {
        let identity = identity.map(|identity| IdentityId(identity.to_owned()));
        blobs.begin(Start { identity, ..start(Digest::of(name), size, 0) })
    };
    let _all = announce(b"all", 100, Some("one")).unwrap();
    assert!(announce(b"more", 1, Some("one")).is_err(), "its own promises count in full");
    assert!(announce(b"much", 51, Some("other")).is_err());
    let _half = announce(b"half", 50, Some("other")).unwrap();
    let mut local = announce(b"local", 5, None).unwrap();
    local.write(b"local").unwrap();
    blobs.finish(local).await.unwrap();
    // Nor can anybody on this machine.
    let (_folder, blobs) = store_with_room(|_| Ok(crate::room::RESERVE + 100)).await;
    let _all = blobs.begin(Start { session: "other".to_owned(), ..start(Digest::of(b"all"), 100, 0) }).unwrap();
    blobs.begin(start(Digest::of(b"half"), 50, 0)).unwrap();
}

#[tokio::test]
async fn an_upload_ends_when_others_have_filled_the_disk() {
    let (folder, mut blobs) = store().await;
    let mut upload = blobs.begin(start(Digest::of(b"stone"), 5, 0)).unwrap();
    upload.write(b"sto").unwrap();
    drop(upload);
    Arc::get_mut(&mut blobs.staging).unwrap().free = |_| Ok(crate::room::RESERVE + 1);
    let refused = blobs.begin(start(Digest::of(b"stone"), 5, 3)).unwrap_err();
    assert!(matches!(refused, Error::NoRoom { .. }), "{refused}");
    assert_eq!(count(&folder.path().join("blobs/partial")), 0, "not the half either");
}

#[tokio::test]
async fn what_was_cut_off_gives_way_to_what_comes_the_oldest_first() {
    fn room(folder: &Path) -> io::Result<u64> {
        let used: u64 = std::fs::read_dir(folder)?.map(|item| item.unwrap().metadata().unwrap().len()).sum();
        Ok(crate::room::RESERVE + 100 - used)
    }
    let (folder, blobs) = store_with_room(room).await;
    let names = [b"old", b"mid", b"new"].map(|name| Digest::of(name));
    for (age, digest) in names.into_iter().enumerate() {
        let mut upload = blobs.begin(start(digest, 40, 0)).unwrap();
        upload.write(&[b'x'; 30]).unwrap();
        let path = folder.path().join(format!("blobs/partial/{digest}.s"));
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
        std::fs::File::open(path).unwrap().set_modified(written).unwrap();
    }
    let arrived = || names.map(|digest| blobs.arrived(digest, "s", Encoding::Raw));
    assert!(blobs.begin(start(Digest::of(b"too large"), 101, 0)).is_err());
    assert_eq!(arrived(), [30, 30, 30], "it would not help");
    let _going_on = blobs.begin(start(names[0], 40, 30)).unwrap();
    let _new = blobs.begin(start(Digest::of(b"fits then"), 30, 0)).unwrap();
    assert_eq!(arrived(), [30, 0, 30], "what goes on stays");
}

#[tokio::test]
async fn there_are_only_so_many_files_of_uploads_that_were_cut_off() {
    let (folder, blobs) = store().await;
    let half = |session: &str, number: u32| {
        let digest = Digest::of(&number.to_le_bytes());
        let start = Start { session: session.to_owned(), ..start(digest, 8, 0) };
        blobs.begin(start).unwrap().write(b"half").unwrap();
    };
    (0..100).for_each(|number| half("one", number));
    assert_eq!(count(&folder.path().join("blobs/partial")), 64);
    (0..600).for_each(|number| half(&format!("session-{number}"), number));
    assert_eq!(count(&folder.path().join("blobs/partial")), 512);
}

#[tokio::test]
async fn packed_bytes_that_mean_nothing_are_not_stored_without_end() {
    let (folder, blobs) = store().await;
    let skipped = [0x184d_2a50u32.to_le_bytes(), 992u32.to_le_bytes()].concat();
    let skipped = [skipped, vec![0; 992]].concat();
    let start = Start { encoding: Encoding::Zstd, ..start(Digest::of(b"stone"), 5, 0) };
    let mut upload = blobs.begin(start).unwrap();
    upload.write(&skipped).unwrap();
    let refused = upload.write(&skipped).unwrap_err().to_string();
    assert_eq!(refused, "data: the packed form has more than the 1029 bytes that 5 raw ones can take");
    drop(upload);
    assert_eq!(count(&folder.path().join("blobs/partial")), 0);
}

/// How the bucket behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    /// The bucket does not answer.
    Away,
    /// The connection breaks in the middle of an object.
    Breaks,
    /// An object ends too early, without an error.
    Short,
}

/// A bucket in memory that can fail.
#[derive(Debug)]
struct Shaky {
    store: InMemory,
    mood: std::sync::Mutex<Mood>,
}

impl std::fmt::Display for Shaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "shaky", source: "the connection was reset".into() }
}

type Stream<T> = futures_util::stream::BoxStream<'static, object_store::Result<T>>;

#[tonic::async_trait]
impl ObjectStore for Shaky {
    async fn put_opts(&self, at: &Key, bytes: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.store.put_opts(at, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        let (mood, is_head) = (*self.mood.lock().unwrap(), options.head);
        if mood == Mood::Away {
            return Err(broken());
        }
        let mut found = self.store.get_opts(at, options).await?;
        if mood != Mood::Well && !is_head {
            let GetResultPayload::Stream(bytes) = found.payload;
            let bytes: Vec<_> = bytes.try_collect().await?;
            let half = Ok(bytes[0].slice(..bytes[0].len() / 2));
            let parts = if mood == Mood::Breaks { vec![half, Err(broken())] } else { vec![half] };
            found.payload = GetResultPayload::Stream(futures_util::stream::iter(parts).boxed());
        }
        Ok(found)
    }

    fn delete_stream(&self, keys: Stream<Key>) -> Stream<Key> {
        self.store.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> Stream<ObjectMeta> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

async fn keys(store: &Shaky) -> Vec<String> {
    let listed = store.store.list(None).map_ok(|object| object.location.to_string());
    let mut keys: Vec<String> = listed.try_collect().await.unwrap();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_breaks_leaves_all_objects_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Shaky { store: InMemory::new(), mood: Mood::Well.into() });
    let bucket = Bucket::of("stones", Key::from("lab"), store.clone()).await.unwrap();
    let staging = Arc::new(Staging::open(folder.path().join("partial")).unwrap());
    let blobs = Blobs::of(Backend::Bucket(bucket.into()), staging);
    let digests = [put(&blobs, b"stone").await, put(&blobs, &vec![b'x'; 100_000]).await];
    let before = keys(&store).await;
    for mood in [Mood::Away, Mood::Breaks, Mood::Short] {
        *store.mood.lock().unwrap() = mood;
        for stored in blobs.list().await.unwrap() {
            let looked = blobs.look(stored.digest, stored.encoding).await;
            assert!(matches!(looked, Err(Error::Unreadable { .. } | Error::Bucket { .. })), "{mood:?}: {looked:?}");
        }
        for digest in digests {
            let named = blobs.first_missing_of(ArtifactId(digest)).await;
            assert!(matches!(named, Err(Error::Unreadable { .. } | Error::Bucket { .. })), "{mood:?}: {named:?}");
            let suspected = blobs.suspect(digest).await;
            assert!(!matches!(suspected, Error::Damaged { .. }), "{mood:?}: {suspected:?}");
        }
        assert_eq!(keys(&store).await, before, "{mood:?}");
    }
    *store.mood.lock().unwrap() = Mood::Well;
    for stored in blobs.list().await.unwrap() {
        assert_eq!(blobs.look(stored.digest, stored.encoding).await.unwrap(), Looked::Whole);
    }
    let name = digests[0].to_string();
    let key = Key::from(format!("lab/{}/{}", &name[..2], &name[2..]));
    store.store.put(&key, PutPayload::from_static(b"sand!")).await.unwrap();
    assert_eq!(blobs.look(digests[0], Encoding::Raw).await.unwrap(), Looked::Damaged);
    assert!(keys(&store).await.contains(&format!("lab/quarantine/{name}")));
    assert!(!blobs.has(digests[0]).await.unwrap());
    let Backend::Bucket(bucket) = &blobs.backend else { panic!("a bucket") };
    let known = bucket.remembered();
    let never_stored = (0..100u32).map(|number| Digest::of(&number.to_le_bytes())).collect();
    assert_eq!(blobs.missing(never_stored).await.unwrap().len(), 100);
    assert_eq!(bucket.remembered(), known, "nothing is remembered of what is not there");
}
