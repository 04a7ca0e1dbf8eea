//! What a change brings that looks like a secret: whoever can read the repository can read it.

use git2::{ObjectType, Oid, Repository, Tree, TreeWalkMode, TreeWalkResult};
use libconf::name::{CommitId, RefName};
use zeroize::Zeroizing;

use crate::catalog::Catalog;
use crate::judge::proposal::RefUpdate;
use crate::suspect;

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
/// there before.
pub(crate) fn of(repo: &Repository, catalog: &Catalog, updates: &[RefUpdate]) -> Result<Suspicions, git2::Error> {
    let values = Vec::new();
    let mut search = Search { repo, told: Vec::new(), values, more: 0, files: 0, bytes: 0, is_cut: false };
    for update in updates.iter().filter(|update| !update.new.is_zero()) {
        let Ok(name) = update.name.parse::<RefName>() else { continue };
        let tree = |commit: CommitId| repo.find_commit(commit.into())?.tree();
        let Ok(new) = repo.find_object(update.new.into(), None).and_then(|new| new.peel_to_tree()) else { continue };
        let old = catalog.table.place(&name);
        let old = old.target.or(old.last).map(|old| tree(old.commit)).transpose()?;
        search.branch(&name, old.as_ref(), &new)?;
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
    files: usize,
    bytes: usize,
    is_cut: bool,
}

impl Search<'_> {
    /// Searches the files of one branch that differ.
    fn branch(&mut self, name: &RefName, old: Option<&Tree<'_>>, new: &Tree<'_>) -> Result<(), git2::Error> {
        let mut differing: Vec<(String, Oid, Option<Oid>)> = Vec::new();
        new.walk(TreeWalkMode::PreOrder, |folder, entry| {
            let path = format!("{folder}{}", String::from_utf8_lossy(entry.name_bytes()));
            let before = old.and_then(|old| old.get_path(path.as_ref()).ok()).map(|before| before.id());
            match entry.kind() {
                // A folder that is the same holds nothing new.
                _ if before == Some(entry.id()) => TreeWalkResult::Skip,
                Some(ObjectType::Blob) => {
                    differing.push((path, entry.id(), before));
                    TreeWalkResult::Ok
                }
                _ => TreeWalkResult::Ok,
            }
        })?;
        for (path, new, before) in differing {
            self.files += 1;
            if self.files > MOST_FILES || self.bytes > MOST_BYTES {
                self.is_cut = true;
                return Ok(());
            }
            self.file(name, &path, new, before)?;
        }
        Ok(())
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
