//! Works out the effect of a judgement.

use std::collections::BTreeSet;

use git2::Repository;
use libconf::name::{ComponentVersion, DatacenterName};

use crate::catalog::{Catalog, Datacenter, DatacenterChange, Delta, OverridesCache};
use crate::judge::hosts::{self, HostEffect};
use crate::judge::plan::component::Planning;
use crate::judge::plan::losses;
use crate::judge::plan::model::{ChangePlan, DatacenterPlan, HostsPlan, MOST_BYTES, NotLanding};
use crate::judge::proposal::{Judgement, RefUpdate};

/// The most groups of hosts of one datacenter; the others are counted.
const MOST_GROUPS: usize = 50;
/// The most hosts of one group that are named; the others are counted.
const MOST_HOSTS: usize = 100;

impl ChangePlan {
    /// Works out the effect of a judgement.
    pub(crate) fn of(
        repo: &Repository,
        catalog: &Catalog,
        overrides: &OverridesCache,
        updates: &[RefUpdate],
        judgement: &Judgement,
    ) -> Result<Self, git2::Error> {
        let refused = updates
            .iter()
            .zip(&judgement.refusals)
            .filter_map(|(update, refusal)| Some(NotLanding { name: update.name.clone(), refusal: refusal.clone()? }));
        let mut plan = ChangePlan { refused: refused.collect(), notes: judgement.notes.clone(), ..Self::default() };
        let mut left = MOST_BYTES;
        for (name, delta) in &judgement.deltas {
            let before = catalog.datacenter(name);
            let planned = match delta {
                None => Some(deleted(name, before)),
                Some(delta) => datacenter(repo, overrides, name, (before, delta), &mut left)?,
            };
            plan.datacenters.extend(planned);
        }
        plan.truncated = left == 0;
        Ok(plan)
    }
}

/// Plans the end of a datacenter.
fn deleted(name: &DatacenterName, before: Option<&Datacenter>) -> DatacenterPlan {
    DatacenterPlan {
        datacenter: name.clone(),
        removed: true,
        listed_hosts: before.map_or(0, |before| before.manifest.instance.hosts.len()),
        losses: before.map(losses::of_datacenter).into_iter().collect(),
        components: Vec::new(),
        hosts: Vec::new(),
        more_hosts: 0,
    }
}

/// Plans the change of a datacenter; `None` when nothing would change.
fn datacenter(
    repo: &Repository,
    overrides: &OverridesCache,
    name: &DatacenterName,
    (before, delta): (Option<&Datacenter>, &Delta),
    left: &mut usize,
) -> Result<Option<DatacenterPlan>, git2::Error> {
    let Some(change) = DatacenterChange::new(repo, overrides, name, before, delta)? else { return Ok(None) };
    let mut names: BTreeSet<ComponentVersion> = change.affected(repo)?.clone();
    names.extend(delta.components.keys().cloned());
    let differing = hosts::differing(repo, &change, &names)?;
    let mut planning = Planning { repo, change: &change, left };
    let mut components = Vec::new();
    for component in &names {
        components.extend(planning.component(component, differing.get(component))?);
    }
    let effects = hosts::effects(&change, &differing);
    let losses = losses::of_change(repo, &change, &differing)?;
    if components.is_empty() && effects.is_empty() && losses.is_empty() {
        return Ok(None);
    }
    Ok(Some(DatacenterPlan {
        datacenter: name.clone(),
        removed: false,
        listed_hosts: hosts::listed(&change).len(),
        losses,
        components,
        more_hosts: effects.len().saturating_sub(MOST_GROUPS),
        hosts: effects.iter().take(MOST_GROUPS).map(HostsPlan::new).collect(),
    }))
}

impl HostsPlan {
    fn new(effect: &HostEffect<'_>) -> Self {
        let list = |names: &BTreeSet<&ComponentVersion>| names.iter().copied().cloned().collect();
        HostsPlan {
            hosts: effect.hosts.iter().take(MOST_HOSTS).copied().cloned().collect(),
            more: effect.hosts.len().saturating_sub(MOST_HOSTS),
            unlisted: effect.unlisted,
            shut_out: effect.shut_out,
            runs: effect.before.len(),
            kept: effect.before.iter().filter(|_| effect.shut_out).copied().cloned().collect(),
            lost: effect.lost.len(),
            added: list(&effect.added),
            changed: list(&effect.changed),
            removed: list(&effect.removed),
        }
    }
}
