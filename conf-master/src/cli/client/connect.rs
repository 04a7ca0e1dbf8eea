//! The way to the server.

use std::path::PathBuf;
use std::time::Duration;

use conf_core::{
    address::BaseUrl,
    tls::{self, Certificates, ClientFiles, ClientTls, OldestTls},
    upstream::{Credentials, UpstreamError, Upstreams},
};
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// How client commands reach conf-master, and how they print its answer.
#[derive(Debug, clap::Args)]
pub(crate) struct ClientFlags {
    /// Print JSON, with everything that the server answered
    #[arg(long)]
    pub(crate) json: bool,
    /// The base URL of conf-master
    #[arg(long, value_name = "URL", env = "CONF_MASTER_URL", default_value = "http://127.0.0.1:7400")]
    pub(crate) server: BaseUrl,
    /// A file that holds the token
    #[arg(long, value_name = "FILE", env = "CONF_MASTER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Over https://, trust a server whose certificate these authorities signed, and no other: PEM.
    /// Without it, the authorities of this system count
    #[arg(long, value_name = "FILE", env = "CONF_MASTER_CA")]
    ca: Option<PathBuf>,
    /// The certificate to show to a server that asks for one: PEM
    #[arg(long, value_name = "FILE", env = "CONF_MASTER_CLIENT_CERT")]
    client_cert: Option<PathBuf>,
    /// The private key of --client-cert: PEM, without a passphrase
    #[arg(long, value_name = "FILE", env = "CONF_MASTER_CLIENT_KEY")]
    client_key: Option<PathBuf>,
    /// The oldest version of TLS that is spoken
    #[arg(long, value_name = "VERSION", env = "CONF_MASTER_TLS_MIN", default_value_t)]
    tls_min: OldestTls,
}

impl ClientFlags {
    /// Returns the server; asks nothing yet.
    pub(crate) fn connect(&self) -> anyhow::Result<Upstreams> {
        let (ca, client_cert, client_key) = (self.ca.clone(), self.client_cert.clone(), self.client_key.clone());
        let files = ClientFiles::of(&tls::ClientFlags { ca, client_cert, client_key });
        let tls = ClientTls::load(files, self.tls_min, &Certificates::default())?;
        let credentials = Credentials::from_file(self.token_file.clone()).over(tls);
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
