//! `conf-master promote`: has a standby lead.

use std::path::PathBuf;
use std::process::ExitCode;

use conf_core::terminal::note;
use libconf::name::Sequence;
use serde_json::json;

use crate::cli::client::print::print_json;
use crate::hooks::local;
use crate::keys::KeyCall;

const NOTES: &str = "\
Run it on the machine of the standby, which runs. First see that the conf-master before it is off for good, or cut off:
two that lead land changes of which one part is lost. The standby tells the one before it, which then ends.
Conf-slaves need the URL of this conf-master: give each both, --central OLD --central NEW.";

/// Flags of `promote`.
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(crate) struct PromoteFlags {
    /// The repository that the standby serves, on its own machine, as root or as its user
    #[arg(long, value_name = "DIR", hide_env = true)]
    repo: PathBuf,
    /// The highest number of a change that anybody has seen, if that is far above what this standby
    /// has: its numbers go on at least a thousand above its own newest one
    #[arg(long, value_name = "SEQUENCE", hide_env = true)]
    above: Option<Sequence>,
    /// Print JSON
    #[arg(long, hide_env = true)]
    json: bool,
}

/// Does what the flags say.
pub(crate) fn run(flags: &PromoteFlags) -> anyhow::Result<ExitCode> {
    match local::keys(&flags.repo, KeyCall::Promote { above: flags.above })? {
        Ok(done) if flags.json => print_json(&done),
        Ok(done) => {
            for line in &done.notes {
                note(format_args!("conf-master: {line}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(words) => {
            if flags.json {
                print_json(&json!({ "error": words }))?;
            } else {
                note(format_args!("conf-master: {words}"));
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
