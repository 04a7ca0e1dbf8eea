//! Faults in a text that a user wrote, and the bounds that every notation shares.

use serde::{Deserialize, Serialize};

/// The most bytes of one file; 30,000 pins, one a line, take less than half of it.
pub const MAX_BYTES: usize = 4 << 20;

/// The most levels of nested values, in every notation.
pub const MAX_DEPTH: usize = 64;

/// A fault in a text: where it is, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error, Serialize, Deserialize)]
#[error("{}{reason}", line.map(|line| format!("line {line}: ")).unwrap_or_default())]
pub struct Fault {
    /// The line, counted from 1, if the fault has one.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl Fault {
    pub(crate) fn new(line: usize, reason: impl Into<String>) -> Self {
        Fault { line: (line > 0).then_some(line), reason: reason.into() }
    }
}

/// A user's text, made fit for a message: one line, of at most 100 characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(100).flat_map(char::escape_debug).collect();
    if text.chars().nth(100).is_some() {
        shown.push('…');
    }
    shown.replace("\\'", "'").replace("\\\"", "\"")
}

/// Serde's words about a value of a wrong type, without the value: it may be a secret.
pub fn without_value(words: &str) -> String {
    let after = |mark: &str| words.rfind(mark).map(|at| &words[at + mark.len()..]);
    if let Some(rest) = words.strip_prefix("unknown variant `") {
        let known = rest.rfind("`, ").map_or("", |at| &rest[at + 2..]);
        return format!("this word is not known,{known}");
    }
    for start in ["invalid type: ", "invalid value: "] {
        if let (Some(rest), Some(expected)) = (words.strip_prefix(start), after(", expected ")) {
            // Its type stands before it: `string "…"`, or `integer` and the number in backticks.
            let found = rest.split(['"', '`', ',']).next().unwrap_or_default().trim_end();
            return format!("{start}{found}, expected {expected}");
        }
    }
    words.to_owned()
}

pub(crate) fn too_deep() -> String {
    format!("it is nested deeper than {MAX_DEPTH} levels; write it flatter")
}

/// Why a component's settings cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{file}{}: {reason}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct SettingsFault {
    /// The file, relative to the component's root.
    pub file: String,
    /// The line, counted from 1, if the fault has one.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_s_words_show_no_value() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Kind {
            One,
            Two,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Entry {
            #[serde(rename = "port")]
            _port: Option<u16>,
            #[serde(rename = "kind")]
            _kind: Option<Kind>,
        }
        for (text, shown) in [
            (r#"{"port": "s3cret, expected x"}"#, "invalid type: string, expected u16 at line 1 column 29"),
            (r#"{"port": 7331733}"#, "invalid value: integer, expected u16 at line 1 column 16"),
            (r#"{"port": 7331.733}"#, "invalid type: floating point, expected u16 at line 1 column 17"),
            (r#"{"kind": "s3cret`, expected"}"#, "this word is not known, expected `one` or `two` at line 1 column 28"),
            (r#"{"prot": 1}"#, "unknown field `prot`, expected `port` or `kind` at line 1 column 7"),
        ] {
            let error = serde_json::from_str::<Entry>(text).unwrap_err();
            assert_eq!(without_value(&error.to_string()), shown);
            let fault = crate::settings::from_yaml::<Entry>(text).unwrap_err().to_string();
            assert!(!fault.contains("s3cret") && !fault.contains("733"), "{fault}");
        }
    }
}
