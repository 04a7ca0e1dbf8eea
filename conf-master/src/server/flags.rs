//! The flags of `conf-master serve`, and the limits that `check` takes too.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use conf_core::{
    address::{BaseUrl, GivenAddress, listen_address},
    audit::AuditTarget,
    daemon::flags::Common,
    git, settings,
    tls::ClientFlags,
};
use libconf::name::HostName;

use crate::election::LeaderKey;
use crate::judge::{ChangeLimits, MaxShrink};
use crate::secrets::SecretsFor;

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeFlags {
    /// The repository that `conf-master init` made
    #[arg(long, value_name = "DIR")]
    pub(crate) repo: PathBuf,
    /// The address to listen on; port 0 takes a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400", value_parser = listen_address)]
    pub(crate) listen: SocketAddr,
    /// Let everybody do everything without a token: for a trial on one machine
    #[arg(long)]
    pub(crate) open: bool,
    /// Take tokens over a network without TLS, where whoever is on the way can read them; goes with
    /// --insecure
    #[arg(long)]
    pub(crate) tokens_in_clear: bool,
    /// The user of this machine whom sshd runs `conf-master receive` as, if that is neither root
    /// nor the user of this server: from no other account `--as` counts
    #[arg(long, value_name = "USER")]
    pub(crate) ssh_user: Option<String>,
    /// Where to write who asked for what and what became of it, one JSON object a line: a file, or
    /// `-` for standard output. Without it, audit.jsonl in the repository
    #[arg(long, value_name = "FILE|-")]
    pub(crate) audit_log: Option<AuditTarget>,
    /// At the start, also renew certificates that will be due within this many days; certificates
    /// that are due are always renewed
    #[arg(long, value_name = "DAYS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub(crate) renew_ahead: u32,
    /// Give values to the secrets of this id's datacenters from the environment: the variable is
    /// PREFIX and the secret's name in upper case; repeat for more ids. Without PREFIX, it is
    /// `CONF_SECRET_` and the name
    #[arg(long, value_name = "ID[=PREFIX]")]
    pub(crate) secrets_for: Vec<SecretsFor>,
    /// How long after the start hosts may report for the first time: until then no wait for the
    /// hosts of a datacenter without an inventory ends. Hosts report about once a minute
    #[arg(long, value_name = "SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) hosts_within: u64,
    /// The time between two looks for objects that did not land, such as those of a refused push:
    /// what two looks find is removed
    #[arg(long, value_name = "SECONDS", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) prune_every: u64,
    /// The time between two freshness statements about a datacenter, by which conf-slaves and hosts
    /// notice that changes are withheld: keep it well below their `--stale-after`
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) freshness_every: u64,
    /// Standbys of this conf-master, and whom it follows itself
    #[command(flatten)]
    pub(crate) standby: StandbyFlags,
    /// The limits of what may land
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    /// The flags of every daemon
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of standbys, and of who has some.
#[derive(Debug, Args)]
#[command(next_help_heading = "Standbys")]
pub(crate) struct StandbyFlags {
    /// Be a standby of the conf-master at this URL: take what lands there, and land nothing, until
    /// `conf-master promote`. `conf-master init --follow` makes the repository
    #[arg(long, value_name = "URL")]
    pub(crate) follow: Option<BaseUrl>,
    /// The name of this conf-master among those with the same history. Without it, the name of this
    /// machine
    #[arg(long, value_name = "NAME")]
    pub(crate) standby_name: Option<HostName>,
    /// A file with the token of an administrator, for the leader. It is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Answer a change, and tell conf-slaves of it, when so many standbys have it on their disks.
    /// After its start this conf-master lands nothing before so many are in sync
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=16))]
    pub(crate) sync: u8,
    /// Have the conf-masters with this flag elect who leads, by a lock in Consul; needs --sync. The
    /// others follow, and one of those in sync takes over when the leader is lost
    #[arg(long, value_name = "consul:KEY", conflicts_with = "follow", requires = "sync")]
    pub(crate) leader: Option<LeaderKey>,
    /// The URL at which other conf-masters reach this one; without it, the address of --listen
    #[arg(long, value_name = "URL", requires = "leader")]
    pub(crate) advertise: Option<BaseUrl>,
    /// The agent of Consul on this machine, for --leader; several are tried in order. Without it:
    /// `CONSUL_HTTP_ADDR`, or else 127.0.0.1:8500
    #[arg(long, value_name = "URL", requires = "leader")]
    pub(crate) consul: Vec<GivenAddress>,
    /// The seconds without a word of the leader to Consul after which another one takes over
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=60))]
    pub(crate) leader_ttl: u8,
    /// Let changes wait while fewer standbys are in sync. Without it, a standby that falls behind
    /// leaves those in sync after two seconds, and changes land without it
    #[arg(long, requires = "sync")]
    pub(crate) sync_strict: bool,
    /// TLS with the leader
    #[command(flatten)]
    pub(crate) tls: ClientFlags,
}

/// The defaults are the limits of the hosts, so a limit can be lowered and not raised.
const TREE: git::TreeLimits = git::TreeLimits::most();

/// Limits of what may land.
#[derive(Clone, Copy, Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the flags have these names")]
#[command(next_help_heading = "Limits of what may land (they can be lowered, not raised: hosts take no more)")]
pub(crate) struct LimitFlags {
    /// Bytes of one file
    #[arg(long, value_name = "N", default_value_t = TREE.file_bytes, value_parser = most(TREE.file_bytes))]
    pub(crate) max_file_bytes: usize,
    /// Files and folders of one branch
    #[arg(long, value_name = "N", default_value_t = TREE.entries, value_parser = most(TREE.entries))]
    pub(crate) max_files: usize,
    /// Bytes of all files of one branch together
    #[arg(long, value_name = "N", default_value_t = TREE.total_bytes, value_parser = most(TREE.total_bytes))]
    pub(crate) max_total_bytes: usize,
    /// Folders within folders
    #[arg(long, value_name = "N", default_value_t = TREE.depth, value_parser = most(TREE.depth))]
    pub(crate) max_folder_levels: usize,
    /// Levels of lists and objects in settings
    #[arg(long, value_name = "N", default_value_t = settings::MAX_DEPTH, value_parser = most(settings::MAX_DEPTH))]
    pub(crate) max_settings_levels: usize,
    /// The share of a datacenter's components, or of a component's keys, that one change may
    /// remove; 100 is all of them
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) max_shrink: u8,
}

/// Parses a number from 1 to `most`.
fn most(most: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most as u64)
}

impl LimitFlags {
    /// Returns them as the judge takes them.
    pub(crate) fn limits(&self) -> ChangeLimits {
        let tree = git::TreeLimits {
            entries: self.max_files,
            file_bytes: self.max_file_bytes,
            total_bytes: self.max_total_bytes,
            depth: self.max_folder_levels,
            ..git::TreeLimits::landing()
        };
        ChangeLimits { tree, levels: self.max_settings_levels, shrink: MaxShrink(self.max_shrink) }
    }
}
