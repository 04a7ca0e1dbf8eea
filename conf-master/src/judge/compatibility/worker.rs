//! The process in which schemas are compared, and the way to it: a schema is a program of its author's, and the comparison of two
//! may take for ever.

use std::{io, path::Path, time::Duration};

use conf_core::sandbox::{self as worker, Bounds, NoAnswer, Worker};
use serde::{Deserialize, Serialize};

use crate::judge::compatibility::{Lack, schemas};
use crate::judge::schema::BadSchema;

const MEMORY: u64 = 1 << 30;
/// Honest questions take milliseconds; landings wait for each.
const BOUNDS: Bounds = Bounds { seconds: 5, patience: Duration::from_secs(5), answer: 16 << 20 };
/// The first argument of the program by which it becomes this process.
pub const ARGUMENT: &str = "compatibility-worker";

/// What the comparison found, or why the new schema is none.
pub(crate) type Found = Result<Vec<Lack>, BadSchema>;

#[derive(Serialize, Deserialize)]
struct Question {
    before: Option<String>,
    after: Option<String>,
}

/// Asks the process, which is started where there is none; an error says that there was no answer.
pub(crate) fn ask(slot: &mut Option<Worker>, before: Option<String>, after: Option<String>) -> Result<Found, NoAnswer> {
    // The program that runs, also when another has been put in its place meanwhile.
    let start = || Worker::start(Path::new("/proc/self/exe"), ARGUMENT);
    Worker::ask(slot, start, BOUNDS, &Question { before, after })
}

/// Is that process: answers questions until there are no more.
pub fn run() -> io::Result<()> {
    worker::serve(MEMORY, |Question { before, after }| schemas::compare(before.as_deref(), after.as_deref()))
}
