//! The agent on each host: keeps this host's files equal to one snapshot, and tells processes of
//! changes.
//!
//! The folders stand in reading order. Each relies only on folders above it.
//!
//! Always true:
//! - `export/current` names a complete snapshot, even after a power cut.
//! - With Consul, conf-slaves and conf-master all away, the last good files stay in place.
//! - The sequence of the exported snapshot never falls.

/// The time, and random pauses.
mod clock;
/// Folders held open, and files that are replaced in one step.
mod fs;
/// Commands that the agent runs, and processes that it signals.
mod process;
/// Snapshots in the repository, and what they declare for this host. Relies on `fs`.
mod snapshot;
/// The files that readers see. Relies on `fs`.
mod export;
/// Components in the places where programs look for them. Relies on `fs` and `export`.
mod place;
/// What the agent knows. Relies on `fs`, `process`, `export` and `place`.
mod state;
/// Watchers that are told of changes. Relies on `clock`, `fs`, `process`, `export` and `state`.
mod notify;
/// Older and newer snapshots that processes ask for. Relies on `snapshot`, `export` and `state`.
mod on_demand;
/// Whether programs are well after a change. Relies on `clock`, `process`, `state` and `notify`.
mod probe;
/// From a snapshot to files and notices. Relies on all above except `on_demand` and `probe`.
mod transaction;
/// From the pointer to a snapshot. Relies on `clock`, `snapshot`, `state` and `transaction`.
mod follow;
/// Reports to a conf-slave. Relies on `clock` and `state`.
mod report;
/// Answers to processes of this host. Relies on `process` to `on_demand`.
mod service;
/// The daemon as a whole. Relies on all above.
mod agent;
/// The commands of this host. Relies on `clock`, `process`, `snapshot`, `state`, `service` and
/// `agent`.
mod cli;

pub use crate::{
    agent::{FileOnly, LocalAgent, RunOptions},
    cli::{Command, CommandLine, run as run_command},
    export::ChangeKind,
    notify::{
        MOST_OF_ONE_USER, Outbox, RegisterError, Registry, WatchEntry, WatchRequest, WatchTarget, WatcherId,
        WatcherState, WatcherStatus, Watchers,
    },
    on_demand::Demand,
    process::guard,
    service::{Reader, Service, StatusAnswer, routes},
    snapshot::SnapshotServers,
    state::{Agent, Exported, ExportedComponent, HistoryChange, HistoryEntry, Status, Switched, View},
};
