//! The options of conf-slave, from its command line, its environment and its YAML file.

#![expect(clippy::doc_markdown, reason = "--help prints these comments unchanged")]

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use conf_core::{
    address::{BaseUrl, GivenAddress, listen_address},
    audit::AuditTarget,
    consul::named_or_usual_address,
    daemon::{
        Reload,
        flags::{self, Common, NoExtra},
    },
    freshness::Freshness,
    tls::ClientFlags,
};
use libconf::name::DatacenterName;

/// The beginning of the names of environment variables.
const PREFIX: &str = "CONF_SLAVE";

/// A datacenter's cache of the configuration, and the publisher of its pointers in Consul.
#[derive(Debug, Parser)]
#[command(name = "conf-slave", version, arg_required_else_help = true)]
pub struct CommandLine {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

impl CommandLine {
    /// Reads flags, environment (`CONF_SLAVE_…`) and the YAML file; wrong usage ends the process
    /// with exit code 2.
    pub fn parse_all() -> Self {
        flags::parse(PREFIX)
    }

    /// Returns the command line with its environment variables, for those who describe it.
    pub fn described() -> clap::Command {
        flags::described::<Self>(PREFIX)
    }

    /// Returns the way to read them again.
    pub fn reload() -> Reload {
        Reload::new::<Self, NoExtra>(PREFIX, &[])
    }
}

/// The commands of conf-slave.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the cache: follow the central server, serve Git to the datacenter's hosts, publish
    /// pointers into Consul.
    Run(Box<RunOptions>),
}

/// `conf-slave run`
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// The datacenter to serve.
    #[arg(long, value_name = "ID/VERSION")]
    pub datacenter: DatacenterName,
    /// The URL of a central server, without /conf.git: http://HOST:PORT or https://HOST:PORT.
    /// Several are tried in order and by health. At a far site, another conf-slave of the same
    /// datacenter may stand in its place.
    #[arg(long, value_name = "URL", required = true)]
    pub central: Vec<BaseUrl>,
    /// The address that hosts connect to; port 0 takes a free port.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7401", value_parser = listen_address)]
    pub listen: SocketAddr,
    /// The folder of the mirror. Without it, every start fills a new temporary folder.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The URL of a Consul agent; several are tried in order. With 'embedded' this program stands
    /// in for Consul, for a trial without one. Without this option: CONSUL_HTTP_ADDR, or else
    /// 127.0.0.1:8500.
    #[arg(long, value_name = "URL|embedded")]
    pub consul: Vec<GivenAddress>,
    /// Do not enter this program into Consul's catalog, as the service conf-slave, by which hosts
    /// find it (--surrogate consul:conf-slave). With '--consul embedded' it never is.
    #[arg(long)]
    pub no_register: bool,
    /// The URL at which hosts reach this program, for Consul's catalog: http://HOST:PORT or
    /// https://HOST:PORT. Without it, the address of --listen; where that is every address, the one
    /// of this machine.
    #[arg(long, value_name = "URL", value_parser = advertised)]
    pub advertise: Option<BaseUrl>,
    /// The prefix of 'configurations/' in the keys of Consul.
    #[arg(long, value_name = "PREFIX")]
    pub pointer_prefix: Option<String>,
    /// The public key of conf-master, as a .pub or an allowed_signers file.
    #[arg(long, value_name = "FILE")]
    pub trusted_key: PathBuf,
    /// A file with the token for the central server. It is read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// TLS with the servers that this program asks.
    #[command(flatten)]
    pub servers: ClientFlags,
    /// Where to write who was not let in, one JSON object a line: a file, or '-' for standard
    /// output. Without it, audit.jsonl in the folder of the mirror.
    #[arg(long, value_name = "FILE|-")]
    pub audit_log: Option<AuditTarget>,
    /// The most MiB of one answer of a central server: the history of everything must fit.
    #[arg(long, value_name = "MIB", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub most_fetched: u32,
    /// The most hosts that listen to this program at once; half of them of one address. Others get
    /// 503 and go to another one. Without it, half of the connections that it may hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub most_streams: Option<u32>,
    /// The most fetches that this program has Git answer at once. Others wait, for 10 s at most,
    /// and get 503.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub most_fetches: u32,
    /// The seconds of silence of conf-master after which this program is stale, and says so: it
    /// states every minute what is newest.
    #[arg(long, value_name = "SECONDS", default_value_t = Freshness::default().limit().as_secs(), value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub stale_after: u64,
    /// The options of every daemon.
    #[command(flatten)]
    pub common: Common,
}

/// Reads the URL of `--advertise`, which cannot have a path or a login: the catalog has no place
/// for them.
fn advertised(text: &str) -> Result<BaseUrl, String> {
    let base: BaseUrl = text.parse().map_err(|error| format!("{error}"))?;
    let is_plain = base.url().path() == "/" && !text.contains('@');
    if is_plain { Ok(base) } else { Err("write http://HOST:PORT or https://HOST:PORT alone".to_owned()) }
}

/// The Consul that gets the pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConsulChoice {
    /// The stand-in within this program.
    Embedded,
    /// One Consul, at these addresses.
    Addresses(Vec<GivenAddress>),
}

impl ConsulChoice {
    /// The addresses as they were given.
    pub(crate) fn addresses(&self) -> Vec<String> {
        match self {
            ConsulChoice::Embedded => Vec::new(),
            ConsulChoice::Addresses(addresses) => addresses.iter().map(|one| one.reveal().to_owned()).collect(),
        }
    }
}

impl RunOptions {
    /// Reads `--consul`, or else Consul's usual variables. An error names the right usage.
    pub(crate) fn consul_choice(&self, variable: impl Fn(&str) -> Option<String>) -> Result<ConsulChoice, String> {
        let embedded = self.consul.iter().any(|given| given.reveal() == "embedded");
        match self.consul.as_slice() {
            [] => {
                let Ok(whole) = named_or_usual_address(variable).parse();
                Ok(ConsulChoice::Addresses(vec![whole]))
            }
            [_] if embedded => Ok(ConsulChoice::Embedded),
            _ if embedded => Err("--consul is either 'embedded' or the addresses of a Consul, not both".to_owned()),
            given => Ok(ConsulChoice::Addresses(given.to_vec())),
        }
    }
}
