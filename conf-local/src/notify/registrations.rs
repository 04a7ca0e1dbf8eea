//! Registered processes on disk, so that a restart of the agent loses none.
//!
//! `watchers.json`: `{"format": 1, "watchers": [registration]}`, replaced as a whole. It is not
//! synced: after a power cut none of the processes runs. If the agent cannot read the file, it
//! starts with none, and logs that.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use conf_core::git::Durability;
use libconf::name::{ComponentSelector, Sequence};
use serde::{Deserialize, Serialize};

use crate::{
    fs::{read_state, replace_state},
    process::ProcessIdentity,
};

/// One registered process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    #[serde(flatten)]
    pub(crate) identity: ProcessIdentity,
    /// The user who registered it.
    pub(crate) user: u32,
    pub(crate) signal: String,
    pub(crate) components: BTreeSet<ComponentSelector>,
    #[serde(default)]
    pub(crate) delay: Duration,
    /// The change that was exported when it registered.
    pub(crate) sequence: Sequence,
    pub(crate) when: String,
}

impl Registration {
    /// Returns the user that the process must have; root may name any process.
    pub(crate) fn owner(&self) -> Option<u32> {
        (self.user != 0).then_some(self.user)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Content<T> {
    watchers: T,
}

/// Reads the registrations; none, with a warning, if they cannot be read.
pub(crate) fn load(path: &Path) -> Vec<Registration> {
    let content: Content<Vec<Registration>> = read_state(path).unwrap_or_else(|error| {
        let path = path.display();
        tracing::warn!(%path, %error, "registered processes are lost; they have to register again");
        Content::default()
    });
    content.watchers
}

/// Replaces the registrations.
pub(crate) fn save(path: &Path, registrations: &[Registration]) -> io::Result<()> {
    replace_state(path, &Content { watchers: registrations }, Durability::None)
}
