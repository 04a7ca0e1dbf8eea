//! Waiting times between attempts.

use std::time::Duration;

use crate::upstream::UpstreamError;

/// Waiting times between attempts: full jitter below a bound that doubles with every failure.
#[derive(Debug)]
pub struct Backoff {
    attempt: u32,
    first: Duration,
    most: Duration,
}

impl Default for Backoff {
    /// From 100 ms up to 15 s.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(15))
    }
}

impl Backoff {
    /// The first bound and the last.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { attempt: 0, first, most }
    }

    /// How long to wait now: anything between nothing and the bound.
    #[must_use]
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Like [`Backoff::next_wait`], but no shorter than a server asked for.
    #[must_use]
    pub fn after(&mut self, error: &UpstreamError) -> Duration {
        let wait = self.next_wait();
        match error.retry_after() {
            // Jitter again, so that all who got the same answer do not come back together.
            Some(asked) => asked.min(Duration::from_secs(300)) + wait,
            None => wait,
        }
    }

    /// An attempt worked: start from the first bound next time.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}
