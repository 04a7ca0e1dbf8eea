//! A plan for people: first what would be lost and where, last the differences.

use std::fmt;

use libconf::name::{CommitId, ComponentVersion};

use crate::judge::hosts;
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
        let DatacenterPlan { datacenter, removed, lists_hosts, losses, components, hosts, more_hosts } = self;
        match (removed, components.len()) {
            (true, _) => writeln!(f, "{datacenter} would be deleted; its hosts would keep their files")?,
            (false, 0) if hosts.is_empty() => writeln!(f, "{datacenter} would change:")?,
            (false, 0) => {
                writeln!(f, "{datacenter} would change on {}:", number_of_hosts(hosts, *lists_hosts))?;
            }
            (false, many) => writeln!(f, "{datacenter} would change in {}:", count(many, "component"))?,
        }
        losses.iter().try_for_each(|loss| writeln!(f, "  lost: {loss}"))?;
        // The hosts of a component that only changes stand with the component.
        let moved = |one: &&HostsPlan| one.shut_out || !one.added.is_empty() || !one.removed.is_empty();
        let shown: Vec<&HostsPlan> = hosts.iter().filter(moved).take(MOST_LINES).collect();
        let (worse, others): (Vec<&HostsPlan>, _) = shown.into_iter().partition(|one| one.shut_out || one.lost > 0);
        worse.iter().try_for_each(|one| writeln!(f, "  lost: {}", on_hosts(one, *lists_hosts)))?;
        components.iter().try_for_each(|one| writeln!(f, "  {}", component(one, *lists_hosts)))?;
        others.iter().try_for_each(|one| writeln!(f, "  {}", on_hosts(one, *lists_hosts)))?;
        if let more @ 1.. = more_hosts + hosts.iter().filter(moved).count().saturating_sub(MOST_LINES) {
            writeln!(f, "  and on {more} more groups of hosts")?;
        }
        components.iter().flat_map(|one| one.diff.lines()).try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Counts the hosts: `3 hosts`, or `all hosts`.
fn number_of_hosts(plans: &[HostsPlan], lists_hosts: bool) -> String {
    let listed = plans.iter().map(|one| one.hosts.len() + one.more).sum();
    hosts::number_of(listed, plans.iter().any(|one| one.unlisted), lists_hosts)
}

/// Says what some hosts would get and lose.
fn on_hosts(plan: &HostsPlan, lists_hosts: bool) -> String {
    let mut named: Vec<String> = plan.hosts.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if let more @ 1.. = plan.hosts.len().saturating_sub(MOST_NAMED) + plan.more {
        named.push(format!("{more} more"));
    }
    let named = hosts::named(named, plan.unlisted, lists_hosts);
    let place = if plan.hosts.len() + plan.more > MOST_NAMED {
        format!("{} ({named})", number_of_hosts(std::slice::from_ref(plan), lists_hosts))
    } else {
        named
    };
    if plan.shut_out {
        let kept = some_of(&plan.kept, MOST_NAMED).join(", ");
        return format!("on {place}: every later change of {kept}: not listed any more; the files stay as they are");
    }
    let mut told = Vec::new();
    let mut tell = |what: String, components: &[ComponentVersion], files: &str| {
        if !components.is_empty() {
            told.push(format!("{what} ({}){files}", some_of(components, MOST_NAMED).join(", ")));
        }
    };
    let removes = match (plan.lost, plan.runs) {
        (0, _) => format!("removes {}", plan.removed.len()),
        (1, 1) => "removes the only component there".to_owned(),
        (2, 2) => "removes both components there".to_owned(),
        (lost, runs) if lost == runs => format!("removes all {runs} components there"),
        (lost, runs) => format!("removes {lost} of {}", count(runs, "component")),
    };
    tell(removes, &plan.removed, " and their files");
    tell(format!("changes {}", plan.changed.len()), &plan.changed, "");
    tell(format!("adds {}", plan.added.len()), &plan.added, "");
    format!("on {place}: {}", told.join("; "))
}

/// Says how a component would change, and where.
fn component(plan: &ComponentPlan, lists_hosts: bool) -> String {
    let (before, after) = (plan.before.as_ref().map(CommitId::short), plan.after.as_ref().map(CommitId::short));
    let name = &plan.component;
    let how = match (before, after) {
        (Some(before), Some(after)) if before == after => format!("{name} in its layers or secrets"),
        (Some(before), Some(after)) => format!("{name} {before} → {after}"),
        (None, Some(after)) => format!("{name} added at {after}"),
        _ => format!("{name} removed"),
    };
    format!("{how} ({})", hosts::named(some_of(&plan.hosts, MOST_NAMED), plan.unlisted_hosts, lists_hosts))
}
