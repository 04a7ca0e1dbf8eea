//! What commands print, and their errors.

use std::{
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use conf_core::daemon::chain;
use serde::Serialize;

use crate::cli::socket::AskError;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Usage(String),
    #[error("cannot print")]
    Print(#[source] io::Error),
    #[error("{what}")]
    System { what: String, source: io::Error },
}

/// Prints an error, and returns the exit code.
pub(crate) fn fail(error: &ClientError) -> ExitCode {
    note(chain(error));
    match error {
        ClientError::Usage(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// Prints a text and a newline. If the reader has gone (`| head`), that is no error.
pub(crate) fn print(text: &str) -> Result<(), ClientError> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ClientError::Print(error)),
        _ => Ok(()),
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), ClientError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| ClientError::Print(error.into()))?;
    print(&text)
}

/// Prints a remark on standard error, which may be closed.
pub(crate) fn note(words: impl Display) {
    let _ = writeln!(io::stderr(), "conf-local: {words}");
}
