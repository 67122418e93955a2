//! A coordinator and workers in processes of their own, as on several machines.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coordinator::journal::{Journal, Sqlite};
use domain::runner::event::Event;
use tempfile::TempDir;

use super::cluster::Cluster;
use super::program::{Ended, Running, lithogen, run_in};

/// A coordinator on a folder and at an address that it keeps.
pub(crate) struct Site {
    coordinator: Running,
    /// What the coordinator is started by: a network of its own, another clock.
    under: Vec<String>,
    options: Vec<String>,
    url: String,
    folder: TempDir,
}

impl Site {
    pub(crate) fn start() -> Self {
        Self::start_under(&[], "127.0.0.1:0", &[])
    }

    /// Started by another program, at another address, with other options.
    pub(crate) fn start_under(under: &[&str], listen: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (under, options) = (owned(under), owned(options));
        let coordinator = serve(&under, &state(&folder), listen, &options);
        let said = coordinator.said().clone();
        let url = said.split_whitespace().find(|word| word.contains("://")).unwrap().to_owned();
        Self { coordinator, under, options, url, folder }
    }

    /// A file name in the site's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The coordinator's folder.
    pub(crate) fn state(&self) -> PathBuf {
        state(&self.folder)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn address(&self) -> SocketAddr {
        self.url.split_once("://").unwrap().1.parse().unwrap()
    }

    /// The coordinator's process.
    pub(crate) fn process(&self) -> u32 {
        self.coordinator.id()
    }

    /// A client on the coordinator's machine.
    pub(crate) fn client(&self) -> Cluster {
        Cluster::beside(&self.state(), self.address())
    }

    /// Kills the coordinator and starts it again on its state and address, under
    /// the same program or another.
    pub(crate) fn kill_coordinator(&mut self, under: Option<&[&str]>) {
        self.coordinator.kill();
        if let Some(under) = under {
            self.under = owned(under);
        }
        self.coordinator = serve(&self.under, &self.state(), &self.address().to_string(), &self.options);
    }

    /// A worker of one slot that runs commands too; they find its name in `$WHO`.
    pub(crate) fn worker(&self, name: &str) -> Running {
        self.worker_under(&[], name, &[])
    }

    /// As [`Site::worker`], started by another program, with more options.
    pub(crate) fn worker_under(&self, under: &[&str], name: &str, options: &[&str]) -> Running {
        let slots: &[&str] = if options.contains(&"--slots") { &[] } else { &["--slots", "1"] };
        let words = ["worker", "--allow-exec", "--pass-env", "WHO", "--coordinator", &self.url, "--name", name];
        let words = [&words, slots, options].concat();
        let mut command = command(&owned(under), &owned(&words), &self.path(name));
        command.env("WHO", name);
        Running::spawn(command)
    }

    /// Runs a command of a machine that has nothing yet to its end, by another program.
    pub(crate) fn run_under(&self, under: &[&str], words: &[&str]) -> Ended {
        Running::spawn(command(&owned(under), &owned(words), &self.path("new"))).end()
    }

    /// A file with a token with which workers may join.
    pub(crate) fn token(&self) -> PathBuf {
        let made = run_in(&self.state(), "token create --uses 10");
        made.is_done();
        let path = self.path("token.txt");
        std::fs::write(&path, made.out).unwrap();
        path
    }

    /// Ends the coordinator; returns the site's folder and everything that was
    /// journaled.
    pub(crate) fn end(self) -> (TempDir, Vec<Event>) {
        self.coordinator.signal("INT");
        self.coordinator.end().is_done();
        let events = journal(&state(&self.folder));
        (self.folder, events)
    }
}

/// What the coordinator of a state folder journaled, which has ended.
pub(crate) fn journal(state: &Path) -> Vec<Event> {
    let mut events = vec![];
    let mut journal = Sqlite::open(&state.join("journal.sqlite")).unwrap();
    journal.replay(0, &mut |_, _, event| events.push(event)).unwrap();
    events
}

fn state(folder: &TempDir) -> PathBuf {
    folder.path().join("coordinator")
}

/// A coordinator that serves.
fn serve(under: &[String], state: &Path, listen: &str, options: &[String]) -> Running {
    let words = [owned(&["coordinator", "--listen", listen]), options.to_owned()].concat();
    let mut coordinator = Running::spawn(command(under, &words, state));
    coordinator.hear("ends it, workers wait for it");
    coordinator
}

/// The program, started by another if there is one.
fn command(under: &[String], words: &[String], state: &Path) -> Command {
    let words = words.iter().map(OsStr::new);
    let plain = lithogen(words.chain([OsStr::new("--state"), state.as_os_str()]));
    let [program, arguments @ ..] = under else { return plain };
    let mut command = Command::new(program);
    command.args(arguments).arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
