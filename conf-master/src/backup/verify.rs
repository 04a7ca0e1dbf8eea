//! `conf-master backup verify`: restores a copy into a folder that is removed again, and reads all
//! of it.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use conf_core::git;
use conf_core::secret::Identity;
use conf_core::sign::{SigningKey, TrustedKeys};
use conf_core::terminal::{note, print};
use git2::Repository;
use libconf::name::CommitId;
use serde_json::json;

use crate::backup::copy::{self, KEYS, copied};
use crate::backup::flags::VerifyFlags;
use crate::backup::sealed_keys;
use crate::store::{self, LedgerEntry, LedgerState, ledger};
use crate::text::when;

/// Looks at everything, and says what a copy holds.
pub(crate) fn run(flags: &VerifyFlags) -> anyhow::Result<ExitCode> {
    let from = &flags.from;
    let folder = tempfile::tempdir().context("cannot make a folder for temporary files")?;
    let repo = git::init(folder.path(), &[("gc.auto", "0")])?;
    let newest = copy::fetch(&repo, from)?;
    let repo = Repository::open_bare(repo.path())?;
    let mut fsck = git::command(repo.path());
    fsck.args(["fsck", "--full", "--no-dangling", "--no-progress"]);
    copy::output(fsck).with_context(|| format!("{from} is damaged"))?;
    let LedgerState { table, sequence, .. } =
        ledger::replay(&repo, newest).with_context(|| format!("the ledger of {from} cannot be read"))?;
    let mut lost = table.places().filter_map(|(name, place)| Some((name, place.target?)));
    let lost = lost.find(|(_, target)| repo.find_commit(target.commit.into()).is_err());
    ensure!(
        lost.is_none(),
        "{from} lacks the commit of {}",
        lost.map(|(name, _)| name.to_string()).unwrap_or_default()
    );
    let keys: CommitId =
        repo.refname_to_id(&copied(KEYS)).context("the copy has no keys, not even the public one")?.into();
    let signed = signatures(flags, &repo, keys, &table)?;
    let about = sealed_keys::read_about(&repo, keys)?;
    let opened = flags.identity.as_deref().map(|identity| opens(&repo, keys, identity)).transpose()?;
    let time = LedgerEntry::read(&repo, newest)?.time;
    if flags.json {
        print(json!({
            "sequence": sequence, "commit": newest, "time": when(time), "datacenters": signed,
            "recipients": about.recipients, "opens": opened,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    note(format_args!(
        "conf-master: {from} is whole: everything up to #{sequence} of {}, with the signed snapshots of {signed} \
         datacenters",
        when(time)
    ));
    match (about.recipients.as_slice(), opened) {
        ([], _) => note("conf-master: it has no keys; a restore needs them by --key and --secrets-key"),
        (recipients, Some(_)) => {
            note(format_args!("conf-master: its keys open; they are sealed to {}", recipients.join(", ")));
        }
        (recipients, None) => note(format_args!(
            "conf-master: its keys are sealed to {}; with --identity this looks whether they open",
            recipients.join(", ")
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks the signature of the newest snapshot of each datacenter, which vouches for those before
/// it, and counts them.
fn signatures(flags: &VerifyFlags, repo: &Repository, keys: CommitId, table: &store::Table) -> anyhow::Result<usize> {
    let trusted = if let Some(file) = &flags.trusted_key {
        TrustedKeys::load(file)?
    } else {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("key.pub");
        std::fs::write(&file, sealed_keys::public(repo, keys)?)?;
        TrustedKeys::load(&file)?
    };
    trusted.follow(&store::keys::read(repo, table)?).context("the statements about keys do not lead to that key")?;
    copy::signed(repo, table, &trusted)
}

/// Looks whether an identity opens the keys, and these are what the copy says.
fn opens(repo: &Repository, keys: CommitId, identity: &std::path::Path) -> anyhow::Result<bool> {
    let opened = sealed_keys::open(repo, keys, &Identity::load(identity)?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("key");
    git::replace_file(&file, &opened.signing, 0o600, git::Durability::None)?;
    let line = SigningKey::load(&file)?.public_line();
    let said = String::from_utf8(sealed_keys::public(repo, keys)?)?;
    ensure!(line.trim() == said.trim(), "the signing key of the copy is not the one of its public line");
    Ok(true)
}
