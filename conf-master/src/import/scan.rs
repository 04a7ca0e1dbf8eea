//! Reads the folders. It follows, runs and changes nothing, and reports everything that it cannot
//! take.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use conf_core::git::{self, TreeLimits};
use git2::{FileMode, ObjectType, Oid};
use indicatif::ProgressBar;
use libconf::name::RoleName;
use serde::Serialize;

use crate::import::flags::ImportFlags;

/// The most files and folders of one import.
const MAX_ENTRIES: usize = 200_000;
/// The most bytes of one import.
const MAX_BYTES: usize = 1 << 30;
/// The folder of a component that holds its configuration, where there is one.
const CONF: &str = "conf";
const ALWAYS_LEFT_OUT: [&str; 4] = [".git", ".svn", ".hg", ".DS_Store"];

/// The content of the folders.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The folders, by role, then by name.
    pub(crate) folders: Vec<Folder>,
    /// The paths that are left out, and why.
    pub(crate) left_out: Vec<Remark>,
    /// What must be settled before anything can be written.
    pub(crate) faults: Vec<Remark>,
}

/// One component's configuration, as one role has it.
#[derive(Debug)]
pub(crate) struct Folder {
    /// The role.
    pub(crate) role: RoleName,
    /// The name of its folder.
    pub(crate) name: String,
    /// The path of its configuration below the folder that is read: `core/nginx/conf`.
    pub(crate) shown: String,
    /// The same path, to be opened.
    pub(crate) path: PathBuf,
    /// The files, by path below that.
    pub(crate) files: BTreeMap<String, FileEntry>,
}

/// One file or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileEntry {
    /// The mode in Git: a file, an executable or a link.
    pub(crate) mode: FileMode,
    /// The id of its content in Git.
    pub(crate) oid: Oid,
    /// Its size.
    pub(crate) bytes: u64,
}

/// A remark about a path below the folder that is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Remark {
    /// The path.
    pub(crate) path: String,
    /// The line, counted from 1, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// The remark.
    pub(crate) reason: String,
}

impl Remark {
    /// Makes a remark about a path as a whole.
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Remark { path: path.into(), line: None, reason: reason.into() }
    }
}

impl Folder {
    /// Returns the name of a file in reports.
    pub(crate) fn shown(&self, file: &str) -> String {
        format!("{}/{file}", self.shown)
    }

    /// Reads a file again; a file that changed meanwhile is an error.
    pub(crate) fn read(&self, file: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.path.join(file);
        let entry = &self.files[file];
        let bytes = if entry.mode == FileMode::Link {
            fs::read_link(&path).map(|target| target.as_os_str().as_bytes().to_vec())
        } else {
            fs::read(&path)
        };
        let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
        if Oid::hash_object(ObjectType::Blob, &bytes)? != entry.oid {
            bail!("{} was changed while it was read; run the command again", path.display());
        }
        Ok(bytes)
    }

    /// Returns the bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.bytes).sum()
    }
}

/// Reads `<role>/<component>/[conf/]…`, and the files of a role beside its components.
pub(crate) fn scan(flags: &ImportFlags) -> anyhow::Result<Tree> {
    let root = &flags.folder;
    let mut walk = Walk {
        left_out: &flags.left_out,
        tree: Tree::default(),
        entries: 0,
        bytes: 0,
        progress: ProgressBar::new_spinner(),
    };
    let (roles, beside) = walk.sorted(root, "")?;
    for (name, ..) in beside {
        walk.leave_out(&name, "it is outside of <role>/<component>/");
    }
    let is_by_environment = are_environments(roles.iter().map(|(name, _)| name.as_str()));
    for (role, path) in roles {
        let (components, files) = walk.sorted(&path, &role)?;
        let environments: Vec<&str> = components.iter().map(|(name, _)| name.as_str()).collect();
        if is_by_environment || is_of_environments(&role) || are_environments(environments.iter().copied()) {
            let one =
                if is_by_environment { role.clone() } else { below(&role, environments.first().unwrap_or(&"…")) };
            walk.fault(
                &role,
                format!(
                    "these are environments, not components of a role: each is a datacenter of its own. Import them apart, as in \
                     `conf-master import {}/{one} --class NAME --datacenter ID/VERSION`, or use --leave-out {role}",
                    root.display()
                ),
            );
            continue;
        }
        let Ok(name) = role.parse::<RoleName>() else {
            walk.fault(&role, "a role's name is letters, digits, '.', '_' and '-'; rename this folder");
            continue;
        };
        let (has_none, is_taken) = (components.is_empty(), components.iter().any(|(component, _)| *component == role));
        for (component, path) in components {
            walk.component(&name, component, &path)?;
        }
        if has_none {
            files.iter().for_each(|(file, ..)| walk.leave_out(&below(&role, file), "no component is beside it"));
        } else {
            walk.files_of_role(&name, if is_taken { format!("{role}-files") } else { role }, path, files)?;
        }
    }
    walk.progress.finish_and_clear();
    for wanted in &flags.left_out {
        if !walk.tree.left_out.iter().any(|one| one.path == wanted.trim_end_matches('/')) {
            let reason = "--leave-out names it, and it is not there";
            walk.tree.faults.push(Remark::new(wanted.as_str(), reason));
        }
    }
    if walk.tree.folders.is_empty() && walk.tree.faults.is_empty() {
        bail!("{} holds no <role>/<component>/ with files in it", root.display());
    }
    Ok(walk.tree)
}

/// An entry of a folder: its name, its path, what it is.
type Entry = (String, PathBuf, fs::Metadata);
/// A folder in a folder: its name and its path.
type Place = (String, PathBuf);

struct Walk<'a> {
    left_out: &'a [String],
    tree: Tree,
    entries: usize,
    bytes: usize,
    /// Shows how far the walk is, on a terminal only.
    progress: ProgressBar,
}

impl Walk<'_> {
    fn leave_out(&mut self, shown: &str, reason: &str) {
        self.tree.left_out.push(Remark::new(shown, reason));
    }

    fn fault(&mut self, shown: &str, reason: impl Into<String>) {
        self.tree.faults.push(Remark::new(shown, reason));
    }

    /// Lists the folders in a folder, and what is beside them, sorted by name.
    fn sorted(&mut self, path: &Path, shown: &str) -> anyhow::Result<(Vec<Place>, Vec<Entry>)> {
        let (mut folders, mut others) = (Vec::new(), Vec::new());
        for (name, path, metadata) in self.entries(path, shown)? {
            if metadata.is_dir() {
                folders.push((name, path));
            } else {
                others.push((name, path, metadata));
            }
        }
        Ok((folders, others))
    }

    /// Takes the files beside the components of a role as a component called `name`.
    fn files_of_role(&mut self, role: &RoleName, name: String, path: PathBuf, files: Vec<Entry>) -> anyhow::Result<()> {
        let mut folder = Folder { role: role.clone(), name, shown: role.to_string(), path, files: BTreeMap::new() };
        self.entries_of(&mut folder, files, "", 0)?;
        if !folder.files.is_empty() {
            self.complete(folder);
        }
        Ok(())
    }

    /// Lists the entries of a folder, sorted by name, without those that are always or by a flag
    /// left out.
    fn entries(&mut self, path: &Path, shown: &str) -> anyhow::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let entries = fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read the folder {}", path.display()))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                bail!("more than {MAX_ENTRIES} files and folders; import a part of it, or use --leave-out");
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let shown = below(shown, &name);
            if entry.file_name().to_str().is_none() {
                self.fault(&shown, "the name is not UTF-8; rename it");
            } else if self.left_out.iter().any(|one| one.trim_end_matches('/') == shown) {
                self.leave_out(&shown, "by --leave-out");
            } else if ALWAYS_LEFT_OUT.contains(&name.as_str()) {
                self.leave_out(&shown, "it belongs to another program");
            } else {
                let path = entry.path();
                let metadata =
                    fs::symlink_metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
                found.push((name, path, metadata));
            }
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    fn component(&mut self, role: &RoleName, name: String, path: &Path) -> anyhow::Result<()> {
        let mut shown = format!("{role}/{name}");
        let mut path = path.to_owned();
        let conf = path.join(CONF);
        if fs::symlink_metadata(&conf).is_ok_and(|metadata| metadata.is_dir()) {
            let mut is_taken = false;
            for (other, _, _) in self.entries(&path, &shown)? {
                if other == CONF {
                    is_taken = true;
                } else {
                    self.leave_out(&below(&shown, &other), "it is beside conf/, and only conf/ is taken");
                }
            }
            if !is_taken {
                return Ok(());
            }
            (path, shown) = (conf, below(&shown, CONF));
        }
        let mut folder = Folder { role: role.clone(), name, shown: shown.clone(), path, files: BTreeMap::new() };
        let top = folder.path.clone();
        self.files(&mut folder, &top, "", 0)?;
        self.complete(folder);
        Ok(())
    }

    /// Adds a folder that was read, within the limits.
    fn complete(&mut self, folder: Folder) {
        let shown = folder.shown.clone();
        let limits = TreeLimits::landing();
        if folder.files.len() > limits.entries {
            self.fault(&shown, format!("more than {} files; use --leave-out", limits.entries));
        }
        if folder.bytes() > limits.total_bytes as u64 {
            let most = limits.total_bytes;
            self.fault(&shown, format!("{} bytes in all, at most {most} may be; use --leave-out", folder.bytes()));
        }
        if folder.files.is_empty() {
            self.leave_out(&shown, "it holds no file");
        } else {
            self.tree.folders.push(folder);
        }
    }

    fn files(&mut self, folder: &mut Folder, path: &Path, above: &str, depth: usize) -> anyhow::Result<()> {
        let limits = TreeLimits::landing();
        if depth > limits.depth {
            self.fault(&folder.shown(above), format!("more than {} folders within folders", limits.depth));
            return Ok(());
        }
        let entries = self.entries(path, folder.shown(above).trim_end_matches('/'))?;
        if entries.is_empty() && depth > 0 {
            self.leave_out(&folder.shown(above), "an empty folder; Git keeps none");
        }
        self.entries_of(folder, entries, above, depth)
    }

    fn entries_of(
        &mut self,
        folder: &mut Folder,
        entries: Vec<Entry>,
        above: &str,
        depth: usize,
    ) -> anyhow::Result<()> {
        let limits = TreeLimits::landing();
        let mut folded = BTreeMap::new();
        for (name, path, metadata) in entries {
            let file = below(above, &name);
            let shown = folder.shown(&file);
            if let Some(reason) = git::fault_in_name(name.as_bytes()) {
                self.fault(&shown, format!("{reason}; rename it, or use --leave-out"));
            } else if let Some(other) = folded.insert(git::folded_name(&name), name.clone()) {
                self.fault(
                    &shown,
                    format!("its name differs from {other} only in case or composition; rename one of the two"),
                );
            } else if file.len() > limits.path_bytes {
                let (bytes, most) = (file.len(), limits.path_bytes);
                self.fault(&shown, format!("its path has {bytes} bytes, at most {most} may be; use --leave-out"));
            } else if metadata.is_dir() {
                self.files(folder, &path, &file, depth + 1)?;
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let target = target.as_os_str().as_bytes();
                match git::fault_in_link(target, depth) {
                    None => self.take(folder, file, FileMode::Link, target)?,
                    Some(reason) => self.leave_out(
                        &shown,
                        &format!("a link to {}: {reason}", String::from_utf8_lossy(target).escape_debug()),
                    ),
                }
            } else if !metadata.is_file() {
                self.leave_out(&shown, "neither a file nor a folder nor a link");
            } else if metadata.len() > limits.file_bytes as u64 {
                let most = limits.file_bytes;
                self.fault(&shown, format!("{} bytes, at most {most} may be; use --leave-out", metadata.len()));
            } else {
                match fs::read(&path) {
                    Ok(bytes) if git::is_lfs_pointer(&bytes) => self.fault(
                        &shown,
                        "it is a pointer of Git LFS, not the content; `git lfs pull` brings that, or use --leave-out",
                    ),
                    Ok(bytes) => {
                        let executable = metadata.permissions().mode() & 0o100 != 0;
                        self.take(
                            folder,
                            file,
                            if executable { FileMode::BlobExecutable } else { FileMode::Blob },
                            &bytes,
                        )?;
                    }
                    Err(error) => self.fault(&shown, format!("it cannot be read: {error}; use --leave-out")),
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, folder: &mut Folder, file: String, mode: FileMode, bytes: &[u8]) -> anyhow::Result<()> {
        let oid = Oid::hash_object(ObjectType::Blob, bytes)?;
        self.bytes += bytes.len();
        self.progress.inc(1);
        if self.progress.position().is_multiple_of(100) {
            self.progress.set_message(format!("{} files, {} KiB read", self.progress.position(), self.bytes >> 10));
        }
        if self.bytes > MAX_BYTES {
            bail!("more than {} MiB; import a part of it, or use --leave-out", MAX_BYTES >> 20);
        }
        folder.files.insert(file, FileEntry { mode, oid, bytes: bytes.len() as u64 });
        Ok(())
    }
}

/// Names of folders that hold one folder for each environment.
const OF_ENVIRONMENTS: [&str; 8] =
    ["environments", "environment", "envs", "env", "stages", "datacenters", "inventories", "regions"];
/// Names of environments.
const ENVIRONMENTS: [&str; 14] = [
    "prod",
    "production",
    "stage",
    "staging",
    "preprod",
    "pre-prod",
    "dev",
    "devel",
    "development",
    "test",
    "testing",
    "qa",
    "uat",
    "sandbox",
];

fn is_of_environments(name: &str) -> bool {
    OF_ENVIRONMENTS.contains(&name.to_ascii_lowercase().as_str())
}

/// Tells whether folders are one for each environment: two or more, all called so.
fn are_environments<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let names: Vec<String> = names.map(str::to_ascii_lowercase).collect();
    names.len() > 1 && names.iter().all(|name| ENVIRONMENTS.contains(&name.as_str()))
}

fn below(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") }
}
