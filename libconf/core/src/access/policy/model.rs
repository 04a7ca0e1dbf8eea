//! The content of a policy, as types.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use libconf::name::{DatacenterName, GroupName, PrincipalName, RefName};

use crate::access::{policy::limit::Limit, principal::Named, verb::Verb};

/// Who may do what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The groups, with the principals that are in them. Tokens may put more into each.
    pub(crate) groups: BTreeMap<GroupName, BTreeSet<PrincipalName>>,
    /// The rights, in the order of the file.
    pub(crate) rights: Vec<Right>,
}

/// What a group may do, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The group.
    pub group: GroupName,
    /// What it may do.
    pub may: BTreeSet<Verb>,
    /// Patterns of refs, without `refs/heads/` and `refs/tags/`; `None` is every ref.
    pub refs: Option<Vec<String>>,
    /// Patterns of datacenters; `None` is every datacenter.
    pub datacenters: Option<Vec<String>>,
    /// The line of its group in the file.
    pub line: usize,
}

/// Something that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct PolicyFault {
    /// The line, counted from 1, where one is known.
    pub line: Option<usize>,
    /// The place, as a JSON Pointer; empty for the whole file.
    pub pointer: String,
    /// What is wrong, and what to write instead.
    pub reason: String,
}

impl Policy {
    /// The name of the file, at the root of the branch.
    pub const FILE: &'static str = "policy.yaml";

    /// What holds until there is a policy: the group `administrators`, which tokens give, may
    /// `administer`.
    pub fn initial() -> Self {
        let right = Right {
            group: GroupName::administrators(),
            may: BTreeSet::from([Verb::Administer]),
            refs: None,
            datacenters: None,
            line: 0,
        };
        Policy { groups: BTreeMap::new(), rights: vec![right] }
    }

    /// What holds where the policy cannot be read: nobody may do anything, but the owner of the
    /// repository's files.
    pub fn closed() -> Self {
        Policy::default()
    }

    /// The rights, in the order of the file.
    pub fn rights(&self) -> &[Right] {
        &self.rights
    }

    /// The groups of somebody with a name: those of the token, and those that list the name.
    pub fn groups_of(&self, named: &Named) -> BTreeSet<GroupName> {
        let listed = self.groups.iter().filter(|(_, members)| members.contains(&named.name));
        listed.map(|(group, _)| group.clone()).chain(named.groups.iter().cloned()).collect()
    }

    /// The principals that the policy lists in any group.
    pub fn members(&self) -> BTreeSet<&PrincipalName> {
        self.groups.values().flatten().collect()
    }

    /// The groups that have rights and list nobody: only tokens put somebody into them, unless the
    /// name is mistyped.
    pub fn unlisted(&self) -> BTreeSet<&GroupName> {
        let is_empty = |group: &&GroupName| self.groups.get(*group).is_none_or(BTreeSet::is_empty);
        self.rights.iter().map(|right| &right.group).filter(is_empty).collect()
    }
}

impl Right {
    /// True when the right has this verb, or all.
    pub(crate) fn has(&self, verb: Verb) -> bool {
        self.may.contains(&verb) || self.may.contains(&Verb::Administer)
    }

    /// True when the right holds for this ref. Without a ref, a right that names refs does not
    /// hold.
    pub(crate) fn holds_for(&self, reference: Option<&RefName>, limit: Limit) -> bool {
        let Some(patterns) = &self.refs else { return true };
        let Some(name) = reference.map(short) else { return false };
        limit.matches(patterns, &name)
    }

    /// True when the right holds for this datacenter.
    pub(crate) fn holds_in(&self, datacenter: &DatacenterName, limit: Limit) -> bool {
        let Some(patterns) = &self.datacenters else { return true };
        limit.matches(patterns, &datacenter.to_string())
    }
}

/// The name of a ref as patterns match it: without `refs/heads/` or `refs/tags/`.
pub(crate) fn short(reference: &RefName) -> String {
    let short = reference.short();
    short.strip_prefix("refs/tags/").map_or(short.clone(), str::to_owned)
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.reason)
    }
}
