//! Random waiting times, so that many programs with one period do not act at the same moment.

use std::time::Duration;

/// Returns a random time between half of `period` and all of it.
pub(crate) fn with_jitter(period: Duration) -> Duration {
    period.mul_f64(rand::random_range(0.5..1.0))
}
