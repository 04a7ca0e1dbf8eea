//! When a standby has heard its leader last: without that it does not say what is newest now.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A leader answers every few seconds, also while nothing lands.
const RECENT: Duration = Duration::from_secs(15);

/// When the leader was heard last.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Option<Instant>>);

impl Heard {
    /// It was heard now.
    pub(crate) fn note(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Tells whether what is newest here was the leader's newest a moment ago.
    pub(crate) fn is_recent(&self) -> bool {
        self.0.lock().is_some_and(|heard| heard.elapsed() < RECENT)
    }
}
