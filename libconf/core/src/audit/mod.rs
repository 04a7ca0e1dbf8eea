//! The audit log: who asked for what from where, and what became of it, one JSON object a line.
//!
//! Read in this order: `repeats` decides what is written and what is counted, `file` is a file that
//! is put aside when it is full, `log` is the log and the task that writes it.
//!
//! Always true:
//! - Nobody waits for a line: it is queued or, when there is no room, counted.
//! - Nobody drives out the lines of others: each has room for some a day.

mod repeats;
mod file;
mod log;

pub use crate::audit::{
    file::RollingFile,
    log::{AuditEntry, AuditLog, AuditTarget, AuditWriter, Verdict},
    repeats::{Asked, Fate, Repeats, Rooms},
};
