//! The lowest rate at which a peer may send or take.

use std::time::Duration;

/// How long a peer may do nothing at first, or after it was quick.
const GRACE: Duration = Duration::from_secs(120);
/// 1 KiB a second on average: less than any network that somebody works over.
const BYTES_A_SECOND: u64 = 1 << 10;
/// 1 hour: the longest time of one body or answer, however fast it is.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);

/// How much longer a peer is waited for. Each byte earns time, and waiting for the peer spends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    left: Duration,
    grace: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace::with_grace(GRACE)
    }
}

impl Pace {
    pub(crate) fn with_grace(grace: Duration) -> Self {
        Pace { left: grace, grace }
    }

    /// How long the peer is waited for now.
    pub(crate) fn left(self) -> Duration {
        self.left
    }

    /// The peer sent or took so many bytes.
    pub(crate) fn earn(&mut self, bytes: u64) {
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000 / BYTES_A_SECOND));
        self.left = self.left.saturating_add(earned).min(self.grace);
    }

    /// The peer was waited for.
    pub(crate) fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_little_runs_out_of_time_and_who_sends_enough_never_does() {
        let lasts = |bytes: u64, every: Duration| {
            let (mut pace, mut lasted) = (Pace::default(), Duration::ZERO);
            while !pace.left().is_zero() && lasted < LONGEST {
                pace.spend(every);
                lasted += every;
                if !pace.left().is_zero() {
                    pace.earn(bytes);
                }
            }
            lasted
        };
        let second = Duration::from_secs(1);
        assert!(lasts(1, second) < 2 * GRACE, "a byte a second");
        assert_eq!(lasts(2 << 10, second), LONGEST);
        assert_eq!(lasts(1 << 20, GRACE / 2), LONGEST, "silence between large parts");
        assert_eq!(lasts(1 << 30, GRACE), GRACE, "no part earns more than the grace");
    }
}
