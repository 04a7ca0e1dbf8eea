//! Configuration kept in Git, as a program reads it.
//!
//! An application uses `client` (default features): typed settings from the export of conf-local, and their changes.
//! The three daemons share `tier` (feature `tier`): names, manifests, snapshots, Git on the wire, Consul.
//! Nothing here prints; only `client::Client::connect` reads the environment.

pub mod client;
pub mod name;

#[cfg(feature = "tier")]
pub mod tier;
