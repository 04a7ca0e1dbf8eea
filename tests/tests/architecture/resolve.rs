//! Where a path leads: to the module that defines what it names, through the re-exports of façades.

use crate::{
    modules::Tree,
    references::{Form, Reference},
};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The module that defines it, or that it is.
    pub(crate) module: usize,
    /// Its name there; nothing where the path names the module itself.
    pub(crate) name: Option<String>,
    /// The modules whose `use` or own items led there.
    pub(crate) through: Vec<usize>,
}

/// A `use` may lead to a `use`: so often is that followed, which also ends those that lead to
/// themselves.
const LONGEST_CHAIN: usize = 12;

impl Tree {
    /// Where a reference of a module leads; nothing where that is another crate, or no module.
    pub(crate) fn resolve(&self, from: usize, reference: &Reference) -> Option<Target> {
        self.follow(from, reference, 0)
    }

    fn follow(&self, from: usize, reference: &Reference, depth: usize) -> Option<Target> {
        let (first, mut words) = reference.words.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Target::module(self.root_of(from)),
            "self" => Target::module(from),
            "super" => {
                let mut up = self.modules[from].parent?;
                while let Some((word, rest)) = words.split_first()
                    && word == "super"
                {
                    (up, words) = (self.modules[up].parent?, rest);
                }
                Target::module(up)
            }
            name => self.in_scope(from, name, reference, depth)?,
        };
        for word in words {
            if at.name.is_some() {
                break; // A variant, or what belongs to a type.
            }
            at = self.step(at, word, depth);
        }
        Some(at)
    }

    /// What a name means at the start of a path.
    fn in_scope(&self, from: usize, name: &str, reference: &Reference, depth: usize) -> Option<Target> {
        if let Some(child) = self.child(from, name) {
            return Some(Target::module(child));
        }
        // `use a::b;` looks for `a`, not for what it brings itself.
        if let Some(import) = self.modules[from].contents.import(name)
            && import != reference
            && depth < LONGEST_CHAIN
        {
            let found = self.follow(from, import, depth + 1)?;
            // A type that was imported: its `use` has told of it already.
            let is_module = found.name.is_none() || reference.form != Form::Inline;
            return is_module.then_some(Target { through: Vec::new(), ..found });
        }
        let is_library = name == self.library && !self.modules.is_empty() && self.root_of(from) != 0;
        is_library.then(|| Target::module(0))
    }

    /// What `word` means within the module of `at`.
    fn step(&self, at: Target, word: &str, depth: usize) -> Target {
        let Target { module, through, .. } = at;
        if let Some(child) = self.child(module, word) {
            return Target { module: child, name: None, through };
        }
        let contents = &self.modules[module].contents;
        let is_own = contents.items.iter().any(|item| item == word);
        let led = if is_own || depth >= LONGEST_CHAIN { None } else { self.re_exported(module, word, depth) };
        let through = [through, vec![module]].concat();
        match led {
            Some(found) => Target { through: [through, found.through].concat(), ..found },
            None => Target { module, name: Some(word.to_owned()), through },
        }
    }

    fn re_exported(&self, module: usize, word: &str, depth: usize) -> Option<Target> {
        let contents = &self.modules[module].contents;
        if let Some(import) = contents.import(word) {
            return self.follow(module, import, depth + 1);
        }
        contents.globs().filter_map(|glob| self.follow(module, glob, depth + 1)).find_map(|target| {
            let has_it = target.name.is_none() && target.module != module && self.provides(target.module, word);
            has_it.then(|| self.step(target, word, depth + 1))
        })
    }

    fn provides(&self, module: usize, word: &str) -> bool {
        let contents = &self.modules[module].contents;
        contents.items.iter().any(|item| item == word)
            || self.child(module, word).is_some()
            || contents.import(word).is_some()
    }

    fn child(&self, module: usize, name: &str) -> Option<usize> {
        self.modules[module].children.iter().copied().find(|&child| self.modules[child].name == name)
    }
}

impl Target {
    fn module(module: usize) -> Target {
        Target { module, name: None, through: Vec::new() }
    }
}
