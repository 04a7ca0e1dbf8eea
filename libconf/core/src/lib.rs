//! What conf-master, conf-slave and conf-local share.
//!
//! The modules stand in an order: each imports only modules above it.

/// What a process may do beyond other users' processes, and how it gives that up.
pub mod privileges;
/// A bounded worker process for input whose author is not trusted.
pub mod sandbox;
/// Settings files and `datacenter.yaml` as values with lines; schemas, merging, JSON Pointers.
pub mod settings;
/// A host's public key.
mod host_key;
/// The JSON that the tiers exchange over HTTP.
pub mod api;
/// Text with wildcards: `*` and `?`.
pub(crate) mod glob;
/// Words for a name that is not there: the known name that was probably meant.
pub(crate) mod nearest;
/// Addresses of servers, which may hold a password.
pub mod address;
/// Text that looks like a secret, and commands without it.
pub mod suspect;
/// What commands print: lines, tables, and whether in colours.
pub mod terminal;
/// TLS: certificates, keys and authorities from files, for listeners and clients.
pub mod tls;
/// Who somebody is, and what they may do: tokens, principals, rights.
pub mod access;
/// The life of a daemon's process: flags, log, metrics, stop.
pub mod daemon;
/// The audit log: who asked for what from where, and what became of it.
pub mod audit;
/// Git: the executable, open repositories, packs, and one step of a fetch.
pub mod git;
/// Secrets: how they are declared, sealed and opened.
pub mod secret;
/// SSH signatures on snapshots, watermarks, freshness statements and reports.
pub mod sign;
/// Hosts that prove themselves by their identity keys, and join by a token for many.
pub mod session;
/// Whether changes may be withheld: how long conf-master was not heard, whatever clocks say.
pub mod freshness;
/// Waiting times between attempts.
pub mod retry;
/// Noticing peers that fell silent.
mod silence;
/// The servers above: requests, events and fetches.
pub mod upstream;
/// An HTTP server: requests, answers, the accept loop.
pub mod http;
/// Git over smart HTTP: fetches behind a cache, and pushes.
pub mod git_http;
/// A client of Consul's key-value store, and the keys in it.
pub mod consul;
/// `datacenter.yaml` as types.
pub mod manifest;
/// Templates, rendered in a `sandbox`.
pub mod template;
/// A component's settings in layers.
pub mod layers;
/// Snapshots: compose, verify, read, compare.
pub mod snapshot;
/// One component as its readers get it.
pub mod render;

#[cfg(test)]
mod fuzz_tests;
