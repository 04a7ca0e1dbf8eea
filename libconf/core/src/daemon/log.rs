//! The log on standard error.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    io::{self, IsTerminal as _},
    sync::OnceLock,
    time::Duration,
};

use tracing_subscriber::EnvFilter;

use crate::terminal::in_colours;

/// Replaces the filter of the log; true when that worked.
type SetFilter = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// The log is one for the process, and so is its filter.
static FILTER: OnceLock<SetFilter> = OnceLock::new();

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
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_writer(io::stderr)
        .with_ansi(in_colours(io::stderr().is_terminal(), |name| env::var(name).ok()))
        // Otherwise a line that cannot be written is reported on standard error too, and that
        // panics when standard error is a pipe whose reader has gone.
        .log_internal_errors(false)
        .with_target(false);
    // A second call, in a test that runs several daemons in one process, changes nothing.
    match format {
        LogFormat::Text => {
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            let set = move |filter| handle.reload(filter).is_ok();
            let _ = log.try_init().map(|()| FILTER.set(Box::new(set)));
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let handle = log.reload_handle();
            let set = move |filter| handle.reload(filter).is_ok();
            let _ = log.try_init().map(|()| FILTER.set(Box::new(set)));
        }
    }
    Ok(())
}

/// Changes the level of a log that runs.
pub(crate) fn set_level(level: &str) -> Result<(), BadLogLevel> {
    let filter = filter(level)?;
    if let Some(set) = FILTER.get() {
        set(filter);
    }
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, BadLogLevel> {
    EnvFilter::try_new(level).map_err(|cause| BadLogLevel(level.to_owned(), cause.to_string()))
}

/// A time in milliseconds, as `took_ms` of every log has it: a number. (Of a `u128` the log makes
/// a text.)
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A text that is no log level.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a log level ({1}); use error, warn, info, debug or trace")]
pub struct BadLogLevel(String, String);

/// An error with all its causes, in one line. The only place that makes words of errors for people:
/// what a library adds for programmers is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut words = plain(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = plain(error);
        // Some libraries repeat the cause in their own words.
        if !words.ends_with(&next) {
            let _ = write!(words, ": {next}");
        }
        cause = error.source();
    }
    words
}

/// One error in words. libgit2 adds `; class=Os (2); code=NotFound (-3)` to its own.
fn plain(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<git2::Error>() {
        Some(git) => git.message().to_owned(),
        None => error.to_string(),
    }
}
