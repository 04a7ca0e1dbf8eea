//! What somebody is told who may not.

use std::fmt;

use libconf::name::{DatacenterName, GroupName};

use crate::access::verb::Verb;

/// The most groups that are named, and the most datacenters.
pub(crate) const MOST_NAMED: usize = 5;

/// Somebody lacks a right. The text is one sentence: who may not do what and where, which groups
/// may, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Who lacks it.
    pub(crate) who: String,
    /// The right.
    pub verb: Verb,
    /// The ref, without `refs/heads/` or `refs/tags/`.
    pub reference: Option<String>,
    /// The datacenters for which it is lacking; none where it is lacking everywhere.
    pub datacenters: Vec<DatacenterName>,
    /// The reason.
    pub(crate) why: Why,
}

/// Why somebody lacks a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// No name was proven.
    Nameless,
    /// The token is for something else.
    Scope(String),
    /// None of the groups has it.
    Groups {
        /// Groups that have it, without those that may everything.
        holders: Vec<GroupName>,
        /// Groups that may everything.
        administrators: Vec<GroupName>,
    },
}

impl Denied {
    /// The groups that have the right; those that may everything come last.
    pub fn groups(&self) -> Vec<GroupName> {
        match &self.why {
            Why::Nameless | Why::Scope(_) => Vec::new(),
            Why::Groups { holders, administrators } => holders.iter().chain(administrators).cloned().collect(),
        }
    }
}

impl std::error::Error for Denied {}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lacks the right `{}`", self.who, self.verb)?;
        if let Some(reference) = &self.reference {
            write!(f, " on {reference}")?;
        }
        if !self.datacenters.is_empty() {
            write!(f, " for {}", named(&self.datacenters))?;
        }
        match &self.why {
            Why::Nameless => f.write_str("; show a token that proves a name"),
            Why::Scope(scope) => write!(f, ": its token is for a {scope} alone; use another token"),
            Why::Groups { holders, administrators } => {
                match holders.as_slice() {
                    [] => f.write_str("; no group has it"),
                    [one] => write!(f, "; the group {one} has it"),
                    many => write!(f, "; the groups {} have it", named(many)),
                }?;
                let administrators = match administrators.as_slice() {
                    [] => String::new(),
                    [one] => format!(" (the group {one})"),
                    many => format!(" (the groups {})", named(many)),
                };
                write!(f, ", and an administrator{administrators} can give it, in policy.yaml on the branch policy")
            }
        }
    }
}

/// Names a few of many.
fn named(names: &[impl fmt::Display]) -> String {
    let shown: Vec<String> = names.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    match (names.len().saturating_sub(MOST_NAMED), shown.as_slice()) {
        (0, [all @ .., last]) if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        (0, _) => shown.join(", "),
        (more, _) => format!("{} and {more} more", shown.join(", ")),
    }
}
