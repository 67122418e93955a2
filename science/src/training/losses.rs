//! The loss of every step of a training by scales.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use burn::tensor::Tensor;
use domain::study::stage::{Failure, FailureCode};

use crate::weights::{Array, Arrays};

/// The number of steps at a scale whose mean is told.
const WINDOW: usize = 50;

/// The losses that are here, and newer ones still on the device.
#[derive(Default)]
pub struct Losses {
    /// The scale and the loss of each step that is here.
    read: Vec<(usize, f32)>,
    /// The scale and the loss of each later step, still on the device.
    unread: Vec<(usize, Tensor<1>)>,
}

impl Losses {
    /// The losses that [`Losses::arrays`] has left, which have to be of so many steps.
    ///
    /// # Errors
    /// If they are of another number of steps.
    pub fn from_arrays(mut arrays: Arrays, steps: u64) -> Result<Self, Failure> {
        let mut column = |name| arrays.remove(name).map_or_else(Vec::new, |array| array.values);
        let (scales, losses) = (column("scale"), column("loss"));
        if scales.len() as u64 != steps || losses.len() as u64 != steps {
            return Err(Failure::invalid_input(format!("there are not {steps} losses")));
        }
        Ok(Self { read: scales.into_iter().map(|scale| scale as usize).zip(losses).collect(), unread: Vec::new() })
    }

    /// The losses that are here, by name.
    pub fn arrays(&self) -> Arrays {
        let scales = self.read.iter().map(|(scale, _)| *scale as f32).collect();
        let losses = self.read.iter().map(|(_, loss)| *loss).collect();
        let column = |values| Array { shape: vec![self.read.len()], values };
        Arrays::from([("scale".to_owned(), column(scales)), ("loss".to_owned(), column(losses))])
    }

    /// The number of steps done.
    pub fn steps(&self) -> u32 {
        (self.read.len() + self.unread.len()) as u32
    }

    /// The number of steps whose loss is still on the device.
    pub fn unread(&self) -> usize {
        self.unread.len()
    }

    /// Adds the loss of a step, without waiting for it.
    pub fn push(&mut self, scale: usize, loss: Tensor<1>) {
        self.unread.push((scale, loss));
    }

    /// Brings the losses here. `knob` is what the learning rate `lr` comes from.
    ///
    /// # Errors
    /// [`FailureCode::NotANumber`] at the first that is none, naming its step,
    /// the learning rate and the step of the last checkpoint.
    pub fn read(&mut self, knob: &str, lr: f64, checkpoint: u64) -> Result<(), Failure> {
        for (scale, loss) in self.unread.drain(..) {
            let loss = loss.into_scalar::<f32>();
            if !loss.is_finite() {
                let step = self.read.len();
                let kept = match checkpoint {
                    0 => "there is no checkpoint".to_owned(),
                    kept => format!("the last good checkpoint is of step {kept}"),
                };
                let message = format!("loss is {loss} at step {step} (scale {scale}, lr {lr}): lower {knob}; {kept}");
                return Err(Failure::new(FailureCode::NotANumber, message));
            }
            self.read.push((scale, loss));
        }
        Ok(())
    }

    /// The scale and the loss of each step that is here.
    pub fn all(&self) -> &[(usize, f32)] {
        &self.read
    }

    /// The mean of the last tenth of the steps.
    pub fn final_mean(&self) -> f64 {
        let last = &self.read[self.read.len() - self.read.len().div_ceil(10)..];
        last.iter().map(|(_, loss)| f64::from(*loss)).sum::<f64>() / last.len().max(1) as f64
    }

    /// The mean of the last steps of each scale that has had any.
    pub fn by_scale(&self) -> BTreeMap<usize, f64> {
        let mut sums = BTreeMap::<usize, (f64, usize)>::new();
        for (scale, loss) in self.read.iter().rev() {
            let (sum, count) = sums.entry(*scale).or_default();
            if *count < WINDOW {
                *sum += f64::from(*loss);
                *count += 1;
            }
        }
        sums.into_iter().map(|(scale, (sum, count))| (scale, sum / count as f64)).collect()
    }

    /// All losses as a table.
    pub fn csv(&self) -> String {
        let mut text = String::from("step,scale,loss\n");
        for (step, (scale, loss)) in self.read.iter().enumerate() {
            let _ = writeln!(text, "{step},{scale},{loss}"); // writing to a String cannot fail
        }
        text
    }
}

/// The loss of each step in [`Losses::csv`].
///
/// # Errors
/// Names the first line that is not of that form.
pub fn parse(csv: &str) -> Result<Vec<f32>, String> {
    let loss = |(line, text): (usize, &str)| {
        let loss = text.rsplit(',').next().and_then(|loss| loss.parse().ok());
        loss.ok_or_else(|| format!("line {} is not step, scale and loss", line + 1))
    };
    csv.lines().enumerate().skip(1).map(loss).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let losses = Losses { read: vec![(0, 0.25), (3, 1.5e-7)], unread: vec![] };
        assert_eq!(parse(&losses.csv()), Ok(vec![0.25, 1.5e-7]));
        assert_eq!(parse("step,scale,loss\n0,0,0.5\n1,0,"), Err("line 3 is not step, scale and loss".to_owned()));
    }

    #[test]
    fn each_scale_has_the_mean_of_its_last_steps() {
        let steps = (0..200).map(|step| (step % 2, if step < 100 { 9.0 } else { 1.0 + (step % 2) as f32 }));
        let losses = Losses { read: steps.collect(), unread: vec![] };
        assert_eq!(losses.by_scale(), BTreeMap::from([(0, 1.0), (1, 2.0)]));
        assert_eq!(losses.final_mean(), 1.5);
        assert_eq!(Losses::default().by_scale(), BTreeMap::new());
    }
}
