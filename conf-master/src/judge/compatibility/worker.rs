//! The process in which schemas are compared, and the way to it: a schema is a program of its
//! author's, and a comparison of two may never end.

use std::io;

use conf_core::sandbox::NoAnswer;
use serde::{Deserialize, Serialize};

use crate::judge::compatibility::schemas;
use crate::judge::compatibility::violation::Violation;
use crate::judge::effort::Effort;
use crate::judge::schema::fault::BadSchema;
use crate::judge::worker::{self, Workers};

/// The longest answer.
const ANSWER_BYTES: usize = 16 << 20;
/// The first argument of the program that makes it this process.
pub(crate) const ARGUMENT: &str = "compatibility-worker";

/// The violations that a comparison found, or why the new schema cannot be used.
pub(crate) type Violations = Result<Vec<Violation>, BadSchema>;

#[derive(Serialize, Deserialize)]
struct Question {
    before: Option<String>,
    after: Option<String>,
}

/// Asks a process; an error says why it did not answer.
pub(crate) fn ask(
    workers: &Workers,
    effort: &Effort,
    before: Option<String>,
    after: Option<String>,
) -> Result<Violations, NoAnswer> {
    workers.ask(effort, ANSWER_BYTES, &Question { before, after })
}

/// Is that process: answers questions until its input ends.
pub(crate) fn run() -> io::Result<()> {
    worker::serve(|Question { before, after }| schemas::compare(before.as_deref(), after.as_deref()))
}
