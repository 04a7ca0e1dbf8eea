//! The process that works schemas out, and the way to it.

use std::{io, path::Path, time::Duration};

use conf_core::sandbox::{self as worker, Bounds, NoAnswer, Worker};
use libconf::name::ObjectId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::judge::schema::{BadSchema, Compiled, Found};

const MEMORY: u64 = 1 << 30;
/// Honest questions take milliseconds.
const BOUNDS: Bounds = Bounds { seconds: 5, patience: Duration::from_secs(5), answer: 64 << 20 };
/// The first argument of the program by which it becomes this process.
pub const ARGUMENT: &str = "schema-worker";

/// Settings to hold against a schema.
#[derive(Debug, Serialize)]
pub(crate) struct Question<'a> {
    pub(crate) id: ObjectId,
    pub(crate) schema: String,
    pub(crate) settings: &'a [Value],
}

#[derive(Deserialize)]
struct Asked {
    id: ObjectId,
    schema: String,
    settings: Vec<Value>,
}

/// Asks the process, which is started where there is none.
pub(crate) fn ask(slot: &mut Option<Worker>, question: &Question<'_>) -> Found {
    // The program that runs, also when another has been put in its place meanwhile.
    let start = || Worker::start(Path::new("/proc/self/exe"), ARGUMENT);
    Worker::ask(slot, start, BOUNDS, question).map_err(|error| match error {
        NoAnswer::TooMuch => endless(),
        NoAnswer::Failed(cause) => BadSchema::new(format!("conf-master could not check settings against it: {cause}")),
    })?
}

/// What is wrong with a schema over which the process was ended.
pub(crate) fn endless() -> BadSchema {
    BadSchema::new(
        "checking settings against it took more time or memory than there is; is there a $ref that leads back to itself, or one \
         that doubles at each step?",
    )
}

/// Is that process: answers questions until there are no more.
pub fn run() -> io::Result<()> {
    let mut compiled = Compiled::default();
    worker::serve(MEMORY, |Asked { id, schema, settings }| compiled.check(id, &schema, &settings))
}
