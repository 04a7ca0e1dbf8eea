//! `conf-master import`: reads folders of configuration from hosts, and proposes a repository for
//! them. It works without a server, and nothing lands by it: `--out` writes a repository to look at
//! and to push.
//!
//! Read in this order: [`scan`](mod@scan) reads `<role>/<component>/[conf/]…`, `suspect`, a folder
//! of its own, finds text that looks like a secret and `values` finds values that repeat,
//! [`propose`](mod@propose) decides with `variables`, `report` shows the proposal, `template` and
//! [`write`](mod@write) write it.

pub(crate) mod flags;
mod manifests;
mod naming;
mod proposal;
mod propose;
mod report;
mod scan;
mod template;
#[cfg(test)]
mod tests;
mod values;
mod variables;
mod write;

pub(crate) use crate::import::flags::ImportFlags;

use std::process::ExitCode;

use crate::import::propose::propose;
use crate::import::report::Report;
use crate::import::scan::scan;

/// Prints the proposal for the folders, and writes it with `--out`. The exit code is 1 while
/// something must be settled first; then nothing is written.
pub(crate) fn run(flags: &ImportFlags) -> anyhow::Result<ExitCode> {
    let tree = scan(flags)?;
    let proposal = propose(&tree, flags)?;
    let mut report = Report::of(&tree, &proposal, flags);
    let settled = report.faults.is_empty();
    if let (true, Some(out)) = (settled, &flags.out) {
        report.written = Some(write::write(&proposal, out, flags)?);
    }
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(ExitCode::from(u8::from(!settled)))
}
