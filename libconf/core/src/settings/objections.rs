//! Values that a reader takes for something else than their text says: tags of YAML that it drops,
//! and whole numbers that it rounds.
//!
//! Hosts read such values as they always did. A landing refuses them, so that nothing is exported
//! that nobody wrote.

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Tag};

use crate::settings::fault::Fault;

/// The most objections to one file. All of them are compared with those to the file before a
/// change, so that an old one hides no new one.
const MOST: usize = 100_000;

/// What a tag of YAML stands before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Text,
    List,
    Map,
}

/// A list or a map of YAML that is not closed yet.
enum Open {
    List,
    Map { at_key: bool },
}

/// The objections to a text of YAML that can be read.
pub(crate) fn in_yaml(text: &str) -> Vec<Fault> {
    let (mut found, mut open) = (Vec::new(), Vec::<Open>::new());
    for next in Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        let Ok((event, span)) = next else { break };
        let (tag, before) = match &event {
            Event::Scalar(_, _, _, tag) => (tag.as_deref(), Before::Text),
            Event::SequenceStart(_, _, tag) => (tag.as_deref(), Before::List),
            Event::MappingStart(_, _, tag) => (tag.as_deref(), Before::Map),
            Event::Alias(_) => (None, Before::Text),
            Event::DocumentStart(_, Some(version)) if (version.major, version.minor) < (1, 2) => {
                let reason = "this says that the file is YAML 1.1, and it is read as YAML 1.2, where `yes` and `0755` are \
                              text; take this line out";
                found.push(Fault::new(1, reason));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                continue;
            }
            _ => continue,
        };
        let is_key = match open.last_mut() {
            Some(Open::Map { at_key }) => std::mem::replace(at_key, !*at_key),
            _ => false,
        };
        match &event {
            Event::SequenceStart(..) => open.push(Open::List),
            Event::MappingStart(..) => open.push(Open::Map { at_key: true }),
            _ => {}
        }
        if let Some(reason) = tag.and_then(|tag| unknown(tag, before)) {
            found.push(Fault::new(span.tag_start().unwrap_or(span.start).line(), reason));
        }
        match (&event, tag.and_then(Tag::core_suffix)) {
            // Text stays as it is written where it is a key, in quotes, or called text by a tag.
            (Event::Scalar(text, ScalarStyle::Plain, ..), None) if !is_key && tag.is_none() && is_rounded(text) => {
                found.push(Fault::new(span.start.line(), TOO_LARGE));
            }
            (Event::Scalar(text, ..), Some("null")) if !matches!(&**text, "" | "~" | "null" | "Null" | "NULL") => {
                let reason = "`!!null` stands before text, which would be lost; take one of the two out";
                found.push(Fault::new(span.start.line(), reason));
            }
            _ => {}
        }
        if found.len() >= MOST {
            break;
        }
    }
    found
}

/// Why a tag is not taken for what it says.
fn unknown(tag: &Tag, before: Before) -> Option<String> {
    let what = match (tag.core_suffix(), before) {
        // `!` alone says that the value is what it looks like.
        (None, _) if tag.suffix() == "!" && tag.handle().is_empty() => return None,
        (Some("str" | "int" | "float" | "bool" | "null"), Before::Text)
        | (Some("seq"), Before::List)
        | (Some("map"), Before::Map) => return None,
        (Some(_), Before::Text) => "is none of a plain value",
        (Some(_), Before::List) => "is none of a list",
        (Some(_), Before::Map) => "is none of a map",
        (None, _) => "is not known",
    };
    Some(format!("the tag before this value {what}, and would be dropped; take it out, or write all of it in quotes"))
}

/// The objections to a text of JSON that can be read.
pub(crate) fn in_json(text: &str) -> Vec<Fault> {
    let (mut found, mut line, mut at, bytes) = (Vec::new(), 1, 0, text.as_bytes());
    while at < bytes.len() && found.len() < MOST {
        match bytes[at] {
            b'\n' => line += 1,
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let number = &text[at..at + bytes[at..].iter().take_while(|byte| is_part(byte)).count()];
                if is_rounded(number) {
                    found.push(Fault::new(line, TOO_LARGE));
                }
                at += number.len() - 1;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// True for a whole number that neither 64 bits with a sign nor 64 bits without one can hold.
/// Decimal digits after a 0 are text in YAML, and no number in JSON.
fn is_rounded(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', ..] => return false,
        _ => (10, digits),
    };
    let is_whole = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    let most = if is_negative { 1 << 63 } else { u64::MAX };
    is_whole && u64::from_str_radix(digits, radix).map_or(true, |number| number > most)
}

/// No number is quoted, nor any tag: each may be a secret that lacks its quotes.
const TOO_LARGE: &str = "the number has more than 64 bits; write it in quotes";

#[cfg(test)]
mod tests {
    use crate::settings::{Format, from_yaml, objections, parse, to_canonical};

    #[test]
    fn hosts_read_on_as_they_did() {
        for (format, text, value, objection) in [
            (Format::Yaml, "a: 1\nb: !vault x\n", r#"{"a":1,"b":"x"}"#, "f:2: the tag before this value is not known"),
            (
                Format::Yaml,
                "a:\n  - 18446744073709551616\n",
                r#"{"a":[1.8446744073709552e+19]}"#,
                "f:2: the number has more than 64 bits",
            ),
            (
                Format::Json,
                "{\n\"a\": -9223372036854775809}",
                r#"{"a":-9.223372036854776e+18}"#,
                "f:2: the number has more than 64 bits",
            ),
            (Format::Yaml, "%YAML 1.1\n---\na: yes\n", r#"{"a":"yes"}"#, "f:1: this says that the file is YAML 1.1"),
        ] {
            let read = parse("f", format, text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(to_canonical(&read.into())).unwrap(), value);
            let found = objections("f", format, text.as_bytes());
            assert!(found.len() == 1 && found[0].to_string().starts_with(objection), "{found:?}");
        }
    }

    #[test]
    fn every_objection_is_told_with_its_line() {
        let text = "a: !x 1\nb: [!y 2,\n !z 3]\nc:\n  !w d: 18446744073709551616\n";
        let lines: Vec<_> =
            objections("f", Format::Yaml, text.as_bytes()).iter().map(|one| one.line.unwrap()).collect();
        assert_eq!(lines, [1, 2, 3, 5, 5]);
        let many = "- !x 1\n".repeat(1000);
        assert_eq!(objections("f", Format::Yaml, many.as_bytes()).len(), 1000, "an old one must hide no new one");
    }

    #[test]
    fn a_text_of_a_stranger_costs_no_more_than_its_size() {
        for part in ["[", "{a: ", "- ", "? ", "&a [*a,", "\"", "{\"a\":", "1"] {
            let text = part.repeat((1 << 20) / part.len());
            for format in [Format::Yaml, Format::Json] {
                assert!(objections("f", format, text.as_bytes()).len() <= 1, "{part}");
            }
        }
        assert_eq!(objections("f", Format::Yaml, "- !x 1\n".repeat(1 << 20).as_bytes()), [], "it is not read at all");
    }

    #[test]
    fn a_daemon_s_own_file_has_no_such_values() {
        let refused = from_yaml::<serde_json::Value>("a: 1\ntoken: !env TOKEN\n").unwrap_err().to_string();
        assert_eq!(
            refused,
            "line 2: the tag before this value is not known, and would be dropped; take it out, or write all of it in quotes"
        );
    }
}
