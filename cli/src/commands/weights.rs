//! `lithogen weights`: the published weights that studies start from.

mod download;

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use aws_lc_rs::digest::{Context as Hasher, SHA256};
use domain::digest::Digest;
use domain::study::plan::WEIGHTS_FILE;
use domain::study::pretrained::Pretrained;
use proto::transfer;
use science::models::pretrained;
use serde_json::json;

use crate::args::{Weights, WeightsAt, WeightsCommand};
use crate::exit::{self, Problem, usable};
use crate::out;
use crate::progress::Counter;
use crate::units::size;
use crate::weights::{Imported, WeightsFolder};

/// Lists, checks, imports or fetches weights.
///
/// # Errors
/// Exit code 4 for files that cannot be used, 1 if some are damaged or a download
/// fails.
pub async fn run(args: &Weights, quiet: bool) -> anyhow::Result<()> {
    match &args.command {
        WeightsCommand::List { json, at } => list(&folder(at), *json),
        WeightsCommand::Verify { json, at } => verify(&folder(at), *json),
        WeightsCommand::Import { file, which, at } => {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            tell(&folder(at), &import(&folder(at), file, &name, *which)?);
            Ok(())
        }
        WeightsCommand::Fetch { name, from, at } => fetch(&folder(at), *name, from.as_deref(), quiet).await,
    }
}

fn folder(at: &WeightsAt) -> WeightsFolder {
    WeightsFolder::new(&at.place, &at.state.state)
}

fn list(folder: &WeightsFolder, as_json: bool) -> anyhow::Result<()> {
    let records: Vec<(Pretrained, Option<Imported>)> =
        Pretrained::ALL.into_iter().map(|which| Ok((which, folder.record(which)?))).collect::<anyhow::Result<_>>()?;
    if as_json {
        let weights: Vec<_> = records.iter().map(|(which, record)| described(*which, record.as_ref())).collect();
        let document = json!({ "schema_version": 1, "folder": folder.root(), "weights": weights });
        out::line(serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    let line = |name: &str, state: &str, size: &str, licence: &str, network: &str| {
        out::line(format_args!("{name:<24} {state:<8} {size:>8}  {licence:<13} {network}"));
    };
    line("weights", "state", "size", "licence", "network");
    for (which, record) in &records {
        let entry = which.entry();
        let state = match record {
            None => "absent",
            Some(Imported { published: Some(false), .. }) => "foreign",
            Some(_) => "here",
        };
        let published = || entry.mib.map_or_else(|| "–".to_owned(), |mib| format!("{mib} MiB"));
        let size = record.as_ref().map_or_else(published, |record| size(record.bytes));
        line(entry.name, state, &size, entry.licence, entry.network);
    }
    Ok(())
}

/// A place in the catalogue as JSON.
fn described(which: Pretrained, record: Option<&Imported>) -> serde_json::Value {
    let entry = which.entry();
    json!({
        "name": entry.name, "network": entry.network, "file": entry.file, "url": entry.url,
        "licence": entry.licence, "mib": entry.mib, "tensors": entry.tensors, "parameters": entry.parameters,
        "sha256_begins": entry.sha256, "stand_in": entry.stand_in, "here": record.is_some(), "imported": record,
    })
}

fn verify(folder: &WeightsFolder, as_json: bool) -> anyhow::Result<()> {
    let mut weights = Vec::new();
    for which in Pretrained::ALL {
        let is_there = folder.of(which).join(WEIGHTS_FILE).exists();
        let again = || format!("import {which} again");
        weights.push(match folder.record(which) {
            Ok(None) if !is_there => continue,
            Ok(None) => (which, "incomplete", Some(format!("its import was cut off; {}", again()))),
            Ok(Some(_)) if !is_there => (which, "missing", Some(format!("the weights are gone; {}", again()))),
            Ok(Some(record)) => match folder.check(&record) {
                Ok(_) => (which, "whole", None),
                Err(error) => (which, "damaged", Some(error.to_string())),
            },
            Err(error) => (which, "damaged", Some(error.to_string())),
        });
    }
    if as_json {
        let weights: Vec<_> = weights
            .iter()
            .map(|(which, state, problem)| json!({ "name": which, "state": state, "problem": problem }))
            .collect();
        let document = json!({ "schema_version": 1, "folder": folder.root(), "weights": weights });
        out::line(serde_json::to_string_pretty(&document)?);
    } else {
        for (which, state, problem) in &weights {
            let problem = problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            out::line(format_args!("{:<24} {state}{problem}", which.name()));
        }
        if weights.is_empty() {
            note!("no weights in {}", folder.root().display());
        }
    }
    match weights.iter().filter(|(.., problem)| problem.is_some()).count() {
        0 => Ok(()),
        broken => Err(Problem::new(exit::ERROR, format!("{broken} of {} weights are not whole", weights.len())).into()),
    }
}

/// Takes a file in, which was called `name` where it came from.
fn import(folder: &WeightsFolder, path: &Path, name: &str, which: Option<Pretrained>) -> anyhow::Result<Imported> {
    let (sha256, bytes) = hash(path)?;
    let which = match which {
        Some(which) => which,
        None => recognise(path, name, &sha256)?,
    };
    let entry = which.entry();
    let published = which.is_published(&sha256);
    if name == entry.file && published == Some(false) {
        let message = format!("{} is damaged: {}", path.display(), not_published(which, &sha256));
        return Err(Problem::new(exit::DATA, message).into());
    }
    if let Some(before) = folder.record(which)?.filter(|before| before.sha256 != sha256) {
        let message = format!(
            "{which} was taken from {} before, whose SHA-256 is {}; that of {} is {sha256}. \
             If this one is to take its place, remove {} first",
            before.file,
            before.sha256,
            path.display(),
            folder.of(which).display()
        );
        return Err(Problem::new(exit::DATA, message).into());
    }
    let arrays = usable(pretrained::read(which, path))?;
    folder.make()?;
    let fresh = folder.of(which).join("weights.safetensors.new");
    science::weights::write(&arrays, &fresh)?;
    let record = Imported {
        schema_version: 1,
        name: which,
        network: entry.network.to_owned(),
        licence: entry.licence.to_owned(),
        file: name.to_owned(),
        bytes,
        sha256,
        published,
        tensors: arrays.len() as u64,
        digest: digest(&fresh)?,
    };
    folder.keep(&record, &fresh)?;
    Ok(record)
}

fn digest(path: &Path) -> anyhow::Result<Digest> {
    Ok(transfer::entry(path)?.digest)
}

/// Which weights a file holds: by its digest, else by its tensors, else by its name.
fn recognise(path: &Path, name: &str, sha256: &str) -> anyhow::Result<Pretrained> {
    let candidates = usable(pretrained::candidates(path))?;
    let told = |one: &&Pretrained| one.is_published(sha256) == Some(true);
    let named = |one: &&Pretrained| one.entry().file == name;
    let found = candidates.iter().find(told).or_else(|| candidates.iter().find(named));
    let names = || candidates.iter().map(|one| one.name()).collect::<Vec<_>>().join(" or ");
    match (found, &candidates[..]) {
        (Some(which), _) | (None, [which]) => Ok(*which),
        (None, []) => {
            let problem =
                "its tensors are those of no network that is known; `--as NAME` names one and says what differs";
            Err(Problem::new(exit::DATA, format!("{}: {problem}", path.display())).into())
        }
        (None, _) => {
            let problem = format!("may be {}: say which with `--as NAME`", names());
            Err(Problem::new(exit::DATA, format!("{} {problem}", path.display())).into())
        }
    }
}

/// Downloads weights and takes them in, unless they are here.
async fn fetch(folder: &WeightsFolder, which: Pretrained, from: Option<&str>, quiet: bool) -> anyhow::Result<()> {
    if let Some(record) = folder.record(which)?.filter(|record| folder.check(record).is_ok()) {
        tell(folder, &record);
        return Ok(());
    }
    let entry = which.entry();
    let url = download::source(which, from)?;
    folder.make()?;
    let part = folder.of(which).join(format!("{}.part", entry.file));
    let mut counter = Counter::new("MiB fetched", quiet);
    let fetched = download::download(&url, &part, &mut |done, total| counter.show(done >> 20, total >> 20)).await;
    counter.end();
    fetched.with_context(|| {
        format!(
            "cannot fetch {which}. Where there is no way to {url}, get {} elsewhere and \
             `lithogen weights import` it",
            entry.file
        )
    })?;
    let taken = check(&url, &part, which).and_then(|()| import(folder, &part, entry.file, Some(which)));
    // What is whole and wrong will not get better; what is right is not needed any more.
    download::remove(&part);
    tell(folder, &taken?);
    Ok(())
}

/// Whether the download is the published file, as far as that can be told.
fn check(url: &reqwest::Url, part: &Path, which: Pretrained) -> anyhow::Result<()> {
    let (sha256, _) = hash(part)?;
    match which.is_published(&sha256) {
        Some(false) => {
            let message = format!("{url} does not give the published file: {}", not_published(which, &sha256));
            Err(Problem::new(exit::DATA, format!("{message}. Nothing of it was kept")).into())
        }
        Some(true) | None => Ok(()),
    }
}

fn not_published(which: Pretrained, sha256: &str) -> String {
    format!("its SHA-256 is {sha256}, that of {which} begins with {}", which.entry().sha256.unwrap_or_default())
}

/// Says which weights were taken in, and what is known of them.
fn tell(folder: &WeightsFolder, record: &Imported) {
    let whose = match record.published {
        Some(true) => "the published file",
        Some(false) => "not the published file: results will say so",
        None => "the publisher tells no digest; this one counts from now on",
    };
    out::line(folder.of(record.name).display());
    note!("{}: {} tensors of {}, SHA-256 {} ({whose})", record.name, record.tensors, record.file, record.sha256);
}

/// The SHA-256 of a file, and its size.
fn hash(path: &Path) -> anyhow::Result<(String, u64)> {
    let unread = |error: std::io::Error| {
        anyhow::Error::from(Problem::new(exit::DATA, format!("cannot read {}: {error}", path.display())))
    };
    let mut file = fs::File::open(path).map_err(unread)?;
    let (mut hasher, mut buffer, mut bytes) = (Hasher::new(&SHA256), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer).map_err(unread)? {
            0 => break,
            read => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    let digits = hasher.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((digits, bytes))
}
