use std::time::Duration;

use domain::artifact::Entry;

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
    Start { digest, session: "s".to_owned(), encoding: Encoding::Raw, size, offset }
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
    assert_eq!(blobs.first_missing_of(manifest.digest()).await.unwrap(), Some(manifest.digest()));
    let artifact = put(&blobs, &manifest.to_bytes()).await;
    assert_eq!(blobs.first_missing_of(artifact).await.unwrap(), Some(file));
    put(&blobs, b"late").await;
    assert_eq!(blobs.first_missing_of(artifact).await.unwrap(), None);
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
    let lease = blobs.lease().await;
    let settled = tokio::spawn({
        let blobs = blobs.clone();
        async move { blobs.settle().await }
    });
    tokio::task::yield_now().await;
    assert!(!settled.is_finished());
    drop(lease);
    settled.await.unwrap();
}
