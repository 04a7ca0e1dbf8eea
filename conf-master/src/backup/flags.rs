//! The flags of `backup` and `restore`.

use std::path::PathBuf;

use conf_core::address::BaseUrl;
use conf_core::secret::HostKey;
use libconf::name::Sequence;

use crate::backup::copy::CopyPlace;
use crate::proof::ProofFlags;

const EXAMPLE: &str = "\
Examples:
  age-keygen -o backup.key                                    # once; keep it elsewhere
  conf-master backup --repo /srv/conf.git --to /mnt/copy.git --recipient age1…
  conf-master backup --repo /srv/conf.git --to git@example.com:conf-copy.git --recipient age1…
  conf-master backup verify --from /mnt/copy.git --identity backup.key

Run it as often as you like, while conf-master serves: it sends what is new.";

/// Flags of `backup`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLE)]
pub(crate) struct BackupFlags {
    /// What to do besides
    #[command(subcommand)]
    pub(crate) act: Option<BackupCommand>,
    /// The repository, as root or as its user
    #[arg(long, value_name = "DIR", required = true, hide_env = true)]
    pub(crate) repo: Option<PathBuf>,
    /// Where the copy is: a folder, which is made, or the URL of an empty repository of Git
    #[arg(long, value_name = "DIR|URL", required = true, hide_env = true)]
    pub(crate) to: Option<CopyPlace>,
    /// Seal the keys to this public key: age1… or ssh-ed25519 …; repeat for more
    #[arg(long = "recipient", value_name = "KEY", hide_env = true)]
    pub(crate) recipients: Vec<HostKey>,
    /// Leave the keys out: keep DIR.key and DIR.identity yourself, or no host follows a server that
    /// is restored
    #[arg(long, conflicts_with = "recipients", hide_env = true)]
    pub(crate) without_keys: bool,
    /// Print JSON
    #[arg(long, hide_env = true)]
    pub(crate) json: bool,
}

/// What there is to do with a copy.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BackupCommand {
    /// Fetch a copy into a folder that is removed again, and look whether it is whole: objects,
    /// ledger, signatures, keys
    Verify(VerifyFlags),
}

/// Flags of `backup verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyFlags {
    /// The copy
    #[arg(long, value_name = "DIR|URL", hide_env = true)]
    pub(crate) from: CopyPlace,
    /// The private key of a --recipient: look whether the keys can be opened
    #[arg(long, value_name = "FILE", hide_env = true)]
    pub(crate) identity: Option<PathBuf>,
    /// The public key that hosts trust; without it the one in the copy
    #[arg(long, value_name = "FILE", hide_env = true)]
    pub(crate) trusted_key: Option<PathBuf>,
    /// Print JSON
    #[arg(long, hide_env = true)]
    pub(crate) json: bool,
}

const RESTORE_EXAMPLE: &str = "\
Examples:
  conf-master restore --from /mnt/copy.git --repo /srv/conf.git --identity backup.key \\
      --slave https://cache-1:7401 --slave https://cache-2:7401 --token-file admin.token
  conf-master restore --from /mnt/copy.git --repo /srv/conf.git --identity backup.key --above 4711

Then: conf-master serve --repo /srv/conf.git";

/// Flags of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = RESTORE_EXAMPLE)]
pub(crate) struct RestoreFlags {
    /// The copy that `backup` made
    #[arg(long, value_name = "DIR|URL", hide_env = true)]
    pub(crate) from: CopyPlace,
    /// The folder to make; the keys and the new administrator's token get their places beside it
    #[arg(long, value_name = "DIR", hide_env = true)]
    pub(crate) repo: PathBuf,
    /// Go back to this change of the copy, and not to its newest one
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "slaves", hide_env = true)]
    pub(crate) at: Option<Sequence>,
    /// The private key of a --recipient of the copy, which opens its keys
    #[arg(long, value_name = "FILE", required_unless_present = "key", hide_env = true)]
    pub(crate) identity: Option<PathBuf>,
    /// The signing key, for a copy without keys
    #[arg(long, value_name = "FILE", conflicts_with = "identity", hide_env = true)]
    pub(crate) key: Option<PathBuf>,
    /// conf-master's own key for secrets, DIR.identity of the server that was lost, for a copy
    /// without keys; without it values that conf-master made are made anew
    #[arg(long, value_name = "FILE", requires = "key", hide_env = true)]
    pub(crate) secrets_key: Option<PathBuf>,
    /// A conf-slave: changes that are newer than the copy come back from it; repeat for more, at
    /// least one of each datacenter
    #[arg(long = "slave", value_name = "URL", hide_env = true)]
    pub(crate) slaves: Vec<BaseUrl>,
    /// The highest number of a change that anybody has seen: in the log of the server that was
    /// lost, in `conf-local status`; needed where no conf-slave is named
    #[arg(long, value_name = "SEQUENCE", hide_env = true)]
    pub(crate) above: Option<Sequence>,
    /// How to prove to conf-slaves who asks
    #[command(flatten)]
    pub(crate) proof: ProofFlags,
    /// Print JSON
    #[arg(long, hide_env = true)]
    pub(crate) json: bool,
}
