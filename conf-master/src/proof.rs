//! How commands prove to a server who asks, and which servers they trust.

use std::path::PathBuf;

use conf_core::{
    address::BaseUrl,
    tls::{self, Certificates, ClientFiles, ClientTls, OldestTls},
    upstream::{Credentials, Upstreams},
};

/// A token, and what TLS needs.
#[derive(Debug, clap::Args)]
pub(crate) struct ProofFlags {
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

impl ProofFlags {
    /// Returns a server; asks nothing yet.
    pub(crate) fn connect(&self, server: &BaseUrl) -> anyhow::Result<Upstreams> {
        let (ca, client_cert, client_key) = (self.ca.clone(), self.client_cert.clone(), self.client_key.clone());
        let files = ClientFiles::of(&tls::ClientFlags { ca, client_cert, client_key });
        let tls = ClientTls::load(files, self.tls_min, &Certificates::default())?;
        let credentials = Credentials::from_file(self.token_file.clone()).over(tls);
        Ok(Upstreams::new(vec![server.clone()], &credentials)?)
    }
}
