//! `conf-master import`: reads folders of configuration as people have them on their hosts, and proposes what they would be
//! here. It works without a server, and nothing lands by it: what `--out` writes is a repository to look at and to push.
//!
//! Read in this order: [`scan`](mod@scan) reads `<role>/<component>/[conf/]…`, [`suspect`] finds what looks like a secret and
//! [`values`] what repeats, [`propose`](mod@propose) decides, [`report`] shows it, [`template`] and [`write`](mod@write) obey.

pub mod flags;
pub mod manifests;
pub mod naming;
pub mod propose;
pub mod report;
pub mod scan;
pub mod suspect;
pub mod template;
#[cfg(test)]
mod tests;
pub mod values;
pub mod write;

use std::process::ExitCode;

pub use crate::import::flags::Flags;
use crate::import::{propose::propose, report::Report, scan::scan};

/// Prints what the folders would become, and writes it where `--out` says so. The exit code is 1 while something must be
/// settled first; then nothing is written.
pub fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
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
