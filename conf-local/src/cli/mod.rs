//! The commands that ask the running agent, or watch on its behalf: `get`, `explain`, `wait`, `watch`, `exec`, `status`, `verify`,
//! `history`, `diff`; and `identity`, which asks nobody. Exit codes: 0 done, 1 refused or not reached, 2 wrong usage; `exec` has
//! those of what it runs.

pub mod config;

mod diff;
mod exec;
mod explain;
mod get;
mod show;
mod socket;
mod wait;
mod watch;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use conf_core::{daemon::chain, secret::Identity};

use crate::cli::socket::AskError;
use crate::{
    cli::config::{Command, IdentityOptions},
    snapshot::keyring::identity_path,
};

/// What a command came to when it did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum ClientError {
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

/// Runs a command other than `run` to its end, and says on standard error what went wrong.
pub fn run(command: Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&ClientError::System { what: "cannot start".to_owned(), source: error }),
    };
    let done = runtime.block_on(async {
        match command {
            Command::Get(options) => get::run(&options).await,
            Command::Explain(options) => explain::run(&options).await,
            Command::Wait(options) => wait::run(&options).await,
            Command::Watch(options) => watch::run(options).await,
            Command::Exec(options) => exec::run(options).await,
            Command::Status(options) => show::status(&options).await,
            Command::Verify(options) => show::verify(&options).await,
            Command::History(options) => show::history(&options).await,
            Command::Identity(options) => identity(&options),
            Command::Diff(options) => diff::run(&options).await,
            Command::Run(_) => Err(ClientError::Usage("`run` is the agent itself".to_owned())),
        }
    });
    // A blocked reader of /proc or a file system that hangs must not keep a command from ending.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| fail(&error))
}

/// `conf-local identity`: asks nobody, so that it works before the agent was ever started.
fn identity(options: &IdentityOptions) -> Result<ExitCode, ClientError> {
    let path = identity_path(&options.state, options.identity.as_deref());
    if let Some(folder) = path.parent() {
        let what = format!("cannot make {}", folder.display());
        std::fs::create_dir_all(folder).map_err(|source| ClientError::System { what, source })?;
    }
    let (identity, made) = Identity::load_or_create(&path).map_err(|error| ClientError::Refused(error.to_string()))?;
    if made {
        note(format_args!("made {}; keep it to this host", path.display()));
    }
    print(&identity.recipient().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn fail(error: &ClientError) -> ExitCode {
    // Standard error may be closed; the exit code says it too.
    let _ = writeln!(io::stderr(), "conf-local: {}", chain(error));
    match error {
        ClientError::Usage(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// Prints one text and a new line; a reader that went away (`| head`) is no fault.
fn print(text: &str) -> Result<(), ClientError> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ClientError::Print(error)),
        _ => Ok(()),
    }
}

/// Says something to whoever watches the command.
fn note(words: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "conf-local: {words}");
}
