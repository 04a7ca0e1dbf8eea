//! The modules of a crate, found by its `mod` lines.

use std::path::{Path, PathBuf};

use crate::{
    contents::{self, Contents, Declared, Function},
    source::{Source, is_test_file},
};

/// All modules of a crate. Each root (`lib.rs`, `main.rs`, each program in `bin/`) has a tree of
/// its own.
pub(crate) struct Tree {
    /// The name by which `main.rs` imports the library.
    pub(crate) library: String,
    pub(crate) modules: Vec<Module>,
    pub(crate) files: Vec<File>,
}

/// A file of the product, and its functions.
pub(crate) struct File {
    pub(crate) source: Source,
    pub(crate) functions: Vec<Function>,
}

/// One module. Its number is its place in [`Tree::modules`].
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) parent: Option<usize>,
    /// In the order of their `mod` lines.
    pub(crate) children: Vec<usize>,
    pub(crate) contents: Contents,
    /// Its place in [`Tree::files`].
    pub(crate) file: usize,
    /// Whether it stands between braces in its parent's file.
    pub(crate) is_inline: bool,
    /// What it is for: the comment above its `mod` line, or else at its own top.
    pub(crate) purpose: String,
}

impl Tree {
    pub(crate) fn read(root: &Path, source: &Path, library: &str) -> Tree {
        let mut tree = Tree { library: library.to_owned(), modules: Vec::new(), files: Vec::new() };
        let mut programs: Vec<PathBuf> = std::fs::read_dir(root.join(source).join("bin"))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(source.join("bin").join(entry.ok()?.file_name())))
            .collect();
        programs.sort();
        for path in [source.join("lib.rs"), source.join("main.rs")].into_iter().chain(programs) {
            if path.extension().is_some_and(|ending| ending == "rs") && root.join(&path).is_file() {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let folder = path.parent().unwrap_or(source).to_owned();
                tree.add_file(root, &path, &folder, &name, None, None);
            }
        }
        tree
    }

    /// Reads the file of a module, and of all below it. `folder` is where the files of its children
    /// are.
    fn add_file(
        &mut self,
        root: &Path,
        path: &Path,
        folder: &Path,
        name: &str,
        parent: Option<usize>,
        purpose: Option<String>,
    ) -> usize {
        let (mut source, parsed) = Source::read(root, path);
        let found = contents::of(&parsed);
        found.tests.iter().for_each(|lines| source.mark_as_test(lines));
        let file = self.files.len();
        self.files.push(File { source, functions: found.functions });
        let purpose = purpose.or(found.purpose).unwrap_or_default();
        let module = Module {
            name: name.to_owned(),
            parent,
            children: Vec::new(),
            contents: found.contents,
            file,
            is_inline: false,
            purpose,
        };
        self.add_module(root, module, folder)
    }

    fn add_module(&mut self, root: &Path, mut module: Module, folder: &Path) -> usize {
        let declared = std::mem::take(&mut module.contents.modules);
        let file = module.file;
        let number = self.modules.len();
        self.modules.push(module);
        for child in declared {
            if let Some(child) = self.add_child(root, number, file, child, folder) {
                self.modules[number].children.push(child);
            }
        }
        number
    }

    fn add_child(
        &mut self,
        root: &Path,
        parent: usize,
        file: usize,
        declared: Declared,
        folder: &Path,
    ) -> Option<usize> {
        let Declared { name, purpose, path, inline } = declared;
        let below = folder.join(&name);
        if let Some(contents) = inline {
            let purpose = purpose.unwrap_or_default();
            let parent = Some(parent);
            let module = Module { name, parent, children: Vec::new(), contents, file, is_inline: true, purpose };
            return Some(self.add_module(root, module, &below));
        }
        let here = self.files[file].source.path.parent().unwrap_or(Path::new("")).to_owned();
        let beside = folder.join(format!("{name}.rs"));
        let (path, below) = match path {
            Some(path) => (here.join(&path), here),
            None if root.join(&beside).is_file() => (beside, below),
            None => (below.join("mod.rs"), below),
        };
        let is_test = is_test_file(path.strip_prefix(self.source_folder()).unwrap_or(&path));
        (!is_test).then(|| self.add_file(root, &path, &below, &name, Some(parent), purpose))
    }

    /// The folder of the first root: `conf-master/src`.
    fn source_folder(&self) -> &Path {
        self.files.first().and_then(|file| file.source.path.parent()).unwrap_or(Path::new(""))
    }

    /// The module, or the one around it that is a file.
    pub(crate) fn file_module(&self, mut module: usize) -> usize {
        while let (true, Some(parent)) = (self.modules[module].is_inline, self.modules[module].parent) {
            module = parent;
        }
        module
    }

    /// The modules around one, from its parent to the root.
    pub(crate) fn around(&self, module: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.modules[module].parent, |&around| self.modules[around].parent)
    }

    /// `lib.rs` or the program that a module belongs to.
    pub(crate) fn root_of(&self, module: usize) -> usize {
        self.around(module).last().unwrap_or(module)
    }

    /// The module directly below the root that one is or belongs to; none for the root itself.
    pub(crate) fn folder_of(&self, module: usize) -> Option<usize> {
        let is_top = |&at: &usize| self.modules[at].parent.is_some_and(|up| self.modules[up].parent.is_none());
        std::iter::once(module).chain(self.around(module)).find(is_top)
    }

    /// The child of `parent` that a module is or belongs to.
    pub(crate) fn child_with(&self, parent: usize, module: usize) -> Option<usize> {
        std::iter::once(module).chain(self.around(module)).find(|&at| self.modules[at].parent == Some(parent))
    }

    /// Its name with those around it: `judge::plan`; of a root `lib.rs`.
    pub(crate) fn path_of(&self, module: usize) -> String {
        let mut names: Vec<&str> = std::iter::once(module)
            .chain(self.around(module))
            .filter(|&at| self.modules[at].parent.is_some())
            .map(|at| self.modules[at].name.as_str())
            .collect();
        names.reverse();
        if names.is_empty() { format!("{}.rs", self.modules[module].name) } else { names.join("::") }
    }

    /// The path of the file that a module is in.
    pub(crate) fn file_of(&self, module: usize) -> &Path {
        &self.files[self.modules[module].file].source.path
    }

    /// The folders of the crate in their order: those of `lib.rs`, then those of `main.rs`.
    pub(crate) fn folders(&self) -> Vec<usize> {
        let roots = self.modules.iter().filter(|module| module.parent.is_none());
        roots.flat_map(|root| root.children.iter().copied()).collect()
    }
}
