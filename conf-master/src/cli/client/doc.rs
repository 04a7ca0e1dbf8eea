//! `conf-master doc`: what a component's schema says of its settings, as Markdown.

use std::process::ExitCode;

use libconf::name::{BranchName, ComponentName};

use crate::cli::client::ServerFlags;
use crate::inspect::doc::Doc;

/// Flags of `doc`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Which component: KIND/NAME
    #[arg(value_name = "COMPONENT")]
    pub component: ComponentName,
    /// The branch whose schema is read; master where none is named
    #[arg(long, value_name = "NAME")]
    pub branch: Option<BranchName>,
    /// Print JSON: the text, and which commit it was made from
    #[arg(long)]
    pub json: bool,
    /// How to reach conf-master
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Asks, and prints the answer.
pub async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let branch = flags.branch.iter().map(|branch| format!("?branch={branch}"));
    let path = format!("api/v1/doc/{}{}", flags.component, branch.collect::<String>());
    let doc: Doc = flags.server.connect()?.get_json(&path).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&doc)?);
    } else {
        print!("{}", doc.markdown);
    }
    Ok(ExitCode::SUCCESS)
}
