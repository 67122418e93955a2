//! How fast a training goes and how long it will take, for people.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use domain::study::stage::{Progress, Values};

use crate::progress::Pause;

/// The pace of an attempt.
pub struct Pace {
    began: Instant,
    first: u32,
    batch: u32,
    pause: Pause,
}

impl Pace {
    /// The pace of an attempt that begins now, at the first of the steps.
    pub fn new(steps: &Range<u32>, batch: u32) -> Self {
        Self { began: Instant::now(), first: steps.start, batch, pause: Pause::start() }
    }

    /// The report when so many steps are done, the last of them at the learning rate `lr`;
    /// `None` if the last report was just now.
    pub fn progress(&mut self, done: u32, total: u32, lr: f64, losses: &BTreeMap<usize, f64>) -> Option<Progress> {
        if !self.pause.is_over(done >= total) {
            return None;
        }
        let note = note(done, total, self.batch, done - self.first, self.began.elapsed(), losses);
        Some(Progress { done: u64::from(done), total: u64::from(total), note, values: values(lr, losses) })
    }
}

/// The learning rate, the loss as the mean over all scales, and that of each if there are
/// several, as far as there is room.
fn values(lr: f64, losses: &BTreeMap<usize, f64>) -> Values {
    let mean = losses.values().sum::<f64>() / losses.len() as f64;
    let by_scale = losses.iter().filter(|_| losses.len() > 1).take(Values::MAX - 2);
    let by_scale = by_scale.map(|(scale, loss)| (format!("loss_scale_{scale}"), *loss));
    [("lr".to_owned(), lr), ("loss".to_owned(), mean)].into_iter().chain(by_scale).collect()
}

fn note(done: u32, total: u32, batch: u32, own: u32, elapsed: Duration, losses: &BTreeMap<usize, f64>) -> String {
    let seconds = elapsed.as_secs_f64();
    let losses: Vec<String> = losses.values().map(|loss| format!("{loss:.3}")).collect();
    let images = f64::from(own) * f64::from(batch) / seconds.max(1e-9);
    let left = seconds / f64::from(own.max(1)) * f64::from(total - done);
    let left = match left as u64 {
        left @ 0..120 => format!("{left} s"),
        left @ 120..7200 => format!("{} min", left / 60),
        left => format!("{:.1} h", left as f64 / 3600.0),
    };
    format!("step {done}/{total} · loss by scale {} · {images:.1} images/s · {left} left", losses.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_counts_this_attempts_steps_alone() {
        let losses = BTreeMap::from([(0, 0.5), (1, 0.25)]);
        let note = note(600, 1000, 8, 100, Duration::from_secs(100), &losses);
        assert_eq!(note, "step 600/1000 · loss by scale 0.500 0.250 · 8.0 images/s · 6 min left");
    }

    #[test]
    fn the_last_step_is_always_told() {
        let mut pace = Pace::new(&(0..10), 4);
        assert_eq!(pace.progress(5, 10, 0.1, &BTreeMap::new()), None);
        assert_eq!(pace.progress(10, 10, 0.1, &BTreeMap::new()).unwrap().done, 10);
    }

    #[test]
    fn the_numbers_of_the_note_are_told_by_name() {
        let told = |losses: &[(usize, f64)]| {
            let mut pace = Pace::new(&(0..10), 4);
            pace.progress(10, 10, 0.1, &losses.iter().copied().collect()).unwrap().values
        };
        assert_eq!(told(&[(0, 0.5)]), Values::from_iter([("lr", 0.1), ("loss", 0.5)]));
        let scales = [("lr", 0.1), ("loss", 0.375), ("loss_scale_0", 0.5), ("loss_scale_1", 0.25)];
        assert_eq!(told(&[(0, 0.5), (1, 0.25)]), Values::from_iter(scales));
    }
}
