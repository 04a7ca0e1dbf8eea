//! `conf-master show`: what a section says, now or in an earlier version.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use libconf::name::Sequence;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::cli::client::ServerFlags;
use crate::landing::update::section::SectionName;

/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(30);
/// What stands in a path as it is.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'@').remove(b':');

/// Flags of `show`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// What to show: as for `update`
    #[arg(value_name = "SECTION")]
    pub section: SectionName,
    /// As it was in this version
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "sequence")]
    pub version: Option<i64>,
    /// As it was after this change
    #[arg(long, value_name = "N")]
    pub sequence: Option<Sequence>,
    /// Print JSON: the configuration as an object, with version and commit
    #[arg(long)]
    pub json: bool,
    /// How to reach conf-master
    #[command(flatten)]
    pub server: ServerFlags,
}

/// `conf-master show`
pub async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let mut query = Vec::new();
    query.extend(flags.version.map(|version| format!("version={version}")));
    query.extend(flags.sequence.map(|sequence| format!("sequence={sequence}")));
    query.extend((!flags.json).then(|| "config=text".to_owned()));
    let (status, answer) = ask(&flags.server, &flags.section, &query.join("&")).await?;
    if !status.is_success() {
        bail!("{}", answer["error"].as_str().unwrap_or("no reason was given"));
    }
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    let file = answer["file"].as_str().unwrap_or("no file");
    eprintln!(
        "{}: version {}, {file} at {}",
        flags.section,
        answer["version"],
        answer["commit"].as_str().unwrap_or("-")
    );
    print!("{}", answer["config"].as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// Asks for a section; refusals included.
pub(crate) async fn ask(
    server: &ServerFlags,
    section: &SectionName,
    query: &str,
) -> anyhow::Result<(StatusCode, Value)> {
    let name = section.to_string();
    let path = format!("api/v1/config/{}?{query}", utf8_percent_encode(&name, PLAIN));
    let servers = server.connect()?;
    let Some(server) = servers.in_order().first().cloned() else { bail!("no server was given") };
    Ok(server.call(Method::GET, &path, &[], None::<&()>, ANSWER).await?)
}
