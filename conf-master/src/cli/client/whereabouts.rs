//! `conf-master where`: who holds content that leaked.

use std::process::ExitCode;

use conf_core::terminal::{Table, note, print};
use libconf::name::ObjectId;

use crate::cli::client::connect::ClientFlags;
use crate::cli::client::print::print_json;
use crate::delivery::WhereAnswer;
use crate::text::count;

/// Flags of `where`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct WhereFlags {
    /// The full id of a commit, or of a file or folder in it
    #[arg(value_name = "OBJECT")]
    object: ObjectId,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

const EXAMPLE: &str = "\
Who got a file that holds a password?
  conf-master where $(git rev-parse services/web/master:db.ini)
Of a commit, the files that it brought are searched for. Nothing takes back what hosts and clones
have got: change the password, too.

Exit codes: 0 it was found or nobody holds it, 1 not reached or not here, 2 wrong usage.";

/// Asks, and prints the answer.
pub(crate) async fn run(flags: &WhereFlags) -> anyhow::Result<ExitCode> {
    let path = format!("api/v1/where?object={}", flags.object);
    let answer: WhereAnswer = flags.client.connect()?.get_json(&path).await?;
    if flags.client.json {
        return print_json(&answer);
    }
    let mut table = Table::with_header(["WHERE", "WHAT", "HOLDS IT"]);
    for one in &answer.found.refs {
        let held = if one.now { "at its tip".to_owned() } else { format!("in its history, {}", one.commit.short()) };
        table.add_row(["branch or tag", &one.name, &held]);
    }
    for one in &answer.found.datacenters {
        let until = if one.now { "now".to_owned() } else { format!("until #{}", one.last) };
        let held = format!("{} from #{}, {until}", count(one.snapshots, "snapshot"), one.first);
        table.add_row(["datacenter", &one.datacenter.to_string(), &held]);
    }
    for one in &answer.slaves {
        let what = format!("{} at {}", one.datacenter, one.address);
        table.add_row(["conf-slave", &what, &format!("its clone, at #{}", one.sequence)]);
    }
    for one in &answer.hosts {
        let what = format!("{} of {}", one.host, one.datacenter);
        let held = if one.now { "runs it" } else { "may keep it" };
        table.add_row(["host", &what, &format!("{held}, at #{}", one.sequence)]);
    }
    if table.is_empty() {
        note(format_args!("nothing that landed holds {} {}", answer.found.kind, answer.found.object));
    } else {
        print(table)?;
    }
    if answer.more_hosts > 0 {
        note(format_args!("and {}", count(answer.more_hosts, "more host")));
    }
    if !answer.found.complete {
        note("the search was cut off: there may be more");
    }
    Ok(ExitCode::SUCCESS)
}
