//! The flags of TLS.

use std::{fmt, path::PathBuf};

use clap::{ValueEnum, builder::PossibleValue};
use rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OldestTls {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 alone.
    #[default]
    Tls13,
}

/// The values need no help of their own: with one, all help of a command takes twice the lines.
impl ValueEnum for OldestTls {
    fn value_variants<'a>() -> &'a [Self] {
        &[OldestTls::Tls12, OldestTls::Tls13]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(if *self == OldestTls::Tls12 { "1.2" } else { "1.3" }))
    }
}

impl OldestTls {
    pub(crate) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        if self == OldestTls::Tls12 { &BOTH } else { &BOTH[..1] }
    }
}

impl fmt::Display for OldestTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == OldestTls::Tls12 { "1.2" } else { "1.3" })
    }
}

/// TLS for those who ask this program.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct ListenFlags {
    /// Speak TLS on the address of --listen, with this certificate: PEM, with the certificates
    /// between it and its authority below it. It is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert: PEM, without a passphrase. It is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Serve only clients that have a certificate of one of these authorities: PEM
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// The oldest version of TLS that is spoken, with clients and with servers
    #[arg(long, value_name = "VERSION", default_value_t)]
    pub tls_min: OldestTls,
}

impl ListenFlags {
    /// Tells whether there is TLS for those who ask.
    pub fn has_tls(&self) -> bool {
        self.tls_cert.is_some() && self.tls_key.is_some()
    }
}

/// TLS with servers that this program asks.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClientFlags {
    /// Trust servers whose certificates these authorities signed, and no others: PEM. Without it,
    /// the authorities of this system count. It is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// The certificate to show to servers that ask for one: PEM
    #[arg(long, value_name = "FILE")]
    pub client_cert: Option<PathBuf>,

    /// The private key of --client-cert: PEM, without a passphrase
    #[arg(long, value_name = "FILE")]
    pub client_key: Option<PathBuf>,
}

impl ClientFlags {
    /// Says in the log that these flags are of no use, where none of these URLs is asked over TLS.
    pub fn warn_if_unused<'u>(&self, urls: impl IntoIterator<Item = &'u str>) {
        if let Some(words) = self.unused(urls) {
            tracing::warn!("{words}");
        }
    }

    /// The words for that.
    pub(crate) fn unused<'u>(&self, urls: impl IntoIterator<Item = &'u str>) -> Option<String> {
        let given = [("--ca", &self.ca), ("--client-cert", &self.client_cert)];
        let (flag, _) = given.into_iter().find(|(_, file)| file.is_some())?;
        let is_used = urls.into_iter().any(|url| url.starts_with("https://"));
        let words = format!("{flag} is of no use: no server is asked over TLS; write https:// in its URL");
        (!is_used).then_some(words)
    }
}
