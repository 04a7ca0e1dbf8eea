//! Names of datacenters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::{
    segment::Segment,
    text::{BadName, through_text},
};

/// A datacenter instance: `<id>/<version>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatacenterName {
    /// The datacenter.
    pub id: Segment,
    /// The version of its configuration.
    pub version: Segment,
}

impl fmt::Display for DatacenterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.id, self.version))
    }
}

impl FromStr for DatacenterName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (id, version) = text
            .split_once('/')
            .ok_or_else(|| BadName::new(text, "a datacenter", "write <id>/<version>, as in us-west/v1"))?;
        Ok(DatacenterName { id: id.parse()?, version: version.parse()? })
    }
}

through_text!(DatacenterName);
