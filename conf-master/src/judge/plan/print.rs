//! A plan for people: first what would be lost and where, last the differences.

use std::fmt;

use libconf::name::{CommitId, ComponentVersion};

use crate::judge::plan::model::{ChangePlan, ComponentPlan, DatacenterPlan, HostsPlan, MOST_BYTES};
use crate::text::{count, some_of};

/// The most hosts, and the most components, that a line names.
const MOST_NAMED: usize = 5;
/// The most lines about hosts of one datacenter.
const MOST_LINES: usize = 20;

impl fmt::Display for ChangePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
        if self.datacenters.is_empty() && self.refused.is_empty() {
            writeln!(f, "no datacenter would change")?;
        }
        self.datacenters.iter().try_for_each(|one| write!(f, "{one}"))?;
        if self.truncated {
            writeln!(f, "(the difference is longer than {} KiB; the rest is left out)", MOST_BYTES >> 10)?;
        }
        Ok(())
    }
}

impl fmt::Display for DatacenterPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DatacenterPlan { datacenter, removed, losses, components, hosts, more_hosts } = self;
        match (removed, components.len()) {
            (true, _) => writeln!(f, "{datacenter} would be deleted; its hosts would keep their files")?,
            (false, 0) if hosts.is_empty() => writeln!(f, "{datacenter} would change:")?,
            (false, 0) => writeln!(f, "{datacenter} would change on {}:", number_of_hosts(hosts))?,
            (false, many) => writeln!(f, "{datacenter} would change in {}:", count(many, "component"))?,
        }
        losses.iter().try_for_each(|loss| writeln!(f, "  lost: {loss}"))?;
        // The hosts of a component that only changes stand with the component.
        let moved = |one: &&HostsPlan| one.shut_out || !one.added.is_empty() || !one.removed.is_empty();
        let shown: Vec<&HostsPlan> = hosts.iter().filter(moved).take(MOST_LINES).collect();
        let (worse, others): (Vec<&HostsPlan>, _) = shown.into_iter().partition(|one| one.shut_out || one.lost > 0);
        worse.iter().try_for_each(|one| writeln!(f, "  lost: {one}"))?;
        components.iter().try_for_each(|one| writeln!(f, "  {one}"))?;
        others.iter().try_for_each(|one| writeln!(f, "  {one}"))?;
        if let more @ 1.. = more_hosts + hosts.iter().filter(moved).count().saturating_sub(MOST_LINES) {
            writeln!(f, "  and on {more} more groups of hosts")?;
        }
        components.iter().flat_map(|one| one.diff.lines()).try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Counts the hosts: `3 hosts`, or `every host`.
fn number_of_hosts(plans: &[HostsPlan]) -> String {
    let listed: usize = plans.iter().map(|one| one.hosts.len() + one.more).sum();
    match (listed, plans.iter().any(|one| one.unlisted)) {
        (0, _) => "every host".to_owned(),
        (listed, true) => format!("{} and unlisted ones", count(listed, "host")),
        (listed, false) => count(listed, "host"),
    }
}

impl fmt::Display for HostsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named: Vec<String> = self.hosts.iter().take(MOST_NAMED).map(ToString::to_string).collect();
        if let more @ 1.. = self.hosts.len().saturating_sub(MOST_NAMED) + self.more {
            named.push(format!("{more} more"));
        }
        if self.unlisted {
            named.push(if named.is_empty() { "every host" } else { "unlisted hosts" }.to_owned());
        }
        let named = named.join(", ");
        let place = if self.hosts.len() + self.more > MOST_NAMED {
            format!("{} ({named})", number_of_hosts(std::slice::from_ref(self)))
        } else {
            named
        };
        write!(f, "on {place}: ")?;
        if self.shut_out {
            let named = some_of(&self.kept, MOST_NAMED).join(", ");
            return write!(f, "every later change of {named}: not listed any more; the files stay as they are");
        }
        let mut told = Vec::new();
        let mut tell = |what: String, components: &[ComponentVersion], files: &str| {
            if !components.is_empty() {
                told.push(format!("{what} ({}){files}", some_of(components, MOST_NAMED).join(", ")));
            }
        };
        let removes = match (self.lost, self.runs) {
            (0, _) => format!("removes {}", self.removed.len()),
            (1, 1) => "removes the only component there".to_owned(),
            (2, 2) => "removes both components there".to_owned(),
            (lost, runs) if lost == runs => format!("removes all {runs} components there"),
            (lost, runs) => format!("removes {lost} of {}", count(runs, "component")),
        };
        tell(removes, &self.removed, " and their files");
        tell(format!("changes {}", self.changed.len()), &self.changed, "");
        tell(format!("adds {}", self.added.len()), &self.added, "");
        f.write_str(&told.join("; "))
    }
}

impl fmt::Display for ComponentPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (self.before.as_ref().map(CommitId::short), self.after.as_ref().map(CommitId::short));
        match (before, after) {
            (Some(before), Some(after)) if before == after => write!(f, "{} in its layers or secrets", self.component)?,
            (Some(before), Some(after)) => write!(f, "{} {before} → {after}", self.component)?,
            (None, Some(after)) => write!(f, "{} added at {after}", self.component)?,
            _ => write!(f, "{} removed", self.component)?,
        }
        let mut named = some_of(&self.hosts, MOST_NAMED);
        if self.unlisted_hosts {
            named.push(if named.is_empty() { "every host" } else { "unlisted hosts" }.to_owned());
        }
        write!(f, " ({})", if named.is_empty() { "no host".to_owned() } else { named.join(", ") })
    }
}
