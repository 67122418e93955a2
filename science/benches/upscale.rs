//! Seconds and peak memory of the full-size Swin2SR for compressed pictures on one
//! picture, whole, two of them at once, and in tiles, beside PyTorch's in the same run if
//! `LITHOGEN_PYTHON`, or `python3`, has it and the library transformers.
//!
//! Arguments: `WIDTHxHEIGHT` of the small picture, 264x200 without.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use std::process::Command;
use std::time::Instant;

use burn::tensor::Device;
use domain::seed::Seed;
use domain::study::stage::Unwatched;
use image::RgbImage;
use science::data::batch;
use science::models::swin2sr::script::{Script, Tiling};
use science::models::swin2sr::{Swin2Sr, Swin2SrConfig};
use science::weights;
use serde_json::Value;

fn main() {
    let size = |argument: String| {
        let (width, height) = argument.split_once('x')?;
        Some([width.parse::<u32>().ok()?, height.parse().ok()?])
    };
    let mut arguments = std::env::args();
    // A process for each way, called by this one: the peak is the process's.
    if let Some(way @ ("tiles" | "whole" | "two at once")) = std::env::args().nth(1).as_deref() {
        let [width, height] = arguments.find_map(size).unwrap();
        println!("{}", ours(way, width, height));
        return;
    }
    let [width, height] = arguments.find_map(size).unwrap_or([264, 200]);
    let asked = format!("{width}x{height}");
    let python = std::env::var("LITHOGEN_PYTHON").unwrap_or("python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/upscale.py");
    let theirs = said(Command::new(python).arg(script).args([width.to_string(), height.to_string()]));
    println!("{asked} | s | peak MiB | of PyTorch's");
    if let Some(theirs) = &theirs {
        let (seconds, peak) = (theirs["seconds"].as_f64().unwrap(), theirs["peak_mib"].as_f64().unwrap());
        println!("PyTorch {}, {} threads | {seconds:.1} | {peak:.0} |", theirs["torch"], theirs["threads"]);
    }
    for way in ["whole", "two at once", "tiles"] {
        let Some(own) = said(Command::new(std::env::current_exe().unwrap()).args([way, &asked])) else { continue };
        let of =
            |key: &str| own[key].as_f64().unwrap() / theirs.as_ref().map_or(f64::NAN, |all| all[key].as_f64().unwrap());
        let (seconds, peak) = (own["seconds"].as_f64().unwrap(), own["peak_mib"].as_f64().unwrap());
        println!("{way} | {seconds:.1} | {peak:.0} | {:.2}, {:.2}", of("seconds"), of("peak_mib"));
    }
}

/// The last line that a program prints; nothing if it cannot run.
fn said(command: &mut Command) -> Option<Value> {
    let output = command.output().ok()?;
    let line = String::from_utf8_lossy(&output.stdout).lines().last().and_then(|line| serde_json::from_str(line).ok());
    if line.is_none() {
        let why = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        println!("not measured: {why}");
    }
    line
}

/// The second of two runs, as PyTorch's; seconds are for one picture.
fn ours(way: &str, width: u32, height: u32) -> Value {
    let device = Device::flex();
    let net = weights::initialise(Swin2Sr::new(&Swin2SrConfig::compressed(), &device), Seed(1));
    let picture = RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8]));
    let tiling = (way == "tiles").then(|| Tiling::new(64, 32).unwrap());
    let pictures = vec![picture; if way == "two at once" { 2 } else { 1 }];
    let mut seconds = 0.0;
    for _ in 0..2 {
        let began = Instant::now();
        let enlarge = |picture: &RgbImage| Ok(net.enlarge(picture, Script { crop: true, tiling }, &device));
        batch::map_at_most(2, &pictures, "picture", &mut Unwatched, enlarge).unwrap();
        seconds = began.elapsed().as_secs_f64() / pictures.len() as f64;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
    serde_json::json!({ "seconds": seconds, "peak_mib": peak.map(|kib| kib / 1024.0) })
}
