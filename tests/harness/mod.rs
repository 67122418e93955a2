//! What the tests stand on.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cable`] | two networks, and a cable between them that can be pulled |
//! | [`cluster`] | a coordinator and workers in this process, with stages that compute nothing |
//! | [`command`] | somebody's own programs, handed in |
//! | [`dice`] | numbers that follow from a seed |
//! | [`files`] | files to be sent and fetched |
//! | [`postgres`] | a PostgreSQL server |
//! | [`program`] | the program as people start it |
//! | [`proxy`] | a cable that can be cut |
//! | [`site`] | a coordinator and workers in processes of their own |
//! | [`story`] | events as a coordinator decides them, without one |

pub(crate) mod cable;
pub(crate) mod cluster;
pub(crate) mod command;
pub(crate) mod dice;
pub(crate) mod files;
pub(crate) mod postgres;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod site;
pub(crate) mod story;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Far longer than anything takes that works; a test that waits so long fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until a condition holds.
///
/// # Panics
/// Says `what` did not come if it never holds.
#[track_caller]
pub(crate) fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < deadline, "{what}: not within {deadline:?}");
        std::thread::sleep(LOOK);
    }
}

/// As [`eventually`], for what has to be asked for; returns what came.
pub(crate) async fn soon<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// The folder with the workspace's manifest.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
