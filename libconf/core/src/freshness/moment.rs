//! Moments, by two clocks.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// A moment by the clock of the machine, which nobody sets and which goes on while the machine
/// sleeps, and by the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the machine started.
    pub since_boot: i64,
    /// Milliseconds since 1970.
    pub wall: i64,
}

impl Moment {
    /// Reads both clocks.
    pub fn now() -> Self {
        let boot = clock_gettime(ClockId::Boottime);
        let since_boot = boot.tv_sec.saturating_mul(1000).saturating_add(boot.tv_nsec / 1_000_000);
        Moment { since_boot, wall: jiff::Timestamp::now().as_millisecond() }
    }
}

/// The name of this start of the machine; `None` if the kernel does not say it.
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
