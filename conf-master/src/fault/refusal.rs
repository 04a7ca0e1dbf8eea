//! Why something may not land: faults with their places, for people as lines and for programs as JSON.

use std::fmt;

use libconf::name::{DatacenterName, HostName, RefName};
use serde::{Deserialize, Serialize};

/// One thing that is wrong, and where it stands. Everything but the reason is optional.
///
/// Its text is one line: `<branch>: <file>:<line>: <pointer>: <reason> (…)`, without the parts that are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fault {
    /// The datacenter that cannot be as it would have to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<DatacenterName>,
    /// A host where it shows; one of several that are alike stands for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The branch or tag that holds `file`, without `refs/heads/` or `refs/tags/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The file, relative to the root of its branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in it, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The place in the settings, a JSON Pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What is wrong and what to write instead.
    pub reason: String,
}

impl Fault {
    /// A fault in no particular place.
    pub fn new(reason: impl Into<String>) -> Self {
        Fault { reason: reason.into(), ..Fault::default() }
    }

    /// A fault of a file on a branch.
    pub fn of_file(reference: &RefName, file: &str, line: Option<usize>, reason: impl Into<String>) -> Self {
        let (reference, file) = (Some(reference.short()), Some(file.to_owned()));
        Fault { reference, file, line, ..Fault::new(reason) }
    }

    /// True when the file at fault is the datacenter's own.
    fn is_at_home(&self) -> bool {
        let home = self.datacenter.as_ref().map(|name| RefName::Datacenter(name.clone()).short());
        home.is_some() && home == self.reference
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { datacenter, host, reference, file, line, pointer, reason } = self;
        if let Some(reference) = reference {
            write!(f, "{reference}: ")?;
        }
        match (file, line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, _) => {}
        }
        if let Some(pointer) = pointer.as_deref().filter(|pointer| !pointer.is_empty()) {
            write!(f, "{pointer}: ")?;
        }
        f.write_str(reason)?;
        match (host, datacenter) {
            (Some(host), Some(datacenter)) => write!(f, " (on host {host} of {datacenter})"),
            // Whoever pushes a component may not know which datacenter runs it.
            (None, Some(datacenter)) if !self.is_at_home() => write!(f, " (needed by {datacenter})"),
            _ => Ok(()),
        }
    }
}

/// What sort of refusal: what its reader does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is not good as it is: mend it.
    #[default]
    Invalid,
    /// It was made from what is no longer the newest: fetch, and make it again.
    Stale,
    /// Another part of the same request is refused.
    Together,
    /// It was only tried.
    DryRun,
    /// conf-master has too much to do, or stops: try again.
    Busy,
    /// conf-master itself failed: its log says why.
    Failed,
}

/// Why one ref of a push may not land.
///
/// Its text is one fault a line, or the reason where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What sort.
    #[serde(default)]
    pub kind: Kind,
    /// In one sentence.
    pub reason: String,
    /// Everything that is wrong, where it can be told apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

impl Refusal {
    /// A refusal in one sentence.
    pub fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Refusal { kind, reason: reason.into(), faults: Vec::new() }
    }

    /// A refusal for faults: all of them, each once.
    pub fn of(mut faults: Vec<Fault>) -> Self {
        let mut seen = std::collections::BTreeSet::new();
        faults.retain(|fault| seen.insert(fault.clone()));
        let reason = match faults.as_slice() {
            [one] => one.to_string(),
            [] => "it is not good".to_owned(),
            [first, ..] => format!("{} faults; the first: {first}", faults.len()),
        };
        Refusal { kind: Kind::Invalid, reason, faults }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal::new(Kind::Invalid, reason)
    }
}

impl From<&str> for Refusal {
    fn from(reason: &str) -> Self {
        Refusal::new(Kind::Invalid, reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.faults.is_empty() {
            return f.write_str(&self.reason);
        }
        // One mistake shows in every datacenter that runs it; people need it once.
        let mut told: Vec<(Fault, &Fault, usize)> = Vec::new();
        for fault in &self.faults {
            let what = Fault { datacenter: None, host: None, ..fault.clone() };
            match told.iter_mut().find(|(known, ..)| *known == what) {
                Some((.., more)) => *more += 1,
                None => told.push((what, fault, 0)),
            }
        }
        for (number, (_, fault, more)) in told.iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{fault}")?;
            if *more > 0 {
                write!(f, " (and {more} more alike)")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_and_says_where() {
        let web: RefName = "refs/heads/services/web/master".parse().unwrap();
        let mut fault = Fault::of_file(&web, "config.yaml", Some(3), "this is no number");
        assert_eq!(fault.to_string(), "services/web/master: config.yaml:3: this is no number");
        fault.datacenter = Some("us-west/v1".parse().unwrap());
        fault.pointer = Some("/port".to_owned());
        assert_eq!(
            fault.to_string(),
            "services/web/master: config.yaml:3: /port: this is no number (needed by us-west/v1)"
        );
        fault.host = Some("web-1".parse().unwrap());
        assert!(fault.to_string().ends_with("this is no number (on host web-1 of us-west/v1)"), "{fault}");
        assert_eq!(Fault::new("no").to_string(), "no");
        let own: RefName = "refs/heads/datacenters/us-west/v1".parse().unwrap();
        let mut own = Fault::of_file(&own, "datacenter.yaml", None, "no");
        own.datacenter.clone_from(&fault.datacenter);
        assert_eq!(own.to_string(), "datacenters/us-west/v1: datacenter.yaml: no");
    }

    #[test]
    fn a_refusal_is_a_line_for_each_fault_and_is_json() {
        let refusal = Refusal::of(vec![Fault::new("b"), Fault::new("a"), Fault::new("b")]);
        assert_eq!(refusal.to_string(), "b\na");
        let json = serde_json::to_value(&refusal).unwrap();
        let faults = serde_json::json!([{"reason": "b"}, {"reason": "a"}]);
        assert_eq!(json, serde_json::json!({"kind": "invalid", "reason": "2 faults; the first: b", "faults": faults}));
        assert_eq!(serde_json::from_value::<Refusal>(json).unwrap(), refusal);
        assert_eq!(Refusal::new(Kind::Stale, "late").to_string(), "late");
        let in_datacenter = |name: &str| Fault { datacenter: Some(name.parse().unwrap()), ..Fault::new("no") };
        let many = Refusal::of(vec![in_datacenter("a/v1"), in_datacenter("b/v1"), in_datacenter("c/v1")]);
        assert_eq!(many.to_string(), "no (needed by a/v1) (and 2 more alike)");
        assert_eq!(many.faults.len(), 3);
    }
}
