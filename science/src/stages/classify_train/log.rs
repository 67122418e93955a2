//! What one training has shown so far, step by step and epoch by epoch.

use std::fmt::Write as _;

use burn::tensor::Tensor;
use domain::study::experiment::Select;
use domain::study::stage::{ClassifyTrain, Failure, FailureCode, Monitor, Progress};

use super::{batches, learning_rate};
use crate::progress::Pause;
use crate::training::READ_EVERY;
use crate::weights::{Array, Arrays};

/// The numbers that a training has shown so far.
pub(super) struct Log {
    epochs: u32,
    /// The number of patches of each step of an epoch.
    sizes: Vec<usize>,
    /// The number of validation patches.
    validation: usize,
    /// The loss of each step.
    losses: Vec<f32>,
    /// Losses of the newest steps, still on the device.
    unread: Vec<Tensor<1>>,
    /// How many validation patches are recognised after each epoch.
    recognised: Vec<usize>,
    pause: Pause,
}

impl Log {
    /// The log of a training on so many patches, with so many for validation.
    pub(super) fn new(classify: &ClassifyTrain, patches: usize, validation: usize) -> Self {
        let order: Vec<usize> = (0..patches).collect();
        Self {
            epochs: classify.epochs,
            sizes: batches(&order, classify.batch).map(<[usize]>::len).collect(),
            validation,
            losses: Vec::new(),
            unread: Vec::new(),
            recognised: Vec::new(),
            pause: Pause::start(),
        }
    }

    /// The log that [`Log::arrays`] has left, which has to be of so many steps.
    ///
    /// # Errors
    /// If they are of another number of steps.
    pub(super) fn resume(self, mut arrays: Arrays, steps: u64) -> Result<Self, Failure> {
        let mut column = |name| arrays.remove(name).map_or_else(Vec::new, |array| array.values);
        let losses = column("loss");
        let recognised: Vec<usize> = column("recognised").into_iter().map(|count| count as usize).collect();
        let log = Self { losses, recognised, ..self };
        if u64::from(log.steps()) == steps && log.recognised.len() == log.losses.len() / log.steps_per_epoch() {
            Ok(log)
        } else {
            Err(Failure::invalid_input(format!("there are not {steps} losses")))
        }
    }

    /// The numbers that are here, by name.
    pub(super) fn arrays(&self) -> Arrays {
        let column = |values: Vec<f32>| Array { shape: vec![values.len()], values };
        let recognised = self.recognised.iter().map(|&count| count as f32).collect();
        Arrays::from([("loss".to_owned(), column(self.losses.clone())), ("recognised".to_owned(), column(recognised))])
    }

    /// Steps of an epoch; at least 1.
    pub(super) fn steps_per_epoch(&self) -> usize {
        self.sizes.len().max(1)
    }

    /// Steps of the whole training.
    pub(super) fn total(&self) -> u32 {
        self.epochs.saturating_mul(self.sizes.len() as u32)
    }

    /// The number of steps done.
    pub(super) fn steps(&self) -> u32 {
        (self.losses.len() + self.unread.len()) as u32
    }

    /// Tells whether an epoch's last step has been done and the epoch not been closed.
    pub(super) fn epoch_is_over(&self) -> bool {
        self.steps() as usize == (self.recognised.len() + 1) * self.steps_per_epoch()
    }

    /// Adds the loss of a step; reads it, and those before, now and then.
    ///
    /// # Errors
    /// Those of [`Log::read`].
    pub(super) fn push(&mut self, loss: Tensor<1>, lr: f64) -> Result<(), Failure> {
        self.unread.push(loss);
        if self.unread.len() >= READ_EVERY { self.read(lr) } else { Ok(()) }
    }

    /// Brings the losses here.
    ///
    /// # Errors
    /// [`FailureCode::NotANumber`] at the first that is none, naming step, epoch and learning rate.
    pub(super) fn read(&mut self, lr: f64) -> Result<(), Failure> {
        for loss in self.unread.drain(..) {
            let loss = loss.into_scalar::<f32>();
            if !loss.is_finite() {
                let (step, epoch) = (self.losses.len(), self.recognised.len() + 1);
                let message = format!("loss is {loss} at step {step} (epoch {epoch}, lr {lr}): lower tl.lr");
                return Err(Failure::new(FailureCode::NotANumber, message));
            }
            self.losses.push(loss);
        }
        Ok(())
    }

    /// Ends an epoch, all of whose losses are here; returns what to say of it.
    pub(super) fn close(&mut self, recognised: usize, lr: f64) -> String {
        let epoch = self.recognised.len();
        self.recognised.push(recognised);
        let validation = accuracy(recognised, self.validation)
            .map_or_else(String::new, |share| format!(" validation {:.1} %", 100.0 * share));
        format!("epoch {}/{} lr {lr} loss {:.4}{validation}", epoch + 1, self.epochs, self.mean(epoch))
    }

    /// The epoch, from 0, whose weights are taken.
    pub(super) fn selected(&self, select: Select) -> usize {
        let last = self.recognised.len().saturating_sub(1);
        match select {
            Select::Last => last,
            Select::Best => (0..=last).rev().max_by_key(|&epoch| self.recognised.get(epoch)).unwrap_or(last),
        }
    }

    /// The share of validation patches that are recognised after an epoch.
    pub(super) fn validated(&self, epoch: usize) -> Option<f64> {
        accuracy(*self.recognised.get(epoch)?, self.validation)
    }

    /// The mean loss of the last epoch.
    pub(super) fn last_mean(&self) -> f64 {
        self.mean(self.recognised.len().saturating_sub(1))
    }

    /// The mean of those losses of an epoch that are here.
    fn mean(&self, epoch: usize) -> f64 {
        let losses = self.losses.iter().skip(epoch * self.sizes.len()).zip(&self.sizes);
        let (sum, patches) = losses
            .fold((0.0, 0), |(sum, patches), (&loss, &size)| (sum + f64::from(loss) * size as f64, patches + size));
        sum / patches.max(1) as f64
    }

    /// Tells how far the training is, whose newest step was at the learning rate `lr`, if the
    /// last report was not just now or an epoch was closed by that step.
    pub(super) fn report(&mut self, lr: f64, monitor: &mut dyn Monitor) {
        let is_closed = self.steps() as usize == self.recognised.len() * self.steps_per_epoch();
        if self.pause.is_over(is_closed) {
            monitor.progress(self.progress(lr));
        }
    }

    fn progress(&self, lr: f64) -> Progress {
        let done = self.steps();
        let epoch = (done as usize).saturating_sub(1) / self.steps_per_epoch();
        let nothing_yet = self.losses.len() <= epoch * self.steps_per_epoch();
        let loss = (!self.losses.is_empty()).then(|| self.mean(epoch - usize::from(nothing_yet && epoch > 0)));
        let told = loss.map_or_else(String::new, |loss| format!(" loss {loss:.2}"));
        let note = format!("epoch {}/{}{told}", epoch + 1, self.epochs);
        let validated = self.recognised.len().checked_sub(1).and_then(|newest| self.validated(newest));
        let values = [("lr", Some(lr)), ("loss", loss), ("val_accuracy", validated)];
        let values = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Progress { done: u64::from(done), total: u64::from(self.total()), note, values }
    }

    /// The text of `epochs.csv`, with one line for each epoch.
    pub(super) fn csv(&self, classify: &ClassifyTrain) -> String {
        let mut text = String::from("epoch,lr,loss,val_accuracy\n");
        for epoch in 0..self.recognised.len() {
            let (lr, loss) = (learning_rate(classify, epoch as u32), self.mean(epoch));
            let validation = self.validated(epoch).map_or_else(String::new, |share| share.to_string());
            let _ = writeln!(text, "{},{lr},{loss},{validation}", epoch + 1); // writing to a String cannot fail
        }
        text
    }
}

/// Share of patches recognised, 0..1; absent without patches.
fn accuracy(right: usize, patches: usize) -> Option<f64> {
    (patches > 0).then(|| right as f64 / patches as f64)
}
