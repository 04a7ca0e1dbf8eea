//! Waiting for a lock file that another program of Git holds.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a lock is waited for: far longer than `git pack-refs` takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// Tries again for at most two seconds while another program of Git holds a lock.
pub(crate) fn patiently<T, E>(mut attempt: impl FnMut() -> Result<T, E>, is_held: impl Fn(&E) -> bool) -> Result<T, E> {
    let since = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_held(&error) && since.elapsed() < PATIENCE => sleep(Duration::from_millis(5)),
            done => return done,
        }
    }
}
