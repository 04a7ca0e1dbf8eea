//! Texts of YAML, JSON and TOML, each with its value or its refusal, as a landing has them.
//!
//! A line is `[text, want]`, or `[text, want, other, reason]` where another reader has another
//! value. The other readers are ruamel.yaml 0.19, with its defaults (YAML 1.2), and Python's
//! `json`: every value of theirs was compared with `want` when the line was written. A difference
//! without a reason would be a silent one.

use std::io::Write as _;

use crate::settings::{Format, objections, parse, to_canonical};

/// The value, or why a landing refuses the text.
fn told(format: Format, text: &str) -> String {
    let read = parse("", format, text.as_bytes()).and_then(|read| {
        let objection = objections("", format, text.as_bytes()).into_iter().next();
        objection.map_or(Ok(read), Err)
    });
    match read {
        Ok(read) => String::from_utf8(to_canonical(&read.into())).unwrap(),
        Err(fault) => format!("refused: {}", fault.to_string().trim_start_matches([':', ' '])),
    }
}

#[test]
fn every_text_has_its_value_or_is_refused() {
    for (name, format, lines) in [
        ("YAML", Format::Yaml, include_str!("yaml.jsonl")),
        ("JSON", Format::Json, include_str!("json.jsonl")),
        ("TOML", Format::Toml, include_str!("toml.jsonl")),
    ] {
        let (mut texts, mut refused, mut other) = (0, 0, 0);
        for line in lines.lines() {
            let line: Vec<String> = serde_json::from_str(line).unwrap();
            assert!(matches!(line.len(), 2 | 4), "a difference has a reason: {line:?}");
            assert_eq!(told(format, &line[0]), line[1], "{name}: {:?}", line[0]);
            texts += 1;
            refused += usize::from(line[1].starts_with("refused"));
            other += usize::from(line.len() == 4);
        }
        let values = texts - refused;
        // Not `println`, which a test keeps to itself.
        let _ = writeln!(
            std::io::stderr(),
            "{name}: {texts} texts, {values} values, {refused} refused, {other} differ knowingly, 0 silently"
        );
        assert!(texts >= 17);
    }
}
