//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use libconf::{
    name::{DatacenterName, RefName},
    tier::flags::Common,
};

use crate::client;

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
    /// Say whether datacenters resolve, on any clone and without a server; for the CI of a change not pushed yet
    Check(Check),
    /// Show a datacenter's deployments, or what was refused, newest first
    Log(client::log::Flags),
    /// Show what a section says: a component's settings, a datacenter.yaml or a layer, now or in an earlier version
    Show(client::show::Flags),
    /// Replace what a section says, if it still is at the version that the change was made from
    Update(client::update::Flags),
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
    /// What every daemon takes
    #[command(flatten)]
    pub common: Common,
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
