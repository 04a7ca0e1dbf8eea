//! A datacenter's cache of the configuration, and the publisher of its pointers in Consul.
//!
//! Always true:
//! - A served snapshot was signed for this datacenter, is complete, and never goes back, not even
//!   across a restart.
//! - A snapshot is served before Consul names it. Consul never goes back to an older one, while its
//!   authoritative key is intact.
//! - While the central server, Consul or both are away, hosts are served from the mirror. The slave
//!   catches up with both by itself.

pub use crate::{
    config::{Command, CommandLine, RunOptions},
    http::EmbeddedConsul,
    server::Slave,
};

/// Flags, environment variables and the YAML file.
mod config;
/// Current outages, logged once each.
mod problems;
/// What is known of the servers above.
mod above;
/// Who may ask, as the central server said.
mod access;
/// The verified snapshot in the local repository.
mod mirror;
/// How long the central server was not heard.
mod freshness;
/// Branches, packing and the search for damage.
mod upkeep;
/// Hosts that join by a token for many.
mod joins;
/// The hosts' reports and their way up.
mod reports;
/// The pointers in Consul.
mod publish;
/// This slave's entry in Consul's catalog.
mod registration;
/// The central server's events, and the snapshots that they name.
mod follow;
/// Routes for hosts.
mod http;
/// Puts the parts together: start and stop.
mod server;
