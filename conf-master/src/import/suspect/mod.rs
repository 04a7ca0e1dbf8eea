//! Finds text that looks like a secret. The search is for shapes and words, so it finds too much
//! rather than too little; a person has to find the rest.
//!
//! This module has the shapes and whole files; `line` finds a key and its value in a line, `key`
//! decides which keys name secrets.

pub(crate) mod key;
mod line;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::LazyLock};

use regex::Regex;

use crate::import::suspect::line::pattern;

/// Text that looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The range of its value, in bytes of the text.
    pub(crate) range: Range<usize>,
    /// What it looks like, with an article.
    pub(crate) what: &'static str,
    /// Its key, where there is one.
    pub(crate) key: Option<String>,
}

static PRIVATE_KEY: LazyLock<Regex> = LazyLock::new(|| {
    let label = "(?:[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?|OpenVPN Static key V1)";
    pattern(&format!(r"-----BEGIN {label}-----(?s:.*?)(?:-----END {label}-----|\z)|AGE-SECRET-KEY-1[0-9A-Z]+"))
});
/// A public block, from its first line to its last.
static PUBLIC: LazyLock<Regex> = LazyLock::new(|| {
    let label = "(?:[A-Z0-9 ]*(?:CERTIFICATE|CERTIFICATE REQUEST|PUBLIC KEY|PARAMETERS|CRL))";
    pattern(&format!(r"-----BEGIN {label}-----[A-Za-z0-9+/=\s]*-----END {label}-----"))
});
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|glpat-[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|sk_live_[A-Za-z0-9]{16,}|hvs\.[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+)",
    )
});
static HASH: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"\$(?:apr1|2[abxy]|1|5|6|y|argon2id?)\$[A-Za-z0-9./+=$_-]{10,}|\{SSHA\}[A-Za-z0-9+/=]{20,}")
});
static IN_ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@"'<>]*:([^\s/@"'<>]+)@"#));

/// Finds text that looks like a secret; the findings are sorted and do not overlap.
pub(crate) fn in_text(file: &str, text: &str) -> Vec<Finding> {
    if let Some(whole) = whole(file, text) {
        return vec![whole];
    }
    let mut found: Vec<Finding> = Vec::new();
    let mut add = |range: Range<usize>, what: &'static str, key: Option<&str>| {
        let overlaps = |one: &Finding| range.start < one.range.end && one.range.start < range.end;
        if !range.is_empty() && !found.iter().any(overlaps) {
            found.push(Finding { range, what, key: key.map(str::to_owned) });
        }
    };
    for one in PRIVATE_KEY.find_iter(text) {
        add(one.range(), "a private key", None);
    }
    if text.starts_with("PuTTY-User-Key-File") {
        add(0..text.trim_end().len(), "a private key", None);
    }
    for one in TOKEN.find_iter(text) {
        add(one.range(), "a token", None);
    }
    for one in HASH.find_iter(text) {
        add(one.range(), "the hash of a password", None);
    }
    for one in IN_ADDRESS.captures_iter(text).filter_map(|captures| captures.get(1)) {
        if !line::stands_elsewhere("password", one.as_str()) {
            add(one.range(), "a password in an address", None);
        }
    }
    let mut start = text.len() - without_mark(text).len();
    for line in text[start..].split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        line::in_line(bare, |key, value| add(start + value.start..start + value.end, key::what(key), Some(key)));
        let next = start + line.len();
        if let Some(key) = line::before_block(bare) {
            let block = line::block(line::indent(bare), &text[next..]);
            add(next + block.start..next + block.end, key::what(key), Some(key));
        }
        start = next;
    }
    found.sort_by_key(|one| one.range.start);
    found
}

/// Says what a file that is not UTF-8 text looks like. It is searched as text of another encoding:
/// without the zero bytes that UTF-16 puts between letters, and without unreadable bytes.
pub(crate) fn in_bytes(file: &str, bytes: &[u8]) -> Option<&'static str> {
    if ["p12", "pfx", "jks", "keystore", "kdb", "kdbx", "keytab", "ppk"].contains(&extension(&name(file))) {
        return Some("a store of keys");
    }
    let letters: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&letters).into_owned());
    in_text(file, &text).first().map(|finding| finding.what)
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
