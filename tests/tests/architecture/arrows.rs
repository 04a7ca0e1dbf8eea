//! Which file of a crate names what of which other one.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    modules::Tree,
    references::{Form, Reference},
    resolve::Target,
};

/// An arrow from one file to another, or from one folder to another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrow {
    pub(crate) names: BTreeSet<String>,
    /// The name of the other module, where it is imported as a whole.
    pub(crate) whole: Option<String>,
    /// The file and line of the first of them: the number of the module, and its line.
    pub(crate) first: (usize, usize),
}

impl Arrow {
    /// All names, or else that of the module.
    pub(crate) fn told(&self) -> String {
        let names = self.names.iter().map(String::as_str);
        let whole = self.whole.as_deref().filter(|_| self.names.is_empty());
        names.chain(whole).collect::<Vec<_>>().join(", ")
    }
}

/// Arrows by where they begin and end, as numbers of modules.
pub(crate) type Arrows = BTreeMap<(usize, usize), Arrow>;

/// All that the files of a crate name of each other.
#[derive(Default)]
pub(crate) struct Imports {
    /// Between files that are no façade of each other.
    pub(crate) files: Arrows,
    /// What leaves its file by `super`.
    pub(crate) by_super: Upward,
    /// What a module names of a folder around itself, by that folder's path.
    pub(crate) by_facade: Upward,
}

/// Paths as written, by module and line.
pub(crate) type Upward = BTreeMap<(usize, usize), Vec<String>>;

/// Looks at every path of a crate.
pub(crate) fn of(tree: &Tree) -> Imports {
    let mut imports = Imports::default();
    for (number, module) in tree.modules.iter().enumerate() {
        let from = tree.file_module(number);
        for reference in &module.contents.references {
            let Some(target) = tree.resolve(number, reference) else { continue };
            let to = tree.file_module(target.module);
            let upward = if leaves_by_super(tree, number, from, reference) {
                Some(&mut imports.by_super)
            } else if goes_by_its_facade(tree, from, &target) {
                Some(&mut imports.by_facade)
            } else {
                None
            };
            if let Some(upward) = upward {
                upward.entry((from, reference.line)).or_default().push(reference.words.join("::"));
            }
            if from == to || tree.around(from).any(|up| up == to) || tree.around(to).any(|up| up == from) {
                continue;
            }
            let first = (from, reference.line);
            let arrow = imports.files.entry((from, to)).or_insert_with(|| Arrow { first, ..Arrow::default() });
            match (target.name, &reference.form) {
                (Some(name), _) => drop(arrow.names.insert(name)),
                (None, Form::Glob) => drop(arrow.names.insert("*".to_owned())),
                (None, Form::Use { .. } | Form::Inline) => arrow.whole = Some(tree.modules[to].name.clone()),
            }
        }
    }
    imports
}

/// Whether a path begins with `super` and so leads out of its file. Within one file it may.
fn leaves_by_super(tree: &Tree, module: usize, from: usize, reference: &Reference) -> bool {
    let ups = reference.words.iter().take_while(|word| *word == "super").count();
    ups > 0 && tree.around(module).nth(ups - 1).is_none_or(|up| tree.file_module(up) != from)
}

/// Whether a path leads to what a folder around the module has or re-exports. What the crate's root
/// has is for all.
fn goes_by_its_facade(tree: &Tree, from: usize, target: &Target) -> bool {
    let is_facade = |at: usize| tree.modules[at].parent.is_some() && tree.around(from).any(|up| up == at);
    target.through.iter().any(|&at| is_facade(tree.file_module(at)))
}

impl Imports {
    /// Arrows between the folders directly below `lib.rs` and `main.rs`.
    pub(crate) fn folders(&self, tree: &Tree) -> Arrows {
        self.joined(|module| tree.folder_of(module))
    }

    /// Arrows between the modules directly below `parent`.
    pub(crate) fn below(&self, tree: &Tree, parent: usize) -> Arrows {
        self.joined(|module| tree.child_with(parent, module))
    }

    /// Arrows joined by what each end belongs to.
    fn joined(&self, belongs: impl Fn(usize) -> Option<usize>) -> Arrows {
        let mut joined = Arrows::new();
        for (&(from, to), arrow) in &self.files {
            if let (Some(from), Some(to)) = (belongs(from), belongs(to))
                && from != to
            {
                let all = joined.entry((from, to)).or_insert_with(|| Arrow { first: arrow.first, ..Arrow::default() });
                all.names.extend(arrow.names.iter().cloned());
                all.whole = all.whole.take().or_else(|| arrow.whole.clone());
            }
        }
        joined
    }
}
