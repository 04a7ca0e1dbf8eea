//! The paths that a file names: in `use` items, in code, and in what macros and attributes are
//! given.

use proc_macro2::{TokenStream, TokenTree};
use syn::{Expr, ExprLit, Ident, Lit, Meta, UseTree, spanned::Spanned as _};

/// One path that a module names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// As written, from the first word: `crate`, `super`, `self`, or a name.
    pub(crate) words: Vec<String>,
    pub(crate) line: usize,
    pub(crate) form: Form,
}

/// How a path is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `use a::b as name;`; without a name for `as _`.
    Use { name: Option<String> },
    /// `use a::*;`
    Glob,
    /// Within code.
    Inline,
}

impl Reference {
    /// What is written in the place of `name` in `use … as name`, if this is it.
    pub(crate) fn brings(&self, wanted: &str) -> bool {
        matches!(&self.form, Form::Use { name: Some(name) } if name == wanted)
    }
}

/// Adds all paths of a `use` tree.
pub(crate) fn add_use(tree: &UseTree, before: &[String], found: &mut Vec<Reference>) {
    let with = |ident: &Ident| [before, &[plain(ident)]].concat();
    match tree {
        UseTree::Path(path) => add_use(&path.tree, &with(&path.ident), found),
        UseTree::Name(name) if name.ident == "self" => {
            let form = Form::Use { name: before.last().cloned() };
            found.push(Reference { words: before.to_vec(), line: line(&name.ident), form });
        }
        UseTree::Name(name) => {
            let form = Form::Use { name: Some(plain(&name.ident)) };
            found.push(Reference { words: with(&name.ident), line: line(&name.ident), form });
        }
        UseTree::Rename(rename) => {
            let words = if rename.ident == "self" { before.to_vec() } else { with(&rename.ident) };
            let name = (rename.rename != "_").then(|| plain(&rename.rename));
            found.push(Reference { words, line: line(&rename.ident), form: Form::Use { name } });
        }
        UseTree::Glob(glob) => {
            let line = glob.star_token.span().start().line;
            found.push(Reference { words: before.to_vec(), line, form: Form::Glob });
        }
        UseTree::Group(group) => group.items.iter().for_each(|item| add_use(item, before, found)),
    }
}

/// Adds a path of code. One word alone names nothing that a `use` has not named before.
pub(crate) fn add_path(path: &syn::Path, found: &mut Vec<Reference>) {
    if path.leading_colon.is_some() {
        return;
    }
    let words: Vec<String> = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
    if words.len() > 1 {
        let line = path.segments.first().map_or(0, |first| line(&first.ident));
        found.push(Reference { words, line, form: Form::Inline });
    }
}

/// Adds the paths among tokens that nobody has parsed: `a::b`, where no `::` or `.` stands before.
pub(crate) fn add_tokens(tokens: TokenStream, found: &mut Vec<Reference>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, wanted: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == wanted);
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => add_tokens(group.stream(), found),
            TokenTree::Ident(first)
                if at == 0 || !(is(at - 1, ':') && at > 1 && is(at - 2, ':') || is(at - 1, '.')) =>
            {
                let mut words = vec![plain(first)];
                while is(at + 1, ':')
                    && is(at + 2, ':')
                    && let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                {
                    words.push(plain(next));
                    at += 3;
                }
                if words.len() > 1 {
                    found.push(Reference { words, line: line(first), form: Form::Inline });
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        at += 1;
    }
}

/// Adds the paths in an attribute, those in its texts included: `#[serde(with = "crate::a::b")]`.
pub(crate) fn add_attribute(attribute: &syn::Attribute, found: &mut Vec<Reference>) {
    match &attribute.meta {
        Meta::List(list) => {
            add_tokens(list.tokens.clone(), found);
            add_texts(list.tokens.clone(), found);
        }
        Meta::NameValue(pair) if !pair.path.is_ident("doc") => {
            if let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &pair.value {
                add_text(&text.value(), text.span().start().line, found);
            }
        }
        Meta::NameValue(_) | Meta::Path(_) => {}
    }
}

fn add_texts(tokens: TokenStream, found: &mut Vec<Reference>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => add_texts(group.stream(), found),
            TokenTree::Literal(literal) => {
                let line = literal.span().start().line;
                add_text(literal.to_string().trim_matches('"'), line, found);
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

fn add_text(text: &str, line: usize, found: &mut Vec<Reference>) {
    let begins = ["crate::", "super::", "self::"].iter().any(|start| text.starts_with(start));
    if let Ok(path) = syn::parse_str::<syn::Path>(text)
        && begins
    {
        let before = found.len();
        add_path(&path, found);
        found[before..].iter_mut().for_each(|reference| reference.line = line);
    }
}

fn plain(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map_or(text.clone(), str::to_owned)
}

fn line(ident: &Ident) -> usize {
    ident.span().start().line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_a_use() {
        let check = |text: &str, expected: &[&str]| {
            let item: syn::ItemUse = syn::parse_str(text).unwrap();
            let mut found = Vec::new();
            add_use(&item.tree, &[], &mut found);
            let shown: Vec<String> = found
                .iter()
                .map(|reference| match &reference.form {
                    Form::Use { name } => {
                        format!("{} = {}", name.as_deref().unwrap_or("_"), reference.words.join("::"))
                    }
                    Form::Glob => format!("{}::*", reference.words.join("::")),
                    Form::Inline => unreachable!("a use is none"),
                })
                .collect();
            assert_eq!(shown, expected, "{text}");
        };
        check("use crate::a::B;", &["B = crate::a::B"]);
        check("use crate::{a::{self, B as C}, d::*};", &["a = crate::a", "C = crate::a::B", "crate::d::*"]);
        check("use super::r#type::T as _;", &["_ = super::type::T"]);
    }

    #[test]
    fn the_paths_among_tokens() {
        let check = |text: &str, expected: &[&str]| {
            let mut found = Vec::new();
            add_tokens(text.parse().unwrap(), &mut found);
            let shown: Vec<String> = found.iter().map(|reference| reference.words.join("::")).collect();
            assert_eq!(shown, expected, "{text}");
        };
        check("crate::a::f(b::g(x), y.c::<T>())", &["crate::a::f", "b::g"]);
        check("$crate::a::B { x: super::c::D }", &["crate::a::B", "super::c::D"]);
        check("alone, ::std::io", &[]);
    }
}
