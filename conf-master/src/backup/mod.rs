//! Copies of the central repository: `backup` makes them, `backup verify` looks whether one is
//! whole, `restore` makes a server's repository of one.
//!
//! A copy is a bare repository of Git with the ledger, which reaches everything that landed, and
//! with the keys, sealed.

pub(crate) mod flags;
pub(crate) mod copy;
pub(crate) mod sealed_keys;
mod send;
mod verify;
mod shown;
mod restore;

pub(crate) use crate::backup::flags::{BackupFlags, RestoreFlags};
pub(crate) use crate::backup::restore::run as restore;

use std::process::ExitCode;

use crate::backup::flags::BackupCommand;

/// Makes a copy, or looks at one.
pub(crate) fn run(flags: &BackupFlags) -> anyhow::Result<ExitCode> {
    match &flags.act {
        Some(BackupCommand::Verify(flags)) => verify::run(flags),
        None => send::run(flags),
    }
}
