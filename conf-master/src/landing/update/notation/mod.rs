//! Settings as the text of a file: in the notation of the file, in the order that was sent, with
//! the comments that can be kept, and a note about the others.

mod toml;

use conf_core::settings::{self, Format, SettingsFault};
use serde_json::{Map, Value};

/// Settings as they were sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft {
    /// The values, in the order that was sent.
    pub(crate) values: Map<String, Value>,
    /// The text, when text was sent.
    pub(crate) sent: Option<Sent>,
}

/// Text that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// JSON.
    Json(String),
    /// HOCON that is not JSON.
    Hocon(String),
}

impl Draft {
    /// Reads text: JSON, or else HOCON. Text that is JSON by its shape is never read as HOCON, in
    /// which a duplicate key is not a fault.
    pub(crate) fn from_text(text: String) -> Result<Self, SettingsFault> {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        let (format, sent): (_, fn(String) -> Sent) =
            if is_json { (Format::Json, Sent::Json) } else { (Format::Hocon, Sent::Hocon) };
        let values = parse(format, text.as_bytes())?;
        Ok(Draft { values, sent: Some(sent(text)) })
    }

    /// Tells whether it has comments that a file of this notation does not keep.
    fn comments_lost(&self, format: Format) -> bool {
        match &self.sent {
            Some(Sent::Hocon(text)) if format != Format::Hocon => comments(Format::Hocon, text).next().is_some(),
            _ => false,
        }
    }

    /// Reads an object from a request.
    pub(crate) fn from_object(json: &str) -> Result<Self, SettingsFault> {
        Ok(Draft { values: parse(Format::Json, json.as_bytes())?, sent: None })
    }
}

/// Reads what was sent; a number that would be rounded is a fault.
fn parse(format: Format, text: &[u8]) -> Result<Map<String, Value>, SettingsFault> {
    let values = settings::parse("config", format, text)?;
    settings::objections("config", format, text).into_iter().next().map_or(Ok(values), Err)
}

/// Writes a file that holds a draft's values; `old` is its content before. Returns a note about
/// what is lost by that.
///
/// A file that already has these values stays byte for byte.
pub(crate) fn write(
    file: &str,
    format: Format,
    old: Option<&[u8]>,
    draft: &Draft,
) -> Result<(Vec<u8>, Option<String>), SettingsFault> {
    let before = old.and_then(|old| settings::parse(file, format, old).ok());
    let (verbatim, old) = (verbatim(format, draft), old.map(String::from_utf8_lossy));
    if let (Some(before), Some(old), None) = (before, &old, verbatim)
        && before == draft.values
    {
        return Ok((old.as_bytes().to_owned(), None));
    }
    let fault = |reason: &str| SettingsFault { file: file.to_owned(), line: None, reason: reason.to_owned() };
    let text = match (verbatim, format) {
        (Some(text), _) => ended(text.to_owned()),
        (None, Format::Yaml) => yaml_of(file, &draft.values),
        (None, Format::Toml) => {
            toml::write(old.as_deref().unwrap_or_default(), &draft.values).map_err(|why| fault(&why))?
        }
        (None, _) => pretty(&draft.values),
    };
    // The written file is parsed: its readers must find exactly what was sent.
    if settings::parse(file, format, text.as_bytes())? != draft.values {
        return Err(fault(
            "these values cannot be written in the notation of this file; push the file with git instead",
        ));
    }
    let gone = old.map_or(0, |old| comments(format, &old).filter(|comment| !text.contains(*comment)).count());
    let note = match gone {
        0 => draft.comments_lost(format).then(|| format!("{file}: the comments that were sent have no place in it")),
        1 => Some(format!("{file}: a comment of it is gone")),
        gone => Some(format!("{file}: {gone} comments of it are gone")),
    };
    Ok((text.into_bytes(), note))
}

/// Returns the text that was sent, when it can be the file as it is.
fn verbatim(format: Format, draft: &Draft) -> Option<&str> {
    match (format, draft.sent.as_ref()?) {
        (Format::Json | Format::Hocon, Sent::Json(text)) | (Format::Hocon, Sent::Hocon(text)) => Some(text),
        _ => None,
    }
}

fn yaml_of(file: &str, values: &Map<String, Value>) -> String {
    let reads_back = |text: &String| {
        settings::parse(file, Format::Yaml, text.as_bytes()).is_ok_and(|read| read == *values) && !values.is_empty()
    };
    // JSON is YAML too, and is used for values that a writer and a reader of YAML treat
    // differently.
    settings::to_yaml(values).filter(reads_back).unwrap_or_else(|| pretty(values))
}

fn pretty(values: &Map<String, Value>) -> String {
    ended(serde_json::to_string_pretty(values).expect("a JSON value can always be written"))
}

fn ended(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Finds the comments of a text, each to the end of its line. Text within quotes or in the middle
/// of a word begins none.
fn comments(format: Format, text: &str) -> impl Iterator<Item = &str> {
    let has_comments = format != Format::Json;
    let begins = move |rest: &str| rest.starts_with('#') || (format == Format::Hocon && rest.starts_with("//"));
    text.lines().filter(move |_| has_comments).filter_map(move |line| {
        let mut quote = None;
        let mut before = ' ';
        for (at, letter) in line.char_indices() {
            match (quote, letter) {
                (None, '#' | '/') if before.is_whitespace() && begins(&line[at..]) => {
                    return Some(line[at..].trim_end());
                }
                (None, '"' | '\'') => quote = Some(letter),
                (Some(open), _) if open == letter && before != '\\' => quote = None,
                _ => {}
            }
            before = letter;
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use conf_core::settings::to_canonical;
    use proptest::prelude::*;

    use super::*;

    fn written(file: &str, format: Format, old: Option<&str>, json: &str) -> (String, Option<String>) {
        let draft = Draft::from_object(json).unwrap();
        let (bytes, note) = write(file, format, old.map(str::as_bytes), &draft).unwrap();
        (String::from_utf8(bytes).unwrap(), note)
    }

    #[test]
    fn order_is_kept_in_every_notation() {
        let json = r#"{"zeta": 1, "alpha": {"y": "no", "b": [1, "2"]}, "mid": true}"#;
        for (file, format) in
            [("config.json", Format::Json), ("config.yaml", Format::Yaml), ("config.toml", Format::Toml)]
        {
            let (text, note) = written(file, format, None, json);
            let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("no {word}:\n{text}"));
            if format == Format::Toml {
                // TOML has plain values before tables.
                assert!(at("zeta") < at("mid") && at("mid") < at("alpha"), "{text}");
            } else {
                assert!(at("zeta") < at("alpha") && at("alpha") < at("mid"), "{text}");
            }
            assert_eq!(note, None);
        }
    }

    #[test]
    fn sent_text_is_kept_verbatim_where_possible() {
        let text = "{\"b\":1,\n   \"a\" : 2}";
        let draft = Draft::from_text(text.to_owned()).unwrap();
        let (bytes, _) = write("config.json", Format::Json, Some(b"{}"), &draft).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("{text}\n"));
        let (bytes, _) = write("config.yaml", Format::Yaml, None, &draft).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "b: 1\na: 2\n");
    }

    #[test]
    fn a_file_with_the_same_values_stays_byte_for_byte() {
        let old = "# why\nport: 0x10 # hex\n";
        assert_eq!(written("config.yaml", Format::Yaml, Some(old), r#"{"port": 16}"#), (old.to_owned(), None));
    }

    #[test]
    fn comments_are_kept_or_reported_as_lost() {
        let old = "# about the port\nport = 1 # one\n\n[pool] # the pool\nsize = 2\n# about the name\nname = \"a\"\n";
        let (text, note) =
            written("config.toml", Format::Toml, Some(old), r#"{"port": 2, "pool": {"size": 2, "x": 1}}"#);
        assert_eq!(text, "# about the port\nport = 2 # one\n\n[pool] # the pool\nsize = 2\nx = 1\n");
        assert_eq!(note.as_deref(), Some("config.toml: a comment of it is gone"));
        let old = "# about the port\nport: 1 # one\nurl: http://x#y\nq: 'a # b'\n";
        let (_, note) = written("config.yaml", Format::Yaml, Some(old), r#"{"port": 2}"#);
        assert_eq!(note.as_deref(), Some("config.yaml: 2 comments of it are gone"));
    }

    #[test]
    fn values_that_a_notation_cannot_hold_are_refused() {
        for json in [r#"{"a": null}"#, r#"{"a": [1, null]}"#, r#"{"a": 18446744073709551615}"#] {
            let fault = write("config.toml", Format::Toml, None, &Draft::from_object(json).unwrap()).unwrap_err();
            assert!(fault.to_string().contains("TOML"), "{fault}");
        }
    }

    #[test]
    fn drafts_that_are_not_settings_are_refused() {
        for text in [
            "[1]",
            "{\"a\": 1, \"a\": 2}",
            "{\"a\": 18446744073709551616}",
            "{\"a\":",
            &format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100)),
        ] {
            assert!(Draft::from_text(text.to_owned()).is_err(), "{text:.20}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            any::<String>(),
            proptest::sample::select(vec![
                "no",
                "~",
                "null",
                "1e3",
                "0x10",
                "1_000",
                "01",
                "- a",
                "a: b",
                "# x",
                "",
                " ",
                "\n",
                "a\nb\n",
                "|",
                "2024-01-02",
                "\t",
                "'",
                "\"",
                "\u{85}",
                "\u{2028}",
                "\u{feff}",
                "!!str",
                "&a",
                "*a",
                ".inf",
                "<<",
                "=",
                "y",
            ])
            .prop_map(str::to_owned)
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((text.clone(), inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Over any earlier content, the file then has the values that were sent, or the fault says
        /// why it cannot.
        #[test]
        fn written_values_equal_the_sent_ones(old in value(), new in value()) {
            let object = |value: Value| match value {
                Value::Object(values) => values,
                other => Map::from_iter([("key".to_owned(), other)]),
            };
            for (file, format) in [("config.json", Format::Json), ("config.yaml", Format::Yaml), ("config.toml", Format::Toml)] {
                let draft = |values| Draft { values, sent: None };
                let first = write(file, format, None, &draft(object(old.clone())));
                let old = first.ok().map(|(bytes, _)| bytes);
                let want = object(new.clone());
                match write(file, format, old.as_deref(), &draft(want.clone())) {
                    Ok((bytes, _)) => {
                        let read = settings::parse(file, format, &bytes).unwrap();
                        prop_assert_eq!(to_canonical(&Value::Object(read)), to_canonical(&Value::Object(want)));
                    }
                    Err(fault) => prop_assert!(format == Format::Toml, "{}", fault),
                }
            }
        }
    }
}
