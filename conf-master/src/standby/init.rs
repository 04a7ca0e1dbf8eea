//! `conf-master init --follow`: makes a standby of a server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use conf_core::address::BaseUrl;
use conf_core::git;
use conf_core::sign::TrustedKeys;
use conf_core::terminal::note;
use git2::Repository;

use crate::backup::copy;
use crate::proof::ProofFlags;
use crate::standby::call::{PATH, StandbyAnswer};
use crate::standby::follow::get;
use crate::standby::keys_file;
use crate::store::{self, LedgerState, ledger};

/// What `init` needs for a standby.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "A standby of another conf-master")]
pub(crate) struct FollowFlags {
    /// Make a standby of the conf-master at this URL, with all that landed there
    #[arg(long, value_name = "URL", requires = "keys")]
    pub(crate) follow: Option<BaseUrl>,
    /// The keys of that conf-master, as `conf-master key export` has sealed them
    #[arg(long, value_name = "FILE", requires = "identity", requires = "follow")]
    keys: Option<PathBuf>,
    /// The private key that opens them
    #[arg(long, value_name = "FILE", requires = "keys")]
    identity: Option<PathBuf>,
    /// How to prove to it who asks: its administrators may
    #[command(flatten)]
    proof: ProofFlags,
}

/// Makes the repository of a standby, and says how to go on.
pub(crate) async fn init(repo: &Path, leader: &BaseUrl, flags: &FollowFlags) -> anyhow::Result<()> {
    git::check_version()?;
    let (Some(keys), Some(identity)) = (&flags.keys, &flags.identity) else {
        bail!("name the keys of {leader} with --keys, and what opens them with --identity");
    };
    let servers = flags.proof.connect(leader)?;
    let server = servers.in_order().into_iter().next().context("it has no address")?;
    let newest: StandbyAnswer = server.get_json(PATH).await.with_context(|| format!("{leader} tells nothing"))?;
    if let Some(other) = newest.leader {
        bail!("{leader} is a standby itself; name its leader, {other}");
    }
    let (made, _lock) = store::begin_restore(repo)?;
    let path = repo.canonicalize()?;
    let key = keys_file::put(keys, identity, &path)?;
    note(format_args!("conf-master: fetching all that landed up to #{}", newest.sequence));
    get(&server, &path, None, newest.ledger).await?;
    drop(made);
    let made = Repository::open_bare(&path)?;
    let state: LedgerState = ledger::replay(&made, newest.ledger)?;
    let trusted = TrustedKeys::of(&key);
    trusted.follow(&store::keys::read(&made, &state.table)?)?;
    copy::signed(&made, &state.table, &trusted).context("these are not the keys of that conf-master")?;
    store::prepare(&path)?;
    store::begin_standby(&path)?;
    store::move_ledger(&made, None, newest.ledger)?;
    store::end_restore(&path)?;
    note(format_args!("made {}, a standby of {leader}, at #{}", repo.display(), newest.sequence));
    note(format_args!("next: conf-master serve --repo {} --follow {leader}", repo.display()));
    Ok(())
}
