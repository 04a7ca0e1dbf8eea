//! What commands print, and their errors.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use conf_core::daemon::chain;
use serde::Serialize;

/// A wrong use of a command.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Prints an error, and returns the exit code.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    note(chain(&**error));
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Prints a text and a newline. If the reader has gone (`| head`), that is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot print"),
        _ => Ok(()),
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value).context("cannot print")?)
}

/// Prints a remark on standard error, which may be closed.
pub(crate) fn note(words: impl Display) {
    let _ = writeln!(io::stderr(), "conf-local: {words}");
}
