//! The commands that ask the running agent, or watch on its behalf: `get`, `explain`, `wait`,
//! `watch`, `exec`, `status`, `verify`, `history`, `diff`; and `identity`, which needs no agent.
//! Exit codes: 0 done, 1 refused or not reached, 2 wrong usage; `exec` returns that of its command.

mod output;
mod options;
mod socket;
mod near;
mod get;
mod wait;
mod watch;
mod exec;
mod show;
mod explain;
mod diff;
mod identity;

use std::process::ExitCode;

use anyhow::Context as _;

pub use crate::cli::options::{Command, CommandLine};
use crate::cli::output::{Usage, fail};

/// Runs a command other than `run` to its end, and prints a failure on standard error.
pub fn run(command: Command) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start") {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let done = runtime.block_on(async {
        match command {
            Command::Get(options) => get::run(&options).await,
            Command::Explain(options) => explain::run(&options).await,
            Command::Wait(options) => wait::run(&options).await,
            Command::Watch(options) => watch::run(options).await,
            Command::Exec(options) => return exec::run(options).await,
            Command::Status(options) => show::status(&options).await,
            Command::Verify(options) => return show::verify(&options).await,
            Command::History(options) => show::history(&options).await,
            Command::Identity(options) => identity::run(&options),
            Command::Diff(options) => return diff::run(&options).await,
            Command::Run(_) => Err(Usage("`run` is the agent itself".to_owned()).into()),
        }
        .map(|()| ExitCode::SUCCESS)
    });
    // A blocked reader of /proc, or a file system that hangs, must not keep a command from ending.
    runtime.shutdown_background();
    done.unwrap_or_else(|error| fail(&error))
}
