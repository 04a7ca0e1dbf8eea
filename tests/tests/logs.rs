//! The keys of log lines: each has one type in all programs, so that a collector of logs can index
//! them. Reads every call of `tracing` in the product's code.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// Keys whose values are numbers. A key that is not listed is a text.
const NUMBERS: [&str; 15] = [
    "sequence",
    "current",
    "took_ms",
    "datacenters",
    "refused",
    "refs",
    "keys",
    "transactions",
    "wire_bytes",
    "requests",
    "packs",
    "changed",
    "tokens",
    "count",
    "user",
];

/// One key of one call.
#[derive(Debug)]
struct Key {
    name: String,
    /// Shown by `%` or `?`, so as text.
    is_shown: bool,
    value: String,
    place: String,
}

#[test]
fn every_key_has_one_type() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut keys = Vec::new();
    for folder in ["libconf/core/src", "libconf/src", "conf-master/src", "conf-slave/src", "conf-local/src"] {
        for path in sources(&root.join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            let file = syn::parse_file(&text).unwrap();
            let place = path.strip_prefix(root).unwrap().display().to_string();
            Calls { place, keys: &mut keys }.visit_file(&file);
        }
    }
    assert!(keys.len() > 150, "only {} keys were found", keys.len());
    let wrong: Vec<String> = keys.iter().filter_map(fault).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let used: BTreeMap<&str, &Key> = keys.iter().map(|key| (key.name.as_str(), key)).collect();
    let unused: Vec<_> = NUMBERS.iter().filter(|name| !used.contains_key(*name)).collect();
    assert!(unused.is_empty(), "no call has the keys {unused:?}");
}

/// `daemon::chain` alone makes words of errors: `{:#}` of anyhow shows what libgit2 adds for programmers.
#[test]
fn no_error_is_written_with_its_causes_by_another_way_than_chain() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut wrong = Vec::new();
    for folder in ["libconf/core/src", "libconf/src", "conf-master/src", "conf-slave/src", "conf-local/src"] {
        for path in sources(&root.join(folder)) {
            let text = fs::read_to_string(&path).unwrap();
            // Tests stand at the end of a file, or in files of their own.
            let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let is_test =
                path.components().any(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs") == "tests");
            let shows =
                |line: &str| ["error", "cause", "why", ""].iter().any(|name| line.contains(&format!("{{{name}:#}}")));
            let lines = product.lines().zip(1..).filter(|(line, _)| !is_test && shows(line) && !line.contains("value"));
            wrong.extend(lines.map(|(line, number)| format!("{}:{number}: {}", path.display(), line.trim())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn fault(key: &Key) -> Option<String> {
    let Key { name, is_shown, value, place } = key;
    let is_number = NUMBERS.contains(&name.as_str());
    // What shows by its form that it is a number. `as_millis` gives a `u128`, which the log makes a text.
    let looks_like_number =
        [". 0", ". len ()", "millis ("].iter().any(|end| value.ends_with(end.trim()) || value.starts_with(end));
    let words = match (is_number, is_shown) {
        _ if value.contains("as_millis") => "as_millis is a u128, which becomes a text; use daemon::millis",
        (true, true) => "it is a number, and % and ? make a text of it",
        (false, false) if looks_like_number => "it is a number: list it among NUMBERS, or write it as a text by %",
        _ => return None,
    };
    Some(format!("{place}: the key {name} (= {value}): {words}"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Collects the keys of the calls in one file.
struct Calls<'k> {
    place: String,
    keys: &'k mut Vec<Key>,
}

impl<'a> Visit<'a> for Calls<'_> {
    fn visit_macro(&mut self, call: &'a syn::Macro) {
        let name = call.path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default();
        if ["trace", "debug", "info", "warn", "error"].contains(&name.as_str()) {
            let line = call.path.segments[0].ident.span().start().line;
            let place = format!("{}:{line}", self.place);
            // What follows the message belongs to it.
            self.keys.extend(arguments(call.tokens.clone()).into_iter().map_while(|one| key(one, &place)));
        }
        // Calls stand in the arguments of other macros too, such as `select!`.
        if let Ok(block) = call.parse_body_with(syn::Block::parse_within) {
            block.iter().for_each(|statement| self.visit_stmt(statement));
        }
        nested(call.tokens.clone(), self);
        visit::visit_macro(self, call);
    }
}

/// Looks for calls in the tokens of a macro that is no Rust code as a whole.
fn nested(tokens: TokenStream, calls: &mut Calls<'_>) {
    for token in tokens {
        if let TokenTree::Group(group) = token {
            if let Ok(block) = syn::parse::Parser::parse2(syn::Block::parse_within, group.stream()) {
                block.iter().for_each(|statement| calls.visit_stmt(statement));
            }
            nested(group.stream(), calls);
        }
    }
}

/// The arguments of a call, cut at its commas.
fn arguments(tokens: TokenStream) -> Vec<Vec<TokenTree>> {
    let mut found = vec![Vec::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(comma) if comma.as_char() == ',' => found.push(Vec::new()),
            _ => found.last_mut().unwrap().push(token),
        }
    }
    found
}

/// Reads `name = value`, `%value`, `?value` or `value`; the message is none of them.
fn key(argument: Vec<TokenTree>, place: &str) -> Option<Key> {
    let is = |token: &TokenTree, sign: char| matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign);
    let at = argument.iter().position(|token| is(token, '='));
    let (name, value) = match at {
        Some(at) => (Some(argument[..at].to_vec()), argument[at + 1..].to_vec()),
        None => (None, argument),
    };
    let is_shown = value.first().is_some_and(|first| is(first, '%') || is(first, '?'));
    if name.is_none() && matches!(value.first()?, TokenTree::Literal(_)) {
        return None;
    }
    let text = |tokens: &[TokenTree]| tokens.iter().cloned().collect::<TokenStream>().to_string();
    let value = text(if is_shown { &value[1..] } else { &value });
    let name = name.map_or_else(|| value.clone(), |name| text(&name));
    Some(Key { name, is_shown, value, place: place.to_owned() })
}
