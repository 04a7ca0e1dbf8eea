//! The proposal: what the folders would become.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use conf_core::secret::HostKey;
use libconf::name::{BranchName, ClassName, ComponentName, DatacenterName, HostName, RoleName, SecretName};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::import::scan::{Folder, Remark};
use crate::import::template::Replacement;

/// The named hosts, with their roles and keys.
pub(crate) type NamedHosts = BTreeMap<HostName, (Vec<RoleName>, Option<HostKey>)>;

/// The proposal.
#[derive(Debug)]
pub(crate) struct Proposal<'a> {
    /// The class that runs the components.
    pub(crate) class: ClassName,
    /// A datacenter of that class.
    pub(crate) datacenter: DatacenterName,
    /// The branch of every component.
    pub(crate) branch: BranchName,
    /// The components, in order of name.
    pub(crate) components: Vec<Component<'a>>,
    /// The components of each role.
    pub(crate) roles: BTreeMap<RoleName, BTreeSet<ComponentName>>,
    /// The hosts that were named, with their roles and keys.
    pub(crate) hosts: NamedHosts,
    /// The values that repeat, the most frequent first within each sort.
    pub(crate) variables: Vec<Variable>,
    /// The text that must not be committed.
    pub(crate) secrets: Vec<Secret>,
    /// Text that looks like a secret and that the flags allow to be committed.
    pub(crate) allowed: Vec<Remark>,
    /// What must be settled first.
    pub(crate) faults: Vec<Remark>,
}

/// One component.
#[derive(Debug)]
pub(crate) struct Component<'a> {
    /// Its name.
    pub(crate) name: ComponentName,
    /// The folders that hold it; the first one is read.
    pub(crate) places: Vec<&'a Folder>,
    /// Why every file is taken byte for byte.
    pub(crate) raw: Option<String>,
    /// The file that is read as its settings.
    pub(crate) settings: Option<String>,
    /// The files that become templates, and the replacements in them.
    pub(crate) templates: BTreeMap<String, Vec<Replacement>>,
    /// Remarks for people.
    pub(crate) notes: Vec<String>,
}

/// A value that repeats.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Variable {
    /// Its name below `platform`.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: String,
    /// How often it occurs in the files.
    pub(crate) times: usize,
    /// The files, as reports show them.
    pub(crate) files: BTreeSet<String>,
    /// Templates use it.
    pub(crate) applied: bool,
}

/// A secret, declared as given. Its debug output shows the name alone.
pub(crate) struct Secret {
    /// Its name.
    pub(crate) name: SecretName,
    /// Its value.
    pub(crate) value: Zeroizing<String>,
    /// What it looks like, with an article.
    pub(crate) what: &'static str,
    /// Its places: file and line.
    pub(crate) places: Vec<(String, usize)>,
    /// The components that contain it.
    pub(crate) readers: BTreeSet<ComponentName>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.name)
    }
}
