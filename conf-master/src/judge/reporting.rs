//! The hosts that report: a change that shuts one of them out names it.

use std::fmt;
use std::sync::Arc;

use conf_core::manifest::InstanceManifest;
use libconf::name::{DatacenterName, HostName, SourceName};

use crate::catalog::DatacenterChange;
use crate::text::{count, some_of};

/// The most hosts that a note names.
const MOST_NAMED: usize = 5;

/// A host that reports, and the secret sources that it offers.
pub(crate) type ReportingHost = (HostName, Vec<SourceName>);

type Ask = dyn Fn(&DatacenterName) -> Vec<ReportingHost> + Send + Sync;

/// Asks which hosts of a datacenter report now; knows of none by default.
#[derive(Clone, Default)]
pub(crate) struct ReportingHosts(Option<Arc<Ask>>);

impl fmt::Debug for ReportingHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReportingHosts")
    }
}

impl ReportingHosts {
    /// Asks by a function.
    pub(crate) fn new(ask: impl Fn(&DatacenterName) -> Vec<ReportingHost> + Send + Sync + 'static) -> Self {
        ReportingHosts(Some(Arc::new(ask)))
    }

    /// Returns the hosts of a datacenter that report now.
    pub(crate) fn ask(&self, datacenter: &DatacenterName) -> Vec<ReportingHost> {
        self.0.as_ref().map(|ask| ask(datacenter)).unwrap_or_default()
    }

    /// Says which reporting hosts a change shuts out: they ran something before, and would get
    /// nothing new.
    pub(crate) fn shut_out(&self, change: &DatacenterChange<'_>) -> Option<String> {
        self.0.as_ref()?;
        let (before, name) = (change.before.as_ref()?, change.after.name);
        change.delta.manifest.as_ref()?;
        let (old, new) = (&before.manifest.instance, &change.after.manifest.instance);
        if new.is_open() {
            return None;
        }
        let reporting: Vec<HostName> = self.ask(name).into_iter().map(|(host, _)| host).collect();
        note(name, old, new, &reporting)
    }
}

fn note(
    datacenter: &DatacenterName,
    old: &InstanceManifest,
    new: &InstanceManifest,
    reporting: &[HostName],
) -> Option<String> {
    let shut_out: Vec<&HostName> =
        reporting.iter().filter(|host| new.shuts_out(host) && !old.shuts_out(host)).collect();
    let named = some_of(&shut_out, MOST_NAMED).join(", ");
    let (who, what) = match shut_out.len() {
        0 => return None,
        1 => (named, "it reports and is not listed; it keeps its files and gets nothing new; list it"),
        _ => (
            format!("{} ({named})", count(shut_out.len(), "host")),
            "they report and are not listed; they keep their files and get nothing new; list them",
        ),
    };
    Some(format!(
        "{datacenter} shuts out {who}: {what} under `inventories: hosts:`, or write inventories: {{closed: false}}"
    ))
}

#[cfg(test)]
mod tests {
    use conf_core::manifest::Strictness;

    use super::*;

    #[test]
    fn hosts_that_report_and_are_shut_out_are_named() {
        let instance = |hosts: &str| {
            let text = format!("conf: datacenter-configuration/a/latest\ninventories: {hosts}\n");
            InstanceManifest::parse(&text, Strictness::Strict).unwrap()
        };
        let told = |old: &str, new: &str, reporting: &[&str]| {
            let reporting: Vec<HostName> = reporting.iter().map(|host| host.parse().unwrap()).collect();
            note(&"lab/v1".parse().unwrap(), &instance(old), &instance(new), &reporting).unwrap_or_default()
        };
        let words = "under `inventories: hosts:`, or write inventories: {closed: false}";
        let one = format!(
            "lab/v1 shuts out b: it reports and is not listed; it keeps its files and gets nothing new; list it {words}"
        );
        assert_eq!(told("{}", "{hosts: {a: {}}}", &["a", "b"]), one);
        assert_eq!(told("{hosts: {a: {}, b: {}}}", "{hosts: {a: {}}}", &["a", "b", "c"]), one, "c was never in");
        let many = told("{}", "{hosts: {x: {}}}", &["a", "b", "c", "d", "e", "f", "g"]);
        assert!(many.starts_with("lab/v1 shuts out 7 hosts (a, b, c, d, e, 2 more): they report"), "{many}");
        assert_eq!(told("{hosts: {a: {}}}", "{hosts: {a: {}}}", &["b"]), "");
        assert_eq!(told("{}", "{hosts: {a: {}}, closed: false}", &["b"]), "");
    }
}
