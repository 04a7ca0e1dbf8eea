//! The options of `conf-local run`.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, ValueEnum};
use conf_core::{
    address::{BadBaseUrl, BaseUrl, GivenAddress, listen_address},
    daemon::flags::Common,
    freshness::Freshness,
    tls::ClientFlags,
};
use libconf::name::{ComponentSelector, DatacenterName, HostName};
use serde::Deserialize;

use crate::{
    notify::{WatchEntry, WatchTarget},
    place::PlaceEntry,
    probe::ProbeEntry,
    snapshot::{EVERY, Offers},
    transaction::CheckEntry,
};

/// The socket of the agent.
#[derive(Clone, Debug, Args)]
pub(crate) struct AgentSocket {
    /// The Unix socket of the agent.
    #[arg(long, value_name = "PATH", default_value = "/run/conf-local/conf-local.sock")]
    pub(crate) socket: PathBuf,
}

/// When the agent is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ready {
    /// It answers.
    Started,
    /// There are files to read.
    Exported,
}

/// A conf-slave, or where to find some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Surrogate {
    /// Its URL.
    Url(BaseUrl),
    /// The name of a service in Consul's catalog.
    Service(String),
}

impl FromStr for Surrogate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(name) = text.strip_prefix("consul:") else {
            return text.parse().map(Surrogate::Url).map_err(|error: BadBaseUrl| error.to_string());
        };
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        if (1..=100).contains(&name.len()) && name.chars().all(allowed) {
            return Ok(Surrogate::Service(name.to_owned()));
        }
        Err("write consul:conf-slave, or another name of a service".to_owned())
    }
}

/// `conf-local run`
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// The datacenter to follow.
    #[arg(long, value_name = "ID/VERSION")]
    pub(crate) datacenter: DatacenterName,
    /// The name of this host, as the datacenter's inventory has it.
    #[arg(long, value_name = "NAME")]
    pub(crate) host: HostName,
    /// A conf-slave of this datacenter, http://HOST:PORT or https://HOST:PORT. Hosts that name the
    /// same ones are spread over those that work. With `consul:conf-slave`, all those of this
    /// datacenter that Consul's catalog has under this name, and says to be well.
    #[arg(long, value_name = "URL|consul:SERVICE")]
    pub(crate) surrogate: Vec<Surrogate>,
    /// Ask the surrogates in the order given, and by health, rather than in an order of this host's
    /// own.
    #[arg(long)]
    pub(crate) surrogates_in_order: bool,
    /// Show the token of this host, or what proves it, to every surrogate that Consul names.
    /// Without it, only to those on this machine, and to those with `https://` and a certificate of
    /// the authorities of `--ca`.
    #[arg(long)]
    pub(crate) trust_found: bool,
    /// The central repository, asked when no surrogate has what is needed.
    #[arg(long, value_name = "URL")]
    pub(crate) central: Vec<BaseUrl>,
    /// A Consul agent, or a conf-slave that runs with `--consul embedded`. Of several, two are
    /// watched at once. Without it the usual `CONSUL_HTTP_ADDR`, or 127.0.0.1:8500, where with
    /// `--surrogate` no Consul needs to be: conf-slaves name the pointer too.
    #[arg(long, value_name = "URL")]
    pub(crate) consul: Vec<GivenAddress>,
    /// The prefix before `configurations/` in the keys of Consul.
    #[arg(long, value_name = "PREFIX")]
    pub(crate) pointer_prefix: Option<String>,
    /// The folder for the agent's repository, its export and its state.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/conf-local")]
    pub(crate) state: PathBuf,
    /// An existing Git repository to use in place of `<state>/repo.git`: only missing objects are
    /// fetched.
    #[arg(long, value_name = "DIR")]
    pub(crate) git_dir: Option<PathBuf>,
    /// This host's private key, which opens the secrets that are sealed to it: an age identity, or
    /// an SSH Ed25519 host key. Without it `<state>/identity`, which is created at the first start.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Where to listen for the commands of this host.
    #[command(flatten)]
    pub(crate) socket: AgentSocket,
    /// Also answer the local service over HTTP on this loopback address.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub(crate) listen: Option<SocketAddr>,
    /// The public key of conf-master: a `.pub` or an `allowed_signers` file.
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_key: PathBuf,
    /// A file with the token for surrogates and the central repository, or with the join token of
    /// the datacenter, which this host shows once; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// TLS with the servers that this program asks.
    #[command(flatten)]
    pub(crate) servers: ClientFlags,
    /// The most MiB of one answer of a server, and of what it inflates to: a whole snapshot must
    /// fit.
    #[arg(long, value_name = "MIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub(crate) most_fetched: u32,
    /// The seconds after which a command that prints a secret runs again. Files with secrets are
    /// looked at every second.
    #[arg(long, value_name = "SECONDS", default_value_t = EVERY.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) secrets_every: u64,
    /// The number of snapshots to keep on disk for readers that still use an older one.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) keep: u32,
    /// The seconds for which a snapshot is kept at least, whatever their number.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) keep_seconds: u64,
    /// The seconds of silence of conf-master after which this host is stale, and says so: every
    /// minute, conf-master states what is newest. A stale host goes on with what it has.
    #[arg(long, value_name = "SECONDS", default_value_t = Freshness::default().limit().as_secs(), value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) stale_after: u64,
    /// When the agent is ready: once it is `started` and answers, or once something is `exported`,
    /// where an export that an earlier run has left counts.
    #[arg(long, value_name = "WHEN", default_value = "started")]
    pub(crate) ready: Ready,
    /// Export, and do nothing else: send no signal, run no command of `watch:`, place nothing,
    /// probe nothing. For a trial beside another tool.
    #[arg(long)]
    pub(crate) observe: bool,
    /// The options of every daemon.
    #[command(flatten)]
    pub common: Common,
}

/// Options that only the YAML file can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FileOnly {
    /// The watchers.
    #[serde(default)]
    pub(crate) watch: Vec<WatchEntry>,
    /// The places for components besides the export.
    #[serde(default)]
    pub(crate) export: Vec<PlaceEntry>,
    /// The components whose links may lead anywhere on this host.
    #[serde(default)]
    pub(crate) links: Vec<ComponentSelector>,
    /// The checks of staged components.
    #[serde(default)]
    pub(crate) check: Vec<CheckEntry>,
    /// The secrets that this host has itself.
    #[serde(default, rename = "secret-sources")]
    pub(crate) secret_sources: Offers,
    /// The probes of components' programs.
    #[serde(default)]
    pub(crate) probe: Vec<ProbeEntry>,
}

impl RunOptions {
    /// The conf-slaves that are given.
    pub(crate) fn surrogates(&self) -> Vec<BaseUrl> {
        let url = |one: &Surrogate| match one {
            Surrogate::Url(url) => Some(url.clone()),
            Surrogate::Service(_) => None,
        };
        self.surrogate.iter().filter_map(url).collect()
    }

    /// The names of the services in Consul that are conf-slaves.
    pub(crate) fn services(&self) -> Vec<String> {
        let name = |one: &Surrogate| match one {
            Surrogate::Url(_) => None,
            Surrogate::Service(name) => Some(name.clone()),
        };
        self.surrogate.iter().filter_map(name).collect()
    }
}

impl FileOnly {
    /// True if the agent runs commands that the file names.
    pub(crate) fn names_commands(&self) -> bool {
        let watches = self.watch.iter().any(|entry| matches!(entry.target, WatchTarget::Command(_)));
        let probes = self.probe.iter().any(ProbeEntry::runs_command);
        watches || probes || !self.check.is_empty() || self.secret_sources.have_commands()
    }
}
