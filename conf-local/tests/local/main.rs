//! The agent's side towards the processes of its host: watchers, the local service, the commands.
//! Everything is real except the host transaction, whose last steps the tests do by hand. The
//! stories in `tests/` run all tiers.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a failed step of a test is to end it")]

mod commands;
mod exec;
mod host;
mod service;
mod watchers;
