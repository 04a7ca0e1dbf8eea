//! One file of source, and which of its lines are tests.

use std::{
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Meta, Token, punctuated::Punctuated};

/// A file as it was read.
pub(crate) struct Source {
    /// From the workspace's folder.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    /// For each line, whether it belongs to an item that is compiled for tests alone.
    pub(crate) is_test: Vec<bool>,
}

impl Source {
    /// Reads and parses a file. One that cannot be parsed ends the test: the compiler would not
    /// take it either.
    pub(crate) fn read(root: &Path, path: &Path) -> (Source, syn::File) {
        let text = fs::read_to_string(root.join(path)).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|cause| {
            panic!("{}:{}: cannot be parsed: {cause}", path.display(), cause.span().start().line)
        });
        let is_test = vec![false; text.lines().count()];
        (Source { path: path.to_owned(), text, is_test }, parsed)
    }

    /// Remembers that the lines of an item are a test's.
    pub(crate) fn mark_as_test(&mut self, lines: &RangeInclusive<usize>) {
        let last = (*lines.end()).min(self.is_test.len());
        self.is_test[lines.start() - 1..last].fill(true);
    }

    /// How many lines are the product's.
    pub(crate) fn product_lines(&self) -> usize {
        self.is_test.iter().filter(|is_test| !**is_test).count()
    }

    /// The product's lines of comment (number, text). What looks like one within a text of several
    /// lines is none.
    pub(crate) fn comments(&self) -> Vec<(usize, &str)> {
        let mut within_text = vec![false; self.is_test.len() + 1];
        if let Ok(tokens) = self.text.parse::<TokenStream>() {
            mark_literals(tokens, &mut within_text);
        }
        let numbered = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        let product = numbered.filter(|(number, _)| !self.is_test[number - 1] && !within_text[number - 1]);
        product.filter(|(_, line)| line.trim_start().starts_with("//")).collect()
    }
}

/// Marks the lines on which a literal that began earlier goes on.
fn mark_literals(tokens: TokenStream, within: &mut [bool]) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => mark_literals(group.stream(), within),
            TokenTree::Literal(literal) => {
                let span = literal.span();
                within[span.start().line..span.end().line].fill(true);
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// Whether a file's name says that it holds tests.
pub(crate) fn is_test_file(path: &Path) -> bool {
    let words: Vec<_> = path.iter().map(|word| word.to_string_lossy()).collect();
    let Some((file, folders)) = words.split_last() else { return false };
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let is_tests = |word: &str| word == "tests" || word.ends_with("_tests");
    stem == "testing" || is_tests(stem) || folders.iter().any(|word| is_tests(word))
}

/// Whether these attributes leave something out of a build without tests.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        if path.is_ident("cfg") {
            return attribute.parse_args::<Meta>().is_ok_and(|condition| needs_test(&condition));
        }
        path.segments.last().is_some_and(|last| last.ident == "test" || last.ident == "bench")
    })
}

/// Whether a condition of `cfg` can only hold in tests.
fn needs_test(condition: &Meta) -> bool {
    let parts = |list: &syn::MetaList| {
        list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default()
    };
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => parts(list).iter().any(needs_test),
        Meta::List(list) if list.path.is_ident("any") => {
            let parts = parts(list);
            !parts.is_empty() && parts.iter().all(needs_test)
        }
        Meta::List(_) | Meta::NameValue(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_tests_alone() {
        let check = |attribute: &str, expected: bool| {
            let item: syn::ItemFn = syn::parse_str(&format!("{attribute} fn f() {{}}")).unwrap();
            assert_eq!(is_for_tests(&item.attrs), expected, "{attribute}");
        };
        check("#[cfg(test)]", true);
        check("#[cfg(all(test, unix))]", true);
        check("#[tokio::test]", true);
        check("#[cfg(not(test))]", false);
        check("#[cfg(any(test, feature = \"x\"))]", false);
        check("#[inline]", false);
    }

    #[test]
    fn files_of_tests() {
        for path in ["a/tests.rs", "a/b_tests.rs", "a/tests/b.rs", "fuzz_tests.rs", "a/testing.rs"] {
            assert!(is_test_file(Path::new(path)), "{path}");
        }
        for path in ["a/latest.rs", "a/contests/b.rs", "mod.rs"] {
            assert!(!is_test_file(Path::new(path)), "{path}");
        }
    }
}
