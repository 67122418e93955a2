//! The program as people start it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{PATIENCE, eventually};

/// Studies at once: each uses all cores for a while.
const STUDIES: usize = 2;

static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// Leave to run a study, for as long as it lives.
pub(crate) struct Turn(());

/// Waits until few enough studies run.
pub(crate) fn turn() -> Turn {
    let mut running = RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner);
    while *running >= STUDIES {
        running = RUNNING.1.wait(running).unwrap_or_else(PoisonError::into_inner);
    }
    *running += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        RUNNING.1.notify_one();
    }
}

/// The built program, which lies beside the folder of this test's own file.
pub(crate) fn real() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("lithogen");
    assert!(path.is_file(), "{} is missing: test the whole workspace, which builds it", path.display());
    path
}

/// A command that hears nothing of this machine's settings.
pub(crate) fn lithogen<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(real());
    for name in
        ["STATE", "COORDINATOR", "LISTEN", "HTTP", "LOG", "LOG_FORMAT", "DEVICE", "JOIN_TOKEN", "BLOBS", "WEIGHTS"]
    {
        command.env_remove(format!("LITHOGEN_{name}"));
    }
    command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env_remove("OTEL_SERVICE_NAME");
    command.args(arguments).stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Absent if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Fails unless it ended with that code and said all of these on standard error.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self}");
        assert!(!self.err.contains("panicked"), "{self}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {self}");
        }
    }

    #[track_caller]
    pub(crate) fn is_done(&self) {
        self.says(0, &[]);
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        self.is_done();
        serde_json::from_str(&self.out).unwrap()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {:?}\n{}\n{}", self.code, self.out, self.err)
    }
}

/// Runs `lithogen` to its end.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ended {
    let output = lithogen(arguments).output().unwrap();
    Ended {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `lithogen <words> --state <state>` to its end; the words are parted by spaces.
pub(crate) fn run_in(state: &Path, words: &str) -> Ended {
    run(words.split_whitespace().map(OsStr::new).chain([OsStr::new("--state"), state.as_os_str()]))
}

/// As [`run_in`] for a whole study, when it is its turn.
pub(crate) fn study(state: &Path, words: &str) -> Ended {
    let _turn = turn();
    run_in(state, &format!("reproduce --scale smoke {words}"))
}

/// `lithogen results --json` of a state folder.
#[track_caller]
pub(crate) fn results(state: &Path) -> String {
    let ended = run_in(state, "results --json");
    ended.is_done();
    ended.out
}

/// How often anything was started in a state folder.
#[track_caller]
pub(crate) fn attempts(state: &Path) -> usize {
    changes(state).iter().filter(|change| change["state"] == "running").count()
}

/// All that happened to tasks in a state folder.
#[track_caller]
pub(crate) fn changes(state: &Path) -> Vec<serde_json::Value> {
    let ended = run_in(state, "watch --jsonl");
    let changes = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["changes"].as_array().unwrap().clone()
    };
    ended.out.lines().flat_map(changes).collect()
}

/// A command under way, in a process group of its own. Killed when this is dropped.
pub(crate) struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    hears: Option<JoinHandle<()>>,
    speaks: Option<JoinHandle<String>>,
}

impl Running {
    pub(crate) fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::start_with(arguments, &[])
    }

    /// As [`Running::start`], with additions to its environment.
    pub(crate) fn start_with<A: AsRef<OsStr>>(
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = lithogen(arguments);
        command.envs(environment.iter().copied());
        Self::spawn(command)
    }

    /// As [`Running::start`], however it is started.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, mut stdout) = (child.stderr.take().unwrap(), child.stdout.take().unwrap());
        let into = said.clone();
        let hears = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = into.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        let speaks = std::thread::spawn(move || {
            let mut out = String::new();
            stdout.read_to_string(&mut out).unwrap();
            out
        });
        Self { child, said, hears: Some(hears), speaks: Some(speaks) }
    }

    pub(crate) fn start_in(state: &Path, words: &str) -> Self {
        Self::start(words.split_whitespace().map(OsStr::new).chain([OsStr::new("--state"), state.as_os_str()]))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and its group without a word; it has ended when this returns.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        self.child.wait().unwrap();
    }

    /// What it has said on standard error so far.
    pub(crate) fn said(&self) -> MutexGuard<'_, String> {
        self.said.lock().unwrap()
    }

    /// Waits until it has said something on standard error.
    #[track_caller]
    pub(crate) fn hear(&mut self, words: &str) {
        let started = std::time::Instant::now();
        while !self.said().contains(words) {
            let over = self.child.try_wait().unwrap().is_some() && !self.said().contains(words);
            assert!(!over && started.elapsed() < PATIENCE, "{words:?} was not said: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal to it and to all in its group.
    pub(crate) fn signal(&self, name: &str) {
        let group = format!("-{}", self.child.id());
        let sent = Command::new("kill").args([&format!("-{name}"), "--", &group]).status().unwrap();
        assert!(sent.success(), "kill -{name} {group}");
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let child = &mut self.child;
        eventually("it ends", 2 * PATIENCE, || child.try_wait().unwrap().is_some());
        let status = self.child.wait().unwrap();
        self.hears.take().unwrap().join().unwrap();
        let out = self.speaks.take().unwrap().join().unwrap();
        let err = self.said().clone();
        Ended { code: status.code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, most of the time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this user may do everything.
pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout.starts_with(b"0\n")
}

/// Sends a signal to one process, which may have ended.
pub(crate) fn signal(process: u32, name: &str) -> bool {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).stderr(Stdio::null()).status();
    sent.unwrap().success()
}

/// The processes that a process has started and that run.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let is_child = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // After the name, which may hold anything: state, parent.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.next() != Some("Z") && fields.next() == Some(&parent.to_string())
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// Processes that name a folder in their command line.
pub(crate) fn processes_about(folder: &Path) -> Vec<String> {
    let wanted = folder.to_str().unwrap();
    let line = |entry: std::fs::DirEntry| {
        let bytes = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    let all = std::fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| line(entry.ok()?)).filter(|line| line.contains(wanted)).collect()
}
