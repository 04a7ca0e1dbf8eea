//! Client commands: what people and scripts ask a running conf-master. One file a command, with its flags.

pub mod doc;
pub mod explain;
pub mod log;
pub mod plan;
pub mod secret;
pub mod show;
pub mod update;
pub mod wait;

use std::path::PathBuf;

use conf_core::upstream::{Credentials, Upstreams, Url};

/// How client commands reach conf-master.
#[derive(Debug, clap::Args)]
pub struct ServerFlags {
    /// The base URL of conf-master
    #[arg(long, value_name = "URL", env = "CONF_MASTER_URL", default_value = "http://127.0.0.1:7400")]
    pub server: Url,
    /// A file that holds the token to show
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl ServerFlags {
    /// The server, not asked yet.
    pub fn connect(&self) -> anyhow::Result<Upstreams> {
        let credentials = Credentials::from_file(self.token_file.clone());
        Ok(Upstreams::new(vec![self.server.clone()], &credentials)?)
    }
}

/// Runs a client command to its end.
pub fn run<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}
