//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use conf_core::{daemon::flags::Common, git, settings};
use libconf::name::{DatacenterName, RefName};

use crate::{
    cli::client,
    import,
    judge::validate::{Limits, MaxShrink},
    secrets::SecretsFor,
};

/// The central Git server of a configuration: lands what is pushed, composes and signs each datacenter's snapshot.
#[derive(Debug, Parser)]
#[command(name = "conf-master", version, arg_required_else_help = true, after_help = EXAMPLE)]
pub struct Flags {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLE: &str = "\
A first try:
  conf-master init  --repo /srv/conf.git
  conf-master serve --repo /srv/conf.git
  git clone http://127.0.0.1:7400/conf.git      # its README shows the layout

Exit codes: 0 done, 1 refused or not reached, 2 wrong usage.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a central repository and its signing key, and print the public key that every other tier is given
    Init(Init),
    /// Serve the repository: Git at /conf.git, the API at /api/v1
    Serve(Serve),
    /// Say whether datacenters could land, on any clone and without a server; for the CI of a change not pushed yet
    Check(Check),
    /// Read folders of configuration, propose components, a class and a datacenter, and write branches for review
    Import(import::Flags),
    /// Show a datacenter's deployments, or what was refused, newest first
    Log(client::log::Flags),
    /// Show what a section says: a component's settings, a datacenter.yaml or a layer, now or in an earlier version
    Show(client::show::Flags),
    /// Replace what a section says, if it still is at the version that the change was made from
    Update(client::update::Flags),
    /// Wait until the hosts of datacenters run a change, and say which do not when time is up
    Wait(client::wait::Flags),
    /// Show what a change would do to a datacenter: components, hosts, and the difference in files and settings
    Plan(client::plan::Flags),
    /// Show who set each key of a component's settings on a host: every layer, with its file, commit, author and date
    Explain(client::explain::Flags),
    /// Print what a component's config.schema.json says of its settings, as Markdown
    Doc(client::doc::Flags),
    /// Show a datacenter's secrets, never their values; give a value, make a new one, remove one
    Secret(client::secret::Flags),
    /// What Git runs in the repository when somebody pushes
    #[command(hide = true)]
    Hook {
        /// Which hook
        name: String,
    },
}

/// Flags of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The folder to make; the key is made beside it, as DIR.key
    #[arg(long, value_name = "DIR")]
    pub repo: PathBuf,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The repository that `conf-master init` made
    #[arg(long, value_name = "DIR")]
    pub repo: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,
    /// At the start, issue certificates anew that would be due within so many days; those that are due are issued anew anyway
    #[arg(long, value_name = "DAYS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub renew_ahead: u32,
    /// Give values to the secrets of datacenters of this id from the environment: from PREFIX and the secret's name in upper
    /// case; once for each id. Without PREFIX, from `CONF_SECRET_` and the name
    #[arg(long, value_name = "ID[=PREFIX]")]
    pub secrets_for: Vec<SecretsFor>,
    /// How long after the start hosts may be heard of for the first time: no wait for the hosts of a datacenter that lists none ends
    /// before. Hosts report about once a minute
    #[arg(long, value_name = "SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub hosts_within: u64,
    /// What may not be passed
    #[command(flatten)]
    pub limits: LimitFlags,
    /// What every daemon takes
    #[command(flatten)]
    pub common: Common,
}

/// The defaults are what hosts take at most, so a cap can be lowered and not raised.
const TREE: git::TreeLimits = git::TreeLimits::most();

/// Caps of what may land.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Limits of what may land (they can be lowered, not raised: hosts take no more)")]
pub struct LimitFlags {
    /// Bytes of one file
    #[arg(long, value_name = "N", default_value_t = TREE.file_bytes as u64, value_parser = most(TREE.file_bytes))]
    pub max_file_bytes: u64,
    /// Files and folders of one branch
    #[arg(long, value_name = "N", default_value_t = TREE.entries as u64, value_parser = most(TREE.entries))]
    pub max_files: u64,
    /// Bytes of all files of one branch together
    #[arg(long, value_name = "N", default_value_t = TREE.total_bytes as u64, value_parser = most(TREE.total_bytes))]
    pub max_total_bytes: u64,
    /// Folders within folders
    #[arg(long, value_name = "N", default_value_t = TREE.depth as u64, value_parser = most(TREE.depth))]
    pub max_folder_levels: u64,
    /// Levels of lists and objects in settings
    #[arg(long, value_name = "N", default_value_t = settings::MAX_DEPTH as u64, value_parser = most(settings::MAX_DEPTH))]
    pub max_settings_levels: u64,
    /// How much of a datacenter's components, or of a component's keys, a change may remove; 100 is all of them
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_shrink: u8,
}

fn most(most: usize) -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=most as u64)
}

impl LimitFlags {
    /// As the validator takes them.
    pub fn limits(&self) -> Limits {
        // None of them is above what was a number of this type before.
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let tree = git::TreeLimits {
            entries: number(self.max_files),
            file_bytes: number(self.max_file_bytes),
            total_bytes: number(self.max_total_bytes),
            depth: number(self.max_folder_levels),
        };
        Limits { tree, levels: number(self.max_settings_levels), shrink: MaxShrink(self.max_shrink) }
    }
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// A clone of the central repository, bare or not
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub repo: PathBuf,
    /// Suppose that REF were at COMMIT (anything `git rev-parse` knows); once for each
    #[arg(long = "ref", value_name = "REF=COMMIT")]
    pub refs: Vec<Supposed>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// What may not be passed
    #[command(flatten)]
    pub limits: LimitFlags,
    /// The datacenters to check; all when none is named
    #[arg(value_name = "ID/VERSION")]
    pub datacenters: Vec<DatacenterName>,
}

/// A ref that is supposed to be elsewhere.
#[derive(Clone, Debug)]
pub struct Supposed {
    /// Which ref.
    pub name: RefName,
    /// Where it would be, as `git rev-parse` takes it.
    pub commit: String,
}

impl std::str::FromStr for Supposed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, commit) = text.split_once('=').ok_or("write REF=COMMIT, as in services/web/master=HEAD")?;
        let full = if name.starts_with("refs/") { name.to_owned() } else { format!("refs/heads/{name}") };
        let name = full.parse().map_err(|error: libconf::name::BadName| error.to_string())?;
        Ok(Supposed { name, commit: commit.to_owned() })
    }
}
