//! The forms in which secrets stand in texts, one line of a table for each: what a secret of that
//! form is called, the lines in which it is looked for, and the pattern around it.

use std::{ops::Range, sync::LazyLock};

use regex::Regex;

use crate::suspect::key::{is_secret, what};
use crate::suspect::line::{Values, is_variable, pattern, stands_elsewhere};

/// A form of secrets. The secret is the group `value` of the pattern, or all of it. Where there is
/// a group `key`, that must name a secret.
struct Form {
    /// What such a secret is, with an article; of a form with a key, the key says it.
    what: &'static str,
    /// The lines in which it is looked for; without it, the whole text.
    within: Option<Regex>,
    pattern: Regex,
    /// What may stand for a secret kept elsewhere, or is a word of a sentence, is none.
    is_strict: bool,
    /// It is looked for in commands alone: in a file it would find too much.
    in_commands: bool,
}

/// A private key, from its first line to its last.
pub(crate) static PRIVATE_KEY: LazyLock<Regex> = LazyLock::new(|| {
    let label = "(?:[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?|OpenVPN Static key V1)";
    pattern(&format!(r"-----BEGIN {label}-----(?s:.*?)(?:-----END {label}-----|\z)|AGE-SECRET-KEY-1[0-9A-Z]+"))
});

/// A quoted text.
const QUOTED: &str = r#"(?:'(?P<value>(?:[^'\\\n]|\\.)*)'|"(?P<other>(?:[^"\\\n]|\\.)*)")"#;
const KEY: &str = r"(?P<key>[A-Za-z_][A-Za-z0-9_.-]*)";

static FORMS: LazyLock<Vec<Form>> = LazyLock::new(|| {
    // Directives of nginx, Apache, HAProxy and shells with a name and a value.
    let named = "proxy_set_header|grpc_set_header|add_header|more_set_headers|fastcgi_param|uwsgi_param|scgi_param|\
                 RequestHeader +[a-z]+|Header +(?:always +)?[a-z]+|http-re(?:quest|sponse) +(?:set|add)-header|SetEnv|setenv|set";
    let table: &[(&str, bool, &str)] = &[
        ("a private key", false, PRIVATE_KEY.as_str()),
        ("a private key", false, r"\APuTTY-User-Key-File(?s:.*\S)"),
        (
            "a token",
            false,
            r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{36}|xox[abprs]-[A-Za-z0-9-]{10,}|sk_live_[A-Za-z0-9]{16,}|hvs\.[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{35}|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+)",
        ),
        ("a token", false, r"https://hooks\.slack\.com/services/(?P<value>[A-Za-z0-9/]{20,})"),
        (
            "the hash of a password",
            false,
            r"\$(?:apr1|2[abxy]|1|5|6|y|argon2id?)\$[A-Za-z0-9./+=$_-]{10,}|\{SSHA\}[A-Za-z0-9+/=]{20,}",
        ),
        ("a password in an address", true, r#"[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@"'<>]*:(?P<value>[^\s/@"'<>]+)@"#),
        ("a password", true, r"(?mi)^[ \t]*sentinel[ \t]+auth-pass[ \t]+\S+[ \t]+(?P<value>\S+)"),
        // Headers of requests.
        (
            "credentials in a header",
            true,
            r#"(?i)\bAuthorization["']?\s*[:=,]?\s*["']?(?:Basic|Bearer|Token|ApiKey)\s+(?P<value>[A-Za-z0-9+/=._~-]{6,})"#,
        ),
        ("", true, &format!(r#"(?mi)^[ \t]*(?:{named})[ \t]+["']?\$?{KEY}["']?[ \t]+{QUOTED}"#)),
        ("", true, &format!(r#"(?mi)^[ \t]*(?:{named})[ \t]+["']?\$?{KEY}["']?[ \t]+(?P<value>[^\s"';]+)"#)),
        // PHP, and programs that set a property.
        ("", true, &format!(r#"(?i)\bdefine\s*\(\s*["']{KEY}["']\s*,\s*{QUOTED}"#)),
        ("", true, &format!(r"\b[sS]et{KEY}\s*\(\s*{QUOTED}")),
        // SQL, HAProxy, curl.
        ("a password", true, r"(?i)\bIDENTIFIED\s+(?:WITH\s+\S+\s+)?BY\s+(?:PASSWORD\s+)?'(?P<value>[^'\n]+)'"),
        ("a password", true, r"(?i)\b(?:ROLE|USER)\s[^;\n]*\bPASSWORD\s+'(?P<value>[^'\n]+)'"),
        ("a password", true, r"(?mi)^[ \t]*user[ \t]+\S+[ \t]+(?:insecure-)?password[ \t]+(?P<value>\S+)"),
        ("a password", true, r"(?mi)^[ \t]*stats[ \t]+auth[ \t]+[^\s:]+:(?P<value>\S+)"),
    ];
    let form = |(what, is_strict, text): &(&'static str, bool, &str)| Form {
        what,
        within: None,
        pattern: pattern(text),
        is_strict: *is_strict,
        in_commands: false,
    };
    // The users of Redis: a line may hold several passwords, and their hashes.
    let of_redis = |what, text| Form {
        what,
        within: Some(pattern(r"(?mi)^[ \t#]*(?:user|acl[ \t]+setuser)[ \t]+\S+[ \t][^\n]*")),
        pattern: pattern(text),
        is_strict: true,
        in_commands: false,
    };
    let of_redis = [
        of_redis("a password", r"[ \t][<>](?P<value>\S+)"),
        of_redis("the hash of a password", r"[ \t][#!](?P<value>[0-9a-f]{64})\b"),
    ];
    let of_programs = PASSED.iter().map(|(program, flag, value)| Form {
        what: "a password",
        within: None,
        pattern: pattern(&passed(program, flag, value)),
        is_strict: true,
        in_commands: false,
    });
    let of_commands = IN_COMMANDS.iter().map(|text| Form {
        what: "credentials",
        within: None,
        pattern: pattern(text),
        is_strict: false,
        in_commands: true,
    });
    table.iter().map(form).chain(of_redis).chain(of_programs).chain(of_commands).collect()
});

/// Programs that take a password as an argument: the program, the flag before it, and its form.
const PASSED: &[(&str, &str, &str)] = &[
    ("curl|wget|https?", "-[A-Za-z]*[uU]|--(?:proxy-)?user|-a|--auth", LOGIN),
    // With a blank behind the flag these ask for the password.
    ("(?:mysql|mariadb)[a-z_-]*|7z[a-z]*", "-p", "{joined}"),
    ("sshpass|mongo[a-z]*", "-p", "{value}"),
    ("(?:docker|podman|buildah|skopeo|helm|oras|oc)[^\\n|;&]*?[\\s\"',]login", "-p", "{value}"),
    ("(?:redis|valkey|keydb)-cli", "-a", "{value}"),
    ("ldap[a-z]+", "-w", "{value}"),
    ("mosquitto_[a-z]+|sqlcmd|bcp|zip|unzip", "-P", "{value}"),
    ("smbclient|rpcclient|smbget", "-U", "[\"']?[^\\s%\"']+%{value}"),
    ("htpasswd", "-[a-zA-Z]*b[a-zA-Z]*", "(?:\\S+\\s+){2}{value}"),
    ("openssl", "-pass(?:in|out)?", "[\"']?pass:{value}"),
];

/// A name and a password.
const LOGIN: &str =
    r#"(?:'[^'\n:]*:(?P<value>[^'\n]*)'|"[^"\n:]*:(?P<other>[^"\n]*)"|[^\s:"']+:(?P<bare>[^\s"';|&]+))"#;

/// A value, with quotes or without.
const VALUE: &str = r#"(?:'(?P<value>[^'\n]*)'|"(?P<other>[^"\n]*)"|(?P<bare>[^\s"';|&,]+))"#;

/// The pattern of such an argument: in a command, or in a list of words.
fn passed(program: &str, flag: &str, value: &str) -> String {
    let joined = VALUE;
    let between = r#"(?:\s*|=|["']\s*,\s*)"#;
    let (between, value) = match value {
        "{joined}" => ("", joined.to_owned()),
        value => (between, value.replace("{value}", VALUE)),
    };
    format!(r#"\b(?:{program})["']?[\s,](?:[^\n|;&]*?[\s"',])??["']?(?:{flag}){between}{value}"#)
}

/// What stands in commands for a secret.
const IN_COMMANDS: &[&str] = &[
    r#"(?i)\b(?:Proxy-)?Authorization["']?\s*[:=]\s*(?:(?:Basic|Bearer|Token|ApiKey|Digest|Negotiate)\s+)?(?P<value>[^"'\n]+)"#,
    r#"(?i)\bCookie\s*:\s*(?P<value>[^"'\n]+)"#,
    // Of a program that is not known; a port is none, nor is `-pass`.
    r#"[\s"']-p(?P<value>[^\s"'0-9:.,/a][^\s"']*|a[^\s"'s][^\s"']*|a)(?:[\s"']|$)"#,
];

/// Calls `tell` for every secret of one of the forms: with its range, what it is, and its key.
pub(crate) fn in_text(text: &str, values: Values, mut tell: impl FnMut(Range<usize>, &'static str, Option<&str>)) {
    for form in FORMS.iter().filter(|form| values == Values::All || !form.in_commands) {
        match &form.within {
            None => form.find(text, 0, values, &mut tell),
            Some(lines) => {
                lines.find_iter(text).for_each(|line| form.find(line.as_str(), line.start(), values, &mut tell));
            }
        }
    }
}

impl Form {
    /// Finds all of it in a part of the text that begins at `start`.
    fn find(
        &self,
        part: &str,
        start: usize,
        values: Values,
        tell: &mut impl FnMut(Range<usize>, &'static str, Option<&str>),
    ) {
        for captures in self.pattern.captures_iter(part) {
            let key = captures.name("key").map(|key| key.as_str());
            let group = ["value", "other", "bare"].into_iter().find_map(|group| captures.name(group));
            let found = group.or(captures.get(0)).expect("it matched");
            let is_none = match values {
                Values::Likely => self.is_strict && is_no_secret(self, key, found.as_str()),
                Values::All => is_variable(found.as_str()),
            };
            if !is_none && key.is_none_or(is_secret) {
                tell(start + found.start()..start + found.end(), key.map_or(self.what, what), key);
            }
        }
    }
}

/// Tells whether a value of a form only stands for a secret, or is a word.
fn is_no_secret(form: &Form, key: Option<&str>, value: &str) -> bool {
    let is_word = || value.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'.');
    let in_header = form.what == "credentials in a header";
    value.is_empty()
        || stands_elsewhere(key.unwrap_or("password"), value)
        || (key.is_some() || in_header) && is_variable(value)
        || in_header && is_word()
}
