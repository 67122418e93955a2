//! A process that does a step, in one of the ways to do it, as often as it is told to.
//!
//! It says `ready` and what it computes with, then for each line that it reads does the step
//! and says the seconds; when there are no more, it says its peak of memory in bytes, or `null`
//! if it does not know.

use std::future::pending;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Bytes of the longest answer.
const ANSWER_MAX: u64 = 256;

/// Bytes of what it says on standard error that are kept, of the end.
const SAID_MAX: usize = 4096;

/// How long what it has said as it ended is read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Such a process. It ends when this is dropped.
pub(super) struct Way {
    child: Child,
    /// Until there are no more.
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    errors: ChildStderr,
    said: Vec<u8>,
    patience: Duration,
}

impl Way {
    /// Starts the process and waits until it is ready, no longer than `patience`, as with each
    /// answer. Also what it computes with.
    ///
    /// # Errors
    /// Why it cannot be used, as here in all functions.
    pub(super) async fn start(mut command: Command, patience: Duration) -> Result<(Self, String), String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
        let (Some(questions), Some(answers), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("has no standard streams".to_owned());
        };
        let answers = BufReader::new(answers);
        let mut way = Self { child, questions: Some(questions), answers, errors, said: vec![], patience };
        let answer = way.answer().await?;
        match answer.strip_prefix("ready ") {
            Some(on) => Ok((way, on.to_owned())),
            None => Err(format!("says {answer:?} instead of that it is ready")),
        }
    }

    /// Does the step once; the seconds that it took.
    pub(super) async fn once(&mut self) -> Result<f64, String> {
        if let Some(questions) = &mut self.questions {
            // One that does not read any more says why.
            let _ = questions.write_all(b"\n").await;
        }
        let answer = self.answer().await?;
        let seconds = answer.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
        seconds.ok_or_else(|| format!("says {answer:?} instead of seconds"))
    }

    /// Ends the process; its peak of memory in bytes, if it knows.
    pub(super) async fn end(mut self) -> Result<Option<u64>, String> {
        self.questions = None;
        let answer = self.answer().await?;
        // What it frees as it ends takes no time of the next.
        let _ = timeout(self.patience, self.child.wait()).await;
        serde_json::from_str(&answer).map_err(|_| format!("says {answer:?} instead of bytes"))
    }

    /// The next line, while nothing that is said on standard error stops the process.
    async fn answer(&mut self) -> Result<String, String> {
        let mut line = vec![];
        let mut answers = (&mut self.answers).take(ANSWER_MAX);
        let read = tokio::select! {
            read = timeout(self.patience, answers.read_until(b'\n', &mut line)) => read,
            read = async { drain(&mut self.errors, &mut self.said).await; pending().await } => read,
        };
        match read {
            Err(_) => Err(format!("no answer within {} s", self.patience.as_secs_f64())),
            Ok(Err(error)) => Err(format!("cannot be read: {error}")),
            Ok(Ok(_)) if line.is_empty() => Err(self.why_it_ended().await),
            Ok(Ok(_)) => Ok(String::from_utf8_lossy(&line).trim().to_owned()),
        }
    }

    /// The last line that it has said, or how it ended.
    async fn why_it_ended(&mut self) -> String {
        let ended = async {
            tokio::select! {
                ended = self.child.wait() => ended,
                ended = async { drain(&mut self.errors, &mut self.said).await; pending().await } => ended,
            }
        };
        let ended = timeout(self.patience, ended).await;
        // Another process may hold its standard error open.
        let _ = timeout(LAST_WORDS, drain(&mut self.errors, &mut self.said)).await;
        let said = String::from_utf8_lossy(&self.said);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
        match (ended, last) {
            // Whoever is killed does not say so, and lack of memory kills.
            (Ok(Ok(status)), _) if status.code().is_none() => format!("ended by {status}"),
            (_, Some(last)) => last.to_owned(),
            (Ok(Ok(status)), None) => format!("ended early: {status}"),
            (Ok(Err(_)) | Err(_), None) => "says no more".to_owned(),
        }
    }
}

/// Reads to the end, and keeps the last of it.
async fn drain(errors: &mut ChildStderr, said: &mut Vec<u8>) {
    let mut part = [0; SAID_MAX];
    while let Ok(length @ 1..) = errors.read(&mut part).await {
        said.extend_from_slice(&part[..length]);
        said.drain(..said.len().saturating_sub(SAID_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    async fn refused(script: &str, patience: Duration) -> String {
        let started = async {
            let (mut way, _) = Way::start(shell(script), patience).await?;
            way.once().await?;
            way.end().await
        };
        started.await.unwrap_err()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_way_is_ready_does_the_step_and_tells_its_peak() {
        let script = "echo ready a shell; while read line; do echo 0.5; done; echo 4096";
        let (mut way, on) = Way::start(shell(script), LONG).await.unwrap();
        assert_eq!(on, "a shell");
        assert_eq!([way.once().await, way.once().await], [Ok(0.5), Ok(0.5)]);
        assert_eq!(way.end().await, Ok(Some(4096)));
    }

    #[tokio::test]
    async fn a_way_that_breaks_off_is_given_up_with_its_reason() {
        let ready = "echo ready x; read line";
        for (script, reason) in [
            ("echo nonsense", r#"says "nonsense" instead of that it is ready"#),
            ("echo no torch here >&2; exit 1", "no torch here"),
            ("exit 3", "ended early: exit status: 3"),
            ("kill -9 $$", "ended by signal: 9 (SIGKILL)"),
            (&format!("{ready}; echo nan"), r#"says "nan" instead of seconds"#),
            (&format!("{ready}; echo -1"), r#"says "-1" instead of seconds"#),
            (&format!("{ready}; echo 1; read line; echo much"), r#"says "much" instead of bytes"#),
            // More than a pipe holds on the one side, and no end of a line on the other.
            (&format!("{ready}; head -c 1000000 /dev/zero >&2; echo late"), r#"says "late" instead of seconds"#),
            ("yes | tr -d '\\n'", &format!("says {:?} instead of that it is ready", "y".repeat(256))),
        ] {
            assert_eq!(refused(script, LONG).await, reason, "{script}");
        }
        let missing = Way::start(Command::new("/nowhere/python"), LONG).await.err().unwrap();
        assert!(missing.starts_with("cannot be started: "), "{missing}");
    }

    #[tokio::test]
    async fn a_way_that_never_answers_is_given_up() {
        assert_eq!(refused("read line", Duration::from_millis(50)).await, "no answer within 0.05 s");
    }
}
