//! Finds text that looks like a secret. The search is for shapes and words, so it finds too much
//! rather than too little; a person has to find the rest.
//!
//! This module has whole files; `forms` is the table of shapes, `line` finds a key and its value in
//! a line, `key` decides which keys name secrets, `command` shows a command without them.

mod command;
mod effort;
mod forms;
mod key;
mod line;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::LazyLock};

use regex::Regex;
use serde_json::Value;

pub use crate::suspect::{command::CommandWords, effort::Effort, key::words};

use crate::suspect::forms::PRIVATE_KEY;
use crate::suspect::line::{Values, pattern};

/// Text that looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The range of its value, in bytes of the text.
    pub range: Range<usize>,
    /// What it looks like, with an article.
    pub what: &'static str,
    /// Its key, where there is one.
    pub key: Option<String>,
}

/// Tells whether a value of settings looks like a secret, or holds one: by one of the keys that
/// lead to it, or by its form.
pub fn is_in_value<'a>(keys: impl IntoIterator<Item = &'a str>, value: &Value) -> bool {
    keys.into_iter().any(key::is_secret) || is_within(value)
}

fn is_within(value: &Value) -> bool {
    match value {
        Value::String(text) => !in_text("", text).is_empty(),
        Value::Array(items) => items.iter().any(is_within),
        Value::Object(members) => members.iter().any(|(key, inner)| key::is_secret(key) || is_within(inner)),
        _ => false,
    }
}

/// A public block, from its first line to its last.
static PUBLIC: LazyLock<Regex> = LazyLock::new(|| {
    let label = "(?:[A-Z0-9 ]*(?:CERTIFICATE|CERTIFICATE REQUEST|PUBLIC KEY|PARAMETERS|CRL))";
    pattern(&format!(r"-----BEGIN {label}-----[A-Za-z0-9+/=\s]*-----END {label}-----"))
});

/// Finds text that looks like a secret; the findings are sorted and do not overlap.
pub fn in_text(file: &str, text: &str) -> Vec<Finding> {
    in_text_within(file, text, &Effort::of(usize::MAX))
}

/// Like [`in_text`], until the effort is spent.
pub fn in_text_within(file: &str, text: &str, effort: &Effort) -> Vec<Finding> {
    if let Some(whole) = whole(file, text) {
        return vec![whole];
    }
    let mut found: Vec<Finding> = Vec::new();
    let mut add = |range: Range<usize>, what: &'static str, key: Option<&str>| {
        let overlaps = |one: &Finding| range.start < one.range.end && one.range.start < range.end;
        if effort.spend(found.len()) && !range.is_empty() && !found.iter().any(overlaps) {
            found.push(Finding { range, what, key: key.map(str::to_owned) });
        }
    };
    forms::in_text(text, Values::Likely, &mut add);
    let mut start = text.len() - without_mark(text).len();
    for line in text[start..].split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        line::in_line(bare, Values::Likely, effort, |key, value| {
            add(start + value.start..start + value.end, key::what(key), Some(key));
        });
        let next = start + line.len();
        if let Some(key) = line::before_block(bare) {
            let block = line::block(line::indent(bare), &text[next..]);
            effort.spend(block.len());
            add(next + block.start..next + block.end, key::what(key), Some(key));
        }
        start = next;
        if effort.is_spent() {
            break;
        }
    }
    found.sort_by_key(|one| one.range.start);
    found
}

/// Says what a file that is not UTF-8 text looks like. It is searched as text of another encoding:
/// without the zero bytes that UTF-16 puts between letters, and without unreadable bytes.
pub fn in_bytes(file: &str, bytes: &[u8]) -> Option<&'static str> {
    in_bytes_within(file, bytes, &Effort::of(usize::MAX))
}

/// Like [`in_bytes`], until the effort is spent.
pub fn in_bytes_within(file: &str, bytes: &[u8], effort: &Effort) -> Option<&'static str> {
    if ["p12", "pfx", "jks", "keystore", "kdb", "kdbx", "keytab", "ppk"].contains(&extension(&name(file))) {
        return Some("a store of keys");
    }
    let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&letters).into_owned());
    in_text_within(file, &text, effort).first().map(|finding| finding.what)
}

/// Removes the mark of an encoding, or unreadable bytes, from the beginning of a text.
fn without_mark(text: &str) -> &str {
    text.trim_start_matches(['\u{feff}', char::REPLACEMENT_CHARACTER])
}

/// Takes the whole of a file whose name marks it as a secret, unless it consists of separate key
/// blocks.
fn whole(file: &str, text: &str) -> Option<Finding> {
    let value = text.trim();
    if value.is_empty() || !is_secret_file(file) {
        return None;
    }
    let rest = PUBLIC.replace_all(text, "");
    if PRIVATE_KEY.replace_all(&rest, "").trim().is_empty() {
        return None;
    }
    let start = text.len() - text.trim_start().len();
    Some(Finding { range: start..start + value.len(), what: "a key or password file", key: None })
}

fn name(file: &str) -> String {
    file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase()
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Tells by its name whether the whole content of a file is a secret.
fn is_secret_file(file: &str) -> bool {
    let name = name(file);
    matches!(extension(&name), "key" | "keyfile" | "secret" | "token" | "password" | "pass")
        || matches!(
            name.as_str(),
            "keyfile" | "secret" | "token" | "password" | ".pgpass" | ".netrc" | "sasl_passwd" | ".vault-token"
        )
        || matches!(name.as_str(), "id_rsa" | "id_dsa" | "id_ecdsa" | "id_ed25519")
}
