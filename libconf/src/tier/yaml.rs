//! YAML as this project reads it: one set of options, and values that know their lines.

use std::fmt;

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

/// Reads a program's own YAML file into a type, under the options that every YAML of the project is read with.
///
/// Bounds: 4 MiB of text, 64 levels, and what aliases may expand to.
pub fn from_str<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let _ = text;
    unimplemented!()
}
