//! `config.schema.json`: what a component's settings must be like, as JSON Schema.
//!
//! A schema is a program that its author writes: one with a loop, or one that doubles at each step,
//! would run for ever or use up all memory. So it is worked out in a process of its own (`worker`),
//! which can be ended.

pub(crate) mod compile;
pub(crate) mod fault;
pub(crate) mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use libconf::name::ObjectId;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::judge::effort::{self, Effort};
use crate::judge::schema::fault::{BadSchema, SchemaFaults};
use crate::judge::schema::worker::ARGUMENT;
use crate::judge::timeouts::{TimeoutCache, TimeoutState};
use crate::judge::worker::Workers;

/// After this many schemas without an end within a minute no other of the same peer is tried.
const MOST_TIMEOUTS: usize = 6;
/// How many answers are kept; then all are forgotten.
const MOST_ANSWERS: usize = 2000;

/// A schema and the settings that were checked against it.
type Asked = (ObjectId, [u8; 32]);

/// The way to the processes that work schemas out.
#[derive(Debug)]
pub(crate) struct Schemas {
    workers: Arc<Workers>,
    timeouts: Arc<TimeoutCache<Asked, ()>>,
    /// What was found: the second look at a change, at its landing, costs nothing.
    answers: Arc<Mutex<HashMap<Asked, SchemaFaults>>>,
    effort: Arc<Effort>,
}

impl Default for Schemas {
    fn default() -> Self {
        let (workers, timeouts) = (Arc::new(Workers::new(ARGUMENT)), Arc::new(TimeoutCache::new(MOST_TIMEOUTS)));
        Schemas { workers, timeouts, answers: Arc::default(), effort: Arc::new(Effort::own()) }
    }
}

impl Schemas {
    /// Returns the way to other processes. Both remember what has no end.
    pub(crate) fn beside(&self) -> Self {
        Schemas { workers: Arc::new(Workers::new(ARGUMENT)), ..self.with(self.effort.clone()) }
    }

    /// Returns the same, for one push.
    pub(crate) fn with(&self, effort: Arc<Effort>) -> Self {
        let Schemas { workers, timeouts, answers, .. } = self;
        Schemas { workers: workers.clone(), timeouts: timeouts.clone(), answers: answers.clone(), effort }
    }

    /// Checks settings against a schema; `id` is the blob of `schema`.
    ///
    /// - Bounds: after five seconds of processor time the schema is at fault.
    pub(crate) fn check(&self, id: ObjectId, schema: &[u8], settings: &[Value]) -> SchemaFaults {
        let effort = &self.effort;
        let asked = (id, digest(settings));
        if let Some(found) = self.answers.lock().get(&asked) {
            return found.clone();
        }
        match self.timeouts.state(&asked, effort.who()) {
            TimeoutState::Untried => {}
            TimeoutState::TimedOut(()) => return Err(worker::timed_out()),
            TimeoutState::TooMany => {
                return Err(BadSchema::new("other schemas took up all the time there is; push again in a minute"));
            }
        }
        if effort.is_over() {
            return Err(BadSchema::new(effort::TOO_MUCH));
        }
        let found = worker::ask(&self.workers, effort, id, &String::from_utf8_lossy(schema), settings);
        match found {
            Ok(found) => {
                let mut answers = self.answers.lock();
                if answers.len() >= MOST_ANSWERS {
                    answers.clear();
                }
                answers.insert(asked, found.clone());
                found
            }
            Err(bad) => {
                // The landing thread gives up sooner, and says nothing of the schema.
                if bad == worker::timed_out() && !effort.is_landing() {
                    self.timeouts.remember(asked, effort.who(), ());
                }
                Err(bad)
            }
        }
    }
}

fn digest(settings: &[Value]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for one in settings {
        // A value is written in the same way each time.
        hash.update(one.to_string());
        hash.update([0]);
    }
    hash.finalize().into()
}
