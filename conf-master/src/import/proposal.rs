//! What the folders would become.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use conf_core::secret::HostKey;
use libconf::name::{BranchName, ClassName, ComponentName, DatacenterName, HostName, RoleName, SecretName};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::import::scan::{Folder, Remark};
use crate::import::template::Replacement;

/// What the folders would become.
#[derive(Debug)]
pub(crate) struct Proposal<'a> {
    /// What runs the components.
    pub(crate) class: ClassName,
    /// A datacenter of that class.
    pub(crate) datacenter: DatacenterName,
    /// The branch of every component.
    pub(crate) branch: BranchName,
    /// In order of name.
    pub(crate) components: Vec<Component<'a>>,
    /// What each role runs.
    pub(crate) roles: BTreeMap<RoleName, BTreeSet<ComponentName>>,
    /// The hosts that were named, with their roles and keys.
    pub(crate) hosts: BTreeMap<HostName, (Vec<RoleName>, Option<HostKey>)>,
    /// What repeats, the most frequent first within each sort.
    pub(crate) variables: Vec<Variable>,
    /// What must not be committed.
    pub(crate) secrets: Vec<Secret>,
    /// What was allowed to be committed though it looks like a secret.
    pub(crate) allowed: Vec<Remark>,
    /// What must be settled first.
    pub(crate) faults: Vec<Remark>,
}

/// One component.
#[derive(Debug)]
pub(crate) struct Component<'a> {
    /// What it is called.
    pub(crate) name: ComponentName,
    /// The folders that hold it; the first one is read.
    pub(crate) places: Vec<&'a Folder>,
    /// Every file byte for byte, for this reason.
    pub(crate) raw: Option<String>,
    /// The file that is read as its settings.
    pub(crate) settings: Option<String>,
    /// The files that become templates, and what is replaced in them.
    pub(crate) templates: BTreeMap<String, Vec<Replacement>>,
    /// What else there is to say.
    pub(crate) notes: Vec<String>,
}

/// A value that repeats.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Variable {
    /// Its name below `platform`.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: String,
    /// How often it stands in the files.
    pub(crate) times: usize,
    /// The files, as reports show them.
    pub(crate) files: BTreeSet<String>,
    /// It is replaced.
    pub(crate) applied: bool,
}

/// A secret, declared as given. It shows its name alone.
pub(crate) struct Secret {
    /// What it is called.
    pub(crate) name: SecretName,
    /// Its value.
    pub(crate) value: Zeroizing<String>,
    /// What it looks like, with its article.
    pub(crate) what: &'static str,
    /// Where it stands: file and line.
    pub(crate) places: Vec<(String, usize)>,
    /// The components in which it stands.
    pub(crate) readers: BTreeSet<ComponentName>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.name)
    }
}
