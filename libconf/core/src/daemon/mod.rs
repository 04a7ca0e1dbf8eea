//! The life of a daemon: flags, log, ready line, stop, metrics.

mod log;
pub mod flags;
mod process;
mod folder;
mod metrics;
#[cfg(test)]
mod tests;

pub use crate::daemon::{
    folder::make_folder,
    log::{BadLogLevel, LogFormat, chain, start_logging},
    metrics::Metrics,
    process::{ListenRefused, listen_guard, ready, ready_on_socket, run},
};
