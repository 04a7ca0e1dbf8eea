//! What a change brings that looks like a secret: whoever can read the repository can read it.

use conf_core::suspect::{self, Effort};
use git2::{ObjectType, Oid, Repository, Tree};
use libconf::name::RefName;
use zeroize::Zeroizing;

use crate::catalog::Catalog;
use crate::store::{RefChanges, RefTarget};

/// The most files and folders that are compared with those of before: five branches of the largest
/// size.
const MOST_ENTRIES: usize = 100_000;
/// The most files that are searched.
const MOST_FILES: usize = 500;
/// The most bytes of one file that is searched.
const MOST_FILE_BYTES: usize = 128 << 10;
/// The most bytes that are searched.
const MOST_BYTES: usize = 1 << 20;
/// The most bytes that are looked at again: for an ordinary change a few for each of its own.
const MOST_AGAIN: usize = 64 << 20;
/// The most lines of values that are hidden: each is sought in every difference of the plan.
const MOST_VALUES: usize = 1000;
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
    effort: Effort,
    is_cut: bool,
}

impl<'a> Search<'a> {
    fn of(repo: &'a Repository) -> Self {
        let (told, values) = (Vec::new(), Vec::new());
        let effort = Effort::of(MOST_AGAIN);
        Search { repo, told, values, more: 0, entries: 0, files: 0, bytes: 0, effort, is_cut: false }
    }

    /// Tells whether a bound is passed: then the search ends.
    fn is_over(&self) -> bool {
        let is_spent = self.effort.is_spent() || self.values.len() > MOST_VALUES;
        is_spent || self.entries > MOST_ENTRIES || self.files > MOST_FILES || self.bytes > MOST_BYTES
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
        let Ok(text) = std::str::from_utf8(new.content()) else {
            let found =
                if before.is_none() { suspect::in_bytes_within(path, new.content(), &self.effort) } else { None };
            found.into_iter().for_each(|what| self.tell(&format!("{}: {path} looks like {what}", name.short())));
            return Ok(());
        };
        let old = before.and_then(|before| self.before(before)).unwrap_or_default();
        let (mut line, mut at) = (1, 0);
        for finding in suspect::in_text_within(path, text, &self.effort) {
            self.effort.spend(old.len());
            if self.is_over() {
                break;
            }
            let value = &text[finding.range.clone()];
            if !old.contains(value) {
                line += text[at..finding.range.start].matches('\n').count();
                at = finding.range.start;
                self.tell(&format!("{}: {path}:{line} looks like {}", name.short(), finding.what));
                let lines = value.lines().map(str::trim).filter(|line| line.len() >= HIDDEN_BYTES);
                let left = (MOST_VALUES + 1).saturating_sub(self.values.len());
                self.values.extend(lines.take(left).map(|line| Zeroizing::new(line.to_owned())));
            }
        }
        Ok(())
    }

    /// Reads what stood in a file before. What is too large to be searched itself is not compared
    /// with either.
    fn before(&self, id: Oid) -> Option<String> {
        let (size, kind) = self.repo.odb().and_then(|odb| odb.read_header(id)).ok()?;
        let is_small = kind == ObjectType::Blob && size <= MOST_FILE_BYTES;
        let blob = is_small.then(|| self.repo.find_blob(id).ok())??;
        Some(String::from_utf8_lossy(blob.content()).into_owned())
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

    /// A repository and its trees.
    struct Content {
        repo: Repository,
        _folder: tempfile::TempDir,
    }

    impl Content {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Content { repo: Repository::init_bare(folder.path()).unwrap(), _folder: folder }
        }

        fn blob(&self, content: &str) -> Oid {
            self.repo.blob(content.as_bytes()).unwrap()
        }

        fn tree(&self, names: &[&str], id: Oid, mode: i32) -> Oid {
            let mut tree = self.repo.treebuilder(None).unwrap();
            names.iter().for_each(|name| drop(tree.insert(name, id, mode).unwrap()));
            tree.write().unwrap()
        }

        fn change(&self, name: &str, tree: Oid) -> (RefName, Option<RefTarget>) {
            let who = git2::Signature::new("a", "a", &git2::Time::new(0, 0)).unwrap();
            let commit = self.repo.commit(None, &who, &who, "x", &self.repo.find_tree(tree).unwrap(), &[]).unwrap();
            let name: RefName = format!("refs/heads/services/{name}/master").parse().unwrap();
            (name, Some(RefTarget { value: commit.into(), commit: commit.into() }))
        }

        fn told(&self, catalog: &Catalog, changes: &[(RefName, Option<RefTarget>)]) -> Vec<String> {
            of(&self.repo, catalog, &changes.iter().cloned().collect()).unwrap().told
        }
    }

    const CUT: &str = "warning: the change is too large to be searched for secrets whole";

    #[test]
    fn a_tree_of_ten_thousand_million_files_and_what_comes_after_it_are_not_searched_whole() {
        let content = Content::new();
        let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        let bomb = |tree: Oid| (0..9).fold(tree, |tree, _| content.tree(&names, tree, 0o040_000));
        let harmless = content.blob("harmless\n");
        let files = bomb(content.tree(&names, harmless, 0o100_644));
        let folders = bomb(content.tree(&[], harmless, 0));
        let password = content.tree(&["a.ini"], content.blob("password = hunter2hunter2\n"), 0o100_644);
        let told = |changes: &[(RefName, Option<RefTarget>)]| content.told(&Catalog::default(), changes);
        let found = told(&[content.change("c", password)]);
        assert!(found[0].contains("services/c/master: a.ini:1 looks like a password"), "{found:?}");
        for bomb in [files, folders] {
            let told = told(&[content.change("a", password), content.change("b", bomb), content.change("c", password)]);
            assert!(told[0].contains("services/a/master: a.ini:1"), "{told:?}");
            assert_eq!(told[1..], [CUT]);
        }
    }

    #[test]
    fn what_costs_the_square_of_its_length_ends_the_search() {
        let content = Content::new();
        let most = MOST_FILE_BYTES;
        let key = format!("-----BEGIN PRIVATE KEY-----\n{}-----END PRIVATE KEY-----", "abcd\n".repeat(2 * MOST_VALUES));
        let passwords = "password=1a\n".repeat(most / 12);
        for text in ["a=".repeat(most / 2), "a={{".repeat(most / 4), passwords, key] {
            let tree = content.tree(&["a", "b", "c", "d"], content.blob(&text), 0o100_644);
            let told = content.told(&Catalog::default(), &[content.change("a", tree)]);
            assert_eq!(told.last().map(String::as_str), Some(CUT), "{}", &text[..11]);
        }
        // As large, and of an ordinary form.
        let text = "\"address\": \"http://10.0.0.1:80/a\", ".repeat(most / 40);
        let tree = content.tree(&["a.json"], content.blob(&text), 0o100_644);
        assert!(content.told(&Catalog::default(), &[content.change("a", tree)]).is_empty());
    }

    #[test]
    fn with_a_large_file_of_before_nothing_is_compared() {
        let content = Content::new();
        let ini = |text: &str| content.change("a", content.tree(&["a.ini"], content.blob(text), 0o100_644));
        let password = "password = hunter2hunter2\n";
        for (more, is_compared) in [(1, true), (MOST_FILE_BYTES, false)] {
            let mut catalog = Catalog::default();
            let (name, target) = ini(&(password.to_owned() + &"#".repeat(more)));
            catalog.table.set(name, target);
            assert_eq!(content.told(&catalog, &[ini(password)]).is_empty(), is_compared, "{more}");
        }
    }
}
