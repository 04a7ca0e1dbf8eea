//! Branches and tags as they were put, to notice when something else changes one.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use git2::{ErrorCode, Oid, Repository};

/// Where each branch and tag was put, and what the system said of their files when all were there.
#[derive(Debug, Default)]
pub(crate) struct PutRefs {
    refs: BTreeMap<String, Oid>,
    told: Vec<Told>,
}

/// A file or folder: its path, inode, size, and the times of the last changes.
type Told = (String, u64, u64, (i64, i64), (i64, i64));

/// The folders of branches and tags.
const FOLDERS: [&str; 2] = ["refs/heads", "refs/tags"];

impl PutRefs {
    /// Reads all refs: they are where they belong.
    pub(crate) fn read(repo: &Path) -> Self {
        let told = told(repo);
        let refs = Repository::open_bare(repo).and_then(|repo| all(&repo)).unwrap_or_default();
        PutRefs { refs, told }
    }

    /// Says which refs are not where they were put, and removes those that cannot be read: Git
    /// writes none over them. Reads refs only if one of their files is not as it was.
    pub(crate) fn look(self, repo: &Path) -> (Self, Option<String>) {
        let now = told(repo);
        if now == self.told {
            return (self, None);
        }
        // A repository that cannot be opened is not a matter of branches.
        let Ok(opened) = Repository::open_bare(repo) else { return (self, None) };
        let mut wrong = Vec::new();
        for (name, put) in &self.refs {
            match opened.find_reference(name) {
                Ok(found) if found.target() == Some(*put) => {}
                Ok(_) => wrong.push(name.clone()),
                Err(error) => {
                    wrong.push(name.clone());
                    if error.code() != ErrorCode::NotFound
                        && let Err(error) = fs::remove_file(repo.join(name))
                    {
                        tracing::warn!(%error, name, "a damaged ref cannot be removed");
                    }
                }
            }
        }
        let words = wrong.first().map(|first| {
            let more = if wrong.len() > 1 { format!(" and {} more", wrong.len() - 1) } else { String::new() };
            format!("{first}{more} was damaged or removed by something else; it is fetched again")
        });
        (PutRefs { told: now, ..self }, words)
    }
}

fn all(repo: &Repository) -> Result<BTreeMap<String, Oid>, git2::Error> {
    let mut refs = BTreeMap::new();
    for folder in FOLDERS {
        for reference in repo.references_glob(&format!("{folder}/*"))? {
            let reference = reference?;
            if let (Ok(name), Some(target)) = (reference.name(), reference.target()) {
                refs.insert(name.to_owned(), target);
            }
        }
    }
    Ok(refs)
}

fn told(repo: &Path) -> Vec<Told> {
    let mut found = Vec::new();
    let mut open: Vec<String> = FOLDERS.map(str::to_owned).into();
    open.push("packed-refs".to_owned());
    while let Some(path) = open.pop() {
        let Ok(about) = fs::symlink_metadata(repo.join(&path)) else { continue };
        if about.is_dir() {
            let entries = fs::read_dir(repo.join(&path)).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())));
        }
        let times = ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
        found.push((path, about.ino(), about.len(), times.0, times.1));
    }
    found.sort_unstable();
    found
}
