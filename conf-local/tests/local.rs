//! The agent's side towards the processes of its host: watchers, the local service, the commands. Everything is real but
//! the host transaction, whose last steps are done by hand here; stories with all tiers are elsewhere.

#![allow(clippy::unwrap_used, unreachable_pub, reason = "a failed step of a test is to end it")]

#[path = "local/commands.rs"]
mod commands;
#[path = "local/host.rs"]
mod host;
#[path = "local/service.rs"]
mod service;
#[path = "local/watchers.rs"]
mod watchers;
