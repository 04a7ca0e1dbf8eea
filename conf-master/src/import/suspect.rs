//! Finds what looks like a secret in a file. It is a search for shapes and words, so it finds too much rather than too little;
//! what it does not find a person still has to.

use std::{ops::Range, sync::LazyLock};

use regex::{Regex, RegexSet};

/// What looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where its value stands, in bytes of the text.
    pub range: Range<usize>,
    /// What it looks like, with its article.
    pub what: &'static str,
    /// The key under which it stands, where there is one.
    pub key: Option<String>,
}

/// Patterns here are fixed; one that were wrong would fail every test.
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is well-formed")
}

const KEY: &str = r"[A-Za-z_][A-Za-z0-9_.-]*";

static PRIVATE_KEY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z)|AGE-SECRET-KEY-1[0-9A-Z]+",
    )
});
static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|glpat-[A-Za-z0-9_-]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|sk_live_[A-Za-z0-9]{16,}|hvs\.[A-Za-z0-9_-]{20,}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+)",
    )
});
static HASH: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"\$(?:apr1|2[abxy]|1|5|6|y|argon2id?)\$[^\s:"'<>,;]{10,}|\{SSHA\}[A-Za-z0-9+/=]{20,}"#));
static IN_ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@"'<>]*:([^\s/@"'<>]+)@"#));
static ELEMENT: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"<({KEY})>([^<\n]+)</")));
/// A line that is nothing but a key and its value.
static LINE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(&format!(r#"^\s*(?:- |export |set )?\s*(?:"({KEY})"|'({KEY})'|({KEY}))\s*(?:=>|:=|[:=])\s*(\S.*?)\s*$"#))
});
static TWO_WORDS: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"^\s*({KEY})\s+(\S+?)\s*;?\s*$")));
/// A key and what separates it from its value, anywhere in a line.
static ASSIGNED: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r#"({KEY})["']?\s*(?:=>|:=|[:=])\s*"#)));
static COMMENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*(?:#+|;+|//+|--|!|<!--|REM )"));
/// What says that the value stands elsewhere, or that there is none.
static PLACEHOLDER: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new([
        r"(?i)^(?:true|false|yes|no|on|off|none|null|nil|~|0|1|required|optional|prompt|default|undefined|\||>|\|-|>-|\|\+|>\+)$",
        r"^[$%@]\{?[A-Za-z_({]",
        r"^\{\{|^<[^<>]*>?$|^\*+$|^x+$|^X+$|^\.+$",
        r"^[\[{]",
        r"^(?:file:|\.{0,2}/|~/)[A-Za-z0-9._/-]*$",
    ])
    .expect("the patterns are well-formed")
});

/// Names of keys whose last word says that the value is a secret.
const LAST: [&str; 15] = [
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "secret",
    "secrets",
    "token",
    "apikey",
    "requirepass",
    "masterauth",
    "masterpass",
    "credential",
    "credentials",
    "pin",
];
const PASSED_TO: [&str; 6] = ["proxy", "fastcgi", "uwsgi", "scgi", "grpc", "memcached"];
const LAST_TWO: [(&str, &str); 11] = [
    ("api", "key"),
    ("access", "key"),
    ("secret", "key"),
    ("private", "key"),
    ("signing", "key"),
    ("sign", "key"),
    ("encryption", "key"),
    ("auth", "key"),
    ("account", "key"),
    ("shared", "key"),
    ("session", "key"),
];

/// Finds what looks like a secret in a text; sorted, none within another.
pub fn in_text(file: &str, text: &str) -> Vec<Finding> {
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
        if !PLACEHOLDER.is_match(one.as_str()) {
            add(one.range(), "a password in an address", None);
        }
    }
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        in_line(line.trim_end_matches(['\n', '\r']), |key, value| {
            add(start + value.start..start + value.end, what(key), Some(key));
        });
        start += line.len();
    }
    if found.is_empty() && is_secret_file(file) && !text.contains("-----BEGIN ") {
        let value = text.trim();
        if !value.is_empty() {
            let start = text.find(value).unwrap_or(0);
            found.push(Finding { range: start..start + value.len(), what: "a key or password file", key: None });
        }
    }
    found.sort_by_key(|one| one.range.start);
    found
}

/// Says what a file that is no text looks like, where it looks like a store of keys.
pub fn in_bytes(file: &str, bytes: &[u8]) -> Option<&'static str> {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    if ["p12", "pfx", "jks", "keystore", "kdb", "kdbx", "keytab", "ppk"].contains(&extension) {
        return Some("a store of keys");
    }
    if is_secret_file(file) || bytes.windows(16).any(|window| window == b"PRIVATE KEY-----") {
        return Some("a private key");
    }
    None
}

fn what(key: &str) -> &'static str {
    match words(key).last().map(String::as_str) {
        Some("token") => "a token",
        Some("key" | "apikey") => "a key",
        Some("secret" | "secrets" | "credential" | "credentials") => "a secret",
        _ => "a password",
    }
}

/// Files whose whole content is a secret, by their names.
fn is_secret_file(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    matches!(extension, "key" | "keyfile" | "secret" | "token" | "password" | "pass")
        || matches!(
            name.as_str(),
            "keyfile" | "secret" | "token" | "password" | ".pgpass" | ".netrc" | "sasl_passwd" | ".vault-token"
        )
        || matches!(name.as_str(), "id_rsa" | "id_dsa" | "id_ecdsa" | "id_ed25519")
}

/// The words of a key: `ssoCookieSignSecret`, `SSO_COOKIE_SIGN_SECRET` and `sso-cookie.sign-secret` have the same.
pub fn words(key: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = '_';
    for letter in key.chars() {
        let begins = !before.is_ascii_alphanumeric() || (letter.is_ascii_uppercase() && !before.is_ascii_uppercase());
        if letter.is_ascii_alphanumeric() {
            if begins || words.is_empty() {
                words.push(String::new());
            }
            words.last_mut().expect("one was just pushed").push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    words
}

fn is_secret_key(key: &str) -> bool {
    let words = words(key);
    let [.., last] = words.as_slice() else { return false };
    // Directives of nginx: where to pass a request on.
    if matches!(words.as_slice(), [.., to, pass] if pass == "pass" && PASSED_TO.contains(&to.as_str())) {
        return false;
    }
    LAST.contains(&last.as_str())
        || matches!(words.as_slice(), [.., one, two] if LAST_TWO.contains(&(one.as_str(), two.as_str())))
}

/// Tells of every key in a line that names a secret, with the bytes of its value.
fn in_line(line: &str, mut tell: impl FnMut(&str, Range<usize>)) {
    let comment = COMMENT.find(line).map_or(0, |marker| marker.end());
    let body = &line[comment..];
    let mut tell = |key: &str, value: Range<usize>| {
        if is_secret_key(key) && !PLACEHOLDER.is_match(&body[value.clone()]) {
            tell(key, comment + value.start..comment + value.end);
        }
    };
    // In a comment, a word that more words follow is part of a sentence.
    let is_sentence =
        |value: &Range<usize>| comment > 0 && body[value.end..].trim_end().starts_with(char::is_whitespace);
    if let Some(captures) = LINE.captures(body) {
        let key = (1..=3).find_map(|group| captures.get(group)).expect("one of three is there").as_str();
        let rest = captures.get(4).expect("it is no option").range();
        if is_secret_key(key) {
            let value = whole_value(body, rest, comment > 0);
            if !is_sentence(&value) {
                tell(key, value);
            }
            // `password: "a", token: "b"` goes on.
            if !body.trim_start().starts_with(['{', '[']) && !body.contains([',', '&']) {
                return;
            }
        }
    } else if let Some(captures) = TWO_WORDS.captures(body) {
        let (key, value) = (captures.get(1).expect("it is no option"), captures.get(2).expect("it is no option"));
        tell(key.as_str(), unquoted(body, value.range()));
    }
    for captures in ELEMENT.captures_iter(body) {
        let (key, value) = (captures.get(1).expect("it is no option"), captures.get(2).expect("it is no option"));
        tell(key.as_str(), trimmed(body, value.range()));
    }
    let mut from = 0;
    while let Some(captures) = ASSIGNED.captures_at(body, from) {
        let (whole, key) = (captures.get(0).expect("it matched"), captures.get(1).expect("it is no option"));
        from = whole.end();
        let value = one_value(body, whole.end());
        if !is_sentence(&value) {
            tell(key.as_str(), value);
        }
    }
}

/// The value that is the rest of a line: what is between quotes, or all of it but an end mark and a comment.
fn whole_value(body: &str, rest: Range<usize>, in_comment: bool) -> Range<usize> {
    if body[rest.start..].starts_with(['"', '\'']) || in_comment {
        return one_value(body, rest.start);
    }
    let text = &body[rest.clone()];
    let end = text.find(" #").or_else(|| text.find(" //")).unwrap_or(text.len());
    trimmed(body, rest.start..rest.start + text[..end].trim_end().trim_end_matches([';', ',']).len())
}

/// The value that begins here, amid other things.
fn one_value(body: &str, start: usize) -> Range<usize> {
    let text = &body[start..];
    if let Some(quote) = text.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        let mut escaped = false;
        for (at, letter) in text.char_indices().skip(1) {
            match letter {
                _ if escaped => escaped = false,
                '\\' if quote == '"' => escaped = true,
                _ if letter == quote => return start + 1..start + at,
                _ => {}
            }
        }
        return start + 1..body.len();
    }
    let end = text.find(|letter: char| letter.is_whitespace() || ",;\"'{}[]()<>&".contains(letter));
    start..start + end.unwrap_or(text.len())
}

fn unquoted(body: &str, range: Range<usize>) -> Range<usize> {
    let text = &body[range.clone()];
    let quoted = |quote: char| text.len() > 2 && text.starts_with(quote) && text.ends_with(quote);
    if quoted('"') || quoted('\'') { range.start + 1..range.end - 1 } else { range }
}

fn trimmed(body: &str, range: Range<usize>) -> Range<usize> {
    let text = &body[range.clone()];
    let start = range.start + (text.len() - text.trim_start().len());
    start..start + text.trim().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<&str> {
        in_text("some.conf", text).into_iter().map(|one| &text[one.range]).collect()
    }

    #[test]
    fn keys_that_name_secrets() {
        for (line, wanted) in [
            ("requirepass s3cret!x", "s3cret!x"),
            ("# requirepass s3cret!x", "s3cret!x"),
            ("  db.password = correct horse battery   # old one", "correct horse battery"),
            ("  password: \"with \\\" quote\",", "with \\\" quote"),
            ("  \"ssoCookieSignSecret\": 'abc',", "abc"),
            ("export ADMIN_ACCESS_KEY=abc/def+ghi==", "abc/def+ghi=="),
            ("\tsecret \"bm90IGEga2V5\";", "bm90IGEga2V5"),
            ("<db><password> abc </password></db>", "abc"),
            ("ExecStart=/usr/bin/x --user a --api-key=abc --verbose", "abc"),
            ("uri: mongodb://app:h%40rd@db1:27017/x", "h%40rd"),
            ("admin:$apr1$abcdefgh$0123456789abcdefghijkl", "$apr1$abcdefgh$0123456789abcdefghijkl"),
            ("auth_pass => 'it''s", "it"),
            ("x = ghp_0123456789012345678901234567890123456", "ghp_0123456789012345678901234567890123456"),
        ] {
            assert_eq!(values(line), [wanted], "{line}");
        }
        let json = r#"{"user": "a", "password": "b,c", "nested": {"token": "d"}, "url": "x"}"#;
        assert_eq!(values(json), ["b,c", "d"]);
        assert_eq!(values("dsn: host=a password=b dbname=c"), ["b"]);
        assert_eq!(values("password=ab&token=cd"), ["ab&token=cd"], "one that is too long is better than two halves");
    }

    #[test]
    fn what_is_none() {
        for line in [
            "password = ${DB_PASSWORD}",
            "password: {{ vault.db }}",
            "password_file = /run/db",
            "secret: /run/secrets/db",
            "ssl_certificate_key /etc/nginx/tls/web.key;",
            "token_ttl = 3600",
            "password:",
            "password: \"\"",
            "# masterauth <master-password>",
            "# the password: it should be long",
            "# password: at least 8, and token: as you like",
            "# Password of the user, as in the manual",
            "require_password: true",
            "listen 443 ssl;",
            "compass north",
            "proxy_pass http://backend;",
            "fastcgi_pass unix:/run/php.sock;",
        ] {
            assert_eq!(values(line), Vec::<&str>::new(), "{line}");
        }
    }

    #[test]
    fn keys_in_files() {
        let pem = "a\n-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb\n";
        assert_eq!(values(pem), ["-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----"]);
        assert_eq!(values("-----BEGIN PRIVATE KEY-----\nMHc\n"), ["-----BEGIN PRIVATE KEY-----\nMHc\n"]);
        assert_eq!(values("-----BEGIN CERTIFICATE-----\nMHc\n-----END CERTIFICATE-----\n"), Vec::<&str>::new());
        let text = "c29tZSBrZXk=\nbW9yZQ==\n";
        assert_eq!(in_text("mongodb/keyfile", text)[0].range, 0..text.len() - 1);
        assert_eq!(in_text("web.crt.key", "-----BEGIN PUBLIC KEY-----\nx"), []);
        assert_eq!(in_bytes("tls/web.p12", b"\0\x01"), Some("a store of keys"));
        assert_eq!(in_bytes("logo.png", b"\0\x01"), None);
    }
}
