//! The rules for trees that may land and be exported: plain files, folders, and links that stay
//! inside. conf-master and hosts use the same code, so that they never disagree.

use std::collections::HashSet;

use git2::{ObjectType, Repository, Tree, TreeEntry};

use libconf::name::{CommitId, ObjectId};

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
}

impl TreeLimits {
    /// The most that hosts accept.
    pub const fn most() -> Self {
        TreeLimits { entries: 20_000, file_bytes: 32 << 20, total_bytes: 512 << 20, depth: 32 }
    }
}

impl Default for TreeLimits {
    fn default() -> Self {
        TreeLimits::most()
    }
}

/// The most faults in one answer; more would help nobody.
const MOST_FAULTS: usize = 20;

/// Checks every entry of a commit's tree; the answer lists the faults, each with its path.
pub fn faults_in_commit(repo: &Repository, commit: CommitId, limits: &TreeLimits) -> Result<Vec<String>, git2::Error> {
    faults_in_tree(repo, repo.find_commit(commit.into())?.tree_id().into(), limits)
}

/// Checks every entry of a tree; the answer lists the faults, each with its path.
pub fn faults_in_tree(repo: &Repository, tree: ObjectId, limits: &TreeLimits) -> Result<Vec<String>, git2::Error> {
    let mut walk = Walk { repo, limits, faults: Vec::new(), entries: 0, bytes: 0 };
    walk.folder(&repo.find_tree(tree.into())?, "", 0)?;
    if walk.entries > limits.entries {
        walk.faults.push(format!("more than {} files and folders", limits.entries));
    }
    if walk.bytes > limits.total_bytes {
        walk.faults.push(format!("{} bytes in all, at most {} may be", walk.bytes, limits.total_bytes));
    }
    Ok(walk.faults)
}

struct Walk<'a> {
    repo: &'a Repository,
    limits: &'a TreeLimits,
    faults: Vec<String>,
    entries: usize,
    bytes: usize,
}

impl Walk<'_> {
    fn folder(&mut self, tree: &Tree<'_>, path: &str, depth: usize) -> Result<(), git2::Error> {
        if depth > self.limits.depth {
            self.faults.push(format!("{path}: more than {} folders within folders", self.limits.depth));
            return Ok(());
        }
        let mut folded = HashSet::new();
        for entry in tree {
            self.entries += 1;
            if self.entries > self.limits.entries || self.faults.len() >= MOST_FAULTS {
                return Ok(());
            }
            let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            if let Some(reason) = fault_in_name(entry.name_bytes()) {
                self.faults.push(format!("{}: {reason}", path.escape_debug()));
            } else if !folded.insert(name.to_lowercase()) {
                self.faults.push(format!("{path}: another name here differs from it only in case"));
            } else if let Some(reason) = self.entry(&entry, &path, depth)? {
                self.faults.push(format!("{path}: {reason}"));
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &TreeEntry<'_>, path: &str, depth: usize) -> Result<Option<String>, git2::Error> {
        match (entry.filemode_raw(), entry.kind()) {
            (0o040_000, Some(ObjectType::Tree)) => {
                self.folder(&self.repo.find_tree(entry.id())?, path, depth + 1)?;
                Ok(None)
            }
            (0o100_644 | 0o100_755, Some(ObjectType::Blob)) => {
                let (bytes, _) = self.repo.odb()?.read_header(entry.id())?;
                self.bytes = self.bytes.saturating_add(bytes);
                let most = self.limits.file_bytes;
                Ok((bytes > most).then(|| format!("{bytes} bytes, at most {most} may be in one file")))
            }
            (0o120_000, Some(ObjectType::Blob)) => {
                let target = self.repo.find_blob(entry.id())?;
                Ok(fault_in_link(target.content(), depth).map(str::to_owned))
            }
            (0o160_000, _) => Ok(Some("submodules may not be here; put the files themselves".to_owned())),
            (mode, _) => Ok(Some(format!("mode {mode:o}; only 644 and 755 files, folders and links may be here"))),
        }
    }
}

/// Checks one name; the answer is its fault.
pub fn fault_in_name(name: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(name) else { return Some("the name is not UTF-8") };
    let plain = text.trim_end_matches(['.', ' ']).to_ascii_lowercase();
    match text {
        "" | "." | ".." => Some("no such name may be here"),
        _ if name.len() > 255 => Some("the name is longer than 255 bytes"),
        _ if text.contains(['/', '\\']) => Some("a slash or backslash stands in the name"),
        _ if text.chars().any(is_unprintable) => {
            Some("a control, invisible or direction-changing character stands in the name")
        }
        _ if matches!(plain.split(':').next(), Some(".git" | "git~1")) => Some("no name may mean .git"),
        _ => None,
    }
}

/// True for control characters, and for characters that show nothing or turn the direction of text.
/// Source: Unicode, general categories Cc and Cf as far as they concern file names.
fn is_unprintable(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Checks the target of a link that is `depth` folders deep; the answer is its fault.
///
/// `..` may come only at the beginning: the folder before it is then the link's own and never
/// another link, so no chain of links can lead out.
pub fn fault_in_link(target: &[u8], depth: usize) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(target) else { return Some("the link's target is not UTF-8") };
    if text.is_empty() || text.starts_with('/') {
        return Some("a link must be relative, and lead to something inside");
    }
    if text.len() > 1024 || text.chars().any(is_unprintable) || text.contains('\\') {
        return Some("the link's target has a character that may not be in it, or is too long");
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
    use super::*;

    #[test]
    fn names() {
        for good in ["nginx.conf", ".gitignore", ".gitattributes", ".gitmodules", "ümlaut", "a b", "..a", "git"] {
            assert_eq!(fault_in_name(good.as_bytes()), None, "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            ".git",
            ".GIT",
            ".git.",
            ".git ",
            "GIT~1",
            ".git::$INDEX_ALLOCATION",
            "a\\b",
            "a\nb",
            "a\u{202e}b",
            ".g\u{200c}it",
            &long,
        ] {
            assert!(fault_in_name(bad.as_bytes()).is_some(), "{bad:?}");
        }
        assert!(fault_in_name(b"\xff").is_some());
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
        ] {
            assert!(fault_in_link(bad.as_bytes(), depth).is_some(), "{bad}");
        }
    }
}
