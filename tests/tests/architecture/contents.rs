//! What one file holds: its modules, items, functions, and the paths that each module names.

use std::ops::RangeInclusive;

use syn::{
    Attribute, Expr, ExprLit, ImplItem, Item, ItemImpl, ItemMod, Lit, Meta, Signature, Type,
    spanned::Spanned,
    visit::{self, Visit},
};

use crate::{
    references::{self, Form, Reference},
    source::is_for_tests,
};

/// What a module holds, within one file.
#[derive(Default)]
pub(crate) struct Contents {
    /// The names of its own items.
    pub(crate) items: Vec<String>,
    pub(crate) references: Vec<Reference>,
    /// Its `mod` lines, in their order.
    pub(crate) modules: Vec<Declared>,
}

/// A `mod` line.
pub(crate) struct Declared {
    pub(crate) name: String,
    /// The first sentence of the comment above it.
    pub(crate) purpose: Option<String>,
    /// What `#[path = "…"]` says.
    pub(crate) path: Option<String>,
    /// What stands between its braces; nothing where it is a file of its own.
    pub(crate) inline: Option<Contents>,
}

/// A function with a body.
pub(crate) struct Function {
    /// `name`, or `Type::name`.
    pub(crate) name: String,
    /// From the line of `fn` to its last brace.
    pub(crate) lines: RangeInclusive<usize>,
}

/// All that was found in one file. What is for tests alone is left out.
pub(crate) struct Found {
    pub(crate) contents: Contents,
    pub(crate) functions: Vec<Function>,
    /// The lines of what was left out.
    pub(crate) tests: Vec<RangeInclusive<usize>>,
    /// The first sentence of the comment at the top.
    pub(crate) purpose: Option<String>,
}

/// Looks through a parsed file.
pub(crate) fn of(file: &syn::File) -> Found {
    let mut looker = Looker { stack: vec![Contents::default()], ..Looker::default() };
    file.items.iter().for_each(|item| looker.visit_item(item));
    let contents = looker.stack.pop().unwrap_or_default();
    Found { contents, functions: looker.functions, tests: looker.tests, purpose: first_sentence(&file.attrs) }
}

#[derive(Default)]
struct Looker {
    /// The modules around what is looked at; the innermost is the last.
    stack: Vec<Contents>,
    /// The type whose `impl` is looked at.
    owner: Option<String>,
    functions: Vec<Function>,
    tests: Vec<RangeInclusive<usize>>,
    /// How many function bodies are around: what is within them is no item of the module.
    depth: usize,
}

impl Looker {
    fn module(&mut self) -> &mut Contents {
        self.stack.last_mut().expect("the file itself is always there")
    }

    /// Whether something is for tests alone; its lines are kept.
    fn leaves_out(&mut self, attributes: &[Attribute], all: &impl Spanned) -> bool {
        let leaves = is_for_tests(attributes);
        if leaves {
            let all = all.span();
            self.tests.push(all.start().line..=all.end().line);
        }
        leaves
    }

    fn add_function(&mut self, signature: &Signature, body: &syn::Block) {
        let name = match &self.owner {
            Some(owner) => format!("{owner}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        self.functions.push(Function { name, lines: signature.span().start().line..=body.span().end().line });
    }
}

impl<'ast> Visit<'ast> for Looker {
    fn visit_item(&mut self, item: &'ast Item) {
        if self.leaves_out(attributes_of(item), item) {
            return;
        }
        if let Some(name) = name_of(item)
            && self.depth == 0
        {
            self.module().items.push(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let inline = item.content.as_ref().map(|(_, items)| {
            self.stack.push(Contents::default());
            items.iter().for_each(|item| self.visit_item(item));
            self.stack.pop().unwrap_or_default()
        });
        let path = item.attrs.iter().find_map(|attribute| text_of(attribute, "path"));
        let declared = Declared { name: item.ident.to_string(), purpose: first_sentence(&item.attrs), path, inline };
        self.module().modules.push(declared);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            references::add_use(&item.tree, &[], &mut self.module().references);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let owner = self.owner.take();
        self.add_function(&item.sig, &item.block);
        self.depth += 1;
        visit::visit_item_fn(self, item);
        self.depth -= 1;
        self.owner = owner;
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let name = match item.self_ty.as_ref() {
            Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        let around = std::mem::replace(&mut self.owner, name);
        visit::visit_item_impl(self, item);
        self.owner = around;
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !self.leaves_out(attributes, item) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add_function(&item.sig, &item.block);
        self.depth += 1;
        visit::visit_impl_item_fn(self, item);
        self.depth -= 1;
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.add_function(&item.sig, body);
        }
        self.depth += 1;
        visit::visit_trait_item_fn(self, item);
        self.depth -= 1;
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !self.leaves_out(&local.attrs, local) {
            visit::visit_local(self, local);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !self.leaves_out(&field.attrs, field) {
            visit::visit_field(self, field);
        }
    }

    // `pub(super)` and `pub(in crate::a)` import nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        references::add_path(path, &mut self.module().references);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        references::add_tokens(called.tokens.clone(), &mut self.module().references);
        visit::visit_macro(self, called);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        references::add_attribute(attribute, &mut self.module().references);
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

/// The text of `#[key = "text"]`.
fn text_of(attribute: &Attribute, key: &str) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident(key) => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// The first sentence of a comment: `/// The orders. Each is kept.` and what follows on the next
/// lines gives `The orders.`
fn first_sentence(attributes: &[Attribute]) -> Option<String> {
    let lines = attributes.iter().filter_map(|attribute| text_of(attribute, "doc"));
    let paragraph: Vec<String> = lines.map(|line| line.trim().to_owned()).take_while(|line| !line.is_empty()).collect();
    let text = paragraph.join(" ");
    let end = text.find(". ").map_or(text.len(), |dot| dot + 1);
    (!text.is_empty()).then(|| text[..end].to_owned())
}

impl Contents {
    /// The `use` that brings a name into this module, if one does.
    pub(crate) fn import(&self, name: &str) -> Option<&Reference> {
        self.references.iter().find(|reference| reference.brings(name))
    }

    /// The `use a::*` of this module.
    pub(crate) fn globs(&self) -> impl Iterator<Item = &Reference> {
        self.references.iter().filter(|reference| reference.form == Form::Glob)
    }
}
