//! Freshness as it is kept over a restart.

use libconf::name::DatacenterName;
use serde::{Deserialize, Serialize};

use crate::{
    api::FreshnessEvent,
    sign::{KeyError, TrustedKeys, verify_freshness},
};

/// What outlives a restart. A reader ignores members that it does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFreshness {
    /// The newest statement.
    pub statement: FreshnessEvent,
    /// The time of the newest one that counted, in milliseconds.
    pub(crate) counted: i64,
    /// Its age when this was written, in milliseconds.
    pub(crate) age: i64,
    /// The start of the machine in which this was written.
    #[serde(default)]
    pub(crate) boot: Option<String>,
    /// conf-master's time at that start.
    #[serde(default)]
    pub(crate) lead: Option<i64>,
}

impl KeptFreshness {
    /// Returns it if conf-master has signed the statement for this datacenter.
    pub fn verified(self, datacenter: &DatacenterName, keys: &TrustedKeys) -> Result<Self, KeyError> {
        verify_freshness(&self.statement, datacenter, keys).map(|()| self)
    }
}
