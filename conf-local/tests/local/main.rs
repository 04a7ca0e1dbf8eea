//! The agent's side towards the processes of its host: watchers, the local service, the commands.
//! Everything is real but the host transaction, whose last steps are done by hand here; stories
//! with all tiers are elsewhere.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a failed step of a test is to end it")]

mod commands;
mod host;
mod service;
mod watchers;
