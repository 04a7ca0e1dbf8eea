//! What a change brings that looks like a secret: whoever can read the repository can read it.

use git2::{ObjectType, Oid, Repository, Tree};
use libconf::name::RefName;
use zeroize::Zeroizing;

use crate::catalog::Catalog;
use crate::store::{RefChanges, RefTarget};
use crate::suspect;

/// The most files and folders that are compared with those of before: five branches of the largest
/// size.
const MOST_ENTRIES: usize = 100_000;
/// The most files that are searched.
const MOST_FILES: usize = 500;
/// The most bytes of one file that is searched.
const MOST_FILE_BYTES: usize = 128 << 10;
/// The most bytes that are searched.
const MOST_BYTES: usize = 1 << 20;
/// The most places that are told.
const MOST_TOLD: usize = 20;

/// The shortest value that is hidden in the differences of a plan: a shorter one stands everywhere.
const HIDDEN_BYTES: usize = 4;

/// What a change brings that looks like a secret.
pub(crate) struct Suspicions {
    /// What its author is told; no value is among it.
    pub(crate) told: Vec<String>,
    /// The values, line by line.
    values: Vec<Zeroizing<String>>,
}

impl Suspicions {
    /// Hides the values in a text.
    pub(crate) fn hide(&self, text: &mut String) {
        for value in &self.values {
            if text.contains(value.as_str()) {
                *text = text.replace(value.as_str(), "***");
            }
        }
    }
}

/// Finds what looks like a secret in the files that a change adds or changes, and did not stand
/// there before. The refs in `changes` are judged already: a refused tree may have any size.
pub(crate) fn of(repo: &Repository, catalog: &Catalog, changes: &RefChanges) -> Result<Suspicions, git2::Error> {
    let mut search = Search::of(repo);
    for (name, target) in changes {
        let Some(target) = target else { continue };
        let tree = |target: RefTarget| repo.find_commit(target.commit.into())?.tree();
        let old = catalog.table.place(name);
        let old = old.target.or(old.last).map(tree).transpose()?;
        search.branch(name, old, tree(*target)?)?;
        if search.is_over() {
            search.is_cut = true;
            break;
        }
    }
    let Search { mut told, values, more, is_cut, .. } = search;
    if more > 0 {
        told.push(format!("warning: {more} more places look like secrets"));
    }
    if is_cut {
        told.push("warning: the change is too large to be searched for secrets whole".to_owned());
    }
    Ok(Suspicions { told, values })
}

struct Search<'a> {
    repo: &'a Repository,
    told: Vec<String>,
    values: Vec<Zeroizing<String>>,
    more: usize,
    entries: usize,
    files: usize,
    bytes: usize,
    is_cut: bool,
}

impl<'a> Search<'a> {
    fn of(repo: &'a Repository) -> Self {
        let (told, values) = (Vec::new(), Vec::new());
        Search { repo, told, values, more: 0, entries: 0, files: 0, bytes: 0, is_cut: false }
    }

    /// Tells whether a bound is passed: then the search ends.
    fn is_over(&self) -> bool {
        self.entries > MOST_ENTRIES || self.files > MOST_FILES || self.bytes > MOST_BYTES
    }

    /// Searches the files of one branch that differ.
    fn branch(&mut self, name: &RefName, old: Option<Tree<'_>>, new: Tree<'_>) -> Result<(), git2::Error> {
        for (path, new, before) in self.differing(old, new)? {
            self.files += 1;
            if self.is_over() {
                break;
            }
            self.file(name, &path, new, before)?;
        }
        Ok(())
    }

    /// Lists the files that differ, with what was there before; of very many only some.
    fn differing(
        &mut self,
        old: Option<Tree<'_>>,
        new: Tree<'_>,
    ) -> Result<Vec<(String, Oid, Option<Oid>)>, git2::Error> {
        let (mut open, mut files) = (vec![(String::new(), old, new)], Vec::new());
        while let Some((folder, old, new)) = open.pop() {
            for entry in &new {
                self.entries += 1;
                if self.is_over() || files.len() > MOST_FILES {
                    return Ok(files);
                }
                let before = old.as_ref().and_then(|old| old.get_name_bytes(entry.name_bytes()));
                let before = before.map(|before| before.id());
                if before == Some(entry.id()) {
                    continue;
                }
                let path = format!("{folder}{}", String::from_utf8_lossy(entry.name_bytes()));
                match entry.kind() {
                    Some(ObjectType::Tree) => {
                        let old = before.and_then(|before| self.repo.find_tree(before).ok());
                        open.push((format!("{path}/"), old, self.repo.find_tree(entry.id())?));
                    }
                    Some(ObjectType::Blob) => files.push((path, entry.id(), before)),
                    _ => {}
                }
            }
        }
        files.sort();
        Ok(files)
    }

    fn file(&mut self, name: &RefName, path: &str, new: Oid, before: Option<Oid>) -> Result<(), git2::Error> {
        let (size, kind) = self.repo.odb()?.read_header(new)?;
        if kind != ObjectType::Blob || size > MOST_FILE_BYTES {
            self.is_cut |= size > MOST_FILE_BYTES;
            return Ok(());
        }
        self.bytes += size;
        let new = self.repo.find_blob(new)?;
        let old = before.and_then(|before| self.repo.find_blob(before).ok());
        let old = old.as_ref().map(|old| String::from_utf8_lossy(old.content()).into_owned()).unwrap_or_default();
        let Ok(text) = std::str::from_utf8(new.content()) else {
            let found = suspect::in_bytes(path, new.content()).filter(|_| before.is_none());
            found.into_iter().for_each(|what| self.tell(&format!("{}: {path} looks like {what}", name.short())));
            return Ok(());
        };
        for finding in suspect::in_text(path, text) {
            let value = &text[finding.range.clone()];
            if !old.contains(value) {
                let line = text[..finding.range.start].matches('\n').count() + 1;
                self.tell(&format!("{}: {path}:{line} looks like {}", name.short(), finding.what));
                let lines = value.lines().map(str::trim).filter(|line| line.len() >= HIDDEN_BYTES);
                self.values.extend(lines.map(|line| Zeroizing::new(line.to_owned())));
            }
        }
        Ok(())
    }

    fn tell(&mut self, words: &str) {
        if self.told.len() < MOST_TOLD {
            let instead = "declare a secret and write {\"$secret\": \"NAME\"} or {{ secrets.NAME }} there";
            self.told.push(format!("warning: {words}, and everybody who reads the repository can read it; {instead}"));
        } else {
            self.more += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_ten_thousand_million_files_and_what_comes_after_it_are_not_searched_whole() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let named = |names: &[&str], id: Oid, mode: i32| {
            let mut tree = repo.treebuilder(None).unwrap();
            names.iter().for_each(|name| drop(tree.insert(name, id, mode).unwrap()));
            tree.write().unwrap()
        };
        let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let harmless = repo.blob(b"harmless\n").unwrap();
        let bomb = |tree: Oid| (0..9).fold(tree, |tree, _| named(&names, tree, 0o040_000));
        let files = bomb(named(&names, harmless, 0o100_644));
        let folders = bomb(named(&[], harmless, 0));
        let password = named(&["a.ini"], repo.blob(b"password = hunter2hunter2\n").unwrap(), 0o100_644);
        let change = |name: &str, tree: Oid| {
            let who = git2::Signature::new("a", "a", &git2::Time::new(0, 0)).unwrap();
            let commit = repo.commit(None, &who, &who, "x", &repo.find_tree(tree).unwrap(), &[]).unwrap();
            let name: RefName = format!("refs/heads/services/{name}/master").parse().unwrap();
            (name, Some(RefTarget { value: commit.into(), commit: commit.into() }))
        };
        let told = |changes: &[(RefName, Option<RefTarget>)]| {
            of(&repo, &Catalog::default(), &changes.iter().cloned().collect()).unwrap().told
        };
        assert!(told(&[change("c", password)])[0].contains("services/c/master: a.ini:1 looks like a password"));
        for bomb in [files, folders] {
            let told = told(&[change("a", password), change("b", bomb), change("c", password)]);
            assert!(told[0].contains("services/a/master: a.ini:1"), "{told:?}");
            assert_eq!(told[1..], ["warning: the change is too large to be searched for secrets whole"]);
        }
    }
}
