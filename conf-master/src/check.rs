//! `conf-master check`: resolves datacenters on any clone, by the code that judges pushes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use git2::Repository;
use libconf::{
    name::{DatacenterName, RefName},
    tier::safety,
};

use crate::{
    catalog::{Catalog, Touched},
    config::{Check, Supposed},
    refs::{Proposed, Table, Target},
    refusal::{Fault, Refusal},
    resolve::{self, Caused},
    validate::{Limits, Validator},
};

/// Prints what is wrong with each datacenter; the exit code is 1 when anything is.
pub fn run(flags: &Check) -> anyhow::Result<ExitCode> {
    let (faults, needs) = faults(&flags.repo, &flags.refs, &flags.datacenters, flags.limits.limits())?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&faults)?);
    } else {
        for (datacenter, faults) in &faults {
            println!("{datacenter}: {}", if faults.is_empty() { "ok" } else { "refused" });
            faults.iter().for_each(|fault| println!("  {fault}"));
        }
    }
    // Whether a value was given is seen on the server alone, so it is no fault here.
    needs.iter().for_each(|need| eprintln!("note: {need}"));
    Ok(ExitCode::from(u8::from(faults.values().any(|faults| !faults.is_empty()))))
}

/// The faults of each datacenter, or supposed ref.
type Faults = BTreeMap<String, Vec<Fault>>;

/// Every fault of each checked datacenter, and of the supposed refs themselves; apart, the secrets that need a value.
fn faults(
    path: &Path,
    supposed: &[Supposed],
    only: &[DatacenterName],
    limits: Limits,
) -> anyhow::Result<(Faults, Vec<Fault>)> {
    let validator = Validator::new(limits);
    let repo = Repository::open(path).with_context(|| format!("{} is no Git repository", path.display()))?;
    let mut targets = refs_of_clone(&repo)?;
    let mut faults = Faults::new();
    for Supposed { name, commit } in supposed {
        let object =
            repo.revparse_single(commit).with_context(|| format!("there is no {commit} in {}", path.display()))?;
        let target = Target::read(&repo, object.id().into(), name.is_tag()).map_err(anyhow::Error::msg)?;
        let found = safety::faults(&repo, target.commit, &validator.limits.tree)?;
        if !found.is_empty() {
            faults.entry(name.short()).or_default().extend(found.into_iter().map(Fault::new));
        }
        targets.insert(name.clone(), target);
    }
    let mut table = Table::default();
    for (name, target) in targets {
        table.set(name, Some(target));
    }
    let known: BTreeSet<DatacenterName> = table
        .iter()
        .filter_map(|(name, _)| if let RefName::Datacenter(name) = name { Some(name.clone()) } else { None })
        .collect();
    let mut deltas = BTreeMap::new();
    let wanted = if only.is_empty() { known } else { only.iter().cloned().collect() };
    for datacenter in wanted {
        let touched = Touched { manifest: true, ..Touched::default() };
        let none = BTreeMap::new();
        let refs = Proposed { table: &table, changes: &none };
        let resolved = resolve::datacenter(&repo, refs, &datacenter, None, &touched);
        let mut found = resolved.faults;
        found.extend(validator.faults(&repo, &datacenter, None, &resolved.delta, true)?);
        let found = Refusal::of(found.into_iter().map(|caused| caused.fault).collect()).faults;
        faults.entry(datacenter.to_string()).or_default().extend(found);
        deltas.insert(datacenter, Some(resolved.delta));
    }
    let (catalog, _) = Catalog::unresolved(&repo, table);
    let (found, needs) = validator.secrets.faults(&repo, &catalog, &deltas)?;
    for Caused { fault, .. } in found {
        let datacenter = fault.datacenter.as_ref().map(ToString::to_string).unwrap_or_default();
        faults.entry(datacenter).or_default().push(fault);
    }
    Ok((faults, Refusal::of(needs.into_iter().map(|caused| caused.fault).collect()).faults))
}

/// The refs that the central repository has, as this clone knows them: its remote's, and over those its own branches.
fn refs_of_clone(repo: &Repository) -> anyhow::Result<BTreeMap<RefName, Target>> {
    let mut remote = BTreeMap::new();
    let mut own = BTreeMap::new();
    for reference in repo.references()? {
        let reference = reference?;
        let (Ok(name), Some(value)) = (reference.name(), reference.target()) else { continue };
        let (table, name) = match name.strip_prefix("refs/remotes/").and_then(|name| name.split_once('/')) {
            Some((_, branch)) => (&mut remote, format!("refs/heads/{branch}")),
            None => (&mut own, name.to_owned()),
        };
        let Ok(name) = name.parse::<RefName>() else { continue };
        if let Ok(target) = Target::read(repo, value.into(), name.is_tag()) {
            table.insert(name, target);
        }
    }
    remote.append(&mut own);
    Ok(remote)
}
