//! Where settings violate their schema, and why a schema cannot be used.

use serde::{Deserialize, Serialize};

/// The longest reason, in characters: it may hold a value that is as long as its author likes.
pub(crate) const REASON_CHARS: usize = 300;

/// One place where settings violate their schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchemaFault {
    /// The place, a JSON Pointer.
    pub(crate) pointer: String,
    /// What is wrong there.
    pub(crate) reason: String,
    /// The value has another type than the schema asks for.
    #[serde(default)]
    pub(crate) of_type: bool,
}

impl SchemaFault {
    /// Makes a fault that is not about the type.
    pub(crate) fn new(pointer: impl Into<String>, reason: impl Into<String>) -> Self {
        SchemaFault { pointer: pointer.into(), reason: reason.into(), of_type: false }
    }
}

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{reason}")]
pub(crate) struct BadSchema {
    /// The line in its file, counted from 1.
    pub(crate) line: Option<usize>,
    /// What is wrong and what to write instead.
    pub(crate) reason: String,
}

impl BadSchema {
    /// Makes a reason without a line.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        BadSchema { line: None, reason: reason.into() }
    }
}

/// The faults of each of several settings, empty for those that are valid.
pub(crate) type SchemaFaults = Result<Vec<Vec<SchemaFault>>, BadSchema>;

/// Cuts text to a length that people read, and replaces control characters.
pub(crate) fn cut(words: &str) -> String {
    let letters = words.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut words: String = letters.take(REASON_CHARS + 1).collect();
    if let Some((end, _)) = words.char_indices().nth(REASON_CHARS) {
        words.truncate(end);
        words.push('…');
    }
    words
}
