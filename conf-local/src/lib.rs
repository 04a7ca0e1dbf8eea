//! The agent on each host: keeps this host's files equal to one snapshot, and tells processes of
//! changes.
//!
//! The folders stand in reading order. Each imports only folders above it.
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
/// Snapshots in the repository, and what they declare for this host.
mod snapshot;
/// The files that readers see.
mod export;
/// Components in the places where programs look for them.
mod place;
/// What the agent knows.
mod state;
/// Watchers that are told of changes.
mod notify;
/// Older and newer snapshots that processes ask for.
mod on_demand;
/// Whether programs are well after a change.
mod probe;
/// From a snapshot to files and notices.
mod transaction;
/// Secrets of this host that have other values.
mod renewal;
/// From the pointer to a snapshot.
mod follow;
/// Reports to a conf-slave.
mod report;
/// Answers to processes of this host.
mod service;
/// Puts the parts together: start and stop.
mod agent;
/// The commands of this host.
mod cli;

pub use crate::{
    agent::{FileOnly, LocalAgent, RunOptions, limit_privileges},
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
