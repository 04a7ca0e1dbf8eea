//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::backup::{BackupFlags, RestoreFlags};
use crate::cli::check::CheckFlags;
use crate::cli::client::credential::CredentialFlags;
use crate::cli::client::doc::DocFlags;
use crate::cli::client::explain::ExplainFlags;
use crate::cli::client::key::KeyFlags;
use crate::cli::client::log::LogFlags;
use crate::cli::client::plan::PlanFlags;
use crate::cli::client::policy::PolicyFlags;
use crate::cli::client::promote::PromoteFlags;
use crate::cli::client::secret::SecretFlags;
use crate::cli::client::show::ShowFlags;
use crate::cli::client::token::TokenFlags;
use crate::cli::client::update::UpdateFlags;
use crate::cli::client::wait::WaitFlags;
use crate::cli::client::whereabouts::WhereFlags;
use crate::hooks::forced::ReceiveFlags;
use crate::import::ImportFlags;
use crate::server::ServeFlags;
use crate::standby::FollowFlags;

/// The central Git server of a configuration: lands every push, composes and signs each
/// datacenter's snapshot.
#[derive(Debug, Parser)]
#[command(name = "conf-master", version, arg_required_else_help = true, after_help = EXAMPLE)]
pub(crate) struct MasterFlags {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLE: &str = "\
A first try:
  conf-master init  --repo /srv/conf.git
  conf-master serve --repo /srv/conf.git
  git config --global credential.http://127.0.0.1:7400.helper \
    '!conf-master credential --token-file /srv/conf.git.token'
  git clone http://127.0.0.1:7400/conf.git      # its README shows the layout

Exit codes: 0 done, 1 refused or not reached, 2 wrong usage.";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a central repository and its signing key, and print the public key that every other
    /// tier is given
    Init(InitFlags),
    /// Serve the repository: Git at /conf.git, the API at /api/v1
    Serve(Box<ServeFlags>),
    /// Copy the repository and its keys, sealed, to another place: a folder, or any server of Git
    Backup(BackupFlags),
    /// Make a server's repository of a copy. Its history goes on above every number that was seen,
    /// so that conf-slaves and hosts follow by themselves
    Restore(RestoreFlags),
    /// Have a standby lead, in the place of a conf-master that is lost
    Promote(PromoteFlags),
    /// Check whether datacenters could land, on any clone and without a server; for the CI of a
    /// change that is not pushed yet
    Check(CheckFlags),
    /// Read folders of configuration, propose components, a class and a datacenter, and write
    /// branches for review
    Import(ImportFlags),
    /// Show a datacenter's deployments or the refused requests, newest first
    Log(LogFlags),
    /// Show the content of a section: a component's settings, a datacenter.yaml or a layer, now or
    /// in an earlier version
    Show(ShowFlags),
    /// Replace the content of a section, if it is still at the version that the change was made
    /// from
    Update(UpdateFlags),
    /// Wait until the hosts of datacenters run a change, and list the hosts that do not when time
    /// is up
    Wait(WaitFlags),
    /// Show what a change would do to a datacenter: components, hosts, and the difference in files
    /// and settings
    Plan(PlanFlags),
    /// Show who set each key of a component's settings on a host: every layer, with its file,
    /// commit, author and date
    Explain(ExplainFlags),
    /// Print the settings that a component's config.schema.json describes, as Markdown
    Doc(DocFlags),
    /// Show which branches, snapshots, conf-slaves and hosts hold a commit or a file: for content
    /// that leaked
    Where(WhereFlags),
    /// Show a datacenter's secrets, never their values; set a value, make a new one, remove one
    Secret(SecretFlags),
    /// Hold a policy against what landed, or show what somebody may do
    Policy(PolicyFlags),
    /// Show who has a token; make one, replace one, end one
    Token(TokenFlags),
    /// Show the keys that sign for hosts; make another one, revoke one
    Key(KeyFlags),
    /// Give the token in a file to Git: Git's credential.helper
    Credential(CredentialFlags),
    /// Take a push or a fetch over SSH: the command of a key in the file `authorized_keys`
    Receive(ReceiveFlags),
    /// Run as a hook of Git, which Git does in the repository on a push
    #[command(hide = true)]
    Hook {
        /// The hook
        name: String,
    },
}

/// Flags of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitFlags {
    /// The folder to make; the key becomes DIR.key beside it
    #[arg(long, value_name = "DIR")]
    pub(crate) repo: PathBuf,
    /// For a standby
    #[command(flatten)]
    pub(crate) standby: FollowFlags,
}
