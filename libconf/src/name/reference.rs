//! Names of refs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::{
    component::ComponentName,
    datacenter::DatacenterName,
    segment::{BranchName, ClassName, Segment, TagName, Version},
    text::{BadName, through_text},
};

/// The name of a ref of the central repository, which has no others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RefName {
    /// `refs/heads/main`: a README of the layout, which a plain clone shows. Only `conf-master
    /// init` writes it.
    Main,
    /// `refs/heads/datacenter-configuration/<class>`
    Class(ClassName),
    /// `refs/tags/datacenter-configuration/<class>/<tag>`
    ClassTag(ClassName, TagName),
    /// `refs/heads/datacenters/<id>/<version>`
    Datacenter(DatacenterName),
    /// `refs/heads/<kind>/<name>/<branch>`
    Branch(ComponentName, BranchName),
    /// `refs/tags/<kind>/<name>/<tag>`
    Tag(ComponentName, TagName),
    /// `refs/heads/secrets/<id>`. Only conf-master writes it.
    Secrets(Segment),
    /// `refs/snapshots/<id>/<version>`. Only conf-master writes it.
    Snapshot(DatacenterName),
    /// `refs/conf/ledger`. Only conf-master writes it.
    Ledger,
    /// `refs/conf/access`: hashes of tokens, and whose they are. Only conf-master writes it.
    Access,
    /// `refs/conf/keys`: statements about the keys that sign. Only conf-master writes it.
    Keys,
    /// `refs/heads/policy`: who may do what. Only administrators push it.
    Policy,
}

impl RefName {
    /// Tells whether this is a tag, which never moves.
    pub fn is_tag(&self) -> bool {
        matches!(self, RefName::ClassTag(..) | RefName::Tag(..))
    }

    /// Tells whether only conf-master may write this ref.
    pub fn is_reserved(&self) -> bool {
        let is_data = matches!(self, RefName::Ledger | RefName::Access | RefName::Keys);
        is_data || matches!(self, RefName::Main | RefName::Secrets(_) | RefName::Snapshot(_))
    }

    /// Returns the name as people write it: without `refs/heads/`.
    pub fn short(&self) -> String {
        let full = self.to_string();
        full.strip_prefix("refs/heads/").map_or(full.clone(), str::to_owned)
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefName::Main => write!(f, "refs/heads/main"),
            RefName::Class(class) => write!(f, "refs/heads/datacenter-configuration/{class}"),
            RefName::ClassTag(class, tag) => write!(f, "refs/tags/datacenter-configuration/{class}/{tag}"),
            RefName::Datacenter(datacenter) => write!(f, "refs/heads/datacenters/{datacenter}"),
            RefName::Branch(component, branch) => write!(f, "refs/heads/{component}/{branch}"),
            RefName::Tag(component, tag) => write!(f, "refs/tags/{component}/{tag}"),
            RefName::Secrets(id) => write!(f, "refs/heads/secrets/{id}"),
            RefName::Snapshot(datacenter) => write!(f, "refs/snapshots/{datacenter}"),
            RefName::Ledger => write!(f, "refs/conf/ledger"),
            RefName::Access => write!(f, "refs/conf/access"),
            RefName::Keys => write!(f, "refs/conf/keys"),
            RefName::Policy => write!(f, "refs/heads/policy"),
        }
    }
}

impl FromStr for RefName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        const WHAT: &str = "a ref of this repository";
        const LAYOUT: &str = "branches are <kind>/<name>/<branch>, datacenters/<id>/<version> and \
            datacenter-configuration/<class>; tags are <kind>/<name>/<tag> and datacenter-configuration/<class>/<tag>; \
            <kind> is services, applications or devices";
        let outside = || BadName::new(text, WHAT, LAYOUT);
        let parts: Vec<&str> = text.split('/').collect();
        Ok(match parts.as_slice() {
            ["refs", "heads", "main"] => RefName::Main,
            ["refs", "heads", "datacenter-configuration", class] => RefName::Class(class.parse()?),
            ["refs", "heads", "datacenters", id, version] => {
                RefName::Datacenter(DatacenterName { id: id.parse()?, version: version.parse()? })
            }
            ["refs", "heads", "secrets", id] => RefName::Secrets(id.parse()?),
            ["refs", "snapshots", id, version] => {
                RefName::Snapshot(DatacenterName { id: id.parse()?, version: version.parse()? })
            }
            ["refs", "conf", "ledger"] => RefName::Ledger,
            ["refs", "conf", "access"] => RefName::Access,
            ["refs", "conf", "keys"] => RefName::Keys,
            ["refs", "heads", "policy"] => RefName::Policy,
            ["refs", "tags", .., Version::LATEST] => {
                return Err(BadName::new(text, "a tag", "'latest' means the branch's tip; give the tag another name"));
            }
            ["refs", "tags", "datacenter-configuration", class, tag] => RefName::ClassTag(class.parse()?, tag.parse()?),
            ["refs", where_, kind, name, last] if matches!(*where_, "heads" | "tags") => {
                let kind = kind.parse().map_err(|_| outside())?;
                let component = ComponentName { kind, name: name.parse()? };
                match *where_ {
                    "heads" => RefName::Branch(component, last.parse()?),
                    _ => RefName::Tag(component, last.parse()?),
                }
            }
            _ => return Err(outside()),
        })
    }
}

through_text!(RefName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_print_as_they_parse() {
        for text in [
            "refs/heads/main",
            "refs/heads/datacenter-configuration/big",
            "refs/tags/datacenter-configuration/big/v1.1",
            "refs/heads/datacenters/us-west/v1",
            "refs/heads/services/web/master",
            "refs/tags/devices/router/v2",
            "refs/heads/secrets/us-west",
            "refs/snapshots/us-west/v1",
            "refs/conf/ledger",
            "refs/conf/access",
            "refs/conf/keys",
            "refs/heads/policy",
        ] {
            assert_eq!(text.parse::<RefName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refs_outside_the_layout() {
        for text in [
            "refs/heads/services/web",
            "refs/heads/services/web/a/b",
            "refs/heads/things/web/master",
            "refs/tags/services/web/latest",
            "refs/replace/0123456789012345678901234567890123456789",
            "refs/heads/--option",
            "HEAD",
            "",
        ] {
            assert!(text.parse::<RefName>().is_err(), "{text}");
        }
    }
}
