//! Faults in a text that a user wrote, and the bounds that every notation shares.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The most text that one file may hold; 30,000 pins, one a line, are less than half of it.
pub const MAX_BYTES: usize = 4 << 20;

/// The deepest that values may be nested, in every notation.
pub const MAX_DEPTH: usize = 64;

/// What is wrong in a text, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The line, counted from 1, where the fault has one.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl Fault {
    pub(crate) fn new(line: usize, reason: impl Into<String>) -> Self {
        Fault { line: (line > 0).then_some(line), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// What a user wrote, made fit for a message: one line, of at most 100 characters.
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

/// Why a component has no settings that anyone could read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{file}{}: {reason}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct SettingsFault {
    /// Which file, relative to the component's root.
    pub file: String,
    /// The line, counted from 1, where the fault has one.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub reason: String,
}
