//! Stand-ins for secrets.
//!
//! Always true: the process that renders never has a secret. A template gets a stand-in, a short
//! text between two marks, which can be shown and can pass through a few filters. What the template
//! does with it (compare, measure, take apart) says nothing about the secret, so neither its result
//! nor its error does. The caller puts the values in afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use zeroize::Zeroizing;

use crate::secret::SecretValue;

/// The marks around a stand-in. They are of a private area of Unicode, where no text has letters.
const BEGIN: char = '\u{f0000}';
const END: char = '\u{f0001}';
/// The letters of both cases make a stand-in unreadable when a filter changes the case.
const TEXT: &str = "Text:";
const CERTIFICATE: &str = "Certificate:";
const KEY: &str = "Key:";
const PASSED: &str = "Passed:";

/// The filters that a secret passes through.
pub(crate) const FILTERS: [&str; 6] = ["trim", "indent", "tojson", "urlencode", "escape", "e"];
/// As [`FILTERS`], for what [`values`](crate::template::values) shows in lists.
pub(crate) const QUOTED: &str = "quoted";

/// A secret's value, or why it cannot be had; those words hold no value.
pub(crate) type Given = Result<SecretValue, String>;

/// What the process knows of a secret.
#[derive(Serialize, Deserialize)]
pub(crate) enum Shape {
    Text,
    Certificate,
    /// It cannot be had, and why.
    Absent(String),
}

impl Shape {
    pub(crate) fn of(given: &Given) -> Self {
        match given {
            Ok(SecretValue::Text(_)) => Shape::Text,
            Ok(SecretValue::Certificate { .. }) => Shape::Certificate,
            Err(why) => Shape::Absent(why.clone()),
        }
    }
}

/// What a template can do with a secret.
pub(crate) fn passes() -> String {
    "a secret can be shown as it is, and pass through the filters trim, indent, tojson, urlencode and escape".to_owned()
}

/// A filter that a text with stand-ins passes through, once the values are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Passed {
    pub(crate) filter: String,
    pub(crate) text: String,
    /// The arguments by place, and by name.
    pub(crate) arguments: Vec<Json>,
    pub(crate) named: BTreeMap<String, Json>,
}

/// What passes through filters while a component is rendered, in that order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passages(Arc<Mutex<Vec<Passed>>>);

impl Passages {
    /// Notes one; returns its stand-in.
    pub(crate) fn add(&self, passed: Passed) -> String {
        let mut all = self.0.lock();
        all.push(passed);
        format!("{BEGIN}{PASSED}{}{END}", all.len() - 1)
    }

    /// Has each stand-in within a text pass through a filter by itself.
    pub(crate) fn each(&self, filter: &str, text: &str) -> String {
        let mut all = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Plain(plain) => all.push_str(plain),
                Piece::StandIn(name) => {
                    let (text, filter) = (format!("{BEGIN}{name}{END}"), filter.to_owned());
                    all.push_str(&self.add(Passed { filter, text, ..Passed::default() }));
                }
                Piece::Broken => all.push(BEGIN),
            }
        }
        all
    }

    pub(crate) fn take(&self) -> Vec<Passed> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// The stand-ins of a secret.
pub(crate) enum StandIns {
    Text(String),
    Certificate { certificate: String, key: String },
    Absent(String),
}

impl StandIns {
    pub(crate) fn of(name: &str, shape: &Shape) -> Self {
        let of = |kind: &str| format!("{BEGIN}{kind}{name}{END}");
        match shape {
            Shape::Text => StandIns::Text(of(TEXT)),
            Shape::Certificate => StandIns::Certificate { certificate: of(CERTIFICATE), key: of(KEY) },
            Shape::Absent(why) => StandIns::Absent(why.clone()),
        }
    }
}

/// True for a text with a stand-in in it, whole or broken.
pub(crate) fn holds_one(text: &str) -> bool {
    text.contains([BEGIN, END])
}

enum Piece<'t> {
    Plain(&'t str),
    /// What stands between the marks.
    StandIn(&'t str),
    /// A mark without the other.
    Broken,
}

fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(begin) = rest.find([BEGIN, END]) else { return Some(Piece::Plain(std::mem::take(&mut rest))) };
        if begin > 0 {
            let (plain, left) = rest.split_at(begin);
            rest = left;
            return Some(Piece::Plain(plain));
        }
        let inside = rest.strip_prefix(BEGIN).and_then(|inside| inside.split_once([BEGIN, END]));
        match inside {
            Some((name, left)) if rest[BEGIN.len_utf8() + name.len()..].starts_with(END) => {
                rest = left;
                Some(Piece::StandIn(name))
            }
            _ => {
                rest = &rest[BEGIN.len_utf8()..];
                Some(Piece::Broken)
            }
        }
    })
}

/// The text with the names of the secrets, for people.
pub(crate) fn shown(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for piece in pieces(text) {
        match piece {
            Piece::Plain(plain) => all.push_str(plain),
            Piece::StandIn(name) => {
                let _ = write!(all, "<secret {}>", name.split_once(':').map_or("", |(_, name)| name));
            }
            Piece::Broken => all.push('…'),
        }
    }
    all
}

/// Why the values cannot be put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotFilled {
    /// A filter changed a stand-in.
    Changed,
    /// The texts become longer than they may.
    TooLong,
    /// A filter refused.
    Refused(String),
}

/// A text with its values, and the names of the secrets that are in it.
pub(crate) struct Filled {
    pub(crate) text: Zeroizing<String>,
    pub(crate) secrets: BTreeSet<String>,
}

/// Puts values in the place of stand-ins.
pub(crate) struct Filler<'s> {
    secrets: &'s BTreeMap<String, Given>,
    /// What each passage makes.
    passed: Vec<Filled>,
    /// The bytes that all texts together may still have.
    left: usize,
}

impl<'s> Filler<'s> {
    /// `apply` lets a text with its values pass through a filter.
    pub(crate) fn new(
        secrets: &'s BTreeMap<String, Given>,
        passages: Vec<Passed>,
        most: usize,
        mut apply: impl FnMut(&Passed, &str) -> Result<String, String>,
    ) -> Result<Self, NotFilled> {
        let mut filler = Filler { secrets, passed: Vec::with_capacity(passages.len()), left: most };
        for passage in passages {
            // A passage holds only what was there before it.
            let Filled { text, secrets } = filler.fill(&passage.text)?;
            let text = Zeroizing::new(apply(&passage, &text).map_err(NotFilled::Refused)?);
            filler.left = filler.left.checked_sub(text.len()).ok_or(NotFilled::TooLong)?;
            filler.passed.push(Filled { text, secrets });
        }
        Ok(filler)
    }

    /// Returns the text with its values.
    pub(crate) fn fill(&mut self, text: &str) -> Result<Filled, NotFilled> {
        let (mut all, mut secrets) = (String::with_capacity(text.len()), BTreeSet::new());
        for piece in pieces(text) {
            let value = match piece {
                Piece::Plain(plain) => plain,
                Piece::StandIn(stand_in) => self.value(stand_in, &mut secrets).ok_or(NotFilled::Changed)?,
                Piece::Broken => return Err(NotFilled::Changed),
            };
            let bytes = value.len();
            all.push_str(value);
            self.left = self.left.checked_sub(bytes).ok_or(NotFilled::TooLong)?;
        }
        Ok(Filled { text: all.into(), secrets })
    }

    /// The value of a stand-in. Adds the names of the secrets that are in it.
    fn value<'a>(&'a self, stand_in: &'a str, secrets: &mut BTreeSet<String>) -> Option<&'a str> {
        if let Some(number) = stand_in.strip_prefix(PASSED) {
            let passed = self.passed.get(number.parse::<usize>().ok()?)?;
            secrets.extend(passed.secrets.iter().cloned());
            return Some(&passed.text);
        }
        let (kind, name) = stand_in.split_at(stand_in.find(':')? + 1);
        secrets.insert(name.to_owned());
        match (kind, self.secrets.get(name)?.as_ref().ok()?) {
            (TEXT, SecretValue::Text(text)) => Some(text),
            (CERTIFICATE, SecretValue::Certificate { certificate, .. }) => Some(certificate),
            (KEY, SecretValue::Certificate { key, .. }) => Some(key),
            _ => None,
        }
    }
}
