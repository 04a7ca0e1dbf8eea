//! What can be done.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What somebody may do. `Administer` includes all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Fetch, and ask the API.
    Read,
    /// Make a branch, or move it forward.
    Push,
    /// Make a tag.
    Tag,
    /// Delete a branch or a tag.
    Delete,
    /// Take away more than `--max-shrink` allows.
    Shrink,
    /// Land what programs written for the old settings may reject, and set how much is checked.
    Breaking,
    /// Set, make or remove secrets; say who reads them, and with which key.
    Secrets,
    /// Hold, resume, promote or roll back.
    Rollback,
    /// Report what a host or a conf-slave has.
    Report,
    /// Everything: tokens, the policy, backup.
    Administer,
}

impl Verb {
    /// All of them, in the order in which people read them.
    pub const ALL: [Verb; 10] = [
        Verb::Read,
        Verb::Push,
        Verb::Tag,
        Verb::Delete,
        Verb::Shrink,
        Verb::Breaking,
        Verb::Secrets,
        Verb::Rollback,
        Verb::Report,
        Verb::Administer,
    ];
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
