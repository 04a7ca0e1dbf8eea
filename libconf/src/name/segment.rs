//! Names of one segment.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::text::{BadName, text_type};

/// Returns the rule that a segment breaks, if any.
///
/// One segment is `[A-Za-z0-9][A-Za-z0-9._-]*`, without `..`, not ending in `.`, `.lock` or
/// `.json`, not `HEAD`, and of at most 100 bytes, so that a path made of several stays below every
/// limit of Git, Consul and file systems.
fn fault_in_segment(text: &str) -> Option<&'static str> {
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match text.as_bytes() {
        [] => Some("it is empty"),
        bytes if bytes.len() > 100 => Some("it is longer than 100 characters"),
        [first, ..] if !first.is_ascii_alphanumeric() => Some("it must begin with a letter or a digit"),
        bytes if !bytes.iter().all(inside) => Some("only letters, digits, '.', '_' and '-' may stand in it"),
        _ if text.contains("..") => Some("'..' may not stand in it"),
        _ if text.ends_with('.') => Some("it may not end in '.'"),
        // Some file systems fold case, and would take `.LOCK` for `.lock`.
        _ if text.to_ascii_lowercase().ends_with(".lock") => Some("it may not end in '.lock'"),
        _ if text.to_ascii_lowercase().ends_with(".json") => Some("it may not end in '.json'"),
        b"HEAD" => Some("'HEAD' is Git's own"),
        _ => None,
    }
}

/// Makes a type for names of one segment.
macro_rules! segment {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                match fault_in_segment(text) {
                    Some(reason) => Err(BadName::new(text, $what, reason)),
                    None => Ok($name(text.to_owned())),
                }
            }
        }

        text_type!($name);
    };
}

segment!(
    /// A plain name: the second half of a [`ComponentName`](crate::name::ComponentName), or
    /// of a [`DatacenterName`](crate::name::DatacenterName).
    Segment, "a name");
segment!(
    /// A component's branch: the last part of `<kind>/<name>/<branch>`.
    BranchName, "a branch name");
segment!(
    /// A component's or a class's tag: the last part of `refs/tags/<kind>/<name>/<tag>`; never
    /// `latest`.
    TagName, "a tag name");
segment!(
    /// The name under which a datacenter runs a component: `latest`, or the tag.
    Version, "a version");
segment!(
    /// The name of a class of datacenters: `datacenter-configuration/<class>`.
    ClassName, "a class name");
segment!(
    /// The name of a host in its datacenter's inventory.
    HostName, "a host name");
segment!(
    /// The name of a role: a set of components that hosts take on.
    RoleName, "a role name");
segment!(
    /// The name of somebody who has rights: a person, a program, a daemon.
    PrincipalName, "a principal's name");
segment!(
    /// The name of a group of principals.
    GroupName, "a group name");

impl PrincipalName {
    /// Whom the token proves that a new server makes.
    pub fn administrator() -> Self {
        PrincipalName("admin".to_owned())
    }
}

impl GroupName {
    /// The group that may do everything, until a policy says who may.
    pub fn administrators() -> Self {
        GroupName("administrators".to_owned())
    }
}

impl Version {
    /// The version that follows its branch's tip.
    pub const LATEST: &'static str = "latest";

    /// Tells whether the version follows its branch.
    pub fn is_latest(&self) -> bool {
        self.0 == Self::LATEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        for good in ["a", "web-1", "v1.0", "A_b.c-d", "0"] {
            assert!(good.parse::<Segment>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a..b", "a.", "a.lock", "a.LOCK", "a.json", "HEAD", "a/b", "a b", "ä", "a\n"] {
            assert!(bad.parse::<Segment>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(101).parse::<Segment>().is_err());
    }
}
