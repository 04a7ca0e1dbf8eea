//! The sizes of what a push brings, before any of it is read.

use std::path::Path;

use git2::{ObjectType, Odb, Oid};

/// 1 MiB for a commit, a tag or a tree: Git and this program read each of them whole, again and
/// again.
const MOST_BYTES: usize = 1 << 20;
/// 4 GiB for all objects of a push together, as they are without compression.
const MOST_TOGETHER: u64 = 4 << 30;
/// The most objects of a push.
const MOST_OBJECTS: usize = 2_000_000;

/// Finds what nobody may bring into the repository, by the objects' headers alone. The answer is
/// what is wrong.
pub(crate) fn fault(quarantine: &Path) -> anyhow::Result<Option<String>> {
    // Nothing but the new objects: the repository itself is no part of it.
    let odb = Odb::new()?;
    odb.add_disk_alternate(&quarantine.to_string_lossy())?;
    let mut ids: Vec<Oid> = Vec::new();
    let listed = odb.foreach(|id| {
        ids.push(*id);
        ids.len() <= MOST_OBJECTS
    });
    if ids.len() > MOST_OBJECTS {
        return Ok(Some(format!("the push has more than {MOST_OBJECTS} objects; push in several steps")));
    }
    listed?;
    let mut together = 0;
    for id in ids {
        let (bytes, kind) = odb.read_header(id)?;
        if kind != ObjectType::Blob && bytes > MOST_BYTES {
            return Ok(Some(format!(
                "the {kind} {id} has {bytes} bytes, at most {MOST_BYTES} may be; make it smaller"
            )));
        }
        together += bytes as u64;
    }
    Ok((together > MOST_TOGETHER).then(|| {
        format!("the objects of the push have {together} bytes, at most {MOST_TOGETHER} may be; push in several steps")
    }))
}

#[cfg(test)]
mod tests {
    use git2::{Repository, Signature, Time};

    use super::*;

    #[test]
    fn an_object_that_everybody_would_read_again_and_again_is_small() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let objects = folder.path().join("objects");
        let commit = |message: &str| {
            let tree = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
            let author = Signature::new("a", "a", &Time::new(0, 0)).unwrap();
            repo.commit(None, &author, &author, message, &tree, &[]).unwrap()
        };
        repo.blob(&vec![b'x'; 2 << 20]).unwrap();
        commit("small");
        assert_eq!(fault(&objects).unwrap(), None);
        let large = commit(&"x".repeat(1 << 20));
        let words = fault(&objects).unwrap().unwrap();
        assert!(words.starts_with(&format!("the commit {large} has 10486")), "{words}");
    }

    #[test]
    fn a_large_tree_is_found_in_a_pack() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let blob = repo.blob(b"x").unwrap();
        let mut tree = repo.treebuilder(None).unwrap();
        for number in 0..5000 {
            tree.insert(format!("{number:0>240}"), blob, 0o100_644).unwrap();
        }
        let tree = tree.write().unwrap();
        let mut pack = repo.packbuilder().unwrap();
        pack.insert_object(tree, None).unwrap();
        let other = tempfile::tempdir().unwrap();
        std::fs::create_dir(other.path().join("pack")).unwrap();
        pack.write(&other.path().join("pack"), 0).unwrap();
        let words = fault(other.path()).unwrap().unwrap();
        assert!(words.starts_with(&format!("the tree {tree} has ")), "{words}");
    }
}
