//! Watchers: processes that get a signal on a change, and commands that run then. Each is told once
//! per change that concerns it. Relies on `clock`, `fs`, `process`, `export` and `state`.
//!
//! `Registry` knows the watchers and hands each its notices from the `Outbox`. Every watcher
//! has one task (`tell`), so that it is never told twice at once. `registrations` keeps registered
//! processes through a restart of the agent. `written` writes both files, beside all else.
//!
//! Always true:
//! - A process is signalled through a descriptor that was verified, never another process with its
//!   number.
//! - A signal is sent only to a process that handles it or waits for it. Until it does, the notice
//!   waits and `status` says so.
//! - A watcher that could not be told is tried again until it is told.
//! - For a user other than root, only processes of that user are signalled.

mod entry;
mod outbox;
mod registrations;
mod watcher;
mod tell;
mod registry;
mod written;

pub use crate::notify::{
    entry::{WatchEntry, WatchTarget},
    outbox::{Outbox, WatcherId, Watchers},
    registry::{MOST_OF_ONE_USER, RegisterError, Registry, WatchRequest},
    watcher::{WatcherState, WatcherStatus},
};
pub(crate) use crate::notify::{outbox::Notice, watcher::Relay};

#[cfg(test)]
mod tests;
