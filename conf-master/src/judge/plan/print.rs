//! A plan for people: first what would be lost and where, last the differences.

use std::collections::BTreeSet;
use std::fmt;

use libconf::name::{CommitId, ComponentName, ComponentVersion};

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
        let DatacenterPlan { datacenter, removed, listed_hosts, losses, components, hosts, more_hosts } = self;
        // Two versions are one component.
        let changed: BTreeSet<&ComponentName> = components.iter().map(|one| &one.component.component).collect();
        match (removed, changed.len()) {
            (true, _) => writeln!(f, "{datacenter} would be deleted; its hosts would keep their files")?,
            (false, 0) if hosts.is_empty() => writeln!(f, "{datacenter} would change:")?,
            (false, 0) => {
                writeln!(f, "{datacenter} would change on {}:", number_of_hosts(hosts, *listed_hosts))?;
            }
            (false, many) => writeln!(f, "{datacenter} would change in {}:", count(many, "component"))?,
        }
        losses.iter().try_for_each(|loss| writeln!(f, "  lost: {loss}"))?;
        // The hosts of a component that only changes stand with the component.
        let moved = |one: &&HostsPlan| one.shut_out || !one.added.is_empty() || !one.removed.is_empty();
        let shown: Vec<&HostsPlan> = hosts.iter().filter(moved).take(MOST_LINES).collect();
        let (worse, others): (Vec<&HostsPlan>, _) = shown.into_iter().partition(|one| one.shut_out || one.lost > 0);
        worse.iter().try_for_each(|one| writeln!(f, "  lost: {}", on_hosts(one, *listed_hosts)))?;
        components.iter().try_for_each(|one| writeln!(f, "  {}", component(one, *listed_hosts)))?;
        others.iter().try_for_each(|one| writeln!(f, "  {}", on_hosts(one, *listed_hosts)))?;
        if let more @ 1.. = more_hosts + hosts.iter().filter(moved).count().saturating_sub(MOST_LINES) {
            writeln!(f, "  and on {more} more groups of hosts")?;
        }
        components.iter().flat_map(|one| one.diff.lines()).try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Counts the hosts: `3 of the 4 listed hosts`, or `all hosts`. `all` is the number of listed ones.
fn number_of_hosts(plans: &[HostsPlan], all: usize) -> String {
    let listed: usize = plans.iter().map(|one| one.hosts.len() + one.more).sum();
    if plans.iter().any(|one| one.unlisted) {
        hosts::number_of(listed, true, all > 0)
    } else {
        format!("{listed} of the {}", count(all, "listed host"))
    }
}

/// Says what some hosts would get and lose.
fn on_hosts(plan: &HostsPlan, listed_hosts: usize) -> String {
    let mut named: Vec<String> = plan.hosts.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if let more @ 1.. = plan.hosts.len().saturating_sub(MOST_NAMED) + plan.more {
        named.push(format!("{more} more"));
    }
    let named = hosts::named(named, plan.unlisted, listed_hosts > 0);
    let number = plan.hosts.len() + plan.more;
    let place = if number > MOST_NAMED {
        format!("{} ({named})", number_of_hosts(std::slice::from_ref(plan), listed_hosts))
    } else {
        named
    };
    if plan.shut_out {
        let kept = some_of(&plan.kept, MOST_NAMED).join(", ");
        let whose = if number == 1 { ["this host", "its"] } else { ["these hosts", "their"] };
        let why = format!("the inventory would no longer list {}; {} files stay as they are", whose[0], whose[1]);
        return format!("on {place}: all later updates of {kept}: {why}");
    }
    let mut told = Vec::new();
    let mut tell = |what: String, components: &[ComponentVersion], files: &str| {
        if !components.is_empty() {
            told.push(format!("{what} ({}){files}", some_of(components, MOST_NAMED).join(", ")));
        }
    };
    let removes = match (plan.lost, plan.runs) {
        // Other versions come in their place.
        (0, _) => format!("replaces {}", plan.removed.len()),
        (1, 1) => "removes the only component there".to_owned(),
        (2, 2) => "removes both components there".to_owned(),
        (lost, runs) if lost == runs => format!("removes all {runs} components there"),
        (lost, runs) => format!("removes {lost} of {}", count(runs, "component")),
    };
    let files = match plan.removed.len() {
        _ if plan.lost == 0 => "",
        1 => " and its files",
        _ => " and their files",
    };
    tell(removes, &plan.removed, files);
    tell(format!("changes {}", plan.changed.len()), &plan.changed, "");
    tell(format!("adds {}", plan.added.len()), &plan.added, "");
    format!("on {place}: {}", told.join("; "))
}

/// Says how a component would change, and where.
fn component(plan: &ComponentPlan, listed_hosts: usize) -> String {
    let (before, after) = (plan.before.as_ref().map(CommitId::short), plan.after.as_ref().map(CommitId::short));
    let name = &plan.component;
    let how = match (before, after) {
        (Some(before), Some(after)) if before == after => format!("{name} in its layers or secrets"),
        (Some(before), Some(after)) => format!("{name} {before} → {after}"),
        (None, Some(after)) => format!("{name} added at {after}"),
        _ => format!("{name} removed"),
    };
    format!("{how} ({})", hosts::named(some_of(&plan.hosts, MOST_NAMED), plan.unlisted_hosts, listed_hosts > 0))
}
