//! An update: sections that somebody wants to replace, with the versions that they were made from.

use std::collections::BTreeMap;

use conf_core::settings::SettingsFault;
use libconf::name::{CommitId, RefName};

use crate::fault::{Fault, Refusal, RefusalKind};
use crate::landing::update::notation::Draft;
use crate::landing::update::section::SectionName;
use crate::store::{LandedRef, RefTarget, RequestKey};

/// Sections to replace, all of them or none.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// Each section once.
    pub(crate) changes: Vec<SectionChange>,
    /// The idempotency key: under it the request lands once.
    pub(crate) key: Option<RequestKey>,
    /// The reason for which it may break compatibility, in one line.
    pub(crate) breaking: Option<String>,
}

/// One section to replace.
#[derive(Clone, Debug)]
pub(crate) struct SectionChange {
    /// The section.
    pub(crate) section: SectionName,
    /// Its new settings, or why they cannot be read.
    pub(crate) draft: Result<Draft, SettingsFault>,
    /// The version of the schema that they are written for.
    pub(crate) schema_version: i64,
    /// The state that the change was made from.
    pub(crate) expected: Expected,
}

/// The state that a change was made from: the optimistic lock. Both must hold where both are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The version of the section; -1 when it does not exist.
    pub(crate) version: Option<i64>,
    /// The commit of the branch.
    pub(crate) commit: Option<IfMatch>,
}

/// The value of `If-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// `*`: any commit, as long as the branch exists.
    Anything,
    /// One of these commits.
    OneOf(Vec<CommitId>),
}

/// A change that was made from another state than the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The first such section.
    pub(crate) section: SectionName,
    /// Its version now.
    pub(crate) version: i64,
    /// The commit of its branch now.
    pub(crate) commit: Option<CommitId>,
}

/// The outcome of an update, where it says more than the refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UpdateOutcome {
    /// It landed.
    Landed {
        /// The refs that it moved, snapshots included.
        refs: Vec<LandedRef>,
        /// It had landed before, under the same key.
        again: bool,
    },
    /// It was made from an older version.
    Conflict(Conflict),
}

/// Why an update was not drafted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DraftError {
    /// It was made from an older version.
    #[error("made from an older version")]
    Conflict(Conflict),
    /// Its sections cannot be written; the faults of each branch.
    #[error("the sections cannot be written")]
    Invalid(BTreeMap<RefName, Vec<Fault>>),
    /// The repository cannot be read or written.
    #[error("the repository cannot be read or written")]
    Repository(#[from] git2::Error),
}

impl Update {
    /// Lists the branches that it changes, each once, in order of their first section.
    pub(crate) fn references(&self) -> Vec<RefName> {
        let mut references: Vec<RefName> = Vec::new();
        for change in &self.changes {
            let reference = change.section.reference();
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        references
    }
}

impl Expected {
    /// Tells whether this is the newest state: of a section at `version`, on a branch that is at
    /// `newest`.
    ///
    /// Since the version of a layer no version of its branch changed it, so each of them holds as
    /// well, up to the newest. An earlier conf-master showed these for a layer, also for one that
    /// does not exist.
    pub(crate) fn holds(&self, version: i64, newest: i64, current: Option<RefTarget>) -> bool {
        let commit = match &self.commit {
            None => true,
            Some(IfMatch::Anything) => current.is_some(),
            Some(IfMatch::OneOf(commits)) => current.is_some_and(|current| commits.contains(&current.commit)),
        };
        let since = if version < 0 { newest } else { version };
        commit && self.version.is_none_or(|expected| expected == version || (since..=newest).contains(&expected))
    }
}

impl Conflict {
    /// Refuses each of these branches, in their order.
    pub(crate) fn refusals(&self, references: &[RefName]) -> Vec<Option<Refusal>> {
        let section = &self.section;
        let reason = match self.version {
            -1 => format!("{section} is not there; to make it, send version -1"),
            version => format!("{section} is at version {version}; read it, and make the change again"),
        };
        let stale =
            |one: &RefName| (*one == section.reference()).then(|| Refusal::new(RefusalKind::Stale, reason.clone()));
        references.iter().map(|one| Some(stale(one).unwrap_or_else(another_section))).collect()
    }
}

/// Refuses a branch because of another one in the same request.
pub(crate) fn another_section() -> Refusal {
    Refusal::new(RefusalKind::Together, "another section of this request is refused")
}
