//! The process that works schemas out, and the way to it.

use std::{borrow::Cow, io};

use conf_core::sandbox::NoAnswer;
use libconf::name::ObjectId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::judge::effort::Effort;
use crate::judge::schema::compile::CompiledSchemas;
use crate::judge::schema::fault::{BadSchema, SchemaFaults};
use crate::judge::worker::{self, Workers};

/// The longest answer.
const ANSWER_BYTES: usize = 64 << 20;
/// The first argument of the program that makes it this process.
pub(crate) const ARGUMENT: &str = "schema-worker";

/// Settings to check against a schema.
#[derive(Serialize, Deserialize)]
struct Question<'a> {
    id: ObjectId,
    schema: Cow<'a, str>,
    settings: Cow<'a, [Value]>,
}

/// Asks a process. An error says why there is no answer; an answer may be that the schema is bad.
pub(crate) fn ask(
    workers: &Workers,
    effort: &Effort,
    id: ObjectId,
    schema: &str,
    settings: &[Value],
) -> Result<SchemaFaults, BadSchema> {
    let question = Question { id, schema: schema.into(), settings: settings.into() };
    workers.ask(effort, ANSWER_BYTES, &question).map_err(|error| match error {
        NoAnswer::TooMuch => timed_out(),
        NoAnswer::Failed(cause) => BadSchema::new(format!("conf-master could not check settings against it: {cause}")),
    })
}

/// The fault of a schema over which the process was ended.
pub(crate) fn timed_out() -> BadSchema {
    BadSchema::new(
        "checking settings against it took more time or memory than there is; is there a $ref that leads back to itself, or one \
         that doubles at each step?",
    )
}

/// Is that process: answers questions until its input ends.
pub(crate) fn run() -> io::Result<()> {
    let mut schemas = CompiledSchemas::default();
    worker::serve(|Question { id, schema, settings }: Question<'_>| schemas.check(id, &schema, &settings))
}
