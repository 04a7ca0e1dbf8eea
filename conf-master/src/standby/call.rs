//! What a standby and its leader tell each other, as JSON.

use libconf::name::{CommitId, HostName, Sequence};
use serde::{Deserialize, Serialize};

/// The path at which a leader tells its standbys what is newest.
pub(crate) const PATH: &str = "api/v1/standby";

/// What a standby says when it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StandbyCall {
    /// Its name.
    pub(crate) name: HostName,
    /// The newest entry of the ledger on its disk.
    pub(crate) ledger: CommitId,
    /// The number of that change.
    pub(crate) sequence: Sequence,
}

/// What is newest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StandbyAnswer {
    /// Whom this conf-master follows itself; absent where it leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leader: Option<String>,
    /// The newest entry of its ledger.
    pub(crate) ledger: CommitId,
    /// The number of that change.
    pub(crate) sequence: Sequence,
    /// The epoch of its history.
    pub(crate) epoch: u32,
    /// How many standbys have a change before it is answered.
    #[serde(default)]
    pub(crate) sync: usize,
    /// Its standbys.
    #[serde(default)]
    pub(crate) standbys: Vec<ListedStandby>,
}

/// A standby, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedStandby {
    /// Its name.
    pub(crate) name: HostName,
    /// The newest change on its disk.
    pub(crate) sequence: Sequence,
    /// Every change that is answered is on its disk.
    pub(crate) in_sync: bool,
    /// The seconds since it asked last.
    pub(crate) seconds: u64,
}
