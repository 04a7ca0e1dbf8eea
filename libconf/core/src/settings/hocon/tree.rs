//! A HOCON text as a tree, before its substitutions are replaced.

use std::borrow::Cow;

use indexmap::IndexMap;

/// An object: for each key its definitions, the oldest first. A later one replaces an earlier one,
/// or is merged with it.
#[derive(Debug, Default)]
pub(crate) struct Object<'a>(pub(crate) IndexMap<Cow<'a, str>, Vec<Node<'a>>>);

/// One value as it was written.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) line: usize,
    /// Definitions that were written as one value (`${a} { b = 1 }`) share a number.
    pub(crate) definition: usize,
    pub(crate) shape: Shape<'a>,
}

#[derive(Debug)]
pub(crate) enum Shape<'a> {
    Scalar(Scalar<'a>),
    Array(Vec<Node<'a>>),
    Object(Object<'a>),
    Substitution(Substitution<'a>),
    /// Values that stand beside each other, at least one of them a substitution or, in an array, an
    /// object.
    Concatenation(Vec<Node<'a>>),
}

/// A value without others in it. Numbers keep the text that they were written as: `1.10` beside
/// other text is `1.10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    /// Unquoted blanks between two values of a concatenation. They count only where the result is
    /// text.
    Blanks(&'a str),
}

impl Scalar<'_> {
    /// The text of the value within a concatenation.
    pub(crate) fn as_text(&self) -> &str {
        match self {
            Scalar::Null => "null",
            Scalar::Bool(true) => "true",
            Scalar::Bool(false) => "false",
            Scalar::Number(text) | Scalar::Blanks(text) => text,
            Scalar::Text(text) => text,
        }
    }
}

/// `${path}` or `${?path}`.
#[derive(Debug)]
pub(crate) struct Substitution<'a> {
    /// Which one of the text: each is replaced once, and its value is remembered.
    pub(crate) number: usize,
    pub(crate) path: Vec<Cow<'a, str>>,
    pub(crate) is_optional: bool,
    /// An object stands beside it.
    pub(crate) must_be_object: bool,
    /// It was made of `+=`: the path begins at the list element that the field is in, where it is
    /// in one.
    pub(crate) is_own: bool,
}
