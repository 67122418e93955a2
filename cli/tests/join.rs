//! Joining a coordinator by the commands that people type, over TLS on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

fn lithogen(home: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lithogen"));
    for name in ["STATE", "COORDINATOR", "LISTEN", "HTTP", "LOG", "LOG_FORMAT", "JOIN_TOKEN"] {
        command.env_remove(format!("LITHOGEN_{name}"));
    }
    command.args(words.split_whitespace()).env("XDG_CONFIG_HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

/// A coordinator that asks everybody but its own machine for a certificate.
struct Coordinator {
    home: TempDir,
    address: String,
    process: Child,
}

impl Coordinator {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut process = lithogen(home.path(), "coordinator --listen 127.0.0.1:0 --tls --state state")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Read to the end of its greeting only: what it logs after that must not hurt it.
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let (first, _) = (said.next().unwrap().unwrap(), said.next().unwrap().unwrap());
        let address = first.split(' ').nth(1).and_then(|url| url.strip_prefix("https://")).expect(&first).to_owned();
        Self { home, address, process }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn run(&self, words: &str) -> Output {
        lithogen(self.home.path(), words).output().unwrap()
    }

    /// Runs a command that has to succeed, and returns what it prints.
    fn ok(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that has to fail saying these words.
    fn refused(&self, words: &str, says: &[&str]) {
        let output = self.run(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && !error.contains("panicked"), "{words}: {error}");
        for say in says {
            assert!(error.contains(say), "{words}: {say:?} is not in {error}");
        }
    }

    fn token(&self, name: &str, options: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, self.ok(&format!("token create --state state {options}"))).unwrap();
        path
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // Ended already if it failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_viewer_logs_in_once_and_may_look_but_not_let_others_in() {
    let lab = Coordinator::start();
    let url = lab.url();
    lab.refused(&format!("status --coordinator {url}"), &["there is no identity for", "lithogen login"]);
    lab.token("viewer", "--role viewer --ttl 5m");
    lab.ok(&format!("login {url} --token-file viewer --name ada"));
    lab.ok(&format!("status --coordinator {url}"));
    lab.refused(&format!("token create --coordinator {url}"), &["is a viewer", "takes the role admin"]);
    lab.ok("worker revoke ada --state state");
    lab.refused(&format!("status --coordinator {url}"), &["was revoked"]);
    lab.refused(&format!("login {url} --token-file viewer --name ada"), &["was revoked"]);
}

#[test]
fn a_token_is_listed_without_its_secret_and_can_be_called_back() {
    let lab = Coordinator::start();
    let made: Value =
        serde_json::from_str(&lab.ok("token create --state state --uses 3 --label gpu=a100 --json")).unwrap();
    assert_eq!(made["url"], lab.url());
    let token = made["token"].as_str().unwrap();
    let listed = lab.ok("token list --state state --json");
    assert!(!listed.contains(&token[token.len() - 32..]), "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let [listed] = &listed["tokens"].as_array().unwrap()[..] else { panic!("one token: {listed}") };
    assert_eq!((&listed["uses"], &listed["labels"]["gpu"]), (&3.into(), &"a100".into()));
    lab.ok(&format!("token revoke {} --state state", made["id"].as_str().unwrap()));
    std::fs::write(lab.home.path().join("token"), token).unwrap();
    lab.refused(&format!("login {} --token-file token", lab.url()), &["was revoked", "lithogen token create"]);
    lab.refused("token revoke 0000 --state state", &["there is no join token \"0000\""]);
}

#[test]
fn a_torn_token_and_a_foreign_one_are_refused_before_anything_is_sent() {
    let (lab, other) = (Coordinator::start(), Coordinator::start());
    let token = lab.token("token", "");
    let text = std::fs::read_to_string(&token).unwrap();
    std::fs::write(lab.home.path().join("torn"), &text[..50]).unwrap();
    lab.refused(&format!("login {} --token-file torn", lab.url()), &["torn: not a join token", "is it whole?"]);
    lab.refused(&format!("login {} --token-file token", other.url()), &["not the one of the join token"]);
    assert!(other.ok("token list --state state").lines().count() == 1, "the other coordinator has none");
}

#[test]
fn a_check_tells_each_step_and_names_the_first_that_fails() {
    let lab = Coordinator::start();
    lab.token("token", "");
    let steps = |words: &str| -> (Value, Vec<(String, bool)>) {
        let output = lab.run(&format!("worker check {words} --json"));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.success(), document["failed"].is_null(), "{document}");
        let step = |step: &Value| (step["step"].as_str().unwrap().to_owned(), step["ok"].as_bool().unwrap());
        let steps = document["steps"].as_array().unwrap().iter().map(step).collect();
        (document["failed"].clone(), steps)
    };
    let (_, all) = steps(&format!("{} --join-token-file token", lab.address));
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dns", "tcp", "tls", "grpc", "protocol", "clock", "disk", "gpu"]);
    assert!(all.iter().all(|(name, ok)| *ok || name == "disk"), "{all:?}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(steps(&closed.to_string()).0, "tcp");
    assert_eq!(steps("nobody.invalid:7443").0, "dns");
    let other = Coordinator::start();
    assert_eq!(steps(&format!("{} --join-token-file token", other.address)).0, "tls");
    lab.refused(&format!("worker check {closed}"), &["a worker here could not work: tcp failed"]);
}
