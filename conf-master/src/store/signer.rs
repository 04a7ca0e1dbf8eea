//! The signing key beside the repository: whether it is the one that hosts trust, and how another
//! one takes its place.
//!
//! The new key is in `<repo>.key.next` until the change that makes it known has landed. Then it
//! becomes `<repo>.key`, and the one before it is in `<repo>.key.old`. A start finishes what a
//! crash cut short, since the ledger says which key signs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use conf_core::api::KeyStatement;
use conf_core::git::{self, Durability};
use conf_core::sign::{SigningKey, TrustedKeys, fingerprint_of_new, public_path};
use conf_core::snapshot::{Snapshot, SnapshotError};
use git2::Repository;
use libconf::name::RefName;
use zeroize::Zeroizing;

use crate::store::paths::{beside, key_path};
use crate::store::refs::Table;

/// Returns the path of a key that shall sign next.
pub(crate) fn next_path(repo: &Path) -> PathBuf {
    beside(&key_path(repo), ".next")
}

/// Reads the key that signs by the ledger's statements. Finishes or drops a change of keys that was
/// cut short.
pub(crate) fn load(repo: &Path, statements: &[KeyStatement]) -> anyhow::Result<SigningKey> {
    let next = next_path(repo);
    if next.exists() {
        let found = SigningKey::load(&next);
        let signs =
            |key: &SigningKey| statements.last().is_some_and(|last| fingerprint_of_new(last) == key.fingerprint());
        match found {
            Ok(key) if signs(&key) => {
                put_in_place(repo, &key)?;
                return Ok(key);
            }
            // It was made for a change that has not landed.
            Ok(_) => remove_next(repo)?,
            // Unless the other one signs, it may be the only one that does, and cannot be read now.
            Err(error) => {
                let own = SigningKey::load(&key_path(repo))?.fingerprint();
                if statements.last().is_some_and(|last| fingerprint_of_new(last) != own) {
                    return Err(error).with_context(|| format!("{} cannot be read", next.display()));
                }
                remove_next(repo)?;
            }
        }
    }
    Ok(SigningKey::load(&key_path(repo))?)
}

/// Makes the key that shall sign next. A key that waits for its place gets it first.
pub(crate) fn make_next(repo: &Path, statements: &[KeyStatement]) -> anyhow::Result<SigningKey> {
    load(repo, statements)?;
    remove_next(repo)?;
    Ok(SigningKey::generate(&next_path(repo), "conf-master")?)
}

/// Puts the next key in the place of the old one, which stays beside it.
fn put_in_place(repo: &Path, next: &SigningKey) -> anyhow::Result<()> {
    let (path, old) = (key_path(repo), beside(&key_path(repo), ".old"));
    let cannot = || format!("the new key cannot be put in the place of {}", path.display());
    let before = Zeroizing::new(fs::read(&path).with_context(cannot)?);
    git::replace_file(&old, &before, 0o600, Durability::Full).with_context(cannot)?;
    let line = format!("{}\n", next.public_line());
    git::replace_file(&public_path(&path), line.as_bytes(), 0o644, Durability::Full).with_context(cannot)?;
    fs::rename(next_path(repo), &path).with_context(cannot)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    git::sync_folder(folder).with_context(cannot)?;
    remove_next(repo)
}

fn remove_next(repo: &Path) -> anyhow::Result<()> {
    let next = next_path(repo);
    for path in [public_path(&next), next] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Holds the key at `path` against the statements about keys, the public keys beside it, and these
/// against the newest snapshot. Hosts would take nothing that another key signs.
///
/// While keys are changed by hand, the file of public keys has a line for the new key and one for
/// the old.
pub(crate) fn check(
    repo: &Repository,
    table: &Table,
    statements: &[KeyStatement],
    (key, path): (&SigningKey, &Path),
) -> anyhow::Result<()> {
    check_with(repo, newest(repo, table).as_ref(), statements, (key, path))
}

/// Like [`check`], for a known newest snapshot.
pub(crate) fn check_with(
    repo: &Repository,
    newest: Option<&Snapshot>,
    statements: &[KeyStatement],
    (key, path): (&SigningKey, &Path),
) -> anyhow::Result<()> {
    let public = public_path(path);
    let (shown, beside, own) = (path.display(), public.display(), key.fingerprint());
    let replaced = |one: &&KeyStatement| one.old == own && fingerprint_of_new(one) != own;
    if let Some(KeyStatement { from, new, .. }) = statements.iter().find(replaced) {
        bail!(
            "the key {shown} is an older one: change #{from} put another one in its place, and hosts take nothing new from \
             the older one. Put that key back whose public line is\n  {new}"
        );
    }
    if let Some(one) = statements.iter().find(|one| one.revokes.contains(&own)) {
        bail!("the key {shown} was revoked with change #{}; put the key back that signed last", one.from);
    }
    let keys = if public.exists() { TrustedKeys::load(&public)? } else { TrustedKeys::of(key) };
    if !keys.trusts(key) {
        bail!(
            "the key {shown} is not the one of {beside}, which hosts trust: they would take nothing that it signs. Put the \
             right key back. To change keys, use `conf-master key rotate`. If the old key is lost, add this line to {beside}, \
             keep the old line there, and copy the file to every conf-slave and host first:\n  {}",
            key.public_line()
        );
    }
    let Some(newest) = newest else { return Ok(()) };
    match Snapshot::verify(repo, newest.commit, &keys.and_all_of(statements), &newest.datacenter) {
        Err(SnapshotError::Untrusted { .. }) => bail!(
            "the newest snapshot (#{} of {}) is signed by another key than {shown}: hosts trust that one, and would take \
             nothing from this one. Put the key back that signed it. If that key is lost, write its public line into {beside} \
             beside the line of this key ({}), and copy the file to every conf-slave and host; a host has the old line in the \
             file of its --trusted-key",
            newest.sequence,
            newest.datacenter,
            key.public_line()
        ),
        other => other.map(drop).context("the newest snapshot cannot be verified"),
    }
}

/// Reads the newest of all datacenters' snapshots.
fn newest(repo: &Repository, table: &Table) -> Option<Snapshot> {
    let mut newest: Option<Snapshot> = None;
    for (name, target) in table.iter().filter(|(name, _)| matches!(name, RefName::Snapshot(_))) {
        let snapshot = match Snapshot::read(repo, target.commit) {
            // Another datacenter's snapshot tells as much.
            Err(error) => {
                tracing::warn!(%error, %name, "a snapshot cannot be read");
                continue;
            }
            Ok(snapshot) => snapshot,
        };
        if newest.as_ref().is_none_or(|newest| newest.sequence < snapshot.sequence) {
            newest = Some(snapshot);
        }
    }
    newest
}
