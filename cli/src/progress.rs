//! Bars on a terminal, plain lines elsewhere, while a study runs.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use domain::study::stage::StageKind;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::v1;

use crate::out::shown;

/// Least time between two plain lines that only say how far things are.
const SUMMARY_EVERY: Duration = Duration::from_secs(30);

/// How long something needs attention before it is said.
const ATTENTION_AFTER: Duration = Duration::from_secs(3);

/// The bar that a stage shares with others like it.
fn group_of(stage: &v1::StageStatus) -> &'static str {
    // A coordinator of another version may have others.
    let Ok(stage) = stage.stage.parse() else { return "others" };
    match stage {
        StageKind::Ingest | StageKind::Pad => "data",
        StageKind::SinddmTrain => "sinddm",
        StageKind::DdpmTrain => "ddpm",
        StageKind::Swin2srTrain => "swin2sr",
        StageKind::SinddmSample | StageKind::DdpmSample | StageKind::Upscale => "samples",
        StageKind::EvaluateDrift | StageKind::EvaluateHeatmap | StageKind::EvaluateSifid => "evaluate",
        StageKind::Patches => "patches",
        StageKind::ClassifyTrain => "classify",
        StageKind::Aggregate | StageKind::Report => "report",
        StageKind::Command => "commands",
    }
}

/// Shows how a run goes.
pub struct View {
    started: Instant,
    /// What needs attention, since when, and whether that was said.
    attention: BTreeMap<String, (Instant, bool)>,
    kind: Kind,
}

enum Kind {
    Silent,
    Lines { last_summary: Instant },
    Bars { all: MultiProgress, bars: Vec<(&'static str, ProgressBar)>, now: ProgressBar },
}

impl View {
    /// Bars if standard error is a terminal, lines if not, nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb") || std::env::var_os("CI").is_some();
        let kind = match () {
            () if quiet => Kind::Silent,
            () if std::io::stderr().is_terminal() && !dumb => bars(),
            () => Kind::Lines { last_summary: Instant::now() },
        };
        Self { started: Instant::now(), attention: BTreeMap::new(), kind }
    }

    /// Shows what has changed.
    pub fn show(&mut self, status: &v1::RunStatus, changes: &[v1::TaskChange]) {
        let seconds = self.started.elapsed().as_secs_f64();
        for matter in self.lasting(&status.attention) {
            self.say(&format!("{seconds:7.1}s {:>4}/{} ! {matter}", status.committed, status.tasks));
        }
        match &mut self.kind {
            Kind::Silent => {}
            Kind::Lines { last_summary } => {
                for line in changes.iter().filter_map(line) {
                    note!("{seconds:7.1}s {:>4}/{} {line}", status.committed, status.tasks);
                    *last_summary = Instant::now();
                }
                if last_summary.elapsed() >= SUMMARY_EVERY {
                    *last_summary = Instant::now();
                    note!("{seconds:7.1}s {:>4}/{} {}", status.committed, status.tasks, now(status));
                }
            }
            Kind::Bars { all, bars, now: now_bar } => {
                for change in changes.iter().filter(|change| is_trouble(change)) {
                    // A terminal that is gone cannot be told.
                    let _ = all.println(shown(&line(change).unwrap_or_default()));
                }
                if bars.is_empty() {
                    *bars = groups(all, status);
                }
                for (group, bar) in bars {
                    let of_group = || status.stages.iter().filter(|stage| group_of(stage) == *group);
                    bar.set_length(of_group().map(|stage| u64::from(stage.tasks)).sum());
                    bar.set_position(of_group().map(|stage| u64::from(stage.committed)).sum());
                }
                now_bar.set_message(shown(&now(status)).into_owned());
                now_bar.tick();
            }
        }
    }

    /// What has needed attention for a while and was not said yet. What only lasts
    /// until the next lease is given is nobody's concern.
    fn lasting(&mut self, attention: &[String]) -> Vec<String> {
        self.attention.retain(|matter, _| attention.contains(matter));
        let mut lasting = vec![];
        for matter in attention {
            let (since, was_said) = self.attention.entry(matter.clone()).or_insert((Instant::now(), false));
            if !*was_said && since.elapsed() >= ATTENTION_AFTER {
                *was_said = true;
                lasting.push(matter.clone());
            }
        }
        lasting
    }

    /// Says something above whatever is shown.
    pub fn say(&self, text: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Lines { .. } => note!("{text}"),
            Kind::Bars { all, .. } => {
                // A terminal that is gone shows nothing.
                let _ = all.println(shown(text));
            }
        }
    }

    /// Takes the bars away.
    pub fn end(&self) {
        if let Kind::Bars { bars, now, .. } = &self.kind {
            bars.iter().for_each(|(_, bar)| bar.abandon());
            now.finish_and_clear();
        }
    }
}

fn bars() -> Kind {
    let all = MultiProgress::new();
    let now = all.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template(" {spinner}        {wide_msg}") {
        now.set_style(style);
    }
    now.enable_steady_tick(Duration::from_millis(200));
    Kind::Bars { all, bars: vec![], now }
}

/// A bar for each group of stages that the run has tasks of, in the order of the study.
fn groups(all: &MultiProgress, status: &v1::RunStatus) -> Vec<(&'static str, ProgressBar)> {
    let style = ProgressStyle::with_template("          {prefix:9} {bar:30} {pos:>3}/{len}").ok();
    let mut bars: Vec<(&'static str, ProgressBar)> = vec![];
    for group in status.stages.iter().map(group_of) {
        if bars.iter().any(|(known, _)| *known == group) {
            continue;
        }
        let bar = all.insert(bars.len(), ProgressBar::new(0));
        if let Some(style) = &style {
            bar.set_style(style.clone());
        }
        bars.push((group, bar.with_prefix(group)));
    }
    bars
}

/// What runs, in one line.
fn now(status: &v1::RunStatus) -> String {
    let attempt = |attempt: &v1::RunningAttempt| match attempt.total {
        0 => attempt.label.clone(),
        total => format!("{} {}% {}", attempt.label, 100 * attempt.done.min(total) / total, attempt.note),
    };
    let attempts: Vec<String> = status.attempts.iter().map(attempt).collect();
    match attempts.len() {
        0 if status.workers == 0 => "waiting for a worker: lithogen worker --coordinator URL".to_owned(),
        0 => "…".to_owned(),
        _ => attempts.join(" | "),
    }
}

fn is_trouble(change: &v1::TaskChange) -> bool {
    matches!(change.state.as_str(), "failed" | "retrying" | "lost")
}

/// A change worth a line; that an attempt began is not.
fn line(change: &v1::TaskChange) -> Option<String> {
    let on = if change.worker.is_empty() { String::new() } else { format!(" on {}", change.worker) };
    let v1::TaskChange { label, attempt, seconds, message, .. } = change;
    match change.state.as_str() {
        // Coordinators of before call it leased.
        "running" | "leased" => None,
        "succeeded" => Some(format!("{label} done in {seconds:.1} s{on}")),
        "failed" => Some(format!("✗ {label} FAILED, attempt {attempt}{on}: {message}")),
        "retrying" => Some(format!("! {label} failed, attempt {attempt}{on}, trying again: {message}")),
        "lost" | "preempted" => Some(format!("! {label} {}, attempt {attempt}{on}; it runs again", change.state)),
        state => Some(format!("! {label} {state}, attempt {attempt}{on}")),
    }
}

/// Counts on one line of a terminal, or at each tenth on lines of their own.
pub struct Counter {
    what: &'static str,
    bar: Option<ProgressBar>,
    tenth: u64,
    quiet: bool,
}

impl Counter {
    /// A counter of things, which `what` names.
    pub fn new(what: &'static str, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template(" data     {msg} {bar:30} {pos}/{len}") {
                bar.set_style(style);
            }
            bar.with_message(what)
        });
        Self { what, bar, tenth: 0, quiet }
    }

    /// Shows that `done` of `total` things are done.
    pub fn show(&mut self, done: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            None if self.quiet => {}
            None => {
                let tenth = 10 * done / total.max(1);
                if tenth > self.tenth {
                    self.tenth = tenth;
                    note!(" data     {} {done}/{total}", self.what);
                }
            }
        }
    }

    /// Ends the line or the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
