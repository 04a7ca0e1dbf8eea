//! Names of components with wildcards.

use std::fmt;

use libconf::name::{ComponentName, ComponentVersion, Kind};

use crate::glob;

/// A pattern of components: `<kind>/<name>[/<version>]`. The kind may be `*`; in the name and the
/// version `*` stands for any number of characters and `?` for one. Without a version the pattern
/// means all versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub(crate) kind: Option<Kind>,
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) line: usize,
}

impl Pattern {
    /// True when the pattern matches `one`.
    pub fn matches(&self, one: &ComponentVersion) -> bool {
        self.matches_a_version_of(&one.component)
            && self.version.as_ref().is_none_or(|version| glob::matches(version, one.version.as_str()))
    }

    /// True when the pattern matches a version of `component`, if there is one of the right name.
    pub(crate) fn matches_a_version_of(&self, component: &ComponentName) -> bool {
        self.kind.is_none_or(|kind| kind == component.kind) && glob::matches(&self.name, component.name.as_str())
    }

    /// True when the pattern has no wildcard in kind, name or version.
    pub(crate) fn is_one(&self) -> bool {
        let wild = |text: &String| text.contains(['*', '?']);
        self.kind.is_some() && !wild(&self.name) && !self.version.as_ref().is_some_and(wild)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.map_or("*", Kind::as_str), self.name)?;
        self.version.iter().try_for_each(|version| write!(f, "/{version}"))
    }
}
