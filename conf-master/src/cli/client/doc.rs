//! `conf-master doc`: the settings that a component's schema describes, as Markdown.

use std::process::ExitCode;

use conf_core::terminal::print;
use libconf::name::{BranchName, ComponentName};

use crate::cli::client::connect::ClientFlags;
use crate::cli::client::print::print_json;
use crate::inspect::Doc;

/// Flags of `doc`.
#[derive(Debug, clap::Args)]
pub(crate) struct DocFlags {
    /// The component: KIND/NAME
    #[arg(value_name = "COMPONENT")]
    component: ComponentName,
    /// The branch whose schema is read [default: master]
    #[arg(long, value_name = "NAME")]
    branch: Option<BranchName>,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Asks, and prints the answer.
pub(crate) async fn run(flags: &DocFlags) -> anyhow::Result<ExitCode> {
    let branch = flags.branch.iter().map(|branch| format!("?branch={branch}"));
    let path = format!("api/v1/doc/{}{}", flags.component, branch.collect::<String>());
    let doc: Doc = flags.client.connect()?.get_json(&path).await?;
    if flags.client.json {
        return print_json(&doc);
    }
    print(doc.markdown)?;
    Ok(ExitCode::SUCCESS)
}
