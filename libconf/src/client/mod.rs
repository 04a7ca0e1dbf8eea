//! The client that applications link: typed settings of this host's components, and their changes.
//!
//! Read in this order: [`Client`] finds the export, [`Component`] names one component, [`Typed`]
//! holds its current value. [`Operation`] reads at one version, together with other services.
//! Inside, `agent` asks conf-local, `snapshot` reads one whole snapshot, and `follow` is the one
//! thread that notices a new one.
//!
//! Always true:
//! - A value comes from one snapshot, read whole: `current` is resolved once per snapshot, never
//!   once per file.
//! - The sequence of a value never falls.
//! - If a new value cannot be read or does not deserialize, the last good one stays in place.
//! - No agent needs to run: the export directory alone is enough, also at start.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use libconf::client::Client;
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Web {
//!     port: u16,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect()?;
//! let mut web = client.component("services/web")?.typed::<Web>()?;
//! println!("port {}", web.current().port);
//! // In async code, on any runtime: `let now = web.changed().await;`
//! if let Some(now) = web.changed_blocking(Duration::from_secs(60)) {
//!     println!("port {} since change {}", now.port, now.sequence());
//! }
//! # Ok(())
//! # }
//! ```

/// Errors. Relies on the names alone.
mod error;
/// Signals that the process sends itself. Relies on no other module.
mod signal;
/// Locks of mutexes. Relies on no other module.
mod lock;
/// Waking tasks and dropping values of the program. Relies on no other module.
mod release;
/// Requests to the agent. Relies on the names alone.
mod agent;
/// Messages to the agent about this process. Relies on `agent`, `error` and `lock`.
mod acknowledge;
/// One snapshot of the export. Relies on `error`, `lock` and `release`.
mod snapshot;
/// The newest snapshot. Relies on `snapshot`.
mod known;
/// Older snapshots in memory and on disk. Relies on `known`, `snapshot`, `lock` and `release`.
mod held;
/// Deadlines of futures. Relies on `lock` and `release`.
mod clock;
/// The way from a change to its snapshot. Relies on `agent`, `clock`, `held` and all before them.
mod resolve;
/// Events of the export directory. Relies on no other module.
mod watch;
/// The thread that follows the export. Relies on `resolve`, `watch`, `acknowledge` and all before
/// them.
mod follow;
/// Files of a component. Relies on `snapshot` and `error`.
mod files;
/// Settings of a component. Relies on `follow` and all before it.
mod typed;
/// A component. Relies on `files` and `typed`.
mod component;
/// Several components. Relies on `follow`, `files` and `signal`.
mod group;
pub mod operation;
/// The client itself. Relies on all of them.
mod connect;
#[cfg(feature = "tower")]
pub mod layer;

pub use self::{
    component::Component,
    connect::{Client, DEFAULT_EXPORT_DIR, DEFAULT_SOCKET, Options},
    error::Error,
    files::Files,
    group::{Change, Group, Subscription},
    operation::{JoinError, Operation},
    signal::Signal,
    typed::{Current, Typed},
};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
