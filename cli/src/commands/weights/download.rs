//! A file over HTTPS: through a proxy if the environment names one, and from the
//! byte that arrived last if an earlier download was cut off.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use domain::study::pretrained::Pretrained;
use proto::backoff::{Backoff, Tries};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use crate::exit::{self, Problem};

/// Interruptions in a row, without a byte between them, that a download lives through.
const TRIES: u32 = 4;

/// Pauses after interruptions.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Most bytes of a download: no published weights are as large.
const BYTES_MAX: u64 = 1 << 30;

/// Where to get weights from: what is published, or a mirror of it.
///
/// # Errors
/// Exit code 2 for what is no URL, or not encrypted on its way to another machine.
pub(super) fn source(which: Pretrained, from: Option<&str>) -> anyhow::Result<Url> {
    let entry = which.entry();
    let text = match from {
        Some(folder) if folder.ends_with('/') => format!("{folder}{}", entry.file),
        Some(url) => url.to_owned(),
        None => entry.url.to_owned(),
    };
    let wrong = |problem: String| Problem::new(exit::USAGE, format!("--from {text}: {problem}"));
    let url = Url::parse(&text).map_err(|error| wrong(error.to_string()))?;
    if is_safe(&url) {
        Ok(url)
    } else {
        Err(wrong("has to begin with https://; http:// is for this machine only".to_owned()).into())
    }
}

/// Whether nobody between can change what comes from there.
fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

fn is_loopback(url: &Url) -> bool {
    proto::address::is_loopback(url.host_str().unwrap_or_default().trim_matches(['[', ']']))
}

/// What is in an unfinished file.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct Note {
    url: String,
    /// The server's name for this very content.
    etag: Option<String>,
}

/// How an attempt ended before its end.
enum Trouble {
    /// Another attempt may get further.
    Passing(anyhow::Error),
    /// Another attempt would get no further.
    Final(anyhow::Error),
}

/// Fills the file `part`. Bytes that are there already are not asked for again.
///
/// # Errors
/// If the server refuses, or the way to it is cut for longer than a few tries take.
pub(super) async fn download(url: &Url, part: &Path, tell: &mut dyn FnMut(u64, u64)) -> anyhow::Result<()> {
    if let Some(folder) = part.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let unwritten = || format!("cannot write {}", part.display());
    let alone = fs::OpenOptions::new().create(true).append(true).open(part).with_context(unwritten)?;
    if alone.try_lock().is_err() {
        bail!("another process downloads to {}", part.display());
    }
    let client = client(url)?;
    let mut tries = Tries::new(TRIES, BACKOFF);
    loop {
        let before = length(part);
        let trouble = match attempt(&client, url, part, tell).await {
            Ok(()) => return alone.sync_all().with_context(unwritten),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(error)) => error,
        };
        let here = length(part);
        if here > before {
            tries.reset();
        }
        let cut_off = format!("cut off with {here} bytes here; the same command goes on from there");
        tries.again(trouble).await.context(cut_off)?;
    }
}

/// Removes what a download left.
pub(super) fn remove(part: &Path) {
    // Whoever cannot remove it only keeps some bytes too many.
    let _ = fs::remove_file(note_of(part));
    let _ = fs::remove_file(part);
}

fn note_of(part: &Path) -> PathBuf {
    part.with_extension("part.json")
}

fn length(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |meta| meta.len())
}

fn client(url: &Url) -> anyhow::Result<Client> {
    let is_encrypted = url.scheme() == "https";
    let policy = Policy::custom(move |step| {
        if step.previous().len() > 10 {
            step.error("it leads on and on")
        } else if step.url().scheme() == "https" || !is_encrypted && is_safe(step.url()) {
            step.follow()
        } else {
            step.error("it leads to where nothing is encrypted")
        }
    });
    let client = Client::builder()
        .user_agent(concat!("lithogen/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(SILENCE)
        .read_timeout(SILENCE)
        .redirect(policy);
    // No proxy is between this machine and itself.
    let client = if is_loopback(url) { client.no_proxy() } else { client };
    client.build().context("cannot make an HTTP client")
}

async fn attempt(client: &Client, url: &Url, part: &Path, tell: &mut dyn FnMut(u64, u64)) -> Result<(), Trouble> {
    let note = read_note(part);
    // What another place gave is no beginning of this file.
    let here = if note.url == url.as_str() { length(part) } else { 0 };
    let mut request = client.get(url.clone());
    if here > 0 {
        request = request.header(RANGE, format!("bytes={here}-"));
        request = note.etag.iter().fold(request, |request, etag| request.header(IF_RANGE, etag));
    }
    let response = request.send().await.map_err(|error| Trouble::Passing(error.into()))?;
    let range = content_range(response.headers());
    let (start, total) = match response.status() {
        StatusCode::OK => (0, response.content_length()),
        StatusCode::PARTIAL_CONTENT => match range {
            Some((Some(start), total)) if start == here => (here, total),
            _ => return Err(Trouble::Final(anyhow!("{url} answers with another part than was asked for"))),
        },
        StatusCode::RANGE_NOT_SATISFIABLE => match range {
            Some((None, Some(total))) if total == here => return Ok(()),
            _ => {
                remove_bytes(part)?;
                return Err(Trouble::Passing(anyhow!("{url} has become shorter")));
            }
        },
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(Trouble::Passing(anyhow!("{url} answers {status}")));
        }
        status => return Err(Trouble::Final(anyhow!("{url} answers {status}"))),
    };
    if total.is_some_and(|total| total > BYTES_MAX) {
        return Err(Trouble::Final(too_large(url)));
    }
    if start == 0 {
        remove_bytes(part)?;
        write_note(part, url, response.headers())?;
    }
    append(response, part, start, total, tell).await
}

/// Adds what arrives to the file, which has `here` bytes.
async fn append(
    mut response: Response,
    part: &Path,
    mut here: u64,
    total: Option<u64>,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<(), Trouble> {
    let unwritten = |error: std::io::Error| Trouble::Final(anyhow!("cannot write {}: {error}", part.display()));
    let mut file = tokio::fs::OpenOptions::new().append(true).open(part).await.map_err(unwritten)?;
    let ended = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                here += chunk.len() as u64;
                if here > BYTES_MAX {
                    break Err(Trouble::Final(too_large(response.url())));
                }
                file.write_all(&chunk).await.map_err(unwritten)?;
                tell(here, total.unwrap_or(here));
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(Trouble::Passing(error.into())),
        }
    };
    file.flush().await.map_err(unwritten)?;
    ended?;
    match total {
        Some(total) if total != here => Err(Trouble::Passing(anyhow!("only {here} of {total} bytes arrived"))),
        _ => Ok(()),
    }
}

fn too_large(url: &Url) -> anyhow::Error {
    anyhow!("{url} gives more than {BYTES_MAX} bytes, and no published weights have as many")
}

fn remove_bytes(part: &Path) -> Result<(), Trouble> {
    let emptied = fs::OpenOptions::new().write(true).truncate(true).open(part);
    emptied.map(drop).map_err(|error| Trouble::Final(anyhow!("cannot write {}: {error}", part.display())))
}

/// Reads the note beside a file. One that cannot be read is as good as none: the download begins
/// anew.
fn read_note(part: &Path) -> Note {
    fs::read(note_of(part)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write_note(part: &Path, url: &Url, headers: &HeaderMap) -> Result<(), Trouble> {
    // A weak name does not promise the same bytes.
    let etag = headers.get(ETAG).and_then(|etag| etag.to_str().ok()).filter(|etag| !etag.starts_with("W/"));
    let note = Note { url: url.to_string(), etag: etag.map(str::to_owned) };
    let written = serde_json::to_vec(&note).map_err(std::io::Error::from);
    let written = written.and_then(|bytes| fs::write(note_of(part), bytes));
    written.map_err(|error| match error.kind() {
        ErrorKind::StorageFull => Trouble::Final(anyhow!("the disk is full")),
        _ => Trouble::Final(anyhow!("cannot write {}: {error}", note_of(part).display())),
    })
}

/// Where a part begins, and how long the whole is: `bytes 5-9/10`, `bytes */10`.
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (part, total) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    Some((part.split_once('-').and_then(|(start, _)| start.parse().ok()), total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_encrypted_or_of_this_machine_is_asked() {
        let of = |from| source(Pretrained::Resnet50V2, from).map(|url| url.to_string());
        assert_eq!(of(None).unwrap(), Pretrained::Resnet50V2.entry().url);
        assert_eq!(of(Some("https://lab/w/")).unwrap(), "https://lab/w/resnet50-11ad3fa6.pth");
        assert_eq!(of(Some("https://lab/x.pth")).unwrap(), "https://lab/x.pth");
        for here in ["http://127.0.0.1:80/x", "http://[::1]:8080/x", "http://localhost:8080/x"] {
            of(Some(here)).unwrap();
        }
        for elsewhere in ["http://lab/x", "ftp://lab/x", "http://127.0.0.1.lab/x", "file:///etc/passwd", "lab"] {
            let told = of(Some(elsewhere)).unwrap_err().to_string();
            assert!(told.starts_with("--from "), "{told}");
        }
    }

    #[test]
    fn ranges_are_understood() {
        let of = |text: &'static str| content_range(&HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]));
        assert_eq!(of("bytes 5-9/10"), Some((Some(5), Some(10))));
        assert_eq!(of("bytes */10"), Some((None, Some(10))));
        assert_eq!(of("bytes 5-9/*"), Some((Some(5), None)));
        assert_eq!(of("pages 1-2/3"), None);
    }
}
