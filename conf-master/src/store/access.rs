//! `refs/conf/access`: the hashes of all tokens, as `tokens.json`.

use anyhow::Context as _;
use conf_core::access::AccessTable;
use conf_core::git::ObjectStore;
use git2::Repository;
use libconf::name::{CommitId, RefName};

use crate::store::commit;
use crate::store::refs::{RefTarget, Table};

/// The file in the commit's tree.
const FILE: &str = "tokens.json";

/// Reads the tokens of a table of refs; a repository of an older conf-master has none.
///
/// What cannot be read is an error: without its tokens the server would let nobody in, and lose all
/// of them with the next change.
pub(crate) fn read(repo: &Repository, table: &Table) -> anyhow::Result<AccessTable> {
    let Some(target) = table.target(&RefName::Access) else { return Ok(AccessTable::default()) };
    let cannot = || format!("{} cannot be read", RefName::Access);
    let tree = repo.find_commit(target.commit.into()).and_then(|tip| tip.tree()).with_context(cannot)?;
    let entry = tree.get_name(FILE).with_context(cannot)?;
    let blob = repo.find_blob(entry.id()).with_context(cannot)?;
    AccessTable::parse(blob.content()).with_context(cannot)
}

/// Writes the next commit; moves no ref.
pub(crate) fn write(
    store: &impl ObjectStore,
    parent: Option<CommitId>,
    table: &AccessTable,
    time: i64,
) -> anyhow::Result<RefTarget> {
    let blob = store.repo().blob(&table.to_json()?)?;
    store.keep(blob);
    let mut tree = store.repo().treebuilder(None)?;
    tree.insert(FILE, blob, 0o100_644)?;
    let tree = tree.write()?;
    store.keep(tree);
    let commit = commit::write(store, tree, parent, time, "Tokens\n")?;
    Ok(RefTarget { value: commit, commit })
}
