//! Names of components with wildcards.

use std::fmt;

use libconf::name::{ComponentName, ComponentVersion, Kind};

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
            && self.version.as_ref().is_none_or(|glob| matches(glob.as_bytes(), one.version.as_str().as_bytes()))
    }

    /// True when the pattern matches a version of `component`, if there is one of the right name.
    pub(crate) fn matches_a_version_of(&self, component: &ComponentName) -> bool {
        self.kind.is_none_or(|kind| kind == component.kind)
            && matches(self.name.as_bytes(), component.name.as_str().as_bytes())
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

/// Matches a glob: `*` is any number of characters, `?` is one. Going back to the last `*` alone
/// keeps the time from growing with the number of `*`.
pub(crate) fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((back, from)) = star else { return false };
                star = Some((back, from + 1));
                at = back + 1;
                seen = from + 1;
            }
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}
