//! Calls to a coordinator.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use domain::artifact::Manifest;
use domain::id::ArtifactId;
use domain::runner::command::{self, Commands};
use domain::study::experiment::Experiment;
use domain::study::plan::Data;
use domain::study::records::Record;
use domain::study::results::Results;
use proto::channel::{blob_call, call, socket_path};
use proto::status::{Reason, reason, refused};
use proto::transfer::{Transfer, entry, scan};
use proto::v1;
use proto::v1::artifact_service_client::ArtifactServiceClient;
use proto::v1::cluster_service_client::ClusterServiceClient;
use proto::v1::registration_service_client::RegistrationServiceClient;
use proto::v1::run_service_client::RunServiceClient;
use proto::v1::task_service_client::TaskServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::exit::{self, Problem};
use crate::identities;

/// Most bytes of a message: the status of a big run is large.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

/// How long a coordinator is waited for that went away while a run was handed in.
const AWAY_MAX: Duration = Duration::from_secs(60);

/// Pause between two tries to hand a run in.
const AWAY_PAUSE: Duration = Duration::from_millis(250);

/// Whether the connection of a call broke, so that nobody knows what became of it.
fn is_broken(status: &Status) -> bool {
    // What the other side says has no source.
    let is_local = std::error::Error::source(status).is_some();
    is_local && status.code() != Code::Unavailable && refused(status).is_none()
}

/// A connection to one coordinator.
#[derive(Clone, Debug)]
pub struct Remote {
    url: String,
    channel: Channel,
}

impl Remote {
    /// A connection to the coordinator at `url`, as whoever has logged in there; nothing is sent
    /// yet.
    ///
    /// # Errors
    /// Exit code 2 if it is no URL, or nobody has logged in.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let (credentials, identity) = identities::credentials(url)?;
        let channel =
            proto::channel::connect(url, &credentials).map_err(|error| Problem::new(exit::USAGE, error.to_string()))?;
        if let Some(identity) = identity {
            identities::keep(identity, channel.clone());
        }
        Ok(Self { url: url.to_owned(), channel })
    }

    /// A connection to the coordinator that has a state folder, over its Unix socket.
    ///
    /// # Errors
    /// Those of [`Remote::new`].
    pub fn of_state(state: &Path) -> anyhow::Result<Self> {
        Self::new(&format!("unix:{}", socket_path(state).display()))
    }

    /// The address of the coordinator.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client of the service for runs.
    pub fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// A client of the service for tasks.
    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// A client of the service for what people say about workers.
    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// A client of the service for joining.
    pub fn registration(&self) -> RegistrationServiceClient<Channel> {
        RegistrationServiceClient::new(self.channel.clone())
    }

    /// Returns once the coordinator serves. To be raced with the coordinator's end: a coordinator
    /// that never serves is waited for without end.
    pub async fn wait(&self) {
        while self.runs().list_runs(call(v1::ListRunsRequest {})).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// An error of a call in words, with its exit code.
    pub fn explain(&self, status: &Status) -> anyhow::Error {
        if is_broken(status) {
            let message = format!(
                "the connection to the coordinator at {} broke ({}); is it running?",
                self.url,
                status.message()
            );
            return Problem::new(exit::UNREACHABLE, message).into();
        }
        let code = match status.code() {
            _ if refused(status).is_some() => exit::ERROR,
            Code::Unavailable | Code::DeadlineExceeded => exit::UNREACHABLE,
            Code::InvalidArgument => exit::USAGE,
            Code::Unimplemented => exit::INCOMPATIBLE,
            _ if reason(status) == Some(Reason::Incompatible) => exit::INCOMPATIBLE,
            _ => exit::ERROR,
        };
        let message = match code {
            exit::UNREACHABLE => format!(
                "no coordinator answers at {} ({}); is it running? Start one with `lithogen coordinator`",
                self.url,
                status.message()
            ),
            exit::INCOMPATIBLE => {
                format!("the coordinator at {} does not understand this program: {}", self.url, status.message())
            }
            _ => format!("the coordinator at {} says: {}", self.url, status.message()),
        };
        Problem::new(code, message).into()
    }

    /// Uploads what is missing of the data and hands the study in.
    ///
    /// # Errors
    /// If the coordinator is away or refuses.
    pub async fn submit(
        &self,
        experiment: &Experiment,
        data: &Data,
        folders: &[(PathBuf, Manifest)],
        priority: i32,
    ) -> anyhow::Result<v1::RunStatus> {
        self.transfer().push_many(folders).await.map_err(|error| self.of_transfer(error))?;
        let experiment_json = serde_json::to_string(experiment)?;
        let data_json = serde_json::to_string(data)?;
        self.hand_in(v1::SubmitRequest { experiment_json, data_json, priority, ..Default::default() }).await
    }

    /// Hands commands in, what they read as `path:<file or folder>` uploaded;
    /// paths that are not absolute begin at `base`.
    ///
    /// # Errors
    /// Exit code 2 for commands that are wrong or what cannot be read; or if the
    /// coordinator is away.
    pub async fn submit_commands(
        &self,
        mut commands: Commands,
        base: &Path,
        priority: i32,
    ) -> anyhow::Result<v1::RunStatus> {
        let sources = commands.command.iter_mut().flat_map(|command| command.inputs.values_mut());
        for source in sources {
            if let Some(path) = source.strip_prefix("path:") {
                let unread = |error: anyhow::Error| {
                    Problem::new(exit::USAGE, format!("cannot read the input {path}: {error:#}"))
                };
                let (root, manifest) = look(&base.join(path)).map_err(unread)?;
                let pushed = self.transfer().push(&root, &manifest).await;
                *source = format!("artifact:{}", pushed.map_err(|error| self.of_transfer(error))?);
            }
        }
        command::plan(&commands).map_err(|error| Problem::new(exit::USAGE, error.to_string()))?;
        let commands_json = serde_json::to_string(&commands)?;
        self.hand_in(v1::SubmitRequest { commands_json, priority, ..Default::default() }).await
    }

    /// Hands a run in. A coordinator that goes away meanwhile is asked again when it is
    /// back: the same request means the same run, of which it has a part.
    async fn hand_in(&self, request: v1::SubmitRequest) -> anyhow::Result<v1::RunStatus> {
        let mut broken: Option<Instant> = None;
        loop {
            let failed = match self.runs().submit(call(request.clone())).await {
                Ok(answer) => return answer.into_inner().status.context("the coordinator sent no status"),
                Err(status) => status,
            };
            let has_gone = is_broken(&failed) || reason(&failed) == Some(Reason::Ending);
            if has_gone && broken.is_none() {
                note!("the coordinator went away; handing in again when it is back");
                broken = Some(Instant::now());
            }
            let is_away = has_gone || failed.code() == Code::Unavailable;
            if !is_away || broken.is_none_or(|since| since.elapsed() > AWAY_MAX) {
                return Err(self.explain(&failed));
            }
            tokio::time::sleep(AWAY_PAUSE).await;
        }
    }

    /// Asks how a run stands.
    ///
    /// # Errors
    /// If the coordinator is away or knows no such run.
    pub async fn status(&self, run: &str) -> anyhow::Result<v1::RunStatus> {
        let request = v1::GetRunRequest { run_id: run.to_owned() };
        let answer = self.runs().get_run(call(request)).await.map_err(|status| self.explain(&status))?;
        answer.into_inner().status.context("the coordinator sent no status")
    }

    /// The tasks of a run, those in one state if it is not empty, each after
    /// those that it needs.
    ///
    /// # Errors
    /// If the coordinator is away or knows no such run.
    pub async fn tasks_of(&self, run: &str, state: &str) -> anyhow::Result<Vec<v1::TaskStatus>> {
        let mut tasks = vec![];
        let mut from = 0;
        loop {
            let request = v1::ListTasksRequest { run_id: run.to_owned(), state: state.to_owned(), from };
            let answer = self.tasks().list_tasks(call(request)).await;
            let page = answer.map_err(|status| self.explain(&status))?.into_inner();
            tasks.extend(page.tasks);
            if page.next == 0 {
                return Ok(tasks);
            }
            from = page.next;
        }
    }

    /// Asks for all about one task, by the first digits of its key.
    ///
    /// # Errors
    /// If the coordinator is away or knows no such task.
    pub async fn task(&self, key: &str) -> anyhow::Result<v1::ExplainTaskResponse> {
        let request = v1::ExplainTaskRequest { task_key: key.to_owned() };
        let answer = self.tasks().explain_task(call(request)).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// Has results computed again: those of these tasks, by the first digits of their
    /// keys, and with `lost` all that are not stored.
    ///
    /// # Errors
    /// If the coordinator is away, or one of the tasks cannot be computed again.
    pub async fn recompute(
        &self,
        task_keys: &[String],
        lost: bool,
        dry_run: bool,
    ) -> anyhow::Result<v1::RecomputeTasksResponse> {
        let request = v1::RecomputeTasksRequest { task_keys: task_keys.to_owned(), lost, dry_run };
        let answer = self.tasks().recompute_tasks(blob_call(request)).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// Cancels a run, or only these of its tasks and what needs them.
    ///
    /// # Errors
    /// If the coordinator is away or knows no such run or task.
    pub async fn cancel(&self, run: &str, tasks: &[String]) -> anyhow::Result<v1::RunStatus> {
        let request = v1::CancelRunRequest { run_id: run.to_owned(), task_keys: tasks.to_owned() };
        let answer = self.runs().cancel_run(call(request)).await.map_err(|status| self.explain(&status))?;
        answer.into_inner().status.context("the coordinator sent no status")
    }

    /// Fetches the results of a run, as they are stored.
    ///
    /// # Errors
    /// If the run has none yet.
    pub async fn results(&self, status: &v1::RunStatus) -> anyhow::Result<(String, Results)> {
        let Ok(artifact) = status.results_artifact.parse::<ArtifactId>() else {
            anyhow::bail!(
                "run {} has no results yet: {} of {} tasks are done",
                short(&status.run_id),
                status.committed,
                status.tasks
            );
        };
        let text = self.text(artifact, Results::FILE).await?;
        let results = serde_json::from_str(&text).context(Results::FILE)?;
        Ok((text, results))
    }

    /// Fetches a file of an artifact, which is text.
    ///
    /// # Errors
    /// If there is no such artifact or file, or it is no text.
    pub async fn text(&self, artifact: ArtifactId, path: &'static str) -> anyhow::Result<String> {
        let transfer = self.transfer();
        let manifest = transfer.manifest(artifact).await.map_err(|error| self.of_transfer(error))?;
        let entry = manifest.entries().iter().find(|entry| entry.path == path);
        let digest = entry.with_context(|| format!("the artifact {artifact} has no {path}"))?.digest;
        let bytes = transfer.bytes(digest).await.map_err(|error| self.of_transfer(error))?;
        String::from_utf8(bytes).context(path)
    }

    /// Writes the report of a run below `folder`, which it replaces.
    ///
    /// # Errors
    /// If there is none or it cannot be written.
    pub async fn report(&self, status: &v1::RunStatus, folder: &Path) -> anyhow::Result<()> {
        let artifact: ArtifactId = status.report_artifact.parse().context("the run has no report")?;
        let fresh = folder.with_extension("new");
        remove(&fresh)?;
        self.transfer().pull(artifact, &[], &fresh).await.map_err(|error| self.of_transfer(error))?;
        remove(folder)?;
        std::fs::rename(&fresh, folder).with_context(|| format!("cannot write {}", folder.display()))
    }

    /// A way to move artifacts.
    pub fn transfer(&self) -> Transfer {
        Transfer::new(self.channel.clone())
    }

    /// A client of the service for files.
    pub fn artifacts(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// An error of a transfer in words, with its exit code.
    pub fn of_transfer(&self, error: proto::transfer::Error) -> anyhow::Error {
        match error {
            proto::transfer::Error::Rpc(status) => self.explain(&status),
            other => other.into(),
        }
    }
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot empty {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// The first digits of a name, for people.
pub fn short(name: &str) -> &str {
    name.get(..8).unwrap_or(name)
}

/// The folder and the files that a path means.
///
/// # Errors
/// If it cannot be read or is no file or folder.
pub fn look(path: &Path) -> anyhow::Result<(PathBuf, Manifest)> {
    if path.is_dir() {
        return Ok((path.to_owned(), scan(path)?));
    }
    let entry = entry(path)?;
    let root = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok((root, Manifest::new(vec![entry])?))
}
