//! How fast files come and go over loopback, beside what the disk does alone.
//!
//! Prints figures; asserts nothing about time. Every kind of file is put and got
//! three times, the best counts, and next to it stands a plain copy of the same
//! files with a sync of each, on the same disk in the same run.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use proto::channel::{Credentials, connect};
use proto::transfer::{self, Transfer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ROUNDS: u64 = 3;

/// Bytes that differ with the seed; of `letters` kinds, so that few pack well.
fn bytes(seed: u64, length: usize, letters: u8) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if letters == 0 { state as u8 } else { state as u8 % letters }
    };
    (0..length).map(|_| next()).collect()
}

/// Writes files and syncs each; returns the seconds.
fn plain(from: &Path, to: &Path) -> f64 {
    let started = Instant::now();
    std::fs::create_dir(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let mut copy = File::create(to.join(path.file_name().unwrap())).unwrap();
        std::io::copy(&mut File::open(&path).unwrap(), &mut copy).unwrap();
        copy.sync_all().unwrap();
    }
    File::open(to).unwrap().sync_all().unwrap();
    started.elapsed().as_secs_f64()
}

async fn measure(name: &str, files: usize, length: usize, letters: u8) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, round: u64| folder.path().join(format!("{name}-{round}"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let close = CancellationToken::new();
    let config = coordinator::Config::new(folder.path().join("state"));
    let serving = tokio::spawn(coordinator::run(config, listener, close.clone().cancelled_owned()));
    let transfer = Transfer::new(connect(&url, &Credentials::default()).unwrap());
    let (mut put, mut got, mut copied) = (f64::MAX, f64::MAX, f64::MAX);
    for round in 0..ROUNDS {
        let root = path("made", round);
        std::fs::create_dir(&root).unwrap();
        for file in 0..files {
            let bytes = bytes(round << 32 | file as u64, length, letters);
            File::create(root.join(file.to_string())).unwrap().write_all(&bytes).unwrap();
        }
        let started = Instant::now();
        let manifest = transfer::scan(&root).unwrap();
        let artifact = transfer.push(&root, &manifest).await.unwrap();
        put = put.min(started.elapsed().as_secs_f64());
        let started = Instant::now();
        transfer.pull(artifact, &[], &path("got", round)).await.unwrap();
        got = got.min(started.elapsed().as_secs_f64());
        copied = copied.min(plain(&root, &path("plain", round)));
    }
    close.cancel();
    serving.await.unwrap().unwrap();
    let rate = |seconds: f64| (files * length) as f64 / seconds / 1e6;
    println!(
        "{name:<28} put {:>7.1} MB/s {:>7.0} files/s  get {:>7.1} MB/s {:>7.0} files/s  plain copy {:>7.1} MB/s  put/plain {:.2}  get/plain {:.2}",
        rate(put),
        files as f64 / put,
        rate(got),
        files as f64 / got,
        rate(copied),
        copied / put,
        copied / got,
    );
}

#[tokio::main]
async fn main() {
    measure("1 × 256 MiB, does not pack", 1, 256 << 20, 0).await;
    measure("1 × 256 MiB, packs", 1, 256 << 20, 8).await;
    measure("64 × 1 MiB, does not pack", 64, 1 << 20, 0).await;
    measure("2000 × 2 KiB", 2000, 2 << 10, 0).await;
}
