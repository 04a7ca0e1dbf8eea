//! Finds a key and its value in a line, in the notations that configuration files use.

use std::{ops::Range, sync::LazyLock};

use regex::{Regex, RegexSet};

use crate::suspect::effort::Effort;
use crate::suspect::key::is_secret;

/// Compiles a pattern. Patterns here are fixed: a wrong one would fail every test.
pub(crate) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is well-formed")
}

const KEY: &str = r"[A-Za-z_][A-Za-z0-9_.-]*";
/// A reference to a value elsewhere. A reference with a default does not match: the default may be
/// the value.
const REFERENCE: &str = r"\$\{[A-Za-z0-9_.]+(?::|:-|:?\?[^}]*)?\}|\$\{(?:env|sys|file|vault|ssm)[:.][^}]*\}|\$\([^)]*\)|\{\{.*?\}\}|%\([^)]*\)s|<[^<>]*>";

/// A line that holds nothing but a key and its value.
static LINE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(&format!(r#"^\s*(?:- |export |set )?\s*(?:"({KEY})"|'({KEY})'|({KEY}))\s*(?:=>|:=|[:=])\s*(\S.*?)\s*$"#))
});
static TWO_WORDS: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r#"^\s*({KEY})\s+("[^"]*"|'[^']*'|\S+)\s*$"#)));
/// A key and the separator before its value, anywhere in a line.
static ASSIGNED: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r#"({KEY})["']?\s*(?:=>|:=|[:=])\s*"#)));
/// A flag whose value is the next word, in a command or in a list of words.
static FLAG: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r#"(?:--|[\s"']-)({KEY})(?:\s+|["']\s*,\s*)"#)));
static ELEMENT: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r"<({KEY})>([^<\n]+)</")));
static COMMENT: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*(?:#+|;+|//+|--(?:\s|$)|!|<!--|REM )"));
static BLOCK: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[|>][-+0-9]*(?:\s+#.*)?$"));
/// The beginning of an object; its members hold the values.
static OBJECT: LazyLock<Regex> = LazyLock::new(|| pattern(&format!(r#"^\{{\s*["']?\$?{KEY}["']?\s*[:=]"#)));
static AT_REFERENCE: LazyLock<Regex> = LazyLock::new(|| pattern(&format!("^(?:{REFERENCE})")));
/// A value that refers elsewhere, or stands for no value.
static ELSEWHERE: LazyLock<RegexSet> = LazyLock::new(|| {
    RegexSet::new([
        r"(?i)^(?:true|false|yes|no|on|off|none|null|nil|~|0|1|required|optional|prompt|default|undefined)$",
        r"^(?:\*+|x+|X+|\.+|\\|!vault \|)$",
        r"^(?:[\[{]|\[\s*\]|\{\s*\})$",
        &format!("^(?:{REFERENCE})$"),
        r"^(?:\$[A-Z_][A-Z0-9_]*|%[A-Z_][A-Z0-9_]*%|@[A-Z_][A-Z0-9_]*@)$",
    ])
    .expect("the patterns are well-formed")
});
static PATH: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:file:[A-Za-z0-9._/-]*|(?:\.{1,2}|~)/[A-Za-z0-9._/-]*|/[A-Za-z0-9._-]*/[A-Za-z0-9._/-]*)$")
});

/// Tells whether a value under such a key is not a secret: a reference to one that is kept
/// elsewhere, or no value.
pub(crate) fn stands_elsewhere(key: &str, value: &str) -> bool {
    // The letters of a key may look like a path, but a key never contains a dot.
    let is_path = || PATH.is_match(value) && (value.contains('.') || !key.to_ascii_lowercase().ends_with("key"));
    ELSEWHERE.is_match(value) || BLOCK.is_match(value) || OBJECT.is_match(value) || is_path()
}

/// Returns the key of a secret whose value begins in the next line, as in YAML.
pub(crate) fn before_block(line: &str) -> Option<&str> {
    let captures = LINE.captures(line)?;
    let key = (1..=3).find_map(|group| captures.get(group))?.as_str();
    (is_secret(key) && BLOCK.is_match(&captures[4])).then_some(key)
}

/// Returns the indentation of a line, in bytes; a dash before a key counts as in YAML.
pub(crate) fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t', '-']).len()
}

/// Returns the range of the lines that are indented further, from the first letter to the last.
pub(crate) fn block(indented: usize, text: &str) -> Range<usize> {
    let belongs = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indented;
    let length = text.split_inclusive('\n').take_while(belongs).map(str::len).sum();
    trimmed(text, 0..length)
}

/// Which values of a key that names a secret are taken for one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// Those that do not look like a reference to a secret elsewhere, or like no value.
    Likely,
    /// All that are no variables: what is hidden needlessly does little harm.
    All,
}

impl Values {
    /// Tells whether a value is not taken for a secret.
    fn leave(self, key: &str, value: &str) -> bool {
        match self {
            Values::Likely => stands_elsewhere(key, value),
            Values::All => is_variable(value),
        }
    }
}

/// A variable of nginx or of a shell, as a whole, or the output of a command.
static VARIABLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(?:(?:\$\{?[A-Za-z_][A-Za-z0-9_]*\}?)+|\$\([^)]*\)?)$"));

/// Tells whether a value is a variable.
pub(crate) fn is_variable(value: &str) -> bool {
    VARIABLE.is_match(value)
}

/// Calls `tell` for every key in a line that names a secret, with the range of its value, until the
/// effort is spent.
pub(crate) fn in_line(line: &str, values: Values, effort: &Effort, mut tell: impl FnMut(&str, Range<usize>)) {
    let comment = COMMENT.find(line).map_or(0, |marker| marker.end());
    let body = &line[comment..];
    let mut tell = |key: &str, value: Range<usize>| {
        if is_secret(key) && !values.leave(key, &body[value.clone()]) {
            tell(key, comment + value.start..comment + value.end);
        }
    };
    // In a comment, a word that more words follow is part of a sentence.
    let is_sentence =
        |value: &Range<usize>| comment > 0 && body[value.end..].trim_end().starts_with(char::is_whitespace);
    if let Some(captures) = LINE.captures(body) {
        let key = (1..=3).find_map(|group| captures.get(group)).expect("one of three is there").as_str();
        let rest = captures.get(4).expect("it is no option").range();
        if is_secret(key) {
            let is_object = OBJECT.is_match(&body[rest.clone()]);
            // What follows in a command is its program.
            let is_word = comment > 0 || values == Values::All;
            let value = whole_value(body, rest, is_word);
            if !is_sentence(&value) {
                tell(key, value);
            }
            // A line such as `password: "a", token: "b"` holds more pairs.
            if values == Values::Likely
                && !is_object
                && !body.trim_start().starts_with(['{', '['])
                && !body.contains([',', '&'])
            {
                return;
            }
        }
    } else {
        let mut two_words = |part: Range<usize>, in_sentence: bool| {
            let Some(captures) = TWO_WORDS.captures(&body[part.clone()]) else { return false };
            let (key, value) = (captures.get(1).expect("it is no option"), captures.get(2).expect("it is no option"));
            if !in_sentence || value.as_str().starts_with(['"', '\'']) {
                tell(key.as_str(), unquoted(body, part.start + value.start()..part.start + value.end()));
            }
            true
        };
        let parts = statements(body);
        let whole = parts.first().zip(parts.last()).map(|(first, last)| first.start..last.end);
        if !whole.is_some_and(|whole| two_words(whole, false)) {
            for part in parts {
                two_words(part, comment > 0);
            }
        }
    }
    for captures in ELEMENT.captures_iter(body) {
        let (key, value) = (captures.get(1).expect("it is no option"), captures.get(2).expect("it is no option"));
        tell(key.as_str(), trimmed(body, value.range()));
    }
    for (form, is_flag) in [(&ASSIGNED, false), (&FLAG, true)] {
        let mut from = 0;
        while let Some(captures) = form.captures_at(body, from) {
            let (whole, key) = (captures.get(0).expect("it matched"), captures.get(1).expect("it is no option"));
            from = whole.end();
            // A pair such as `"NAME=a value"` is quoted as a whole.
            let before = &body[..key.start()];
            let quote = before.chars().next_back().filter(|before| matches!(before, '"' | '\''));
            let value = match quote {
                Some(quote) if !whole.as_str()[key.len()..].starts_with(quote) => until(quote, body, whole.end()),
                _ => one_value(body, whole.end()),
            };
            // What may be a reference was looked at up to the end of the line.
            let may_refer = ["{{", "$", "%", "<"].iter().any(|start| body[whole.end()..].starts_with(start));
            if !effort.spend(if may_refer { body.len() - whole.end() } else { value.len() } + 1) {
                return;
            }
            // `{"$secret": "NAME"}` is a reference to a secret, and another flag is not a value.
            let is_none = before.ends_with("\"$") || (is_flag && body[value.clone()].starts_with('-'));
            if !is_none && !is_sentence(&value) {
                tell(key.as_str(), value);
            }
        }
    }
}

/// Splits a line into statements, without their end marks and without a trailing comment.
fn statements(body: &str) -> Vec<Range<usize>> {
    let mut statements = Vec::new();
    let (mut start, mut quote, mut before) = (0, None, ' ');
    let mut end = body.len();
    for (at, letter) in body.char_indices() {
        match quote {
            Some(open) if letter == open => quote = None,
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            None if before.is_whitespace() && at > 0 && (letter == '#' || body[at..].starts_with("//")) => {
                end = at;
                break;
            }
            None if matches!(letter, ';' | '{' | '}') => {
                statements.push(start..at);
                start = at + 1;
            }
            Some(_) | None => {}
        }
        before = letter;
    }
    statements.push(start..end);
    statements.retain(|one| !body[one.clone()].trim().is_empty());
    statements
}

/// Returns the value that is the rest of a line: the text between quotes, or the rest without an
/// end mark and a comment.
fn whole_value(body: &str, rest: Range<usize>, is_word: bool) -> Range<usize> {
    if body[rest.start..].starts_with(['"', '\'']) || is_word {
        return one_value(body, rest.start);
    }
    let text = &body[rest.clone()];
    let end = text.find(" #").or_else(|| text.find(" //")).unwrap_or(text.len());
    trimmed(body, rest.start..rest.start + text[..end].trim_end().trim_end_matches([';', ',']).len())
}

/// Returns the value that begins here and may be followed by other text.
fn one_value(body: &str, start: usize) -> Range<usize> {
    let text = &body[start..];
    if let Some(quote) = text.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        return until(quote, body, start + 1);
    }
    let named = AT_REFERENCE.find(text).map_or(0, |reference| reference.end());
    let end = text[named..].find(|letter: char| letter.is_whitespace() || ",;\"'{}[]()<>&".contains(letter));
    start..start + end.map_or(text.len(), |end| named + end)
}

/// Returns the range up to the closing quote.
fn until(quote: char, body: &str, start: usize) -> Range<usize> {
    let mut escaped = false;
    for (at, letter) in body[start..].char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if letter == quote => return start..start + at,
            _ => {}
        }
    }
    start..body.len()
}

fn unquoted(body: &str, range: Range<usize>) -> Range<usize> {
    let text = &body[range.clone()];
    let quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if quoted('"') || quoted('\'') { range.start + 1..range.end - 1 } else { range }
}

fn trimmed(body: &str, range: Range<usize>) -> Range<usize> {
    let text = &body[range.clone()];
    let start = range.start + (text.len() - text.trim_start().len());
    start..start + text.trim().len()
}
