//! The folder of published weights: `NAME/weights.safetensors` by official tensor
//! names, and `NAME/weights.json`, which says where they came from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use domain::artifact::{Entry, Manifest};
use domain::digest::Digest;
use domain::id::ArtifactId;
use domain::study::experiment::Experiment;
use domain::study::plan::{Data, WEIGHTS_FILE};
use domain::study::pretrained::Pretrained;
use proto::{private, transfer};
use serde::{Deserialize, Serialize};

use crate::args::WeightsPlace;
use crate::dataset::folders::Found;
use crate::exit::{self, Problem};

/// Name of the file beside the weights that says what is known of them.
const RECORD_FILE: &str = "weights.json";

/// What is known of imported weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Imported {
    /// Version of the document: 1.
    pub schema_version: u32,
    /// Which weights.
    pub name: Pretrained,
    /// The network, for people.
    pub network: String,
    /// The licence that they are published under.
    pub licence: String,
    /// Name of the file that the weights came in.
    pub file: String,
    /// Size of that file.
    pub bytes: u64,
    /// SHA-256 of that file.
    pub sha256: String,
    /// Whether that file is the published one; absent if the publisher does not tell.
    pub published: Option<bool>,
    /// Tensors of 32-bit numbers.
    pub tensors: u64,
    /// The blake3 digest of `weights.safetensors`.
    pub digest: Digest,
}

/// A folder of published weights.
#[derive(Clone, Debug)]
pub struct WeightsFolder {
    root: PathBuf,
    /// The option that names the folder on a command line; empty for the default.
    option: String,
}

/// The weights that a study reads, as far as they are in the folder.
#[derive(Debug, Default)]
pub struct Needed {
    weights: BTreeMap<Pretrained, ArtifactId>,
    unpublished: BTreeSet<Pretrained>,
    folders: Vec<(PathBuf, Manifest)>,
    /// The weights that are not in the folder.
    pub absent: Vec<Pretrained>,
}

impl WeightsFolder {
    /// The folder that is named, otherwise `weights` in the state folder.
    pub fn new(place: &WeightsPlace, state: &Path) -> Self {
        match &place.weights {
            Some(root) => Self { root: root.clone(), option: format!(" --weights {}", root.display()) },
            None => Self { root: state.join("weights"), option: String::new() },
        }
    }

    /// The path of the folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder in which these weights are, or will be.
    pub fn of(&self, which: Pretrained) -> PathBuf {
        self.root.join(which.name())
    }

    /// Makes the folder before something is put there: a state folder that it lies in is for its
    /// owner alone.
    ///
    /// # Errors
    /// If the state folder is somebody else's.
    pub fn make(&self) -> Result<(), private::Error> {
        match self.root.parent() {
            Some(state) if self.option.is_empty() => private::folder(state),
            _ => Ok(()),
        }
    }

    /// What is known of these weights; `None` if they were not imported.
    ///
    /// # Errors
    /// Exit code 4 if it cannot be read.
    pub fn record(&self, which: Pretrained) -> anyhow::Result<Option<Imported>> {
        let path = self.of(which).join(RECORD_FILE);
        let unread = |error: &dyn std::fmt::Display| {
            let again = format!("import {which} again");
            Problem::new(exit::DATA, format!("cannot read {}: {error}; {again}", path.display()))
        };
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unread(&error).into()),
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| unread(&error))?)),
        }
    }

    /// Puts weights that lie in the file `fresh` in their place, and the record
    /// beside them once they are whole on the disk.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn keep(&self, record: &Imported, fresh: &Path) -> anyhow::Result<()> {
        let folder = self.of(record.name);
        put(fresh, &folder.join(WEIGHTS_FILE))?;
        let path = folder.join(RECORD_FILE);
        let draft = path.with_extension("json.new");
        fs::write(&draft, serde_json::to_vec_pretty(record)?)
            .with_context(|| format!("cannot write {}", draft.display()))?;
        put(&draft, &path)
    }

    /// The weights as they are on the disk, of which the digest has to be that of the record.
    ///
    /// # Errors
    /// Exit code 4 if they are damaged.
    pub fn check(&self, record: &Imported) -> anyhow::Result<Entry> {
        let path = self.of(record.name).join(WEIGHTS_FILE);
        let again = format!("import {} again", record.name);
        let entry = transfer::entry(&path).map_err(|error| Problem::new(exit::DATA, format!("{error}; {again}")))?;
        if entry.digest == record.digest {
            Ok(entry)
        } else {
            Err(Problem::new(exit::DATA, format!("{} is damaged; {again}", path.display())).into())
        }
    }

    /// What of a study's weights is here, each file read once.
    ///
    /// # Errors
    /// Exit code 4 if some are damaged.
    pub fn needed(&self, experiment: &Experiment) -> anyhow::Result<Needed> {
        let mut needed = Needed::default();
        for which in experiment.weights() {
            let Some(record) = self.record(which)? else {
                needed.absent.push(which);
                continue;
            };
            // Only the weights: where they came from changes nothing of what is computed.
            let manifest = Manifest::new(vec![self.check(&record)?])?;
            needed.weights.insert(which, manifest.id());
            if record.published == Some(false) {
                needed.unpublished.insert(which);
            }
            needed.folders.push((self.of(which), manifest));
        }
        Ok(needed)
    }

    /// What [`WeightsFolder::needed`] returns, provided that all weights are here.
    ///
    /// # Errors
    /// Exit code 4, with the commands that get what is absent and the knobs that do
    /// without it.
    pub fn all_needed(&self, experiment: &Experiment) -> anyhow::Result<Needed> {
        let needed = self.needed(experiment)?;
        if needed.absent.is_empty() {
            return Ok(needed);
        }
        let mut lines = vec![format!(
            "the study starts from published weights that are not in {}. Nothing was started.",
            self.root.display()
        )];
        lines.extend(needed.absent.iter().flat_map(|which| self.ways(*which)));
        Err(Problem::new(exit::DATA, lines.join("\n  ")).into())
    }

    /// How to get weights, and how to do without, one line each.
    pub fn ways(&self, which: Pretrained) -> Vec<String> {
        let entry = which.entry();
        let size = entry.mib.map(|mib| format!(", {mib} MiB")).unwrap_or_default();
        let mut lines = vec![
            format!("{which}: {}{size}", entry.network),
            format!("  get it:      lithogen weights fetch {which}{}", self.option),
            format!("  or by hand:  lithogen weights import {}{}", entry.file, self.option),
        ];
        lines.extend(entry.stand_in.map(|knob| format!("  or without:  --set {knob}   (the results will say so)")));
        lines
    }
}

impl Needed {
    /// Adds the weights to data of pictures.
    pub fn join(self, found: &mut Found) {
        self.plan_with(&mut found.data);
        found.folders.extend(self.folders);
    }

    /// Adds the weights to what a plan is made for, and stands in for those that are
    /// absent, with which it can be planned and not run.
    pub fn plan_with(&self, data: &mut Data) {
        data.weights = self.weights.clone();
        data.weights.extend(self.absent.iter().map(|which| (*which, Data::unknown(*which))));
        data.unpublished = self.unpublished.clone();
    }
}

/// Renames a file once it is on the disk.
fn put(fresh: &Path, path: &Path) -> anyhow::Result<()> {
    let unwritten = || format!("cannot write {}", path.display());
    fs::File::open(fresh).and_then(|file| file.sync_all()).with_context(unwritten)?;
    fs::rename(fresh, path).with_context(unwritten)?;
    // The new name is in the folder, which is a file too.
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(unwritten)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(root: &Path) -> WeightsFolder {
        WeightsFolder::new(&WeightsPlace { weights: None }, root)
    }

    fn import(folder: &WeightsFolder, which: Pretrained, published: Option<bool>) -> Imported {
        fs::create_dir_all(folder.of(which)).unwrap();
        let fresh = folder.of(which).join("fresh");
        fs::write(&fresh, which.name()).unwrap();
        let entry = which.entry();
        let record = Imported {
            schema_version: 1,
            name: which,
            network: entry.network.to_owned(),
            licence: entry.licence.to_owned(),
            file: entry.file.to_owned(),
            bytes: 1,
            sha256: String::new(),
            published,
            tensors: 1,
            digest: Digest::of(which.name().as_bytes()),
        };
        folder.keep(&record, &fresh).unwrap();
        record
    }

    #[test]
    fn what_is_absent_is_named_with_every_way_to_go_on() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let told = folder.all_needed(&Experiment::default()).unwrap_err().to_string();
        for part in [
            "lithogen weights fetch resnet50-imagenet1k-v2",
            "lithogen weights import resnet50-11ad3fa6.pth",
            "--set tl.init=random",
            "lithogen weights fetch inception-v3-imagenet1k",
            "--set sifid.features=random",
            "lithogen weights fetch swin2sr-compressed-x4",
            "--set upscale.method=lanczos",
        ] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        let elsewhere = WeightsFolder::new(&WeightsPlace { weights: Some("w".into()) }, root.path());
        assert!(elsewhere.ways(Pretrained::Resnet50V2)[1].ends_with("--weights w"));
    }

    #[test]
    fn weights_are_an_artifact_of_one_file_and_checked_when_they_are_used() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let experiment = Experiment::default();
        let records: Vec<Imported> = [
            (Pretrained::Resnet50V2, Some(false)),
            (Pretrained::InceptionV3, Some(true)),
            (Pretrained::Swin2srCompressed, None),
        ]
        .map(|(which, published)| import(&folder, which, published))
        .into();
        let needed = folder.all_needed(&experiment).unwrap();
        let mut data = Data::default();
        needed.plan_with(&mut data);
        assert_eq!(data.unpublished, BTreeSet::from([Pretrained::Resnet50V2]));
        assert_eq!(data.weights.len(), 3);
        let (_, manifest) = &needed.folders[0];
        assert_eq!(manifest.entries().iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), [WEIGHTS_FILE]);
        assert_eq!(folder.record(Pretrained::InceptionV3).unwrap().unwrap(), records[1]);
        fs::write(folder.of(Pretrained::InceptionV3).join(WEIGHTS_FILE), "rot").unwrap();
        let told = folder.needed(&experiment).unwrap_err().to_string();
        assert!(told.contains("damaged; import inception-v3-imagenet1k again"), "{told}");
    }
}
