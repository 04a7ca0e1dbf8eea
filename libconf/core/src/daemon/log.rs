//! The log on standard error.

use std::{
    error::Error,
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Sends the log to standard error, one line per change of state. `level` is `error`, `warn`,
/// `info`, `debug`, `trace`, or a list per module (`info,conf_slave=debug`).
pub fn start_logging(format: LogFormat, level: &str) -> Result<(), BadLogLevel> {
    let filter = EnvFilter::try_new(level).map_err(|cause| BadLogLevel(level.to_owned(), cause.to_string()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    // A second call, in a test that runs several daemons in one process, changes nothing.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// A text that is no log level.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a log level ({1}); use error, warn, info, debug or trace")]
pub struct BadLogLevel(String, String);

/// An error with all its causes, in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat the cause in their own words.
        if !words.ends_with(&next) {
            let _ = write!(words, ": {next}");
        }
        cause = error.source();
    }
    words
}
