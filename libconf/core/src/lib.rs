//! What conf-master, conf-slave and conf-local share.
//!
//! The modules stand in an order: each relies only on modules above it.

/// A bounded worker process for input that a stranger wrote. Relies on nothing here.
pub mod sandbox;
/// Settings files and `datacenter.yaml` as values with lines; schemas, merging, JSON Pointers.
pub mod settings;
/// The JSON that the tiers exchange over HTTP.
pub mod api;
/// The life of a daemon's process: flags, log, metrics, stop. Relies on `settings` for the file of
/// flags.
pub mod daemon;
/// Git: the executable, open repositories, packs, and one step of a fetch.
pub mod git;
/// Secrets: how they are declared, sealed and opened.
pub mod secret;
/// SSH signatures on snapshots, watermarks and reports. Relies on `api` and `secret`.
pub mod sign;
/// Waiting times between attempts.
pub mod retry;
/// The servers above: requests, events and fetches. Relies on `api` and `git`.
pub mod upstream;
/// An HTTP server: requests, answers, the accept loop. Relies on `api` and `daemon`.
pub mod http;
/// Git over smart HTTP: fetches behind a cache, and pushes. Relies on `git`, `upstream` and `http`.
pub mod git_http;
/// A client of Consul's key-value store, and the keys in it. Relies on `daemon`.
pub mod consul;
/// `datacenter.yaml` as types. Relies on `settings` and `secret`.
pub mod manifest;
/// Templates, rendered in a `sandbox`. Relies on `settings` and `secret`.
pub mod template;
/// A component's settings in layers. Relies on `settings`, `manifest` and `template`.
pub mod layers;
/// Snapshots: compose, verify, read, compare. Relies on `api`, `sign`, `consul` and `manifest`.
pub mod snapshot;
/// One component as its readers get it. Relies on `git`, `secret`, `template` and `layers`.
pub mod render;

#[cfg(test)]
mod fuzz_tests;
