//! The parts of a template: text, expressions, tags and comments. They end where the engine's own
//! lexer ends them.

use std::ops::Range;

/// One part of a template's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    pub(crate) range: Range<usize>,
    /// The sign behind the part's opening: `{%-`.
    pub(crate) opening: Sign,
    /// The sign before its end: `+%}`.
    pub(crate) closing: Sign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// The text between `{% raw %}` and `{% endraw %}`.
    RawText,
    /// `{{ … }}`
    Expression,
    /// `{% … %}`
    Tag,
    /// `{% raw %}`
    Raw,
    /// `{% endraw %}`
    EndRaw,
    /// `{# … #}`
    Comment,
    /// The rest of a template from a part that does not end.
    Broken,
}

/// How a tag treats the blanks and line breaks on one of its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    None,
    /// `+`: they stay.
    Keep,
    /// `-`: they go.
    Strip,
}

impl Sign {
    fn of(byte: Option<&u8>) -> Self {
        match byte {
            Some(b'+') => Sign::Keep,
            Some(b'-') => Sign::Strip,
            _ => Sign::None,
        }
    }

    /// Returns the number of its bytes.
    pub(crate) fn length(self) -> usize {
        usize::from(self != Sign::None)
    }
}

/// Lists the parts of a source, in order and without gaps.
pub(crate) fn parts(source: &str) -> Vec<Part> {
    let (bytes, mut parts, mut at) = (source.as_bytes(), Vec::new(), 0);
    let plain = |kind, range| Part { kind, range, opening: Sign::None, closing: Sign::None };
    while at < source.len() {
        let begin = opening(bytes, at).unwrap_or(source.len());
        if begin > at {
            parts.push(plain(Kind::Text, at..begin));
        }
        if begin == source.len() {
            break;
        }
        let Some(part) = part(bytes, begin) else {
            parts.push(plain(Kind::Broken, begin..source.len()));
            break;
        };
        at = part.range.end;
        let is_raw = part.kind == Kind::Raw;
        parts.push(part);
        if !is_raw {
            continue;
        }
        let Some(end) = end_of_raw(bytes, at) else {
            parts.push(plain(Kind::Broken, at..source.len()));
            break;
        };
        if end.range.start > at {
            parts.push(plain(Kind::RawText, at..end.range.start));
        }
        at = end.range.end;
        parts.push(end);
    }
    parts
}

/// Finds the next opening from `at` on.
fn opening(bytes: &[u8], at: usize) -> Option<usize> {
    let found = bytes.get(at..)?.windows(2).position(|pair| pair[0] == b'{' && matches!(pair[1], b'{' | b'%' | b'#'));
    found.map(|found| at + found)
}

/// Reads the part that opens at `begin`; `None` if it does not end.
fn part(bytes: &[u8], begin: usize) -> Option<Part> {
    let opening = Sign::of(bytes.get(begin + 2));
    let inside = begin + 2 + opening.length();
    let close = match bytes[begin + 1] {
        b'#' => {
            let end = inside + bytes.get(inside..)?.windows(2).position(|pair| pair == b"#}")?;
            let closing = if end > inside { Sign::of(bytes.get(end - 1)) } else { Sign::None };
            return Some(Part { kind: Kind::Comment, range: begin..end + 2, opening, closing });
        }
        b'%' => b"%}",
        _ => b"}}",
    };
    if close == b"%}"
        && let Some((end, closing)) = basic_tag(bytes, inside, b"raw")
    {
        return Some(Part { kind: Kind::Raw, range: begin..end, opening, closing });
    }
    let (mut at, mut depth) = (inside, 0_i64);
    loop {
        let rest = bytes.get(at..)?;
        if depth == 0 {
            let closing = Sign::of(rest.first());
            if rest.get(closing.length()..)?.starts_with(close) {
                let kind = if close == b"%}" { Kind::Tag } else { Kind::Expression };
                return Some(Part { kind, range: begin..at + closing.length() + 2, opening, closing });
            }
        }
        match *rest.first()? {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b'"' | b'\'' => at = end_of_string(bytes, at)? - 1,
            _ => {}
        }
        at += 1;
    }
}

/// Returns the end of the string that begins at `begin`.
pub(crate) fn end_of_string(bytes: &[u8], begin: usize) -> Option<usize> {
    let mut at = begin + 1;
    loop {
        match *bytes.get(at)? {
            b'\\' => at += 2,
            byte if byte == bytes[begin] => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Finds the `{% endraw %}` of a raw text that begins at `at`.
fn end_of_raw(bytes: &[u8], mut at: usize) -> Option<Part> {
    loop {
        let begin = at + bytes.get(at..)?.windows(2).position(|pair| pair == b"{%")?;
        let opening = Sign::of(bytes.get(begin + 2));
        if let Some((end, closing)) = basic_tag(bytes, begin + 2 + opening.length(), b"endraw") {
            return Some(Part { kind: Kind::EndRaw, range: begin..end, opening, closing });
        }
        at = begin + 2;
    }
}

/// Reads the rest of a tag that is one word. Returns its end, and the sign there.
fn basic_tag(bytes: &[u8], at: usize, word: &[u8]) -> Option<(usize, Sign)> {
    let blanks = |at: usize| {
        bytes.get(at..).map_or(at, |rest| at + rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count())
    };
    let at = blanks(at);
    let at = blanks(bytes.get(at..)?.starts_with(word).then_some(at + word.len())?);
    let closing = Sign::of(bytes.get(at));
    let end = at + closing.length();
    bytes.get(end..)?.starts_with(b"%}").then_some((end + 2, closing))
}
