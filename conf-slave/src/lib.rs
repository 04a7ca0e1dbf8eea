//! A datacenter's cache of the configuration, and the publisher of its pointers in Consul.
//!
//! Always true:
//! - A served snapshot was signed for this datacenter, is complete, and never goes back, not even
//!   across a restart.
//! - A snapshot is served before Consul names it, and Consul never goes back to an older one.
//! - While the central server, Consul or both are away, hosts are served from the mirror. The slave
//!   catches up with both by itself.

pub use crate::{
    config::{Command, CommandLine, RunOptions},
    http::EmbeddedConsul,
    server::Slave,
};

/// Flags, environment variables and the YAML file. Relies on no other module.
mod config;
/// Current outages, logged once each. Relies on no other module.
mod problems;
/// The verified snapshot in the local repository. Relies on no other module.
mod mirror;
/// Branches, packing and the search for damage. Relies on `mirror` and `problems`.
mod upkeep;
/// The hosts' reports and their way up. Relies on `mirror` and `problems`.
mod reports;
/// The pointers in Consul. Relies on `mirror` and `problems`.
mod publish;
/// The central server's events, and the snapshots that they name. Relies on `mirror`, `problems`
/// and `reports`.
mod follow;
/// Routes for hosts. Relies on `mirror`, `problems`, `reports` and `publish`.
mod http;
/// Start and stop. Relies on all of them.
mod server;
