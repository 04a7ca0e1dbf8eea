//! `refs/heads/secrets/<id>`: a folder for each secret. Only conf-master writes it, and nobody else
//! needs to read it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use conf_core::git::ObjectStore;
use conf_core::secret::{ABOUT_FILE, About, VALUE_FILE};
use git2::Repository;
use libconf::name::{CommitId, ObjectId, SecretName, Sequence};

use crate::store::commit;

const TREE: i32 = 0o040_000;
const BLOB: i32 = 0o100_644;

/// The edits of the branch: a sealed value with its public description, or a removal.
pub(crate) type Edits = BTreeMap<SecretName, Option<(Vec<u8>, About)>>;

/// Reads the public description of each sealed secret.
pub(crate) fn abouts(repo: &Repository, tree: Option<ObjectId>) -> anyhow::Result<BTreeMap<SecretName, About>> {
    let Some(id) = tree else { return Ok(BTreeMap::new()) };
    let folder = repo.find_tree(id.into())?;
    let names = folder.iter().filter_map(|entry| entry.name().ok()?.parse::<SecretName>().ok());
    names.map(|name| about(repo, tree, &name).map(|about| (name, about))).collect()
}

/// Reads the public description of one sealed secret.
pub(crate) fn about(repo: &Repository, tree: Option<ObjectId>, name: &SecretName) -> anyhow::Result<About> {
    let bytes = file(repo, tree, name, ABOUT_FILE)?;
    serde_json::from_slice(&bytes).with_context(|| format!("{name}/{ABOUT_FILE} cannot be read"))
}

/// Reads one sealed value.
pub(crate) fn sealed(repo: &Repository, tree: Option<ObjectId>, name: &SecretName) -> anyhow::Result<Vec<u8>> {
    file(repo, tree, name, VALUE_FILE)
}

fn file(repo: &Repository, tree: Option<ObjectId>, name: &SecretName, file: &str) -> anyhow::Result<Vec<u8>> {
    let missing = || format!("there is no {name}/{file}");
    let tree = repo.find_tree(tree.with_context(missing)?.into())?;
    let entry = tree.get_path(format!("{name}/{file}").as_ref()).with_context(missing)?;
    Ok(repo.find_blob(entry.id())?.content().to_owned())
}

/// Writes the branch's next commit; returns the commit and its tree. Moves no ref.
pub(crate) fn write(
    store: &impl ObjectStore,
    parent: Option<CommitId>,
    base: Option<ObjectId>,
    edits: &Edits,
    words: &str,
    (sequence, time): (Sequence, i64),
) -> anyhow::Result<(CommitId, ObjectId)> {
    let repo = store.repo();
    let base = base.map(|base| repo.find_tree(base.into())).transpose()?;
    let mut tree = repo.treebuilder(base.as_ref())?;
    for (name, edit) in edits {
        let Some((sealed, about)) = edit else {
            if tree.get(name.as_str())?.is_some() {
                tree.remove(name.as_str())?;
            }
            continue;
        };
        let mut folder = repo.treebuilder(None)?;
        let about = format!("{}\n", serde_json::to_string_pretty(about)?);
        for (file, content) in [(ABOUT_FILE, about.as_bytes()), (VALUE_FILE, sealed)] {
            let blob = repo.blob(content)?;
            store.keep(blob);
            folder.insert(file, blob, BLOB)?;
        }
        let folder = folder.write()?;
        store.keep(folder);
        tree.insert(name.as_str(), folder, TREE)?;
    }
    let tree = tree.write()?;
    store.keep(tree);
    let message = format!("{words}\n\nConf-Sequence: {sequence}\n");
    Ok((commit::write(store, tree, parent, time, &message)?, tree.into()))
}
