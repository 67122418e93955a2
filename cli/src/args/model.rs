//! `lithogen model`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Look after diffusion models.
#[derive(Debug, Args)]
pub struct Model {
    /// What to do.
    #[command(subcommand)]
    pub command: ModelCommand,
}

#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Make a model of a checkpoint (.pt) of the published SinDDM code
    Import(Import),
    /// Make such a checkpoint of a model
    Export(Export),
    /// Draw samples, freely or held to a picture
    Sample(Box<Sample>),
}

#[derive(Debug, Args)]
pub struct Import {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Width and height of the finest scale that it was trained with.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    pub finest: [u32; 2],
    /// Nominal factor between neighbouring scales.
    #[arg(long, default_value_t = 1.411)]
    pub scale_factor: f64,
    /// Short side of the coarsest scale, if it was not by the published rule.
    #[arg(long)]
    pub coarsest: Option<u32>,
    /// The weights of the last step instead of the averaged ones.
    #[arg(long)]
    pub last: bool,
    /// Folder to write.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct Export {
    /// Folder with `model.safetensors` and `training.json`.
    pub model: PathBuf,
    /// The file to write.
    #[arg(long)]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    lithogen model sample m --out s --count 16\n  \
    lithogen model sample m --out s --start pasted.png --mask where.png --scale 3 --time 20   (harmonisation)\n  \
    lithogen model sample m --out s --start sketch.png --colors-of stone.png --scale 2 --time 60   (style transfer)\n  \
    lithogen model sample m --out s --region stone.png@0.4,0.3,0.2,0.2@0.1,0.1,0.2,0.2   (regions of interest)")]
pub struct Sample {
    /// Folder with `model.safetensors` and `training.json`.
    pub model: PathBuf,
    /// Folder to write `NNN.png` to.
    #[arg(long)]
    pub out: PathBuf,
    /// How many.
    #[arg(long, default_value_t = 1)]
    pub count: u32,
    /// Root of the random numbers.
    #[arg(long, default_value_t = 3407)]
    pub seed: u64,
    /// Height and width as shares of the training's.
    #[arg(long, num_args = 2, value_names = ["HEIGHT", "WIDTH"])]
    pub scale_mul: Vec<f64>,
    /// The picture to start from.
    #[arg(long, value_name = "PICTURE", requires = "scale", requires = "time")]
    pub start: Option<PathBuf>,
    /// The scale at which sampling starts, from 0.
    #[arg(long, requires = "start")]
    pub scale: Option<usize>,
    /// The time at which it starts, from 0: the later, the less is kept.
    #[arg(long, requires = "start")]
    pub time: Option<u32>,
    /// A picture of what was pasted: where it is black, but for 7 pixels and a soft
    /// edge, the samples keep the starting picture.
    #[arg(long, value_name = "PICTURE", requires = "start")]
    pub mask: Option<PathBuf>,
    /// Give the starting picture the colours of this one, a training picture, first.
    #[arg(long, value_name = "PICTURE", requires = "start")]
    pub colors_of: Option<PathBuf>,
    /// Show a part of a training picture at a place of the samples, or without a part
    /// the whole of any picture. Both are LEFT,TOP,WIDTH,HEIGHT in shares.
    #[arg(long, value_name = "PICTURE[@PART]@PLACE")]
    pub region: Vec<String>,
    /// Kind of processor to compute on.
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

fn size(text: &str) -> Result<[u32; 2], String> {
    let parts = text.split_once('x').and_then(|(width, height)| Some([width.parse().ok()?, height.parse().ok()?]));
    parts
        .filter(|size: &[u32; 2]| size.iter().all(|side| (8..=32_768).contains(side)))
        .ok_or_else(|| "has to be two numbers of pixels such as 264x200".to_owned())
}
