//! The parts of a site to start.

use std::path::PathBuf;

/// The server of the pointers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pointers {
    /// A real Consul server.
    #[default]
    Consul,
    /// A real Consul server that writes to disk, as in production.
    DurableConsul,
    /// A real cluster of three Consul servers, which write to disk.
    ThreeConsuls,
    /// A real Consul server that requires tokens.
    DenyingConsul,
    /// The stand-in within the first conf-slave.
    Embedded,
}

/// The parts of a site to start.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Plan {
    /// The number of caches.
    pub slaves: usize,
    /// The number of hosts: `web-1` and so on.
    pub hosts: usize,
    /// The server of the pointers.
    pub pointers: Pointers,
    /// The components of the datacenter, each from the branch `master`, at `latest`.
    pub components: Vec<String>,
    /// Puts a proxy in front of the central server, every cache and Consul.
    pub proxied: bool,
    /// Gives the hosts no address of Consul.
    pub hosts_without_consul: bool,
    /// Has every program speak TLS, Consul too, which then wants certificates of its clients.
    /// Nothing can be proxied.
    pub tls: bool,
    /// Has the central server ask for tokens, and gives one to every program that asks it.
    pub tokens: bool,
    /// Gives no token to the hosts: they prove themselves by their keys.
    pub keys: bool,
    /// Gives caches and hosts a copy of the key, as on machines of their own.
    pub copied_key: bool,
    /// An earlier program of the central server, from before tokens, which makes the repository and
    /// serves it. Hosts and caches that are made run as the present ones.
    pub earlier_master: Option<PathBuf>,
    /// More flags for the caches.
    pub slave_flags: Vec<String>,
    /// More flags for the hosts.
    pub host_flags: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        let components = ["services/web", "services/api", "applications/shop", "devices/router"];
        Plan {
            slaves: 1,
            hosts: 1,
            pointers: Pointers::Consul,
            components: components.map(str::to_owned).into(),
            proxied: false,
            hosts_without_consul: false,
            tls: false,
            tokens: false,
            keys: false,
            copied_key: false,
            earlier_master: None,
            slave_flags: Vec::new(),
            host_flags: Vec::new(),
        }
    }
}
