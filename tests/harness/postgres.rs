//! A PostgreSQL server of Debian's packages, on a socket in a folder of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coordinator::journal::Journal;
use coordinator::journal::leader::{Candidacy, Candidate, Lead};
use coordinator::journal::postgres::Server;
use postgres::{Client, NoTls};
use tempfile::TempDir;

use super::{PATIENCE, eventually};

/// A server that lives as long as this value.
pub(crate) struct Database {
    folder: TempDir,
    process: Child,
    databases: AtomicU32,
}

impl Database {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for path in [folder.path(), &data] {
            // The server's user has to get in; its programs refuse to run as root.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            if is_root() {
                assert!(Command::new("chown").arg("postgres:").arg(path).status().unwrap().success());
            }
        }
        let made = unprivileged("initdb")
            .args(["--no-sync", "--auth=trust", "--username=lithogen", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let process = serve(folder.path());
        let server = Self { folder, process, databases: AtomicU32::new(0) };
        eventually("PostgreSQL answers", PATIENCE, || server.try_connect("postgres").is_ok());
        server
    }

    fn try_connect(&self, name: &str) -> Result<Client, postgres::Error> {
        Client::connect(&self.url(name), NoTls)
    }

    fn url(&self, name: &str) -> String {
        let folder = self.folder.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://lithogen@{folder}/{name}")
    }

    /// The address of a database that nobody has used.
    pub(crate) fn new_url(&self) -> String {
        let name = format!("journal_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.connect("postgres").batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        self.url(&name)
    }

    /// A connection for looking and meddling.
    pub(crate) fn connect(&self, name: &str) -> Client {
        self.try_connect(name).unwrap()
    }

    /// Kills the server and starts it again on what is on its disk.
    pub(crate) fn crash(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = serve(self.folder.path());
        eventually("PostgreSQL answers again", PATIENCE, || {
            // While what the dead server had started still ends, a new one ends at once.
            if self.process.try_wait().unwrap().is_some() {
                self.process = serve(self.folder.path());
            }
            self.try_connect("postgres").is_ok()
        });
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Gone already, after some tests.
        let _ = Command::new("kill").arg("-QUIT").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

/// A journal that leads, with its right to.
pub(crate) fn lead(url: &str, patience: Duration) -> (Lead, Box<dyn Journal>) {
    let lead = leading(&Server::new(url, patience).unwrap());
    let journal = lead.opener()().unwrap();
    (lead, journal)
}

/// Waits for the right to lead.
pub(crate) fn leading(server: &Server) -> Lead {
    let mut candidate = Candidate::new(server, "http://here").unwrap();
    let mut lead = None;
    eventually("it leads", PATIENCE, || {
        if let Candidacy::Leads(mine) = candidate.stand().unwrap() {
            lead = Some(mine);
        }
        lead.is_some()
    });
    lead.unwrap()
}

fn serve(folder: &Path) -> Child {
    let settings = |setting: &str| ["-c".to_owned(), setting.to_owned()];
    unprivileged("postgres")
        .arg("-D")
        .arg(folder.join("data"))
        .args(settings("listen_addresses="))
        .args(settings(&format!("unix_socket_directories={}", folder.display())))
        .args(settings("fsync=off"))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// One of the server's programs, as a user whom it accepts. It ends with the
/// thread that starts it.
fn unprivileged(program: &str) -> Command {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's server programs are installed");
    let programs: Vec<PathBuf> = versions.map(|version| version.unwrap().path().join("bin").join(program)).collect();
    let path = programs.into_iter().filter(|path| path.is_file()).max().expect("PostgreSQL's server programs");
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig=QUIT", "--"]).arg(path).stdin(Stdio::null());
    command
}
