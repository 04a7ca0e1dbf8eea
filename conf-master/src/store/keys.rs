//! `refs/conf/keys`: the statements about the keys that sign, as `keys.json`.

use anyhow::{Context as _, bail};
use conf_core::api::KeyStatement;
use conf_core::git::ObjectStore;
use git2::Repository;
use libconf::name::{CommitId, RefName};
use serde::{Deserialize, Serialize};

use crate::store::commit;
use crate::store::refs::{RefTarget, Table};

/// The file in the commit's tree.
const FILE: &str = "keys.json";
/// The format that this program writes; it refuses to read a higher one.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    statements: Vec<KeyStatement>,
}

/// Reads the statements of a table of refs; there are none before the first change of keys.
///
/// What cannot be read is an error: the next statement would not follow from what readers have.
pub(crate) fn read(repo: &Repository, table: &Table) -> anyhow::Result<Vec<KeyStatement>> {
    let Some(target) = table.target(&RefName::Keys) else { return Ok(Vec::new()) };
    let cannot = || format!("{} cannot be read", RefName::Keys);
    let tree = repo.find_commit(target.commit.into()).and_then(|tip| tip.tree()).with_context(cannot)?;
    let entry = tree.get_name(FILE).with_context(cannot)?;
    let blob = repo.find_blob(entry.id()).with_context(cannot)?;
    let Document { format, statements } = serde_json::from_slice(blob.content()).with_context(cannot)?;
    if format > FORMAT {
        bail!("{} has format {format}; this program reads {FORMAT}", RefName::Keys);
    }
    Ok(statements)
}

/// Writes the next commit; moves no ref.
pub(crate) fn write(
    store: &impl ObjectStore,
    parent: Option<CommitId>,
    statements: &[KeyStatement],
    time: i64,
) -> anyhow::Result<RefTarget> {
    let document = Document { format: FORMAT, statements: statements.to_vec() };
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    let blob = store.repo().blob(&text)?;
    store.keep(blob);
    let mut tree = store.repo().treebuilder(None)?;
    tree.insert(FILE, blob, 0o100_644)?;
    let tree = tree.write()?;
    store.keep(tree);
    let commit = commit::write(store, tree, parent, time, "Keys\n")?;
    Ok(RefTarget { value: commit, commit })
}
