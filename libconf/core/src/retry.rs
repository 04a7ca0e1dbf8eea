//! Waiting times between attempts.

use std::time::Duration;

/// The longest wait that a server may ask for.
const MOST_ASKED: Duration = Duration::from_secs(300);

/// Waiting times between attempts: full jitter below a bound that doubles with every failure.
#[derive(Debug)]
pub struct Backoff {
    attempt: u32,
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// Begins with the bound `first`, which grows up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { attempt: 0, first, most }
    }

    /// How long to wait now: any time between nothing and the bound.
    #[must_use]
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.most);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(rand::random::<f64>())
    }

    /// Like [`Backoff::next_wait`], but no shorter than a server `asked` for.
    #[must_use]
    pub fn after(&mut self, asked: Option<Duration>) -> Duration {
        // Jitter on top, so that all clients that got the same answer do not come back together.
        asked.unwrap_or_default().min(MOST_ASKED) + self.next_wait()
    }

    /// An attempt worked: the next wait begins with the first bound.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// A time between half of `period` and all of it, so that many programs do not act in the same
/// second.
pub fn with_jitter(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.5..1.0))
}
