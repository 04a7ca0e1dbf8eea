//! One settings file as a JSON object, in any notation; and an object's canonical bytes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::settings::{
    fault::{Fault, MAX_BYTES, MAX_DEPTH, SettingsFault, too_deep},
    objections::{in_json, in_yaml},
    toml::from_toml,
    yaml::Node,
};

/// The notation of a settings file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `config.yaml`, `config.yml`
    Yaml,
    /// `config.json`
    Json,
    /// `config.toml`
    Toml,
    /// `config.conf`
    Hocon,
}

impl Format {
    fn of(file: &str) -> Option<Self> {
        match file {
            "config.yaml" | "config.yml" => Some(Format::Yaml),
            "config.json" => Some(Format::Json),
            "config.toml" => Some(Format::Toml),
            "config.conf" => Some(Format::Hocon),
            _ => None,
        }
    }
}

/// The ending of a template's name; the rendered file has the name without it.
pub const TEMPLATE_ENDING: &str = ".j2";

/// The key by which a value of the settings asks for a secret.
pub const SECRET: &str = "$secret";

/// Finds the one settings file among a component's files, and refuses files that may not be there.
///
/// `paths` are relative to the component's root; `config.*` counts at the root alone, a template
/// anywhere. A `raw` component has no settings file, whatever its files' names are.
pub fn choose<'a>(
    paths: impl IntoIterator<Item = &'a str>,
    raw: bool,
) -> Result<Option<(&'a str, Format)>, SettingsFault> {
    let mut chosen = None;
    if raw {
        return Ok(None);
    }
    for path in paths {
        let refuse = |reason: String| Err(SettingsFault { file: path.to_owned(), line: None, reason });
        if let Some(made) = path.strip_suffix(TEMPLATE_ENDING).filter(|made| Format::of(made).is_some()) {
            return refuse(format!(
                "{made} would be the settings, and settings are no template; give it another name, put it into a folder, or \
                 write {made} and say in layers what differs"
            ));
        }
        let Some(format) = Format::of(path) else { continue };
        if let Some((first, _)) = chosen.replace((path, format)) {
            return refuse(format!("{first} is there as well; a component has one settings file, merge the two"));
        }
    }
    Ok(chosen)
}

/// Reads one settings file; its top level must be an object.
///
/// - Bounds: 4 MiB of text, 64 levels. A key that stands twice in one object is a fault, except in
///   HOCON, where the two are merged.
/// - Numbers: whole numbers of 64 bits stay whole, all others become floating-point: see
///   [`objections`]. TOML's dates and times become text.
pub fn parse(file: &str, format: Format, bytes: &[u8]) -> Result<Map<String, Value>, SettingsFault> {
    object(format, bytes).map_err(|Fault { line, reason }| SettingsFault { file: file.to_owned(), line, reason })
}

/// Finds the values of a settings file that [`parse`] takes for something else than they say: tags
/// of YAML that are not known, and whole numbers that are rounded. A landing refuses them; hosts do
/// not.
///
/// The file is one that can be read. HOCON and TOML have no such values: they are refused at once.
pub fn objections(file: &str, format: Format, bytes: &[u8]) -> Vec<SettingsFault> {
    if bytes.len() > MAX_BYTES {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(bytes);
    let found = match format {
        Format::Yaml => in_yaml(&text),
        Format::Json => in_json(&text),
        Format::Toml | Format::Hocon => Vec::new(),
    };
    found.into_iter().map(|Fault { line, reason }| SettingsFault { file: file.to_owned(), line, reason }).collect()
}

/// Reads a component's settings from its files (path relative to its root, content). The result is
/// an object; `{}` when there is no settings file.
pub fn read(files: &BTreeMap<String, Vec<u8>>, raw: bool) -> Result<Value, SettingsFault> {
    let settings = match choose(files.keys().map(String::as_str), raw)? {
        Some((file, format)) => parse(file, format, &files[file])?,
        None => Map::new(),
    };
    Ok(Value::Object(settings))
}

/// The name of the secret that a value asks for: `{"$secret": "NAME"}`, with nothing else in it.
pub fn asked_secret(value: &Value) -> Option<&str> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    members.get(SECRET)?.as_str()
}

/// Writes equal settings as equal bytes: keys sorted by their bytes, no spaces, numbers as short as
/// possible.
pub fn to_canonical(settings: &Value) -> Vec<u8> {
    let mut sorted = settings.clone();
    // serde_json keeps the order of keys, so they are sorted here.
    sorted.sort_all_objects();
    serde_json::to_vec(&sorted).expect("a JSON value can always be written")
}

fn object(format: Format, bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    if bytes.len() > MAX_BYTES {
        return Err(Fault::new(0, format!("it has {} bytes; at most {MAX_BYTES} are read", bytes.len())));
    }
    let text = std::str::from_utf8(bytes).map_err(|bad| {
        let line = bytes[..bad.valid_up_to()].split(|byte| *byte == b'\n').count();
        Fault::new(line, "it is not UTF-8 text; save it as UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() && format != Format::Toml {
        return Err(Fault::new(0, "the file is empty; write {}, or take the file out"));
    }
    let value = match format {
        Format::Yaml => parse_yaml(text)?,
        Format::Json => crate::settings::json::read(text)?,
        Format::Toml => from_toml(text)?,
        Format::Hocon => crate::settings::hocon::read(text)?,
    };
    match value {
        deep if depth(&deep) > MAX_DEPTH => Err(Fault::new(0, too_deep())),
        Value::Object(settings) => Ok(settings),
        Value::Null => Err(Fault::new(0, "there is nothing in it; write {}, or take the file out")),
        _ => Err(Fault::new(1, "the top level must be an object (a map of keys to values)")),
    }
}

/// The number of nested lists and objects. Every parser has a limit of its own below 200, so the
/// recursion is bounded.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn parse_yaml(text: &str) -> Result<Value, Fault> {
    let mut faults = Vec::new();
    let value = Node::parse(text)?.into_json(&mut faults);
    faults.into_iter().min().map_or(Ok(value), Err)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Number;

    use super::*;

    fn settings(file: &str, text: &str) -> String {
        match read(&BTreeMap::from([(file.to_owned(), text.as_bytes().to_vec())]), false) {
            Ok(value) => String::from_utf8(to_canonical(&value)).unwrap(),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn every_notation_gives_one_object() {
        for (file, text, want) in [
            ("config.yaml", "b: 1\na: {d: no, c: [1.50, -0, ~]}\n", r#"{"a":{"c":[1.5,0,null],"d":"no"},"b":1}"#),
            ("config.yml", "a: \"\\u00e4\"", r#"{"a":"ä"}"#),
            ("config.json", r#"{"b": 1, "a": {"c": 1e2, "\u0062": []}}"#, r#"{"a":{"b":[],"c":100.0},"b":1}"#),
            ("config.json", "\u{feff}{}", "{}"),
            (
                "config.toml",
                "b = 1\n[a]\nd = 2024-01-02T03:04:05Z\nc = 07:32:00\n",
                r#"{"a":{"c":"07:32:00","d":"2024-01-02T03:04:05Z"},"b":1}"#,
            ),
            ("config.toml", "", "{}"),
            ("config.conf", "b = 1\na { d = no, c = [1.50, null] }", r#"{"a":{"c":[1.5,null],"d":"no"},"b":1}"#),
            ("other.yaml", "]", "{}"),
            ("config.schema.json", "]", "{}"),
            ("etc/config.yaml", "]", "{}"),
            (
                "config.json",
                "{\"a\": 18446744073709551615, \"b\": -9223372036854775808}",
                r#"{"a":18446744073709551615,"b":-9223372036854775808}"#,
            ),
        ] {
            assert_eq!(settings(file, text), want, "{file} {text}");
        }
    }

    #[test]
    fn faults_name_file_and_line() {
        for (file, text, want) in [
            ("config.yaml", "a: 1\nb: 2\na: 3", "config.yaml:3: `a` already stands in line 1; keep one of the two"),
            ("config.yaml", "a:\n  {b: 1, b: 2}", "config.yaml:2: `b` already stands in line 2; keep one of the two"),
            ("config.yaml", "", "config.yaml: the file is empty; write {}, or take the file out"),
            ("config.yaml", "# later\n", "config.yaml: there is nothing in it; write {}, or take the file out"),
            ("config.yaml", "- a", "config.yaml:1: the top level must be an object (a map of keys to values)"),
            ("config.json", "[1]", "config.json:1: the top level must be an object (a map of keys to values)"),
            ("config.json", "{\n\"a\": 1,\n\"a\": 2}", "config.json:3: `a` stands twice; keep one"),
            ("config.json", "{\n\"a\": 1,\n}", "config.json:3: trailing comma"),
            ("config.json", "{} x", "config.json:1: trailing characters"),
            ("config.toml", "a = 1\na = 2", "config.toml:2: duplicate key"),
            ("config.toml", "a = \n", "config.toml:1: string values must be quoted, expected literal string"),
            ("config.toml", "a = inf", "config.toml: JSON has no number inf; write it as text, in quotes"),
            ("config.conf", "a = [1\n", "config.conf:1: the `[` is never closed; write `]`"),
            ("config.conf", " ", "config.conf: the file is empty; write {}, or take the file out"),
            ("config.conf", "[1]", "config.conf:1: the top level must be an object (a map of keys to values)"),
            (
                "config.toml.j2",
                "",
                "config.toml.j2: config.toml would be the settings, and settings are no template; give it another name, put it \
                 into a folder, or write config.toml and say in layers what differs",
            ),
        ] {
            assert_eq!(settings(file, text), want, "{file} {text}");
        }
        let latin = parse("config.json", Format::Json, b"{\n\"a\": \"\xe4\"}").unwrap_err();
        assert_eq!(latin.to_string(), "config.json:2: it is not UTF-8 text; save it as UTF-8");
    }

    #[test]
    fn one_settings_file_and_none_in_a_raw_component() {
        let files = |names: &[&str]| -> BTreeMap<String, Vec<u8>> {
            names.iter().map(|name| ((*name).to_owned(), b"]".to_vec())).collect()
        };
        let two = read(&files(&["config.json", "config.yaml"]), false).unwrap_err();
        assert_eq!(
            two.to_string(),
            "config.yaml: config.json is there as well; a component has one settings file, merge the two"
        );
        let raw = files(&["config.json", "config.yaml", "config.conf", "a.j2"]);
        assert_eq!(read(&raw, true), Ok(Value::Object(Map::new())));
        assert_eq!(read(&files(&[]), false), Ok(Value::Object(Map::new())));
    }

    #[test]
    fn depth_and_size_are_bounded_in_every_notation() {
        // The object at the top is a level.
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        for (file, before, after) in [
            ("config.json", "{\"a\":", "}"),
            ("config.yaml", "a: ", ""),
            ("config.toml", "a = ", ""),
            ("config.conf", "a = ", ""),
        ] {
            let text = |levels| format!("{before}{}{after}", nested(levels));
            assert!(settings(file, &text(MAX_DEPTH)).starts_with("{\"a\":["), "{file}");
            for levels in [MAX_DEPTH + 1, 90, 200, 10_000] {
                let fault = settings(file, &text(levels));
                assert!(fault.contains("nested deeper"), "{fault}");
            }
            assert!(settings(file, &" ".repeat(MAX_BYTES + 1)).contains("at most"), "{file}");
        }
        for levels in [100, 10_000, 1_000_000] {
            let dotted = vec!["a"; levels].join(".");
            for text in [
                format!("{dotted} = 1"),
                format!("[{dotted}]"),
                format!("[[{dotted}]]"),
                format!("x = {{ {dotted} = 1 }}"),
            ] {
                assert!(settings("config.toml", &text).contains("nested deeper"), "{levels}");
            }
        }
    }

    /// JSON values as people write them.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>()
                .prop_filter_map("JSON has no such number", |number| Number::from_f64(number).map(Value::Number)),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c\"\\\\ä]{0,3}", inner, 0..4)
                    .prop_map(|object| Value::Object(object.into_iter().collect())),
            ]
        })
    }

    /// JSON text with the keys of every object in reverse order.
    fn backwards(value: &Value) -> String {
        match value {
            Value::Array(values) => format!("[ {} ]", values.iter().map(backwards).collect::<Vec<_>>().join(" , ")),
            Value::Object(object) => {
                let entry =
                    |(key, value): (&String, &Value)| format!("{}: {}", Value::from(key.as_str()), backwards(value));
                format!("{{\n{}\n}}", object.iter().rev().map(entry).collect::<Vec<_>>().join(",\n"))
            }
            other => other.to_string(),
        }
    }

    proptest! {
        #[test]
        fn canonical_bytes_do_not_depend_on_the_order_of_keys(value in value()) {
            let value = serde_json::json!({ "b": value, "a": 1 });
            let bytes = to_canonical(&value);
            let again = parse("config.json", Format::Json, backwards(&value).as_bytes()).unwrap();
            prop_assert_eq!(to_canonical(&Value::Object(again)), bytes.clone());
            // Nothing in it is taken for something else.
            for format in [Format::Json, Format::Yaml] {
                prop_assert_eq!(objections("config", format, &bytes), []);
            }
            // The bytes are read back to the same value.
            let read = parse("config.json", Format::Json, &bytes).unwrap();
            prop_assert_eq!(Value::Object(read), value);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for format in [Format::Yaml, Format::Json, Format::Toml] {
                let _ = parse("config", format, &bytes);
                let _ = objections("config", format, &bytes);
            }
        }

        #[test]
        fn any_soup_is_read_or_refused(text in "([\\[\\]{}=:,.\"'\\\\#\n -]|a|1|e|null|\\[\\[){0,40}") {
            for format in [Format::Yaml, Format::Json, Format::Toml] {
                let _ = parse("config", format, text.as_bytes());
                let _ = objections("config", format, text.as_bytes());
            }
        }
    }
}
