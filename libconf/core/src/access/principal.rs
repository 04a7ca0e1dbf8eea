//! Who was proven.

use std::collections::BTreeSet;
use std::fmt;

use libconf::name::{DatacenterName, GroupName, HostName, PrincipalName};
use serde::{Deserialize, Serialize};

use crate::access::token::TokenId;

/// Who asks for something, as far as it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// conf-master itself, for what it does by its own.
    Server,
    /// Somebody unknown: the server is open, and no token was given.
    Anybody,
    /// A user of the server's own machine who may write to the repository's files in any case.
    Owner(String),
    /// Somebody with a name.
    Named(Named),
}

/// Somebody with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: PrincipalName,
    /// The groups that the token gives; the policy may name more.
    pub groups: BTreeSet<GroupName>,
    /// What the token is for.
    pub scope: Scope,
    /// The token that proved it; `None` for the key of SSH and the user of a path.
    pub token: Option<TokenId>,
}

/// What a token is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// What the policy says of its name and groups.
    #[default]
    Policy,
    /// A conf-slave: reads and reports for the datacenters of this pattern, such as `lab/*`.
    Slave(String),
    /// A host: reads its datacenter, and reports as itself.
    Host {
        /// The datacenter.
        datacenter: DatacenterName,
        /// The host.
        host: HostName,
    },
    /// Hosts of this datacenter: each shows it once, and proves itself by its key from then on.
    Join(DatacenterName),
}

impl Principal {
    /// The name, where there is one.
    pub fn named(&self) -> Option<&Named> {
        match self {
            Principal::Named(named) => Some(named),
            Principal::Server | Principal::Anybody | Principal::Owner(_) => None,
        }
    }

    /// Tells whether it is a host, by its key or by a token of its own.
    pub fn is_host(&self) -> bool {
        matches!(self, Principal::Named(Named { scope: Scope::Host { .. }, .. }))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Server => f.write_str("conf-master"),
            Principal::Anybody => f.write_str("somebody without a token"),
            Principal::Owner(user) => f.write_str(user),
            // Whatever a host is called, it looks like no person.
            Principal::Named(Named { scope: scope @ Scope::Host { .. }, token: None, .. }) => scope.fmt(f),
            Principal::Named(named) => named.name.fmt(f),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Policy => f.write_str("as the policy says"),
            Scope::Slave(pattern) => write!(f, "conf-slave of {pattern}"),
            Scope::Host { datacenter, host } => write!(f, "host {datacenter}/{host}"),
            Scope::Join(datacenter) => write!(f, "host that joins {datacenter}"),
        }
    }
}
