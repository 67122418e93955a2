//! `lithogen dataset`.

use domain::seed::Seed;

use crate::args::{Dataset, DatasetCommand};
use crate::data;
use crate::out;
use crate::progress::Counter;

/// Makes data.
///
/// # Errors
/// If they cannot be written.
pub fn run(args: &Dataset, quiet: bool) -> anyhow::Result<()> {
    let DatasetCommand::Phantom { out, spec } = &args.command;
    let experiment = super::resolve(spec)?;
    let mut counter = Counter::new("drawing stand-ins", quiet);
    science::data::phantom::draw(&experiment.phantom, Seed(experiment.seed), out, &mut |done, total| {
        counter.show(done, total);
    })?;
    counter.end();
    let found = data::find(out)?;
    out::line(format_args!("{}: {}", out.display(), found.remarks.join("; ")));
    out::line(format_args!("next: lithogen reproduce --scale {} --data {}", experiment.scale.name(), out.display()));
    Ok(())
}
