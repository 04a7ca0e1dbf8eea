//! `conf-master show`: the content of a section, now or in an earlier version.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use conf_core::terminal::{note, print};
use libconf::name::Sequence;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::cli::client::connect::{ClientFlags, call};
use crate::cli::client::print::{print_json, reason};
use crate::landing::SectionName;

/// How long to wait for an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The characters that are not escaped in a path.
const PLAIN: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'@').remove(b':');

/// Flags of `show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowFlags {
    /// The section, in the form that `update` takes
    #[arg(value_name = "SECTION")]
    section: SectionName,
    /// The content in this version
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "sequence")]
    version: Option<i64>,
    /// The content after this change
    #[arg(long, value_name = "N")]
    sequence: Option<Sequence>,
    /// How to reach conf-master, and how to print its answer
    #[command(flatten)]
    client: ClientFlags,
}

/// Asks, and prints the answer.
pub(crate) async fn run(flags: &ShowFlags) -> anyhow::Result<ExitCode> {
    let mut query = Vec::new();
    query.extend(flags.version.map(|version| format!("version={version}")));
    query.extend(flags.sequence.map(|sequence| format!("sequence={sequence}")));
    query.extend((!flags.client.json).then(|| "config=text".to_owned()));
    let (status, answer) = ask(&flags.client, &flags.section, &query.join("&")).await?;
    if !status.is_success() {
        bail!("{}", reason(&answer));
    }
    if flags.client.json {
        return print_json(&answer);
    }
    let file = answer["file"].as_str().unwrap_or("no file");
    let commit = answer["commit"].as_str().unwrap_or("-");
    note(format_args!("{}: version {}, {file} at {commit}", flags.section, answer["version"]));
    print(answer["config"].as_str().unwrap_or_default())?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for a section; returns refusals too.
pub(crate) async fn ask(
    server: &ClientFlags,
    section: &SectionName,
    query: &str,
) -> anyhow::Result<(StatusCode, Value)> {
    let name = section.to_string();
    let path = format!("api/v1/config/{}?{query}", utf8_percent_encode(&name, PLAIN));
    Ok(call(&server.connect()?, Method::GET, &path, &[], None, ANSWER).await?)
}
