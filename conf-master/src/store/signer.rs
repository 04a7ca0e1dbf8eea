//! Whether the signing key is the one that hosts trust.

use std::path::Path;

use anyhow::{Context as _, bail};
use conf_core::sign::{SigningKey, TrustedKeys, public_path};
use conf_core::snapshot::{Snapshot, SnapshotError};
use git2::Repository;
use libconf::name::RefName;

use crate::store::refs::Table;

/// Holds the key at `path` against the public keys beside it, and these against the newest
/// snapshot. Hosts would take nothing that another key signs.
///
/// While keys are changed, the file of public keys has a line for the new key and one for the old.
pub(crate) fn check(repo: &Repository, table: &Table, key: &SigningKey, path: &Path) -> anyhow::Result<()> {
    check_with(repo, newest(repo, table).as_ref(), key, path)
}

/// Like [`check`], for a known newest snapshot.
pub(crate) fn check_with(
    repo: &Repository,
    newest: Option<&Snapshot>,
    key: &SigningKey,
    path: &Path,
) -> anyhow::Result<()> {
    let public = public_path(path);
    let (shown, beside) = (path.display(), public.display());
    let keys = if public.exists() { TrustedKeys::load(&public)? } else { TrustedKeys::of(key) };
    if !keys.trusts(key) {
        bail!(
            "the key {shown} is not the one of {beside}, which hosts trust: they would take nothing that it signs. Put the \
             right key back. If you mean to change keys, add this line to {beside}, keep the old line there, and copy the file \
             to every conf-slave and host first:\n  {}",
            key.public_line()
        );
    }
    let Some(newest) = newest else { return Ok(()) };
    match Snapshot::verify(repo, newest.commit, &keys, &newest.datacenter) {
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
