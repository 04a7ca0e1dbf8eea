//! A plan as values: what programs read as JSON.

use libconf::name::{CommitId, ComponentName, ComponentVersion, DatacenterName, HostName};
use serde::{Deserialize, Serialize};

use crate::fault::Refusal;

/// The most bytes of all differences of one plan; the rest is left out.
pub(crate) const MOST_BYTES: usize = 128 << 10;

/// The effect of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangePlan {
    /// The refs that could not land, and why.
    pub(crate) refused: Vec<NotLanding>,
    /// What else there is to know before it lands: declared breaks of compatibility, and hosts that
    /// report and are shut out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// The datacenters that would change.
    pub(crate) datacenters: Vec<DatacenterPlan>,
    /// The differences are longer than is shown.
    pub(crate) truncated: bool,
}

/// A ref that could not land.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotLanding {
    /// The ref.
    #[serde(rename = "ref")]
    pub(crate) name: String,
    /// The reason.
    #[serde(flatten)]
    pub(crate) refusal: Refusal,
}

/// The effect on one datacenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatacenterPlan {
    /// The datacenter.
    pub(crate) datacenter: DatacenterName,
    /// Its branch would be deleted; its hosts keep their files.
    pub(crate) removed: bool,
    /// The number of hosts that its inventory lists, before the change or after it.
    #[serde(default)]
    pub(crate) listed_hosts: usize,
    /// What would be lost, each in one sentence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) losses: Vec<String>,
    /// The components that would change.
    pub(crate) components: Vec<ComponentPlan>,
    /// What its hosts would get and lose: hosts for which that is the same together, first those
    /// that lose most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hosts: Vec<HostsPlan>,
    /// How many more such groups of hosts there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) more_hosts: usize,
}

/// The effect on some hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostsPlan {
    /// The first of these hosts by name.
    pub(crate) hosts: Vec<HostName>,
    /// How many more hosts of the inventory there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) more: usize,
    /// Hosts that the inventory does not list are among them: all hosts, where it lists none.
    pub(crate) unlisted: bool,
    /// They are not listed any more: they keep their files and get nothing new.
    pub(crate) shut_out: bool,
    /// The components whose files they keep, while nothing new of them comes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) kept: Vec<ComponentName>,
    /// The number of components that they run before.
    pub(crate) runs: usize,
    /// How many of these they lose; one that changes its version is not lost.
    pub(crate) lost: usize,
    /// The components that come.
    pub(crate) added: Vec<ComponentVersion>,
    /// The components whose files or settings change.
    pub(crate) changed: Vec<ComponentVersion>,
    /// The components that go.
    pub(crate) removed: Vec<ComponentVersion>,
}

/// The effect on one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ComponentPlan {
    /// The component.
    pub(crate) component: ComponentVersion,
    /// Its commit before; absent when it would be added.
    pub(crate) before: Option<CommitId>,
    /// Its commit after; absent when it would be removed.
    pub(crate) after: Option<CommitId>,
    /// The hosts of the inventory that are affected.
    pub(crate) hosts: Vec<HostName>,
    /// Hosts that are not in the inventory are affected too.
    pub(crate) unlisted_hosts: bool,
    /// The difference in its files, and in its settings on each group of hosts, as a unified diff.
    pub(crate) diff: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
