//! The way to the server.

use std::time::Duration;

use conf_core::address::BaseUrl;
use conf_core::upstream::{UpstreamError, Upstreams};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::proof::ProofFlags;

/// How client commands reach conf-master, and how they print its answer.
#[derive(Debug, clap::Args)]
pub(crate) struct ClientFlags {
    /// Print JSON, with everything that the server answered
    #[arg(long)]
    pub(crate) json: bool,
    /// The base URL of conf-master
    #[arg(long, value_name = "URL", env = "CONF_MASTER_URL", default_value = "http://127.0.0.1:7400")]
    pub(crate) server: BaseUrl,
    /// How to prove who asks
    #[command(flatten)]
    pub(crate) proof: ProofFlags,
}

impl ClientFlags {
    /// Returns the server; asks nothing yet.
    pub(crate) fn connect(&self) -> anyhow::Result<Upstreams> {
        self.proof.connect(&self.server)
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
