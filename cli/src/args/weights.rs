//! Published weights.

use std::path::PathBuf;

use clap::Args;

/// Where published weights lie.
#[derive(Debug, Args)]
pub struct WeightsPlace {
    /// Folder of published weights; `weights` in the state folder by default
    #[arg(long, env = "LITHOGEN_WEIGHTS", value_name = "DIR")]
    pub weights: Option<PathBuf>,
}

#[cfg(feature = "worker")]
pub use verbs::*;

#[cfg(feature = "worker")]
mod verbs {
    use std::path::PathBuf;

    use clap::{Args, Subcommand};
    use domain::study::pretrained::Pretrained;

    use super::WeightsPlace;
    use crate::args::State;

    /// `lithogen weights`.
    #[derive(Debug, Args)]
    #[command(after_help = "Examples:\n  \
                            lithogen weights fetch resnet50-imagenet1k-v2\n  \
                            lithogen weights import resnet50-11ad3fa6.pth")]
    pub struct Weights {
        /// What to do with weights.
        #[command(subcommand)]
        pub command: WeightsCommand,
    }

    /// One verb of `lithogen weights`.
    #[derive(Debug, Subcommand)]
    pub enum WeightsCommand {
        /// Say which there are, where they come from and which are here
        List {
            /// One JSON object
            #[arg(long)]
            json: bool,
            /// Where.
            #[command(flatten)]
            at: WeightsAt,
        },
        /// Take in a file that is here: PyTorch (.pth, .pt) or .safetensors
        Import {
            /// The file
            file: PathBuf,
            /// What it is, if its tensors fit several
            #[arg(long = "as", value_name = "NAME")]
            which: Option<Pretrained>,
            /// Where.
            #[command(flatten)]
            at: WeightsAt,
        },
        /// Download and take in; goes on where it was cut off
        Fetch {
            /// Which, as `weights list` names them
            name: Pretrained,
            /// A mirror: the file's URL, or that of its folder with a `/` at the end
            #[arg(long, value_name = "URL")]
            from: Option<String>,
            /// Where.
            #[command(flatten)]
            at: WeightsAt,
        },
        /// Read all that is here again and name what is damaged
        Verify {
            /// One JSON object
            #[arg(long)]
            json: bool,
            /// Where.
            #[command(flatten)]
            at: WeightsAt,
        },
    }

    /// Some folder of weights.
    #[derive(Debug, Args)]
    pub struct WeightsAt {
        /// Where they lie.
        #[command(flatten)]
        pub place: WeightsPlace,
        /// The state folder.
        #[command(flatten)]
        pub state: State,
    }
}
