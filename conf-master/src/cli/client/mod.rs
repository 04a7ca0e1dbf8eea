//! Client commands: what people and scripts ask a running conf-master. One file for each command,
//! with its flags.

pub(crate) mod doc;
pub(crate) mod explain;
pub(crate) mod log;
pub(crate) mod plan;
pub(crate) mod secret;
pub(crate) mod show;
pub(crate) mod update;
pub(crate) mod wait;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use comfy_table::{Table, presets::NOTHING};
use conf_core::upstream::{Credentials, UpstreamError, Upstreams, Url};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::fault::Fault;

/// How client commands reach conf-master, and how they print its answer.
#[derive(Debug, clap::Args)]
pub(crate) struct ClientFlags {
    /// Print JSON, with everything that the server answered
    #[arg(long)]
    json: bool,
    /// The base URL of conf-master
    #[arg(long, value_name = "URL", env = "CONF_MASTER_URL", default_value = "http://127.0.0.1:7400")]
    server: Url,
    /// A file that holds the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl ClientFlags {
    /// Returns the server; asks nothing yet.
    pub(crate) fn connect(&self) -> anyhow::Result<Upstreams> {
        let credentials = Credentials::from_file(self.token_file.clone());
        Ok(Upstreams::new(vec![self.server.clone()], &credentials)?)
    }
}

/// Calls the server, and returns the status and the body of its answer, of a refusal too.
pub(crate) async fn call(
    servers: &Upstreams,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
    body: Option<&Value>,
    wait: Duration,
) -> Result<(StatusCode, Value), UpstreamError> {
    let server = servers.in_order().first().cloned().ok_or(UpstreamError::NoServer)?;
    server.call(method, path, headers, body, wait).await
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(ExitCode::SUCCESS)
}

/// Makes a table without borders.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
}

/// Returns a JSON string as text, and every other value as JSON.
pub(crate) fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the reason of a refusal.
pub(crate) fn reason(answer: &Value) -> &str {
    answer["error"].as_str().unwrap_or("no reason was given")
}

/// Prints the faults of a refusal.
pub(crate) fn print_faults(answer: &Value) {
    for fault in answer["faults"].as_array().into_iter().flatten() {
        match serde_json::from_value::<Fault>(fault.clone()) {
            Ok(fault) => eprintln!("  {fault}"),
            Err(_) => eprintln!("  {fault}"),
        }
    }
}
