//! The crates that are looked at.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::modules::Tree;

/// The product's crates, in the order in which one may rely on another.
const FOLDERS: [&str; 7] = ["libconf", "libconf/core", "conf-master", "conf-slave", "conf-local", "packages", "poc"];

/// One crate: its name and its modules.
pub(crate) struct Package {
    /// As Cargo.toml names it.
    pub(crate) name: String,
    /// Its folder, from the workspace's.
    pub(crate) folder: PathBuf,
    pub(crate) tree: Tree,
}

impl Package {
    /// All of them.
    pub(crate) fn all(root: &Path) -> Vec<Package> {
        let read = FOLDERS.iter().filter_map(|folder| {
            let package = Package::read(root, Path::new(folder));
            assert!(package.is_some(), "there is no {folder}/src; is tests/tests/architecture/package.rs up to date?");
            package
        });
        read.collect()
    }

    /// The crate in `folder`, or nothing where there is no source.
    pub(crate) fn read(root: &Path, folder: &Path) -> Option<Package> {
        if !root.join(folder).join("src").is_dir() {
            return None;
        }
        let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap_or_default();
        let named = manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        let name = named.map_or_else(|| folder.display().to_string(), str::to_owned);
        let tree = Tree::read(root, &folder.join("src"), &name.replace('-', "_"));
        Some(Package { name, folder: folder.to_owned(), tree })
    }
}
