//! The bounds of a server of fetches, and what it counts.

use std::time::Duration;

/// Bounds of a server.
#[derive(Clone, Debug)]
pub struct UploadLimits {
    /// Bytes of remembered answers; one answer is remembered up to a sixteenth of it.
    pub cache_bytes: u64,
    /// `upload-pack` processes at once, for steps and listings and, counted apart, for all other
    /// fetches.
    pub processes: usize,
    /// Bytes of a decoded request.
    pub request_bytes: u64,
    /// How long a server above may take to begin its answer to a relayed step.
    pub relay_patience: Duration,
}

impl Default for UploadLimits {
    fn default() -> Self {
        let relay_patience = Duration::from_secs(3);
        UploadLimits { cache_bytes: 64 << 20, processes: 16, request_bytes: 4 << 20, relay_patience }
    }
}

/// Numbers of what a server has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered from memory, or by waiting for another request's process.
    pub cached: u64,
    /// Processes started.
    pub processes: u64,
    /// Requests turned away with 503.
    pub refused: u64,
    /// Requests relayed upstream.
    pub relayed: u64,
    /// Processes that failed, though they were asked for objects that are here: the repository may
    /// be damaged.
    pub failed: u64,
}
