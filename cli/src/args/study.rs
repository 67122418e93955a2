//! Studies: which, where and what becomes of them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use domain::study::experiment::Scale;

use super::{Remote, RunOf, State, WeightsPlace};

/// A named size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScaleName {
    /// Every stage runs, nothing is learnt: seconds
    Smoke,
    /// The whole study on small pictures: minutes
    Tiny,
    /// The whole study on larger pictures: hours
    Small,
    /// The study as published: GPU-days
    Paper,
}

impl From<ScaleName> for Scale {
    fn from(name: ScaleName) -> Scale {
        match name {
            ScaleName::Smoke => Scale::Smoke,
            ScaleName::Tiny => Scale::Tiny,
            ScaleName::Small => Scale::Small,
            ScaleName::Paper => Scale::Paper,
        }
    }
}

/// Which study.
#[derive(Debug, Args)]
pub struct Spec {
    /// A spec file in TOML: a study, which names its own scale, or commands to `submit`
    pub spec: Option<PathBuf>,
    /// The preset to use without a spec file
    #[arg(long, value_enum, default_value = "tiny", conflicts_with = "spec")]
    pub scale: ScaleName,
    /// Change one knob, for instance `tl.repeats=2` (see `lithogen config show`)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Fill cells whose training has seen a test picture, and mark them; without it they
    /// stay empty (sets `tl.allow_leak`)
    #[arg(long)]
    pub allow_leak: bool,
}

/// `lithogen reproduce`.
#[derive(Debug, Args)]
pub struct Reproduce {
    /// Which study.
    #[command(flatten)]
    pub spec: Spec,
    /// Pictures in `raw/{A,C}/{SUR,SEC}/<class>/`; without it, stand-ins are drawn
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Published weights.
    #[command(flatten)]
    pub weights: WeightsPlace,
    /// Where it lives.
    #[command(flatten)]
    pub state: State,
    /// Where it runs: without a coordinator, in this process.
    #[command(flatten)]
    pub remote: Remote,
    /// Local workers
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// Attempts that each local worker runs at once; without it, all cores are shared out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: Option<u16>,
    /// Which processor computes: cpu, webgpu, vulkan or cuda
    #[arg(long, env = "LITHOGEN_DEVICE", default_value = "cpu")]
    pub device: String,
    /// What to do once a task is given up
    #[arg(long, value_enum, default_value = "stop")]
    pub on_failure: OnFailure,
    /// Print the results as JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// See [`Reproduce::on_failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Call the rest off: what is done stays done
    Stop,
    /// Do all that does not need the failed task
    Continue,
}

/// `lithogen plan`.
#[derive(Debug, Args)]
pub struct Plan {
    /// Which study.
    #[command(flatten)]
    pub spec: Spec,
    /// Plan for these pictures rather than for the paper's counts
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// One JSON object with all tasks
    #[arg(long)]
    pub json: bool,
    /// Published weights.
    #[command(flatten)]
    pub weights: WeightsPlace,
    /// Where it would live.
    #[command(flatten)]
    pub state: State,
    /// Whom to ask how long tasks took.
    #[command(flatten)]
    pub remote: Remote,
    /// Whether to time a few training steps here if no coordinator tells how long tasks took;
    /// by default, it is done unless `--json` is given
    #[arg(long, value_enum, value_name = "WHEN")]
    pub measure: Option<Measure>,
}

/// See [`Plan::measure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// Time them, within about 5 s
    Always,
    /// Assume a rate
    Never,
}

/// `lithogen submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// Which study.
    #[command(flatten)]
    pub spec: Spec,
    /// Pictures in `raw/{A,C}/{SUR,SEC}/<class>/`; without it, stand-ins are drawn
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Runs with more go first
    #[arg(long, default_value_t = 0, allow_hyphen_values = true, value_name = "N")]
    pub priority: i32,
    /// The coordinator, for instance http://127.0.0.1:7443
    #[arg(long, env = "LITHOGEN_COORDINATOR", value_name = "URL")]
    pub coordinator: String,
    /// Published weights.
    #[command(flatten)]
    pub weights: WeightsPlace,
    /// Folder for stand-ins
    #[command(flatten)]
    pub state: State,
}

/// `lithogen watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Which run.
    #[command(flatten)]
    pub run: RunOf,
    /// One JSON object per line: status and changes
    #[arg(long)]
    pub jsonl: bool,
}

/// `lithogen results`.
#[derive(Debug, Args)]
pub struct Results {
    /// Which run.
    #[command(flatten)]
    pub run: RunOf,
    /// The whole document (schema: `lithogen config schema --of results`); as `--format json`
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    /// In which form
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

impl Results {
    /// The form asked for.
    pub fn form(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

/// See [`Results::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for people
    Text,
    /// Table I, one line a cell
    Csv,
    /// The whole document
    Json,
    /// Table I and the claims for a README or an issue
    Markdown,
    /// Table I for a LaTeX document
    Latex,
}

/// `lithogen paper`.
#[derive(Debug, Args)]
pub struct Paper {
    /// What about it.
    #[command(subcommand)]
    pub command: PaperCommand,
}

/// One verb of `lithogen paper`.
#[derive(Debug, Subcommand)]
pub enum PaperCommand {
    /// Say where its numbers contradict each other or the text, and what they leave open
    Audit {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `lithogen dataset`.
#[cfg(feature = "worker")]
#[derive(Debug, Args)]
pub struct Dataset {
    /// What to do with data.
    #[command(subcommand)]
    pub command: DatasetCommand,
}

/// One verb of `lithogen dataset`.
#[cfg(feature = "worker")]
#[derive(Debug, Subcommand)]
pub enum DatasetCommand {
    /// Draw procedural stones that stand in for real pictures
    Phantom {
        /// Folder to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Which study's sizes, and changes to them: `phantom.size_a=[4288,2848]`, `seed=7`
        #[command(flatten)]
        spec: Spec,
    },
    /// Cut the patches of a data set here, without a coordinator, to look at them
    ///
    /// Writes, for each view of A and C, the first patches of each class and the
    /// pictures with the places of their patches (yellow: to learn from, blue: to test
    /// on), and a table of all places. Of several folds it cuts the first.
    #[command(after_help = "Ends with exit code 4 if a study could not use the data.\n\n\
        Example: lithogen dataset patches pictures --preview look --set patch.max_overlap=20")]
    Patches {
        /// Folder with `raw/A/SUR/Ia` and so on, or with `A/SUR/Ia`
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The study whose patches they are
        #[command(flatten)]
        spec: Spec,
        /// Folder for sheets and table
        #[arg(long, value_name = "OUT")]
        preview: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Decode every picture and say what is wrong with a data set before a study meets it
    ///
    /// Looks at sizes and colour modes, counts beside the paper's, pictures that stand
    /// twice or look alike, on which side of the split they are, masks, and whether
    /// each class has enough pictures to be split.
    #[command(after_help = "Ends with exit code 4 if a study could not use the data.\n\n\
        Example: lithogen dataset check pictures --set tl.folds=5")]
    Check {
        /// Folder with `raw/A/SUR/Ia` and so on, or with `A/SUR/Ia`
        #[arg(value_name = "DIR")]
        folder: PathBuf,
        /// The study whose split is to be looked at
        #[command(flatten)]
        spec: Spec,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `lithogen config`.
#[derive(Debug, Args)]
pub struct Config {
    /// What to print.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// One verb of `lithogen config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// The spec with every knob spelt
    Show {
        /// Which study.
        #[command(flatten)]
        spec: Spec,
    },
    /// Which choices the paper leaves open, how they are read, and what each knob is to a
    /// comparison with it
    Ledger {
        /// Every knob with its kind, as JSON
        #[arg(long)]
        json: bool,
    },
    /// A JSON Schema
    Schema {
        /// Of what
        #[arg(long, value_enum, default_value = "spec")]
        of: SchemaOf,
    },
}

/// What a schema is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// Spec files of a study
    Spec,
    /// Spec files of commands
    Commands,
    /// `lithogen results --json`
    Results,
}
