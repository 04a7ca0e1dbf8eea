//! The way to the processes in which schemas are worked out: this same program, bounded in time and
//! memory.

use std::{io, path::Path, time::Duration};

use conf_core::sandbox::{self, Bounds, NoAnswer, Worker};
use serde::{Serialize, de::DeserializeOwned};

/// The most memory of such a process, in bytes.
const MEMORY: u64 = 1 << 30;

/// Returns the bounds of one question. Honest questions take milliseconds; landings wait for each.
pub(crate) const fn bounds(answer_bytes: usize) -> Bounds {
    Bounds { seconds: 5, patience: Duration::from_secs(5), answer: answer_bytes }
}

/// Asks the process in `slot`, and starts it when none is running.
pub(crate) fn ask<Q: Serialize, A: DeserializeOwned>(
    slot: &mut Option<Worker>,
    argument: &str,
    bounds: Bounds,
    question: &Q,
) -> Result<A, NoAnswer> {
    // The running program itself, even after its file was replaced.
    let start = || Worker::start(Path::new("/proc/self/exe"), argument);
    Worker::ask(slot, start, bounds, question)
}

/// Is that process: answers questions until its input ends.
pub(crate) fn serve<Q: DeserializeOwned, A: Serialize>(answer: impl FnMut(Q) -> A) -> io::Result<()> {
    sandbox::serve(MEMORY, answer)
}
