//! Branches and tags as they were put, to notice when something else changes one.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use git2::{ErrorCode, Oid, Repository};

/// Where each branch and tag was put, and what the system said of their files when all were there.
#[derive(Debug, Default)]
pub(crate) struct PutRefs {
    refs: BTreeMap<String, Oid>,
    /// By the path of the file or folder.
    told: BTreeMap<String, Told>,
}

/// Inode, size, and the times of the last changes.
type Told = (u64, u64, (i64, i64), (i64, i64));

/// The file of refs that have none of their own.
const PACKED: &str = "packed-refs";

/// The folders of branches and tags.
const FOLDERS: [&str; 2] = ["refs/heads", "refs/tags"];

impl PutRefs {
    /// Reads all refs: they are where they belong.
    pub(crate) fn read(repo: &Path) -> Self {
        let told = told(repo);
        let refs = Repository::open_bare(repo).and_then(|repo| all(&repo)).unwrap_or_default();
        PutRefs { refs, told }
    }

    /// Takes down where some refs were put; `None` for one that was removed.
    pub(crate) fn moved(mut self, repo: &Path, moved: Vec<(String, Option<Oid>)>) -> Self {
        for (name, put) in moved {
            // Its file, the folders above it, and for one that was packed the file of those.
            let above = name.match_indices('/').map(|(end, _)| &name[..end]);
            for path in above.chain([name.as_str(), PACKED]) {
                match (path != "refs").then(|| tell(repo, path)).flatten() {
                    Some(about) => drop(self.told.insert(path.to_owned(), told_of(&about))),
                    None => drop(self.told.remove(path)),
                }
            }
            match put {
                Some(put) => drop(self.refs.insert(name, put)),
                None => drop(self.refs.remove(&name)),
            }
        }
        self
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
                        && is_broken(&repo.join(name))
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

/// True if the file of a ref can be read and holds no ref. Another cause, such as a lack of
/// descriptors or a damaged `packed-refs`, says nothing of it.
fn is_broken(file: &Path) -> bool {
    let is_ref = |text: &str| text.starts_with("ref: ") || Oid::from_str(text.trim_end()).is_ok();
    fs::read(file).is_ok_and(|text| !str::from_utf8(&text).is_ok_and(is_ref))
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

fn told(repo: &Path) -> BTreeMap<String, Told> {
    let mut found = BTreeMap::new();
    let mut open: Vec<String> = FOLDERS.map(str::to_owned).into();
    open.push(PACKED.to_owned());
    while let Some(path) = open.pop() {
        let Some(about) = tell(repo, &path) else { continue };
        if about.is_dir() {
            let entries = fs::read_dir(repo.join(&path)).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| format!("{path}/{}", entry.file_name().to_string_lossy())));
        }
        found.insert(path, told_of(&about));
    }
    found
}

fn tell(repo: &Path, path: &str) -> Option<Metadata> {
    fs::symlink_metadata(repo.join(path)).ok()
}

fn told_of(about: &Metadata) -> Told {
    (about.ino(), about.len(), (about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_is_removed_only_if_its_own_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let file = folder.path().join("refs/heads/one");
        let whole = format!("{}\n", Oid::hash_object(git2::ObjectType::Blob, b"one").unwrap());
        fs::write(&file, &whole).unwrap();
        let put = PutRefs::read(repo.path());
        assert_eq!(put.refs.len(), 1);
        // Not this file is damaged, though no ref can be read.
        fs::write(folder.path().join("packed-refs"), "no refs\n").unwrap();
        let (put, _) = put.look(repo.path());
        assert_eq!(fs::read_to_string(&file).unwrap(), whole);
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        let (put, words) = put.look(repo.path());
        assert!(words.is_some() && file.is_symlink(), "the system refused to let it be read");
        fs::remove_file(&file).unwrap();
        fs::remove_file(folder.path().join("packed-refs")).unwrap();
        fs::write(&file, [0; 41]).unwrap();
        let (_, words) = put.look(repo.path());
        assert!(words.is_some() && !file.exists());
    }
}
