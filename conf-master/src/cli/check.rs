//! `conf-master check`: resolves datacenters on any clone, by the code that judges pushes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use conf_core::{
    manifest::PinRequest,
    terminal::{note, print},
};
use git2::{Direction, Repository};
use libconf::name::{DatacenterName, RefName};

use crate::catalog::{Catalog, DatacenterChange, Deltas, Manifest, Touched, resolve};
use crate::cli::supposed::SupposedRef;
use crate::fault::{Caused, Fault, Refusal};
use crate::judge::compatibility::{branch, pins, settings};
use crate::judge::validate::effect;
use crate::judge::{BranchComparison, Judge, ReportingHosts, content};
use crate::secrets::SecretStore;
use crate::server::LimitFlags;
use crate::store::{NONE_REFUSED, Proposed, RefChanges, RefTarget, Table};

/// Flags of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckFlags {
    /// A clone of the central repository, bare or not
    // The variable of `serve` names the server's own repository.
    #[arg(long, value_name = "DIR", default_value = ".", hide_env = true)]
    pub(crate) repo: PathBuf,
    /// Suppose that REF is at COMMIT (anything `git rev-parse` knows); repeat for more refs
    #[arg(long = "ref", value_name = "REF=COMMIT")]
    pub(crate) refs: Vec<SupposedRef>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The limits of what may land
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    /// The datacenters to check; without any, all of them
    #[arg(value_name = "ID/VERSION")]
    pub(crate) datacenters: Vec<DatacenterName>,
}

/// The exit code of a check that could not look at everything.
const NOT_CHECKED: u8 = 2;

/// Prints the faults of each datacenter; the exit code is 1 when there are any, and 2 when the
/// clone does not hold what the check needs: then some of them may be no faults.
pub(crate) fn run(flags: &CheckFlags) -> anyhow::Result<ExitCode> {
    let Checked { faults, notes } = check(flags)?;
    let is_good = faults.values().all(Vec::is_empty);
    let incomplete = incomplete(flags, is_good && !faults.is_empty())?;
    if flags.json {
        print(serde_json::to_string_pretty(&faults)?)?;
    } else {
        let mut text = String::new();
        for (datacenter, faults) in &faults {
            let _ = writeln!(text, "{datacenter}: {}", if faults.is_empty() { "ok" } else { "refused" });
            for fault in faults {
                let _ = writeln!(text, "  {fault}");
            }
        }
        print(text)?;
    }
    notes.iter().for_each(|words| note(format_args!("note: {words}")));
    if let Some(words) = incomplete {
        note(format_args!("conf-master: {words}"));
        return Ok(ExitCode::from(NOT_CHECKED));
    }
    Ok(ExitCode::from(u8::from(!is_good)))
}

/// Says what is missing in a clone of one branch, or of a part of the history, and how to bring it,
/// unless all is good without it. Without any datacenter nothing is good: nothing was checked.
fn incomplete(flags: &CheckFlags, is_good: bool) -> anyhow::Result<Option<String>> {
    if is_good {
        return Ok(None);
    }
    let repo = Repository::open(&flags.repo)?;
    let shown = flags.repo.display();
    let git = format!("git -C {}", quoted(&shown.to_string()));
    let names = repo.remotes()?;
    let names: Vec<&str> = names.iter().flatten().flatten().collect();
    let remote = names.iter().find(|name| **name == "origin").or(names.first()).copied();
    let brings_all = |remote: &str| -> Result<bool, git2::Error> {
        let remote = repo.find_remote(remote)?;
        let fetched = remote.refspecs().filter(|spec| spec.direction() == Direction::Fetch);
        let sources: Vec<String> = fetched.filter_map(|spec| Some(spec.src().ok()?.to_owned())).collect();
        Ok(sources.iter().any(|source| source == "refs/heads/*" || source == "refs/*"))
    };
    let whole = if repo.is_shallow() { " --unshallow" } else { "" };
    if let Some(remote) = remote
        && !brings_all(remote)?
    {
        return Ok(Some(format!(
            "{shown} is a clone of one branch, and a datacenter is made of many: some of these faults may come from what is \
             not here. Bring the other branches, then check again:\n  \
             {git} remote set-branches {remote} '*' && {git} fetch{whole} --tags {remote}"
        )));
    }
    if repo.is_shallow() {
        return Ok(Some(format!(
            "{shown} has a part of the history only: some of these faults may come from what is not here. Bring the rest, then \
             check again:\n  {git} fetch{whole} --tags {}",
            remote.unwrap_or("origin")
        )));
    }
    let (_, refs) = refs_of_clone(&repo)?;
    if refs.keys().any(|name| matches!(name, RefName::Datacenter(_))) || !flags.datacenters.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "{shown} has no branch datacenters/<id>/<version>, so there is nothing to check; is it a clone of the central repository?"
    )))
}

/// Writes a word as a shell reads it.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// The result of a check.
#[derive(Default)]
struct Checked {
    /// The faults of each datacenter, or supposed ref.
    faults: BTreeMap<String, Vec<Fault>>,
    /// What is no fault here: a secret needs a value, which the server alone knows; compatibility
    /// is broken knowingly.
    notes: Vec<String>,
}

impl Checked {
    fn add(&mut self, of: &impl ToString, faults: impl IntoIterator<Item = Fault>) {
        self.faults.entry(of.to_string()).or_default().extend(faults);
    }
}

/// Finds every fault of each checked datacenter, and of the refs that changed themselves.
fn check(flags: &CheckFlags) -> anyhow::Result<Checked> {
    let path = flags.repo.display();
    let judge = Judge::new(flags.limits.limits(), SecretStore::default(), ReportingHosts::default());
    let repo = Repository::open(&flags.repo).with_context(|| format!("{path} is not a Git repository"))?;
    let (central, mut targets) = refs_of_clone(&repo)?;
    let mut checked = Checked::default();
    for SupposedRef { name, commit } in &flags.refs {
        let object = repo.revparse_single(commit).with_context(|| format!("there is no {commit} in {path}"))?;
        let target = RefTarget::read(&repo, object.id().into(), name.is_tag()).map_err(anyhow::Error::msg)?;
        let found = content::faults(&repo, name, target.commit, &judge.validator.limits.tree)?;
        if !found.is_empty() {
            checked.add(&name.short(), found);
        }
        targets.insert(name.clone(), target);
    }
    let changes = forward(&repo, &central, &targets);
    for (name, target) in &changes {
        let (RefName::Branch(..), Some(target)) = (name, target) else { continue };
        let before = central.get(name).map(|before| before.commit);
        match branch::compare(&repo, &judge.comparisons, name, before, target.commit)? {
            BranchComparison::Compatible => {}
            BranchComparison::Declared(note) => checked.notes.push(note),
            BranchComparison::Refused(refusal) => checked.add(&name.short(), refusal.faults),
        }
    }
    // Without a change there is nothing to compare with.
    let before = if changes.is_empty() { Table::default() } else { table(central) };
    let ((before, _), table) = (Catalog::load(&repo, &judge.contents, before), table(targets));
    let all: BTreeSet<DatacenterName> = table.datacenters().into_iter().collect();
    let wanted = if flags.datacenters.is_empty() { all.clone() } else { flags.datacenters.iter().cloned().collect() };
    // The datacenters that are not checked run what classes may speak of.
    let (mut deltas, mut others, unchanged) = (Deltas::new(), Catalog::default(), BTreeMap::new());
    for datacenter in all.union(&wanted) {
        let refs = Proposed { table: &table, changes: &unchanged, refused: &NONE_REFUSED };
        let resolved = resolve::datacenter((&repo, &judge.contents), refs, datacenter, None, &Touched::whole());
        let (mut found, delta) = (resolved.faults, resolved.delta);
        if !wanted.contains(datacenter) {
            others.apply_delta(datacenter, delta);
            continue;
        }
        for reference in delta.manifest.iter().flat_map(|manifest| read_by(datacenter, manifest)) {
            let Some(target) = table.target(&reference) else { continue };
            let faults = content::faults(&repo, &reference, target.commit, &judge.validator.limits.tree)?;
            found.extend(faults.into_iter().map(|fault| Caused { fault, causes: Vec::new() }));
        }
        let change = |before| DatacenterChange::new(&repo, &judge.overrides, datacenter, before, &delta);
        if let Some(change) = change(None)? {
            found.extend(judge.validator.findings(&repo, &change, true)?.faults);
        }
        if let Some(change) = change(before.datacenter(datacenter))? {
            let mut compared = pins::compare(&repo, &judge.comparisons, &change, &changes)?;
            compared.add(settings::compare(&repo, &change, &changes)?);
            found.extend(compared.faults);
            checked.notes.extend(compared.notes);
        }
        checked.add(datacenter, Refusal::from(found).faults);
        deltas.insert(datacenter.clone(), Some(delta));
    }
    let of_classes = effect::of_classes(&repo, &judge.overrides, &others, &deltas)?;
    let (catalog, _) = Catalog::unresolved(&repo, table);
    let (found, needs) = judge.secrets.faults(&repo, &catalog, &deltas)?;
    for Caused { fault, .. } in of_classes.faults.into_iter().chain(found) {
        let datacenter = fault.datacenter.as_ref().map(ToString::to_string).unwrap_or_default();
        checked.add(&datacenter, [fault]);
    }
    checked.notes.extend(Refusal::from(needs).faults.iter().map(Fault::to_string));
    Ok(checked)
}

/// Lists the branches and tags that a datacenter reads.
fn read_by(datacenter: &DatacenterName, manifest: &Manifest) -> Vec<RefName> {
    let own = [RefName::Datacenter(datacenter.clone()), manifest.instance.class_ref()];
    own.into_iter().chain(manifest.requests.values().map(PinRequest::reference)).collect()
}

fn table(targets: Targets) -> Table {
    let mut table = Table::default();
    for (name, target) in targets {
        table.set(name, Some(target));
    }
    table
}

/// Finds the refs that are new, or ahead of the central repository. A branch behind it is only old.
fn forward(repo: &Repository, central: &Targets, targets: &Targets) -> RefChanges {
    let is_ahead = |name: &RefName, target: &RefTarget| match central.get(name) {
        None => true,
        Some(before) => repo.graph_descendant_of(target.commit.into(), before.commit.into()).unwrap_or(false),
    };
    let ahead = targets.iter().filter(|(name, target)| is_ahead(name, target));
    ahead.map(|(name, target)| (name.clone(), Some(*target))).collect()
}

type Targets = BTreeMap<RefName, RefTarget>;

/// Reads the refs of the central repository, as this clone knows them from its remote, and the same
/// refs with the clone's own branches over them. Without a remote both are the clone's own refs.
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
        if let Ok(target) = RefTarget::read(repo, value.into(), name.is_tag()) {
            table.insert(name, target);
        }
    }
    if remote.is_empty() {
        return Ok((own.clone(), own));
    }
    let mut both = remote.clone();
    both.append(&mut own.clone());
    // A clone keeps the remote's tags among its own.
    own.retain(|name, _| name.is_tag());
    remote.append(&mut own);
    Ok((remote, both))
}
