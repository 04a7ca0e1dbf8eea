//! conf-master's word on who may ask a conf-slave, which decides by it alone while conf-master is
//! away.

use std::fmt::Write as _;

use libconf::name::{DatacenterName, PrincipalName, Sequence};
use serde::{Deserialize, Serialize};

use crate::access::principal::Scope;
use crate::access::table::{AccessTable, TokenEntry};
use crate::access::token::TokenHash;
use crate::host_key::HostKey;

/// Event `access` on conf-master's `GET /api/v1/events?datacenter=<id>/<version>`: who may ask a
/// conf-slave of this datacenter. Only conf-slaves and administrators get it. A conf-slave of an
/// earlier version ignores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEvent {
    /// The newest change that conf-master had accepted when it signed this.
    pub central: Sequence,
    /// When it signed this, in seconds since 1970. Of two statements the one with the higher
    /// `central` counts, and of two with the same the later one.
    pub time: i64,
    /// The datacenter of this stream.
    pub datacenter: DatacenterName,
    /// Everybody may ask, without a token.
    pub open: bool,
    /// Those who may ask.
    pub readers: Vec<AccessReader>,
    /// conf-master's SSH signature over all of this; see
    /// [`sign_access`](crate::sign::sign_access).
    pub signature: String,
}

/// Somebody who may ask a conf-slave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessReader {
    /// The hash of the token.
    pub hash: TokenHash,
    /// Whom it proves.
    pub name: PrincipalName,
    /// What it is for: a host reports as itself, and a conf-slave for every host.
    pub scope: Scope,
    /// When it ends by itself, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// The key of a host that joined. The hash is then that of this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<HostKey>,
}

impl AccessReader {
    /// Tells whether the key, if there is one, is what the hash says: of the two, the hash is
    /// signed.
    pub(crate) fn is_coherent(&self) -> bool {
        match (&self.key, &self.scope) {
            (None, _) => true,
            (Some(key), Scope::Host { datacenter, .. }) => TokenHash::of_key(datacenter, key) == self.hash,
            (Some(_), _) => false,
        }
    }
}

impl AccessEvent {
    /// The text that is signed.
    pub(crate) fn text(&self) -> String {
        let AccessEvent { central, time, datacenter, open, readers, .. } = self;
        let mut text = format!("conf-access 1\ndatacenter {datacenter}\ncentral {central}\ntime {time}\nopen {open}\n");
        for AccessReader { hash, name, scope, expires, key } in readers {
            let expires = expires.map_or_else(|| "-".to_owned(), |end| end.to_string());
            // The hash is that of the key, and so that says which one.
            let by = if key.is_some() { " by its key" } else { "" };
            let _ = writeln!(text, "reader {hash} {name} {expires} {scope}{by}");
        }
        text
    }

    /// Tells whether this one counts in place of another.
    pub fn follows(&self, other: &AccessEvent) -> bool {
        (self.central, self.time) > (other.central, other.time)
    }

    /// Tells whether two let in the same people.
    pub fn says_the_same(&self, other: &AccessEvent) -> bool {
        self.open == other.open && self.readers == other.readers
    }

    /// The tokens that are good for a conf-slave.
    pub fn table(&self) -> AccessTable {
        let entries = self.readers.iter().map(|one| {
            let made = (self.time, "conf-master".to_owned());
            TokenEntry {
                expires: one.expires,
                key: one.key.clone(),
                ..TokenEntry::new(one.hash.clone(), one.name.clone(), one.scope.clone(), made)
            }
        });
        AccessTable::of(entries, self.open)
    }
}
