//! Pauses between tries of what may succeed later.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Pauses, each about twice as long as the one before, up to a longest one.
///
/// Each pause is up to a quarter shorter or longer, at random: many who have lost the same
/// coordinator at the same moment do not all come back at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses that begin with `first`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next try.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        let random = RandomState::new().hash_one(()) as f64 / u64::MAX as f64;
        pause.mul_f64(0.75 + random / 2.0)
    }

    /// Begins with the first pause again: something has succeeded.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Counts failed tries in a row, and waits after each.
#[derive(Clone, Debug)]
pub struct Tries {
    most: u32,
    left: u32,
    backoff: Backoff,
}

impl Tries {
    /// Up to `most` tries after the first one.
    pub const fn new(most: u32, backoff: Backoff) -> Self {
        Self { most, left: most, backoff }
    }

    /// Waits before another try.
    ///
    /// # Errors
    /// The one given, if there were too many in a row.
    pub async fn again<E>(&mut self, error: E) -> Result<(), E> {
        if self.left == 0 {
            return Err(error);
        }
        self.left -= 1;
        tokio::time::sleep(self.backoff.pause()).await;
        Ok(())
    }

    /// Counts anew: the last try got further.
    pub fn reset(&mut self) {
        self.left = self.most;
        self.backoff.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_not_all_the_same() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(500));
        let mut seen = vec![];
        for about in [100, 200, 400, 500, 500] {
            let pause = backoff.pause();
            assert!(ms(about * 3 / 4) <= pause && pause <= ms(about * 5 / 4), "{pause:?} is not about {about} ms");
            seen.push(pause.as_secs_f64() / ms(about).as_secs_f64());
        }
        assert!(seen.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 1e-6), "{seen:?}");
        backoff.reset();
        assert!(backoff.pause() <= ms(125));
    }

    #[tokio::test]
    async fn too_many_failures_in_a_row_are_given_back() {
        let mut tries = Tries::new(2, Backoff::new(Duration::ZERO, Duration::ZERO));
        assert_eq!((tries.again("a").await, tries.again("b").await), (Ok(()), Ok(())));
        assert_eq!(tries.again("c").await, Err("c"));
        tries.reset();
        assert_eq!(tries.again("d").await, Ok(()));
    }
}
