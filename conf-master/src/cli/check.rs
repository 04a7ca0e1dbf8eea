//! `conf-master check`: resolves datacenters on any clone, by the code that judges pushes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use conf_core::git;
use git2::Repository;
use libconf::name::{DatacenterName, RefName};

use crate::{
    catalog::{
        Catalog, Touched,
        resolve::{self, Caused},
    },
    cli::config::{Check, Supposed},
    fault::refusal::{Fault, Refusal},
    judge::{
        compatibility,
        validate::{Limits, Validator},
    },
    store::refs::{Proposed, Table, Target},
};

/// Prints what is wrong with each datacenter; the exit code is 1 when anything is.
pub fn run(flags: &Check) -> anyhow::Result<ExitCode> {
    let Checked { faults, notes } = faults(&flags.repo, &flags.refs, &flags.datacenters, flags.limits.limits())?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&faults)?);
    } else {
        for (datacenter, faults) in &faults {
            println!("{datacenter}: {}", if faults.is_empty() { "ok" } else { "refused" });
            faults.iter().for_each(|fault| println!("  {fault}"));
        }
    }
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(ExitCode::from(u8::from(faults.values().any(|faults| !faults.is_empty()))))
}

/// The faults of each datacenter, or supposed ref.
type Faults = BTreeMap<String, Vec<Fault>>;

struct Checked {
    faults: Faults,
    /// What is no fault here: that a secret needs a value, which the server alone knows; what is broken knowingly.
    notes: Vec<String>,
}

/// Every fault of each checked datacenter, and of the refs that changed themselves.
fn faults(path: &Path, supposed: &[Supposed], only: &[DatacenterName], limits: Limits) -> anyhow::Result<Checked> {
    let validator = Validator::new(limits);
    let repo = Repository::open(path).with_context(|| format!("{} is no Git repository", path.display()))?;
    let (central, mut targets) = refs_of_clone(&repo)?;
    let (mut faults, mut notes) = (Faults::new(), Vec::new());
    for Supposed { name, commit } in supposed {
        let object =
            repo.revparse_single(commit).with_context(|| format!("there is no {commit} in {}", path.display()))?;
        let target = Target::read(&repo, object.id().into(), name.is_tag()).map_err(anyhow::Error::msg)?;
        let found = git::faults_in_commit(&repo, target.commit, &validator.limits.tree)?;
        if !found.is_empty() {
            faults.entry(name.short()).or_default().extend(found.into_iter().map(Fault::new));
        }
        targets.insert(name.clone(), target);
    }
    let changes = forward(&repo, &central, &targets);
    for (name, target) in &changes {
        let (RefName::Branch(..), Some(target)) = (name, target) else { continue };
        let before = central.get(name).map(|before| before.commit);
        match compatibility::branch(&repo, &validator.comparisons, name, before, target.commit)? {
            Ok(note) => notes.extend(note),
            Err(refusal) => faults.entry(name.short()).or_default().extend(refusal.faults),
        }
    }
    let (before, table) = (table(central), table(targets));
    // Without a change there is nothing to compare with.
    let before = if changes.is_empty() { Table::default() } else { before };
    let (before, _) = Catalog::load(&repo, before);
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
        if let Some(before) = before.datacenters.get(&datacenter) {
            let settled = compatibility::settings(&validator, &repo, &datacenter, before, &resolved.delta, &changes)?;
            found.extend(settled.faults);
            notes.extend(settled.notes);
        }
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
    let needs = Refusal::of(needs.into_iter().map(|caused| caused.fault).collect()).faults;
    notes.extend(needs.iter().map(Fault::to_string));
    Ok(Checked { faults, notes })
}

fn table(targets: Targets) -> Table {
    let mut table = Table::default();
    for (name, target) in targets {
        table.set(name, Some(target));
    }
    table
}

/// The refs that are new, or ahead of what the central repository has. A branch behind it is only old.
fn forward(repo: &Repository, central: &Targets, targets: &Targets) -> BTreeMap<RefName, Option<Target>> {
    let is_ahead = |name: &RefName, target: &Target| match central.get(name) {
        None => true,
        Some(before) => repo.graph_descendant_of(target.commit.into(), before.commit.into()).unwrap_or(false),
    };
    let ahead = targets.iter().filter(|(name, target)| is_ahead(name, target));
    ahead.map(|(name, target)| (name.clone(), Some(*target))).collect()
}

type Targets = BTreeMap<RefName, Target>;

/// The refs that the central repository has, as this clone knows them: its remote's; and the same with its own branches over
/// them. Where there is no remote they are its own.
fn refs_of_clone(repo: &Repository) -> anyhow::Result<(Targets, Targets)> {
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
    if remote.is_empty() {
        return Ok((own.clone(), own));
    }
    let mut both = remote.clone();
    both.append(&mut own.clone());
    // A clone has the remote's tags among its own.
    own.retain(|name, _| name.is_tag());
    remote.append(&mut own);
    Ok((remote, both))
}
