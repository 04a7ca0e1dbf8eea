//! The tiers together, as real processes, with the real git and a real Consul server.
//!
//! The stories are in `tests/`; they use these modules.
//!
//! Always true:
//! - Every process has a loopback address and a folder of its own, so stories run side by side.
//! - No process outlives its test, even a killed one: each dies with the process that started it.
//! - No test sleeps for a result: [`eventually`] asks until it is there, and prints the last state
//!   at the deadline.

/// Waiting for a state. Relies on no other module.
pub mod wait;
/// Addresses for daemons. Relies on no other module.
pub mod address;
/// Processes, from start to end. Relies on `wait`.
pub mod program;
/// Certificates. Relies on `program`.
pub mod authority;
/// Requests to the daemons. Relies on `authority` and `wait`.
pub mod http;
/// Git's protocol by hand. Relies on `http`.
pub mod wire;
/// Processor time and memory of processes. Relies on no other module.
pub mod usage;
/// Plain Git over HTTP, to compare with. Relies on no other module.
pub mod cgi;
/// A network of a test's own, with machines. Relies on `program`.
pub mod network;
/// A disk that fails. Relies on `program` and `wait`.
pub mod disk;
/// An engineer who pushes. Relies on `program`.
pub mod git;
/// A proxy between two programs that counts, holds back and cuts. Relies on `address`.
pub mod proxy;
/// A loopback port that leads to a Unix socket. Relies on `address`.
pub mod forwarder;
/// A Consul server for one site. Relies on `address`, `authority`, `http`, `program` and `wait`.
pub mod consul;
/// A central server, a datacenter's caches and its hosts. Relies on all of them but `wire`.
pub mod site;
/// The Debian packages of the daemons. Relies on `program`.
pub mod debs;
/// A Docker daemon, and systems that run systemd. Relies on `program` and `wait`.
pub mod docker;
/// Terraform without a cloud. Relies on `program`.
pub mod terraform;
/// Processes that get signals, and readers that never stop. Relies on `program` and `wait`.
pub mod reader;
/// Readings of the participants of operations. Relies on no other module.
pub mod history;
/// Measured figures, and how they are shown. Relies on no other module.
pub mod figures;
/// A person who pastes what the documentation says. Relies on `program`.
pub mod page;

pub use self::{
    address::own_address,
    authority::{Authority, Pair},
    consul::Consul,
    disk::Disk,
    docker::{Docker, System},
    forwarder::Forwarder,
    git::{Outcome, Work},
    network::{Machine, Network},
    program::Daemon,
    proxy::Proxy,
    reader::{Poller, Reader},
    site::{Host, Master, Plan, Site, Slave},
    wait::{DEADLINE, eventually, eventually_within, remove_folder, stalled_since},
};
