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
