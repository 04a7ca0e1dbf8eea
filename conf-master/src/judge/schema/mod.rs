//! `config.schema.json`: what a component's settings must be like, as JSON Schema.
//!
//! A schema is a program that its author writes: one with a loop, or one that doubles at each step,
//! would run for ever or use up all memory. So it is worked out in a process of its own (`worker`),
//! which can be ended.

pub(crate) mod compile;
pub(crate) mod fault;
pub(crate) mod worker;

use conf_core::sandbox::Worker;
use libconf::name::ObjectId;
use parking_lot::Mutex;
use serde_json::Value;

use crate::judge::schema::fault::{BadSchema, SchemaFaults};
use crate::judge::timeouts::{TimeoutCache, TimeoutState};

/// After this many schemas without an end within a minute no other is tried: landings wait for
/// each.
const MOST_TIMEOUTS: usize = 6;

/// The way to the process that works schemas out.
#[derive(Debug)]
pub(crate) struct Schemas {
    worker: Mutex<Option<Worker>>,
    timeouts: TimeoutCache<ObjectId, ()>,
}

impl Default for Schemas {
    fn default() -> Self {
        Schemas { worker: Mutex::default(), timeouts: TimeoutCache::new(MOST_TIMEOUTS) }
    }
}

impl Schemas {
    /// Checks settings against a schema; `id` is the blob of `schema`.
    ///
    /// - Bounds: after five seconds the schema is at fault.
    pub(crate) fn check(&self, id: ObjectId, schema: &[u8], settings: &[Value]) -> SchemaFaults {
        let mut worker = self.worker.lock();
        match self.timeouts.state(&id) {
            TimeoutState::Untried => {}
            TimeoutState::TimedOut(()) => return Err(worker::timed_out()),
            TimeoutState::TooMany => {
                return Err(BadSchema::new("other schemas took up all the time there is; push again in a minute"));
            }
        }
        let found = worker::ask(&mut worker, id, &String::from_utf8_lossy(schema), settings);
        if found.as_ref().is_err_and(|bad| *bad == worker::timed_out()) {
            self.timeouts.remember(id, ());
        }
        found
    }
}
