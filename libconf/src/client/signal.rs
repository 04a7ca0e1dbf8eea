//! Signals that a process sends itself, and the check that it would survive them.

use std::{fs, io};

use rustix::process::{Signal as Number, getpid, kill_process};

/// A signal for [`Client::raise_on_change`](crate::client::Client::raise_on_change).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// SIGHUP, which many servers take as "read your configuration again".
    Hangup,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

impl Signal {
    fn number(self) -> Number {
        match self {
            Signal::Hangup => Number::HUP,
            Signal::User1 => Number::USR1,
            Signal::User2 => Number::USR2,
        }
    }

    /// Sends it to this process.
    pub(crate) fn raise(self) -> io::Result<()> {
        Ok(kill_process(getpid(), self.number())?)
    }

    /// Tells whether this process handles it, ignores it, or blocks it in all its threads (and
    /// waits for it). Otherwise the signal would end the process.
    pub(crate) fn is_survived(self) -> bool {
        let taken = |text: &str, masks: &[&str]| masks.iter().any(|mask| self.is_in(text, mask));
        match fs::read_to_string("/proc/self/status") {
            Ok(status) if taken(&status, &["SigCgt:", "SigIgn:"]) => true,
            Ok(_) => fs::read_dir("/proc/self/task").is_ok_and(|mut threads| {
                threads.all(|thread| {
                    let status = thread.and_then(|thread| fs::read_to_string(thread.path().join("status")));
                    // A thread that has ended meanwhile takes no signal.
                    status.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |it| taken(&it, &["SigBlk:"]))
                })
            }),
            Err(_) => false,
        }
    }

    /// Tells whether it is set in a mask of `/proc/<pid>/status`, which has sixteen hex digits; the
    /// lowest bit is signal 1.
    fn is_in(self, status: &str, mask: &str) -> bool {
        let line = status.lines().find_map(|line| line.strip_prefix(mask));
        let bits = line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default();
        bits & (1 << (self.number().as_raw() - 1)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_as_the_kernel_writes_them() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180000201\n";
        assert!(Signal::Hangup.is_in(status, "SigCgt:"));
        assert!(Signal::User1.is_in(status, "SigCgt:"));
        assert!(!Signal::User2.is_in(status, "SigCgt:"));
        assert!(!Signal::Hangup.is_in(status, "SigIgn:"));
        assert!(!Signal::Hangup.is_in(status, "Other:"));
    }

    #[test]
    fn a_signal_without_a_handler_would_end_the_process() {
        assert!(!Signal::User2.is_survived());
    }
}
