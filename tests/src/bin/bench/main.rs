//! Measures the tiers as real processes, beside their peers and the floor of the machine, in one
//! run: see `bench --help`, and `tests/bench`, which builds what this needs.
//!
//! Always true:
//! - The clock of a change starts with the push, and stops in the process that gets the signal.
//! - What is compared is measured in turns, so that a busy moment of the machine meets all alike.
//! - Nothing is left out to be faster: signatures, checks and durability are on.

/// Many agents in one process.
mod agents;
/// The command line.
mod options;
/// A connection that is kept open.
mod client;
/// The datacenter that is measured.
mod fleet;
/// An engineer with a clone of one branch.
mod pusher;
/// What can be raced from the start of a change to its last signal.
mod race;
/// Other systems.
mod peers;
/// What the machine takes for the parts that nobody can leave out.
mod floors;
/// `git push`, beside plain Git.
mod push;
/// From the start of a push to the signal.
mod signal;
/// Updates through the API.
mod updates;
/// Reads on a host.
mod reads;
/// The disk of a host.
mod export;
/// Many datacenters.
mod datacenters;
/// The way of one change.
mod trace;
/// How the cost grows.
mod scale;
/// The page of the documentation.
mod docs;
/// The run of all rows.
mod all;

use std::process::ExitCode;

use clap::Parser as _;
use conf_core::template;
use tests::cgi;

use crate::options::{Options, What};

fn main() -> ExitCode {
    if let Some(code) = template::child().or_else(conf_local::guard) {
        return code;
    }
    let options = Options::parse();
    match &options.command {
        Some(What::PlainGit { folder, address }) => plain_git(folder.clone(), *address),
        Some(What::Agents(agents)) => agents::run(agents),
        Some(What::Scale) => ended(&options, scale::run(&options)),
        Some(What::Docs) => ended(&options, docs::write(&options.out)),
        Some(What::Trace) => ended(&options, trace::run(&options)),
        None => ended(&options, all::run(&options)),
    }
}

fn ended(options: &Options, done: std::io::Result<()>) -> ExitCode {
    fleet::remove_folders();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: cannot write to {}: {error}; name another folder by --out", options.out.display());
            ExitCode::FAILURE
        }
    }
}

fn plain_git(folder: std::path::PathBuf, address: std::net::SocketAddr) -> ExitCode {
    match cgi::serve(folder, address, || println!("ready http={address}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench plain-git: cannot serve at {address}: {error}");
            ExitCode::FAILURE
        }
    }
}
