//! `lithogen model`: diffusion models outside of a study.

use std::path::{Path, PathBuf};

use domain::seed::Seed;
use domain::study::experiment::Sampling;
use domain::study::records::{Record, SinddmRecord};
use science::data::picture;
use science::data::pyramid::Pyramid;
use science::device::{self, Kind};
use science::diffusion::guide::{Guide, Region, Start, with_colors_of};
use science::diffusion::model::Model as Trained;
use science::diffusion::published::{self, Which};
use science::files;
use science::weights;

use crate::args::{Export, Import, Model, ModelCommand, Sample};
use crate::exit::{self, Problem, usable};
use crate::out;

/// Imports, exports or samples a model.
///
/// # Errors
/// Exit code 2 for options that do not fit, 4 for files that cannot be used.
pub fn run(args: &Model) -> anyhow::Result<()> {
    match &args.command {
        ModelCommand::Import(args) => import(args),
        ModelCommand::Export(args) => export(args),
        ModelCommand::Sample(args) => sample(args),
    }
}

fn import(args: &Import) -> anyhow::Result<()> {
    let which = if args.last { Which::Model } else { Which::Ema };
    let (net, record) = usable(
        published::read(&args.checkpoint, which)
            .and_then(|arrays| published::import(arrays, args.finest, args.scale_factor, args.coarsest)),
    )?;
    weights::write(&net, &args.out.join("model.safetensors"))?;
    files::write(&args.out.join(SinddmRecord::FILE), &record)?;
    // Whatever the file held is now found to be a network or not.
    usable(Trained::open(&args.out, &Kind::Cpu.open()?))?;
    out::line(format_args!(
        "{}: {} parameters, {} scales, sampling lengths {:?}",
        args.out.display(),
        record.parameters,
        record.sizes.len(),
        record.sampling_steps
    ));
    Ok(())
}

fn export(args: &Export) -> anyhow::Result<()> {
    let model = usable(Trained::open(&args.model, &Kind::Cpu.open()?))?;
    let net = weights::read(&args.model.join("model.safetensors"))?;
    published::export(&net, model.record(), &args.out)?;
    out::line(args.out.display());
    Ok(())
}

fn sample(args: &Sample) -> anyhow::Result<()> {
    let usage = |error: device::Error| Problem::new(exit::USAGE, error.to_string());
    let device = Kind::parse(&args.device).and_then(Kind::open).map_err(usage)?;
    device::check_instructions().map_err(usage)?;
    let model = usable(Trained::open(&args.model, &device))?;
    let mut sampling = Sampling { per_model: args.count, ..Sampling::default() };
    if let [height, width] = *args.scale_mul {
        if !(0.1..=10.0).contains(&height) || !(0.1..=10.0).contains(&width) {
            return Err(Problem::new(exit::USAGE, "--scale-mul: shares have to lie between 0.1 and 10").into());
        }
        sampling.scale_mul = [height, width];
    }
    let guide = guide(args, model.record(), &sampling)?;
    let sampler = model.sampler(&sampling, &guide);
    let numbers: Vec<u64> = (0..u64::from(args.count)).collect();
    for batch in numbers.chunks(sampling.batch as usize) {
        for (number, image) in batch.iter().zip(sampler.sample(Seed(args.seed), "", batch, &device)) {
            let path = args.out.join(format!("{number:03}.png"));
            picture::save_png(&path, &image)?;
            out::line(path.display());
        }
    }
    Ok(())
}

/// What the options hold the samples to.
fn guide(args: &Sample, model: &SinddmRecord, sampling: &Sampling) -> anyhow::Result<Guide> {
    let (scales, timesteps) = (model.sizes.len(), model.sinddm.timesteps);
    let open = |path: &Path| usable(picture::open_rgb8(path)).map(|picture| picture.image);
    // A picture in the frame that the model has learnt.
    let framed = |path: &Path| open(path).map(|image| science::data::canvas::framed_as_learnt(model, &image));
    // The same at each scale.
    let learnt = |path: &Path| {
        let finest = model.sizes.last().copied().unwrap_or_default();
        let pyramid = usable(Pyramid::new(&[framed(path)?], &model.sinddm.on(finest)))?;
        let levels: Vec<_> = pyramid.scales.into_iter().flat_map(|scale| scale.images).collect();
        if levels.len() == scales {
            Ok(levels)
        } else {
            let problem = "training.json: its sizes do not follow from its knobs";
            Err(anyhow::Error::from(Problem::new(exit::DATA, problem)))
        }
    };
    let start = match (&args.start, args.scale, args.time) {
        (Some(path), Some(scale), Some(t)) => {
            if scale >= scales || t >= timesteps {
                let message = format!("--scale has to be below {scales} and --time below {timesteps}");
                return Err(Problem::new(exit::USAGE, message).into());
            }
            let mut image = framed(path)?;
            if let Some(colors) = &args.colors_of {
                image = with_colors_of(&image, &learnt(colors)?[scale]);
            }
            Some(Start { image, scale, t })
        }
        _ => None,
    };
    // Nothing is free where the frame goes beyond the picture.
    let mask = args
        .mask
        .as_deref()
        .map(|path| open(path).map(|mask| science::data::canvas::framed_as_learnt_in(model, &mask, [0; 3])));
    let region = |text: &String| {
        let shares = |text: &str| {
            let shares: Option<Vec<f64>> = text.split(',').map(|share| share.parse().ok()).collect();
            let shares: [f64; 4] = shares?.try_into().ok()?;
            shares.iter().all(|share| (0.0..=1.0).contains(share)).then_some(shares)
        };
        let split = |text: &str| {
            let (rest, last) = text.rsplit_once('@')?;
            Some((PathBuf::from(rest), shares(last)?))
        };
        let wrong = || {
            format!("--region {text}: has to be PICTURE[@PART]@PLACE, each of these LEFT,TOP,WIDTH,HEIGHT from 0 to 1")
        };
        let (path, place) = split(text).ok_or_else(|| Problem::new(exit::USAGE, wrong()))?;
        match path.to_str().and_then(split) {
            Some((path, part)) => Ok(Region::part(&learnt(&path)?, part, place)),
            None => {
                let sizes: Vec<[u32; 2]> = model.sizes.iter().map(|size| sampling.size(*size)).collect();
                Ok(Region::whole(&open(&path)?, &sizes, place))
            }
        }
    };
    let regions = args.region.iter().map(region).collect::<anyhow::Result<_>>()?;
    Ok(Guide { start, mask: mask.transpose()?, regions })
}
