//! What is wrong with a change: faults with their places, for people as lines and for programs as
//! JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use libconf::name::{DatacenterName, HostName, RefName};
use serde::{Deserialize, Serialize};

/// One thing that is wrong, and its place. Everything but the reason is optional.
///
/// Its text is one line: `<branch>: <file>:<line>: <pointer>: <reason> (…)`, without the parts that
/// are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// The datacenter that could not be composed as the change requires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) datacenter: Option<DatacenterName>,
    /// A host where the fault shows; of several hosts that are alike, the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<HostName>,
    /// The branch or tag that holds `file`, without `refs/heads/` or `refs/tags/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reference: Option<String>,
    /// The file, relative to the root of its branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The line in the file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    /// The place in the settings, a JSON Pointer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pointer: Option<String>,
    /// What is wrong and what to write instead.
    pub(crate) reason: String,
    /// conf-master did not look at everything because of it: more may be wrong. So it counts even
    /// if it was so before.
    #[serde(skip)]
    pub(crate) hides_others: bool,
    /// Another ref of the same push is refused, and that is all.
    #[serde(skip)]
    pub(crate) follows: bool,
}

impl Fault {
    /// Makes a fault without a place.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Fault { reason: reason.into(), ..Fault::default() }
    }

    /// Makes a fault in a file of a branch.
    pub(crate) fn of_file(reference: &RefName, file: &str, line: Option<usize>, reason: impl Into<String>) -> Self {
        let (reference, file) = (Some(reference.short()), Some(file.to_owned()));
        Fault { reference, file, line, ..Fault::new(reason) }
    }

    /// Tells whether the file is on the datacenter's own branch.
    fn is_on_own_branch(&self) -> bool {
        let own = self.datacenter.as_ref().map(|name| RefName::Datacenter(name.clone()).short());
        own.is_some() && own == self.reference
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { datacenter, host, reference, file, line, pointer, reason, .. } = self;
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
            // The author of a component may not know which datacenter runs it.
            (None, Some(datacenter)) if !self.is_on_own_branch() => write!(f, " (needed by {datacenter})"),
            _ => Ok(()),
        }
    }
}

/// A fault, and the refs that may have caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caused {
    /// What is wrong.
    pub(crate) fault: Fault,
    /// The refs that could have caused it, the likeliest first.
    pub(crate) causes: Vec<RefName>,
}

impl Caused {
    /// Names the datacenter in each of its faults.
    pub(crate) fn place_in(faults: &mut [Caused], datacenter: &DatacenterName) {
        faults.iter_mut().for_each(|caused| caused.fault.datacenter = Some(datacenter.clone()));
    }
}

/// What is wrong with a change, and what its author should know of it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What is wrong: it may not land.
    pub(crate) faults: Vec<Caused>,
    /// What its author should know, if it lands.
    pub(crate) notes: Vec<String>,
    /// The refs whose commits declare that they break compatibility, where they do.
    pub(crate) breaks: BTreeSet<RefName>,
}

impl Findings {
    /// Tells what a change brings from what was wrong `before` it, wherever the lines are now and
    /// whichever branch or tag holds it: that is a note. A rule that a new conf-master adds must
    /// not stop changes of something else.
    pub(crate) fn since(before: &[Fault], mut found: Vec<Caused>) -> Self {
        let placeless = |fault: &Fault| Fault { line: None, reference: None, ..fault.clone() };
        // Of several that read alike, as many are known as there were.
        let mut known: BTreeMap<Fault, usize> = BTreeMap::new();
        before.iter().for_each(|fault| *known.entry(placeless(fault)).or_default() += 1);
        let mut notes = BTreeSet::new();
        found.retain(|Caused { fault, .. }| {
            let left = known.get_mut(&placeless(fault)).filter(|left| **left > 0 && !fault.hides_others);
            let is_new = left.map(|left| *left -= 1).is_none();
            if !is_new {
                let fault = Fault { datacenter: None, host: None, ..fault.clone() };
                notes.insert(format!("warning: {fault}; it was so before, and a change that brings it is refused"));
            }
            is_new
        });
        Findings { faults: found, notes: notes.into_iter().collect(), ..Findings::default() }
    }

    /// Adds other findings.
    pub(crate) fn add(&mut self, other: Findings) {
        self.faults.extend(other.faults);
        self.notes.extend(other.notes);
        self.breaks.extend(other.breaks);
    }
}

/// The kind of a refusal: it says what the reader does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RefusalKind {
    /// The change has faults: correct it.
    #[default]
    Invalid,
    /// The change was made from an older version: fetch, and make it again.
    Stale,
    /// Another part of the same request is refused.
    Together,
    /// Its author lacks a right: ask whoever has it.
    Denied,
    /// It was a dry run.
    DryRun,
    /// conf-master is overloaded or stopping: try again.
    Busy,
    /// conf-master itself failed: its log says why.
    Failed,
}

/// The most faults of one refusal.
const MOST_FAULTS: usize = 1_000;

/// Why one ref of a push may not land.
///
/// Its text is one line for each fault, or the reason when there are no faults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Its kind.
    #[serde(default)]
    pub(crate) kind: RefusalKind,
    /// The reason in one sentence.
    pub(crate) reason: String,
    /// Every single fault, where they can be told apart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) faults: Vec<Fault>,
}

impl Refusal {
    /// Makes a refusal with one reason.
    pub(crate) fn new(kind: RefusalKind, reason: impl Into<String>) -> Self {
        Refusal { kind, reason: reason.into(), faults: Vec::new() }
    }

    /// Makes a refusal from faults; each fault is kept once, and of very many only the first.
    pub(crate) fn of(mut faults: Vec<Fault>) -> Self {
        let mut seen = BTreeSet::new();
        faults.retain(|fault| seen.insert(fault.clone()));
        // What is wrong in itself comes first.
        faults.sort_by_key(|fault| fault.follows);
        let kind = match faults.as_slice() {
            [first, ..] if first.follows => RefusalKind::Together,
            _ => RefusalKind::Invalid,
        };
        if let more @ 1.. = faults.len().saturating_sub(MOST_FAULTS) {
            faults.truncate(MOST_FAULTS);
            faults.push(Fault::new(format!("{more} more faults are not shown")));
        }
        let reason = match faults.as_slice() {
            [one] => one.to_string(),
            [] => "it is not good".to_owned(),
            [first, ..] => format!("{} faults; the first: {first}", faults.len()),
        };
        Refusal { kind, reason, faults }
    }
}

impl From<Vec<Caused>> for Refusal {
    fn from(faults: Vec<Caused>) -> Self {
        Refusal::of(faults.into_iter().map(|caused| caused.fault).collect())
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Refusal::new(RefusalKind::Invalid, reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.faults.is_empty() {
            return f.write_str(&self.reason);
        }
        // One mistake shows in every datacenter that runs the component; people need it once.
        let mut told: Vec<(Fault, &Fault, usize)> = Vec::new();
        for fault in &self.faults {
            let placeless = Fault { datacenter: None, host: None, ..fault.clone() };
            match told.iter_mut().find(|(known, ..)| *known == placeless) {
                Some((.., more)) => *more += 1,
                None => told.push((placeless, fault, 0)),
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
    fn a_fault_prints_its_place_in_one_line() {
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
    fn what_was_wrong_before_is_no_fault_of_a_change() {
        let web: RefName = "refs/heads/services/web/master".parse().unwrap();
        let fault = |line: usize, reason: &str| Fault::of_file(&web, "config.yaml", Some(line), reason);
        let caused = |fault: Fault| Caused { fault, causes: Vec::new() };
        let found = [fault(3, "one"), fault(9, "two"), fault(9, "one more"), fault(10, "two")];
        let Findings { faults, notes, .. } =
            Findings::since(&[fault(4, "two"), fault(3, "three")], found.map(caused).into());
        let faults: Vec<Fault> = faults.into_iter().map(|caused| caused.fault).collect();
        assert_eq!(faults, [fault(3, "one"), fault(9, "one more"), fault(10, "two")], "one of two alike is new");
        assert!(
            notes.len() == 1 && notes[0].starts_with("warning: services/web/master: config.yaml:9: two"),
            "{notes:?}"
        );
        // Under a tag it is the same content.
        let tagged = Fault { reference: Some("services/web/v1".to_owned()), ..fault(9, "two") };
        assert!(Findings::since(&[fault(4, "two")], vec![caused(tagged)]).faults.is_empty());
        let unjudged = Fault { hides_others: true, ..fault(9, "no time is left") };
        let before = vec![unjudged.clone()];
        assert_eq!(Findings::since(&before, vec![caused(unjudged)]).faults.len(), 1, "nobody looked");
    }

    #[test]
    fn many_faults_that_follow_others_are_of_their_kind() {
        let follows = |number: usize| Fault { follows: true, ..Fault::new(number.to_string()) };
        for most in [1, MOST_FAULTS, MOST_FAULTS + 1] {
            let mut faults: Vec<Fault> = (0..most).map(follows).collect();
            assert_eq!(Refusal::of(faults.clone()).kind, RefusalKind::Together, "{most}");
            faults.push(Fault::new("its own"));
            assert_eq!(Refusal::of(faults).kind, RefusalKind::Invalid, "{most} and one");
        }
        assert_eq!(Refusal::of(Vec::new()).kind, RefusalKind::Invalid);
    }

    #[test]
    fn a_refusal_prints_a_line_for_each_fault_and_round_trips_as_json() {
        let refusal = Refusal::of(vec![Fault::new("b"), Fault::new("a"), Fault::new("b")]);
        assert_eq!(refusal.to_string(), "b\na");
        let json = serde_json::to_value(&refusal).unwrap();
        let faults = serde_json::json!([{"reason": "b"}, {"reason": "a"}]);
        assert_eq!(json, serde_json::json!({"kind": "invalid", "reason": "2 faults; the first: b", "faults": faults}));
        assert_eq!(serde_json::from_value::<Refusal>(json).unwrap(), refusal);
        assert_eq!(Refusal::new(RefusalKind::Stale, "late").to_string(), "late");
        let in_datacenter = |name: &str| Fault { datacenter: Some(name.parse().unwrap()), ..Fault::new("no") };
        let many = Refusal::of(vec![in_datacenter("a/v1"), in_datacenter("b/v1"), in_datacenter("c/v1")]);
        assert_eq!(many.to_string(), "no (needed by a/v1) (and 2 more alike)");
        assert_eq!(many.faults.len(), 3);
    }
}
