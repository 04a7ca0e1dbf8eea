//! The rules for trees that may land and be exported: plain files, folders, and links that stay
//! inside. conf-master and hosts use the same code, so that they never disagree.

use std::{collections::HashSet, fmt};

use git2::{ObjectType, Repository, Tree, TreeEntry};

use libconf::name::{CommitId, ObjectId};

use crate::{
    git::file_name::{fault_in_name, folded_name},
    terminal::is_unprintable,
};

/// The most that one branch may hold.
#[derive(Clone, Copy, Debug)]
pub struct TreeLimits {
    /// Files and folders.
    pub entries: usize,
    /// Bytes of one file.
    pub file_bytes: usize,
    /// Bytes of all files together.
    pub total_bytes: usize,
    /// Folders within folders.
    pub depth: usize,
    /// Bytes of a path, and of a link's target.
    pub path_bytes: usize,
}

impl TreeLimits {
    /// The most that hosts accept. For paths that is what their file systems accept: a path that is
    /// too long for one holds back its component there.
    pub const fn most() -> Self {
        TreeLimits { entries: 20_000, file_bytes: 32 << 20, total_bytes: 512 << 20, depth: 32, path_bytes: usize::MAX }
    }

    /// The most that may land. Linux takes paths of 4,095 bytes, and XFS links of 1,023. The other
    /// 3,000 bytes are for the folders that a host puts before the path: those of the export (such
    /// as `/var/lib/conf-local/export/store/<hash>/files`), or a place of its choice.
    pub const fn landing() -> Self {
        TreeLimits { path_bytes: 1000, ..TreeLimits::most() }
    }
}

/// Where links may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// To something inside alone.
    Inside,
    /// Anywhere.
    Anywhere,
}

/// One thing in a tree that may not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFault {
    /// The path of the entry; `None` for a fault of all of them together.
    pub path: Option<String>,
    /// What is wrong, and what to do instead.
    pub reason: String,
    /// It is a link that leads out.
    pub leads_out: bool,
}

impl fmt::Display for TreeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{path}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// The most faults that a host is told; more would help nobody. A landing looks for all of them,
/// because some may be older than the change.
const MOST_FAULTS: usize = 20;

/// A name that conf-local needs for itself wherever it places a component.
const STAGING: &str = ".conf-local";

/// Checks every entry of a commit's tree that is to land. Besides what hosts refuse, these are
/// faults: what a host may be unable to place, and pointers of Git LFS.
pub fn faults_in_commit(
    repo: &Repository,
    commit: CommitId,
    limits: &TreeLimits,
    links: Links,
) -> Result<Vec<TreeFault>, git2::Error> {
    let walk = Walk { repo, limits, links, lands: true, faults: Vec::new(), entries: 0, bytes: 0 };
    walk.whole(repo.find_commit(commit.into())?.tree_id().into())
}

/// Checks every entry of a tree, as hosts do.
pub fn faults_in_tree(
    repo: &Repository,
    tree: ObjectId,
    limits: &TreeLimits,
    links: Links,
) -> Result<Vec<TreeFault>, git2::Error> {
    Walk { repo, limits, links, lands: false, faults: Vec::new(), entries: 0, bytes: 0 }.whole(tree)
}

struct Walk<'a> {
    repo: &'a Repository,
    limits: &'a TreeLimits,
    links: Links,
    /// The tree is to land.
    lands: bool,
    faults: Vec<TreeFault>,
    entries: usize,
    bytes: usize,
}

impl Walk<'_> {
    fn whole(mut self, tree: ObjectId) -> Result<Vec<TreeFault>, git2::Error> {
        self.folder(&self.repo.find_tree(tree.into())?, "", 0)?;
        let mut of_all = |reason| self.faults.push(TreeFault { path: None, reason, leads_out: false });
        if self.entries > self.limits.entries {
            of_all(format!("more than {} files and folders", self.limits.entries));
        }
        if self.bytes > self.limits.total_bytes {
            of_all(format!("{} bytes in all, at most {} may be", self.bytes, self.limits.total_bytes));
        }
        Ok(self.faults)
    }

    fn fault(&mut self, path: &str, reason: impl Into<String>) {
        self.faults.push(TreeFault { path: Some(path.to_owned()), reason: reason.into(), leads_out: false });
    }

    fn folder(&mut self, tree: &Tree<'_>, path: &str, depth: usize) -> Result<(), git2::Error> {
        if depth > self.limits.depth {
            self.fault(path, format!("more than {} folders within folders", self.limits.depth));
            return Ok(());
        }
        let mut folded = HashSet::new();
        for entry in tree {
            self.entries += 1;
            if self.entries > self.limits.entries || (!self.lands && self.faults.len() >= MOST_FAULTS) {
                return Ok(());
            }
            let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let most = self.limits.path_bytes;
            if let Some(reason) = fault_in_name(entry.name_bytes()) {
                self.fault(&path.escape_debug().to_string(), reason);
            } else if !folded.insert(folded_name(&name)) {
                self.fault(&path, "another name here differs from it only in case or composition");
            } else if path.len() > most {
                let (start, bytes) = (path.chars().take(80).collect::<String>(), path.len());
                self.fault(
                    &format!("{start}…"),
                    format!("its path has {bytes} bytes, at most {most} may be; shorten it"),
                );
            } else if self.lands && depth == 0 && name == STAGING {
                self.fault(&path, "conf-local needs this name for itself where it places files; rename it");
            } else {
                self.entry(&entry, &path, depth)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &TreeEntry<'_>, path: &str, depth: usize) -> Result<(), git2::Error> {
        match (entry.filemode_raw(), entry.kind()) {
            (0o040_000, Some(ObjectType::Tree)) => {
                self.folder(&self.repo.find_tree(entry.id())?, path, depth + 1)?;
            }
            (0o100_644 | 0o100_755, Some(ObjectType::Blob)) => {
                let (bytes, _) = self.repo.odb()?.read_header(entry.id())?;
                self.bytes = self.bytes.saturating_add(bytes);
                let most = self.limits.file_bytes;
                if bytes > most {
                    self.fault(path, format!("{bytes} bytes, at most {most} may be in one file"));
                } else if self.lands
                    && bytes < MOST_POINTER
                    && is_lfs_pointer(self.repo.find_blob(entry.id())?.content())
                {
                    self.fault(
                        path,
                        format!(
                            "it is a pointer of Git LFS, and hosts would get the pointer in place of the content; put the \
                             content itself: `git lfs pull`, then `git lfs migrate export --include='{path}'`"
                        ),
                    );
                }
            }
            (0o120_000, Some(ObjectType::Blob)) => {
                let target = self.repo.find_blob(entry.id())?;
                if let Some(reason) = fault_in_target(target.content(), self.limits.path_bytes) {
                    self.fault(path, reason);
                } else if self.links == Links::Inside
                    && let Some(reason) = leads_out(target.content(), depth)
                {
                    let (path, reason) = (Some(path.to_owned()), reason.to_owned());
                    self.faults.push(TreeFault { path, reason, leads_out: true });
                }
            }
            (0o160_000, _) => self.fault(path, "submodules may not be here; put the files themselves"),
            (mode, _) => {
                self.fault(path, format!("mode {mode:o}; only 644 and 755 files, folders and links may be here"));
            }
        }
        Ok(())
    }
}

/// 1,024: a pointer of Git LFS has fewer bytes. Source: Git LFS, `docs/spec.md`, "The Pointer".
const MOST_POINTER: usize = 1024;

/// True for a pointer of Git LFS, which stands in the place of a file's content. Its first key is
/// `version`, and the others follow in order.
pub fn is_lfs_pointer(content: &[u8]) -> bool {
    let versions = ["version https://git-lfs.github.com/spec/", "version https://hawser.github.com/spec/"];
    let is_one = versions.iter().any(|version| content.starts_with(version.as_bytes()));
    is_one
        && content.len() < MOST_POINTER
        && String::from_utf8_lossy(content).lines().any(|line| line.starts_with("oid sha256:"))
}

/// Checks the target of a link that is `depth` folders deep and must lead to something inside; the
/// answer is its fault.
pub fn fault_in_link(target: &[u8], depth: usize) -> Option<&'static str> {
    fault_in_target(target, TreeLimits::landing().path_bytes).or_else(|| leads_out(target, depth))
}

/// Checks the form of a link's target, wherever it leads.
fn fault_in_target(target: &[u8], most: usize) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(target) else { return Some("the link's target is not UTF-8") };
    if text.is_empty() {
        return Some("the link has no target");
    }
    let is_wrong = text.len() > most || text.chars().any(is_unprintable);
    is_wrong.then_some("the link's target has a character that may not be in it, or is too long")
}

/// The fault of a link that does not certainly lead to something inside.
///
/// `..` may come only at the beginning: the folder before it is then the link's own and never
/// another link, so no chain of links can lead out.
fn leads_out(target: &[u8], depth: usize) -> Option<&'static str> {
    let text = String::from_utf8_lossy(target);
    if text.starts_with('/') {
        return Some("a link must be relative, and lead to something inside");
    }
    let mut parts = text.split('/').peekable();
    let mut up = 0;
    while parts.next_if_eq(&"..").is_some() {
        up += 1;
    }
    let below: Vec<&str> = parts.collect();
    if up > depth || below.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Some("the link leads out, or not straight: write ../ only at its beginning, and stay inside");
    }
    if below.iter().any(|part| fault_in_name(part.as_bytes()).is_some()) {
        return Some("the link names what may not be here");
    }
    None
}

#[cfg(test)]
mod tests {
    use git2::{FileMode, build::TreeUpdateBuilder};

    use super::*;

    /// The faults of one entry, as a landing finds them and as a host does.
    fn faults(path: &str, content: &str, mode: FileMode, links: Links) -> [String; 2] {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(folder.path()).unwrap();
        let empty = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let blob = repo.blob(content.as_bytes()).unwrap();
        let tree = TreeUpdateBuilder::new().upsert(path, blob, mode).create_updated(&repo, &empty).unwrap();
        let author = git2::Signature::new("a", "a", &git2::Time::new(0, 0)).unwrap();
        let commit = repo.commit(None, &author, &author, "", &repo.find_tree(tree).unwrap(), &[]).unwrap();
        let told = |faults: Vec<TreeFault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        [
            told(faults_in_commit(&repo, commit.into(), &TreeLimits::landing(), links).unwrap()),
            told(faults_in_tree(&repo, tree.into(), &TreeLimits::most(), links).unwrap()),
        ]
    }

    #[test]
    fn links() {
        for (good, depth) in [("a", 0), ("a/b", 0), ("../a", 1), ("../../a/b", 2), ("..", 1)] {
            assert_eq!(fault_in_link(good.as_bytes(), depth), None, "{good}");
        }
        for (bad, depth) in [
            ("", 0),
            ("/etc/passwd", 0),
            ("..", 0),
            ("../a", 0),
            ("a/../../b", 3),
            ("./a", 1),
            ("../.git/x", 1),
            ("a//b", 1),
            ("a\\b", 0),
        ] {
            assert!(fault_in_link(bad.as_bytes(), depth).is_some(), "{bad}");
        }
    }

    #[test]
    fn links_that_lead_out_are_free_where_links_may_lead_anywhere() {
        for target in ["/srv/ontology.owl", "../../outside", "a/../../b", "./a", "/", "../..", "C:\\x", ".git/config"] {
            let faults = |links| faults("folder/link", target, FileMode::Link, links);
            assert!(faults(Links::Inside).iter().all(|fault| fault.starts_with("folder/link: ")), "{target}");
            assert_eq!(faults(Links::Anywhere), ["", ""], "{target}");
        }
        // No file system takes these.
        for target in ["", "a\nb", "a\0b"] {
            assert!(faults("link", target, FileMode::Link, Links::Anywhere).iter().all(|fault| !fault.is_empty()));
        }
    }

    #[test]
    fn a_path_leaves_room_for_what_a_host_puts_before_it() {
        let path = |bytes: usize| {
            let folders = "f".repeat(199) + "/";
            let rest = bytes - bytes / 200 * 200;
            folders.repeat(bytes / 200 - usize::from(rest == 0)) + &"f".repeat(if rest == 0 { 200 } else { rest })
        };
        let of = |bytes| faults(&path(bytes), "x", FileMode::Blob, Links::Inside);
        assert_eq!(of(1000), ["", ""]);
        let [landing, host] = of(1001);
        assert!(landing.ends_with("…: its path has 1001 bytes, at most 1000 may be; shorten it"), "{landing}");
        assert_eq!(host, "", "what stands in a repository already is for the host's file system to judge");
        assert!(landing.len() < 200, "{landing}");
        let link = |bytes: usize| faults("link", &path(bytes), FileMode::Link, Links::Inside);
        assert_eq!(link(1000), ["", ""]);
        assert!(link(1001)[0].contains("too long"), "{:?}", link(1001));
    }

    #[test]
    fn a_pointer_of_git_lfs_is_not_content() {
        let oid = "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
        for pointer in [
            format!("version https://git-lfs.github.com/spec/v1\n{oid}"),
            format!("version https://git-lfs.github.com/spec/v1\next-0-foo sha256:4d7a\n{oid}"),
            format!("version https://hawser.github.com/spec/v1\n{oid}"),
        ] {
            let [landing, host] = faults("data/model.bin", &pointer, FileMode::Blob, Links::Inside);
            let remedy = "`git lfs pull`, then `git lfs migrate export --include='data/model.bin'`";
            assert!(landing.starts_with("data/model.bin: it is a pointer of Git LFS") && landing.ends_with(remedy));
            assert_eq!(host, "");
        }
        let long = format!("version https://git-lfs.github.com/spec/v1\n{oid}{}", "x".repeat(1000));
        for content in ["version https://git-lfs.github.com/spec/v1\n", "version 1\n", &format!("x\n{oid}"), &long] {
            assert_eq!(faults("a", content, FileMode::Blob, Links::Inside), ["", ""], "{content}");
        }
    }

    #[test]
    fn a_name_that_conf_local_needs_where_it_places_files_does_not_land() {
        assert!(faults(".conf-local", "x", FileMode::Blob, Links::Inside)[0].contains("rename it"));
        assert!(faults(".conf-local/a", "x", FileMode::Blob, Links::Inside)[0].contains("rename it"));
        for path in ["a/.conf-local", ".conf-local.yaml"] {
            assert_eq!(faults(path, "x", FileMode::Blob, Links::Inside), ["", ""], "{path}");
        }
    }
}
