//! `refs/conf/access`: the hashes of all tokens, as `tokens.json`; where there are many, as a file
//! for each beginning of a hash in the folder `tokens`, so that a change costs its own size.

use std::collections::BTreeMap;

use anyhow::Context as _;
use conf_core::access::{AccessTable, TokenEntry};
use conf_core::git::ObjectStore;
use git2::{Oid, Repository, Tree};
use libconf::name::{CommitId, RefName};

use crate::store::commit;
use crate::store::refs::{RefTarget, Table};

/// The file in the commit's tree.
const FILE: &str = "tokens.json";
/// The folder in its place. The file then tells an older conf-master that it cannot read this.
const FOLDER: &str = "tokens";
/// So many tokens are in one file at most.
const FEW: usize = 500;
/// The digits of a hash that name its file: 256 files.
const DIGITS: usize = 2;

const TREE: i32 = 0o040_000;
const BLOB: i32 = 0o100_644;

/// The tokens of each file.
type Shards<'t> = BTreeMap<String, Vec<&'t TokenEntry>>;

/// Reads the tokens of a table of refs; a repository of an older conf-master has none.
///
/// What cannot be read is an error: without its tokens the server would let nobody in, and lose all
/// of them with the next change.
pub(crate) fn read(repo: &Repository, table: &Table) -> anyhow::Result<AccessTable> {
    let Some(target) = table.target(&RefName::Access) else { return Ok(AccessTable::default()) };
    let cannot = || format!("{} cannot be read", RefName::Access);
    let tree = repo.find_commit(target.commit.into()).and_then(|tip| tip.tree()).with_context(cannot)?;
    let parse = |blob: Oid| AccessTable::parse(repo.find_blob(blob)?.content()).map_err(anyhow::Error::from);
    let Some(folder) = folder(repo, &tree).with_context(cannot)? else {
        let entry = tree.get_name(FILE).with_context(cannot)?;
        return parse(entry.id()).with_context(cannot);
    };
    let parts = folder.iter().map(|entry| parse(entry.id())).collect::<Result<Vec<_>, _>>();
    Ok(AccessTable::joined(parts.with_context(cannot)?))
}

/// Writes the next commit, of which `before` is the table of the one before; moves no ref.
pub(crate) fn write(
    store: &impl ObjectStore,
    parent: Option<CommitId>,
    (before, table): (&AccessTable, &AccessTable),
    time: i64,
) -> anyhow::Result<RefTarget> {
    let repo = store.repo();
    let keep = |id: Oid| {
        store.keep(id);
        id
    };
    let known = match parent {
        Some(parent) => folder(repo, &repo.find_commit(parent.into())?.tree()?)?,
        None => None,
    };
    let mut tree = repo.treebuilder(None)?;
    // What has files of its own keeps them: it may have many tokens again.
    if known.is_none() && table.tokens().count() <= FEW {
        tree.insert(FILE, keep(repo.blob(&table.to_json()?)?), BLOB)?;
    } else {
        let (old, new) = (if known.is_some() { shards(before) } else { Shards::new() }, shards(table));
        let mut files = repo.treebuilder(known.as_ref())?;
        for (name, tokens) in new.iter().filter(|(name, tokens)| old.get(*name) != Some(*tokens)) {
            files.insert(name, keep(repo.blob(&AccessTable::json_of(tokens)?)?), BLOB)?;
        }
        for gone in old.keys().filter(|name| !new.contains_key(*name)) {
            files.remove(gone)?;
        }
        tree.insert(FOLDER, keep(files.write()?), TREE)?;
        tree.insert(FILE, keep(repo.blob(AccessTable::NOT_HERE.as_bytes())?), BLOB)?;
    }
    let tree = keep(tree.write()?);
    let commit = commit::write(store, tree, parent, time, "Tokens\n")?;
    Ok(RefTarget { value: commit, commit })
}

fn folder<'r>(repo: &'r Repository, tree: &Tree<'_>) -> Result<Option<Tree<'r>>, git2::Error> {
    tree.get_name(FOLDER).map(|folder| repo.find_tree(folder.id())).transpose()
}

fn shards(table: &AccessTable) -> Shards<'_> {
    let mut shards = Shards::new();
    for one in table.tokens() {
        let hash = one.hash.to_string();
        shards.entry(format!("{}.json", &hash[..DIGITS])).or_default().push(one);
    }
    shards
}

#[cfg(test)]
mod tests {
    use conf_core::access::Scope;

    use super::*;

    fn entry(number: usize, by: &str) -> TokenEntry {
        // Spread as hashes are.
        let hash = format!("{:02x}{number:062x}", number % 256).parse().unwrap();
        TokenEntry::new(hash, "ann".parse().unwrap(), Scope::Policy, (0, by.to_owned()))
    }

    fn table(count: usize) -> AccessTable {
        let mut table = AccessTable::default();
        (0..count).for_each(|number| table.put(entry(number, "root"), 0).unwrap());
        table
    }

    #[test]
    fn few_tokens_are_one_file_and_a_change_of_many_is_one_of_many_files() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let mut refs = Table::default();
        let mut last: Option<RefTarget> = None;
        let mut land = |before: &AccessTable, after: &AccessTable| {
            let target = write(&repo, last.map(|last| last.commit), (before, after), 0).unwrap();
            last = Some(target);
            refs.set(RefName::Access, Some(target));
            assert_eq!(read(&repo, &refs).unwrap(), *after);
            let tree = repo.find_commit(target.commit.into()).unwrap().tree().unwrap();
            let files = tree.get_name(FOLDER).map(|folder| repo.find_tree(folder.id()).unwrap());
            files.map(|files| {
                files.iter().map(|one| (one.name().unwrap().to_owned(), one.id())).collect::<BTreeMap<_, _>>()
            })
        };
        let (few, many) = (table(FEW), table(FEW + 1));
        assert_eq!(land(&AccessTable::default(), &few), None);
        let split = land(&few, &many).unwrap();
        assert_eq!(split.len(), 256);
        let mut changed = many.clone();
        changed.put(entry(7, "bob"), 0).unwrap();
        let after = land(&many, &changed).unwrap();
        let differing: Vec<&String> = after.keys().filter(|name| after[*name] != split[*name]).collect();
        assert_eq!(differing, ["07.json"]);
        // What was over long ago is forgotten, and its file with it.
        let alone = table(3);
        assert_eq!(land(&changed, &alone).unwrap().len(), 3);
        // An older conf-master says that it cannot read this.
        let tree = repo.find_commit(refs.target(&RefName::Access).unwrap().commit.into()).unwrap().tree().unwrap();
        let file = repo.find_blob(tree.get_name(FILE).unwrap().id()).unwrap();
        let words = AccessTable::parse(file.content()).unwrap_err().to_string();
        assert!(words.contains("has format 2; this program reads 1"), "{words}");
    }
}
