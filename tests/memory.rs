//! Lack of memory has a name of its own and is not tried again unchanged.

use std::path::Path;

use proto::v1;

use crate::harness::cluster::Cluster;

/// Code, attempts and message of the aggregate that ended so.
async fn ends(knob: &str) -> (String, u32, String) {
    let cluster = Cluster::start().await;
    cluster.submit().await;
    let _worker = cluster.worker("one", &[("FAKE_ONLY", Path::new("aggregate")), (knob, Path::new("yes"))]);
    let status = cluster.end().await;
    assert_eq!(status.state(), v1::RunState::Failed);
    let [failure] = status.failures.as_slice() else { panic!("{:?}", status.failures) };
    (failure.code.clone(), failure.attempts, failure.message.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_allocation_fails_ran_out_of_memory() {
    let (code, attempts, message) = ends("FAKE_HUNGRY").await;
    assert_eq!((code.as_str(), attempts), ("out_of_memory", 1), "{message}");
    assert!(message.contains("use fewer --slots"), "{message}");
    assert!(message.contains("bytes failed"), "{message}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_without_a_sign_of_lacking_memory_crashed() {
    let (code, attempts, message) = ends("FAKE_KILLED").await;
    assert_eq!((code.as_str(), attempts), ("crashed", 3), "{message}");
    assert!(message.contains("often the system's answer"), "{message}");
}
