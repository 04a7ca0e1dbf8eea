//! The names of the keys in Consul and the form of their values. Content never goes into Consul.

use std::{fmt, str::FromStr};

use libconf::name::{BadName, BranchName, CommitId, ComponentVersion, DatacenterName, Kind};

/// The keys of one datacenter instance.
///
/// - `configurations/snapshots/<id>/<version>`: the authoritative [`Pointer`](crate::api::Pointer),
///   the only key that a host watches.
/// - `configurations/<kind>/<name>/<version>`: a [`PinValue`] each, a projection for other readers.
/// - `configurations/projection`: `<id>/<version>`, the datacenter of the component keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// The keys below `prefix`; `configurations/…` follows it. Slashes at its ends do not count.
    pub fn new(prefix: Option<&str>) -> Result<Self, BadName> {
        const WHAT: &str = "a prefix of keys";
        let prefix = prefix.unwrap_or_default().trim_matches('/');
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-');
        let bad = |reason| BadName { text: prefix.chars().take(200).collect(), what: WHAT, reason };
        if prefix.len() > 200 {
            return Err(bad("it is longer than 200 characters"));
        }
        if !prefix.bytes().all(allowed) {
            return Err(bad("only letters, digits, '/', '.', '_' and '-' may stand in it"));
        }
        if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad("no part of it may be empty, '.' or '..'"));
        }
        let root = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Keys { root: format!("{root}configurations/") })
    }

    /// The beginning of all keys.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The authoritative key of a datacenter.
    pub fn snapshot(&self, datacenter: &DatacenterName) -> String {
        format!("{}snapshots/{datacenter}", self.root)
    }

    /// The key of one component.
    pub fn component(&self, component: &ComponentVersion) -> String {
        format!("{}{component}", self.root)
    }

    /// The key that names the datacenter of the component keys.
    pub fn projection(&self) -> String {
        format!("{}projection", self.root)
    }

    /// True for every key that only the projection may hold: whatever begins with
    /// `configurations/<kind>/`.
    pub fn is_projected(&self, key: &str) -> bool {
        key.strip_prefix(&self.root)
            .and_then(|rest| rest.split_once('/'))
            .is_some_and(|(kind, _)| kind.parse::<Kind>().is_ok())
    }
}

/// The value of a component's key: `<branch>/<commit>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PinValue {
    /// The branch that the content is read from.
    pub branch: BranchName,
    /// The commit of that branch.
    pub commit: CommitId,
}

impl fmt::Display for PinValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.branch, self.commit)
    }
}

impl FromStr for PinValue {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let reason = "it must be <branch>/<commit>";
        let bad = || BadName { text: text.chars().take(200).collect(), what: "a pin", reason };
        let (branch, commit) = text.split_once('/').ok_or_else(bad)?;
        Ok(PinValue { branch: branch.parse()?, commit: commit.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    #[test]
    fn values_print_as_they_parse() {
        let pin = format!("master/{COMMIT}");
        assert_eq!(pin.parse::<PinValue>().unwrap().to_string(), pin);
        for bad in ["", "master", "master/", &format!("/{COMMIT}"), &format!("{pin}\n")] {
            assert!(bad.parse::<PinValue>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_keys() {
        let plain = Keys::new(None).unwrap();
        assert_eq!(plain.snapshot(&"us-west/v1".parse().unwrap()), "configurations/snapshots/us-west/v1");
        assert_eq!(
            Keys::new(Some("/a/b/")).unwrap().component(&"services/web/latest".parse().unwrap()),
            "a/b/configurations/services/web/latest"
        );
        assert!(plain.is_projected("configurations/devices/router/v1/deeper"));
        assert!(!plain.is_projected("configurations/projection"));
        assert!(!plain.is_projected("configurations/snapshots/us-west/v1"));
        assert!(!plain.is_projected("other/services/web/latest"));
        for bad in ["a//b", "..", "a/../b", "a b", "ä", "%2e"] {
            assert!(Keys::new(Some(bad)).is_err(), "{bad:?}");
        }
    }
}
