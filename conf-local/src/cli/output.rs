//! What commands print, and their errors.

use std::{fmt::Display, process::ExitCode};

use anyhow::Context as _;
use conf_core::{daemon::chain, terminal};
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
    terminal::print(format_args!("{}\n", text.trim_end())).context("cannot print")
}

pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value).context("cannot print")?)
}

/// Prints a remark on standard error, which may be closed.
pub(crate) fn note(words: impl Display) {
    terminal::note(format_args!("conf-local: {words}"));
}
