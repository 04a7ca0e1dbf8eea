//! The life of a daemon: flags, log, ready line, stop, metrics.

mod log;
pub mod flags;
mod reload;
mod blocking;
mod process;
mod folder;
mod metrics;
#[cfg(test)]
mod tests;

pub use crate::daemon::{
    blocking::blocking,
    folder::{fix_umask, make_folder},
    log::{BadLogLevel, LogFormat, chain, millis, start_logging},
    metrics::Metrics,
    process::{ListenRefused, Threads, listen_guard, no_core_files, ready, ready_on_socket, run},
    reload::Reload,
};
