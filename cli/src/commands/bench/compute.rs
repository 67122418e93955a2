//! `lithogen bench compute`: what this machine could do, and what kernels and steps get of it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use report::tables::{Align, Heading, Table};
use science::device::{self, Kind};
use science::kernels;
use science::kernels::measure::{self, Machine, Measured};
use science::steps::Step;
use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::way::Way;
use crate::args::Compute;
use crate::exit::{self, Problem};
use crate::out;
use crate::table::laid_out;

/// The program of the peer.
const PEER: &str = include_str!("peer.py");

/// Our way, then those of the peer.
const OURS: &str = "lithogen";
const EAGER: &str = "eager";
const PEERS: [&str; 3] = [EAGER, "channels_last", "compile"];

/// All that was measured. With `--json`, this is printed.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    device: String,
    threads: usize,
    peak_gflops: Option<f64>,
    bandwidth_gb_per_second: Option<f64>,
    kernels: Vec<KernelRow>,
    steps: Vec<StepRow>,
}

#[derive(Serialize)]
struct KernelRow {
    name: String,
    seconds: f64,
    gflop: f64,
    gigabytes: f64,
    roofline_share: f64,
}

#[derive(Serialize)]
struct StepRow {
    name: &'static str,
    seconds: Option<f64>,
    peak_bytes: Option<u64>,
    ratio_to_best_peer: Option<f64>,
    ratio_to_eager: Option<f64>,
    roofline_share: Option<f64>,
    gflop: f64,
    ways: Vec<WayRow>,
}

#[derive(Serialize)]
struct WayRow {
    way: &'static str,
    on: Option<String>,
    seconds: Option<f64>,
    peak_bytes: Option<u64>,
    problem: Option<String>,
}

/// Measures and prints.
///
/// # Errors
/// Exit code 2 for a device or a Python that is none, 1 if a step of ours cannot be measured.
pub(super) async fn run(args: &Compute, quiet: bool) -> anyhow::Result<()> {
    let report = measured(args, quiet).await?;
    if args.json {
        out::line(serde_json::to_string_pretty(&report)?);
    } else {
        out::line(text(&report));
    }
    let failed = report.steps.iter().filter(|step| step.seconds.is_none()).map(|step| step.name);
    let failed: Vec<&str> = failed.collect();
    if failed.is_empty() { Ok(()) } else { anyhow::bail!("not measured: {}", failed.join(", ")) }
}

async fn measured(args: &Compute, quiet: bool) -> anyhow::Result<Report> {
    let usage = |error: device::Error| Problem::new(exit::USAGE, error.to_string());
    let kind = Kind::parse(&args.device).map_err(usage)?;
    let device = kind.open().map_err(usage)?;
    device::dedicate(kind).map_err(usage)?;
    if let Some(python) = &args.peer {
        check(python, args.timeout).await?;
    }
    let progress = |text: &str| {
        if !quiet {
            note!("{text}");
        }
    };
    // The kernels are the processor's, and so is the peak.
    let path = kernels::path::Path::current();
    let part = args.kernel.as_deref().or(args.step.is_empty().then_some(""));
    let machine = (kind == Kind::Cpu).then(|| {
        progress("machine");
        Machine::measure(path)
    });
    let mut kernels = vec![];
    if let (Some(machine), Some(part)) = (machine, part) {
        measure::kernels(path, part, &mut |measured| {
            progress(&measured.name);
            kernels.push(kernel_row(&machine, measured));
        });
    }
    let of_kernels = args.step.is_empty() && args.kernel.is_some();
    if let Some(part) = args.kernel.as_deref().filter(|_| kernels.is_empty()) {
        let problem = match kind {
            Kind::Cpu => format!("--kernel {part}: no kernel has this in its name"),
            _ => "--kernel: kernels are the processor's".to_owned(),
        };
        return Err(Problem::new(exit::USAGE, problem).into());
    }
    let asked = |step: &&Step| !of_kernels && (args.step.is_empty() || args.step.iter().any(|name| name == step.name));
    let mut steps = vec![];
    for step in Step::ALL.iter().filter(asked) {
        steps.push(step_row(step, machine, ways(step, args, &progress).await?));
    }
    Ok(Report {
        schema_version: 1,
        device: device::name(&device),
        threads: measure::threads(),
        peak_gflops: machine.map(|machine| machine.gflops),
        bandwidth_gb_per_second: machine.map(|machine| machine.gigabytes),
        kernels,
        steps,
    })
}

/// Checks that this runs programs in Python.
async fn check(python: &Path, patience: Duration) -> Result<(), Problem> {
    let problem = |why: String| Problem::new(exit::USAGE, format!("--peer {}: {why}", python.display()));
    let mut command = Command::new(python);
    let asked = command.args(["-c", "print('lithogen')"]).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = timeout(patience, asked).await.map_err(|_| problem("does not answer".to_owned()))?;
    let output = output.map_err(|error| problem(format!("cannot be started: {error}")))?;
    if output.stdout.trim_ascii() == b"lithogen" { Ok(()) } else { Err(problem("is no Python".to_owned())) }
}

/// The step in all ways, in turn.
async fn ways(step: &Step, args: &Compute, progress: &impl Fn(&str)) -> anyhow::Result<Vec<WayRow>> {
    let mut ours = Command::new(std::env::current_exe()?);
    ours.args(["bench", "step", step.name, &args.device]);
    let mut commands = vec![(OURS, ours)];
    if let Some(python) = &args.peer {
        // It knows the GPUs that are NVIDIA's, by whichever way we reach them.
        let device = if args.device == "cpu" { "cpu" } else { "cuda" };
        for way in PEERS {
            let mut peer = Command::new(python);
            peer.args(["-c", PEER, step.name, way, device, &measure::threads().to_string()]);
            commands.push((way, peer));
        }
    }
    let mut contenders = vec![];
    for (way, command) in commands {
        progress(&format!("{} {way}", step.name));
        let (on, running) = match Way::start(command, args.timeout).await {
            Ok((running, on)) => (Some(on), Ok(running)),
            Err(problem) => (None, Err(problem)),
        };
        let mut contender = Contender { way, on, running, seconds: vec![] };
        contender.once().await;
        contender.seconds.clear();
        contenders.push(contender);
    }
    for round in 1..=args.rounds {
        progress(&format!("{} round {round} of {}", step.name, args.rounds));
        for contender in &mut contenders {
            contender.once().await;
        }
    }
    let mut rows = vec![];
    for contender in contenders {
        rows.push(contender.end().await);
    }
    Ok(rows)
}

/// A way to do a step, or why it cannot be gone.
struct Contender {
    way: &'static str,
    on: Option<String>,
    running: Result<Way, String>,
    seconds: Vec<f64>,
}

impl Contender {
    async fn once(&mut self) {
        if let Ok(way) = &mut self.running {
            match way.once().await {
                Ok(seconds) => self.seconds.push(seconds),
                Err(problem) => self.running = Err(problem),
            }
        }
    }

    async fn end(self) -> WayRow {
        let (way, on) = (self.way, self.on);
        let ended = match self.running {
            Ok(running) => running.end().await,
            Err(problem) => Err(problem),
        };
        match ended {
            Ok(peak_bytes) => WayRow { way, on, seconds: median(self.seconds), peak_bytes, problem: None },
            Err(problem) => WayRow { way, on, seconds: None, peak_bytes: None, problem: Some(problem) },
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = [values.len().checked_sub(1)? / 2, values.len() / 2];
    Some(middle.iter().map(|&at| values[at]).sum::<f64>() / 2.0)
}

fn kernel_row(machine: &Machine, measured: Measured) -> KernelRow {
    let Measured { name, seconds, gflop, gigabytes } = measured;
    KernelRow { name, seconds, gflop, gigabytes, roofline_share: machine.least_seconds(gflop, gigabytes) / seconds }
}

fn step_row(step: &Step, machine: Option<Machine>, ways: Vec<WayRow>) -> StepRow {
    let of = |way: &str| ways.iter().find(|row| row.way == way);
    let seconds = of(OURS).and_then(|row| row.seconds);
    let best = ways.iter().filter(|row| row.way != OURS).filter_map(|row| row.seconds).min_by(f64::total_cmp);
    let ratio = |other: Option<f64>| Some(seconds? / other?);
    StepRow {
        name: step.name,
        seconds,
        peak_bytes: of(OURS).and_then(|row| row.peak_bytes),
        ratio_to_best_peer: ratio(best),
        ratio_to_eager: ratio(of(EAGER).and_then(|row| row.seconds)),
        roofline_share: machine.and_then(|machine| Some(machine.least_seconds(step.gflop, 0.0) / seconds?)),
        gflop: step.gflop,
        ways,
    }
}

fn text(report: &Report) -> String {
    let mut text = format!("{} · {} threads", report.device, report.threads);
    if let (Some(gflops), Some(gigabytes)) = (report.peak_gflops, report.bandwidth_gb_per_second) {
        text += &format!(" · {gflops:.0} GFLOP/s · {gigabytes:.1} GB/s");
    }
    if !report.kernels.is_empty() {
        text += &format!("\n\n{}", laid_out(kernel_table(&report.kernels)));
    }
    if !report.steps.is_empty() {
        text += &format!("\n\n{}", laid_out(step_table(&report.steps)));
    }
    let problem =
        |step: &StepRow, row: &WayRow| Some(format!("\n! {}, {}: {}", step.name, row.way, row.problem.as_ref()?));
    text.extend(report.steps.iter().flat_map(|step| step.ways.iter().filter_map(|row| problem(step, row))));
    text
}

fn headings(first: &[&str], numbers: &[&str]) -> Vec<Heading> {
    let heading = |align| move |name: &&str| Heading { name: (*name).to_owned(), align };
    first.iter().map(heading(Align::Left)).chain(numbers.iter().map(heading(Align::Right))).collect()
}

fn kernel_table(kernels: &[KernelRow]) -> Table {
    let row = |row: &KernelRow| {
        vec![
            row.name.clone(),
            format!("{:.2}", 1e3 * row.seconds),
            if row.gflop > 0.0 { format!("{:.0}", row.gflop / row.seconds) } else { "–".to_owned() },
            format!("{:.1}", row.gigabytes / row.seconds),
            format!("{:.2}", row.roofline_share),
        ]
    };
    let columns = headings(&["kernel"], &["ms", "GFLOP/s", "GB/s", "of the roofline"]);
    Table { columns, rows: kernels.iter().map(row).collect() }
}

fn step_table(steps: &[StepRow]) -> Table {
    let number = |value: Option<f64>, digits| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    let row = |step: &StepRow, row: &WayRow| {
        let is_ours = row.way == OURS;
        let ratio = step.seconds.zip(row.seconds).map(|(ours, theirs)| ours / theirs);
        vec![
            if is_ours { step.name.to_owned() } else { String::new() },
            row.way.to_owned(),
            number(row.seconds, 3),
            number(row.peak_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)), 0),
            if is_ours { number(step.roofline_share, 2) } else { String::new() },
            if is_ours { String::new() } else { number(ratio, 2) },
        ]
    };
    let columns = headings(&["step", "way"], &["s", "peak MiB", "of the roofline", "lithogen ÷ it"]);
    Table { columns, rows: steps.iter().flat_map(|step| step.ways.iter().map(move |way| row(step, way))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_knows_every_step() {
        for step in Step::ALL {
            assert!(PEER.contains(&format!("    \"{}\": (", step.name)), "{}", step.name);
        }
    }

    #[test]
    fn a_median_is_between_the_middle_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}
