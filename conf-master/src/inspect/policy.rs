//! A policy held against what landed, and what somebody may do under it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use conf_core::access::{AccessTable, Named, Place, Policy, Principal, Scope, Verb};
use conf_core::snapshot::{Snapshot, compare};
use git2::Repository;
use libconf::name::{CommitId, DatacenterName, GroupName, PrincipalName, RefName, Sequence};
use serde::{Deserialize, Serialize};

use crate::judge::rights;
use crate::store::{self, LedgerEntry, Move, Proven};
use crate::text::when;

/// How many changes a policy is held against.
const MOST_ENTRIES: usize = 100;
/// How long snapshots are compared for one answer. After that every datacenter of a change counts
/// for each of its refs.
const COMPARING: Duration = Duration::from_secs(2);

/// What a policy would have refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyTrial {
    /// How many changes it was held against, newest first.
    pub(crate) changes: usize,
    /// The changes that it would have refused, in whole or in part.
    pub(crate) refused: Vec<TrialRefusal>,
    /// How many of the changes have no author whose name was proven: nothing is said about them.
    pub(crate) unproven: usize,
}

/// A change that a policy would have refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrialRefusal {
    /// The number of the change.
    pub(crate) sequence: Sequence,
    /// The time, RFC 3339, UTC.
    pub(crate) when: String,
    /// Its author.
    pub(crate) by: String,
    /// The rights that its author would have lacked.
    pub(crate) reasons: Vec<String>,
}

/// What somebody may do to a ref.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyExplanation {
    /// The policy; `None` until there is one.
    pub(crate) policy: Option<CommitId>,
    /// The server is open: it asks nobody, whatever the policy says.
    pub(crate) open: bool,
    /// The groups of the principal.
    pub(crate) groups: BTreeSet<GroupName>,
    /// The datacenters that run the ref now.
    pub(crate) datacenters: BTreeSet<DatacenterName>,
    /// Each right that there may be on such a ref.
    pub(crate) rights: Vec<ExplainedRight>,
}

/// A right, and whether somebody has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExplainedRight {
    /// The right.
    pub(crate) verb: Verb,
    /// Why not; `None` where the principal has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lacks: Option<String>,
}

/// Holds a policy against the last changes.
///
/// It looks at refs, at the datacenters that got another snapshot by them, and at the author as the
/// ledger names them. It cannot know whether a change went beyond the shrink guard, broke
/// compatibility, or changed keys that need a right of their own. `None` when that takes longer
/// than `until` then.
pub(crate) fn trial(
    repo: &Repository,
    ledger: CommitId,
    policy: &Policy,
    (tokens, now): (&AccessTable, i64),
    until: Instant,
) -> anyhow::Result<Option<PolicyTrial>> {
    let (mut trial, mut next) = (PolicyTrial::default(), Some(ledger));
    let deadline = until.min(Instant::now() + COMPARING);
    while let Some(commit) = next.filter(|_| trial.changes < MOST_ENTRIES) {
        let entry = LedgerEntry::read(repo, commit)?;
        next = store::previous(repo, commit)?;
        trial.changes += 1;
        let Some(author) = author(&entry, tokens, now) else {
            trial.unproven += 1;
            continue;
        };
        let mut reasons = Vec::new();
        for (reference, verb, datacenters) in needs(repo, &entry, deadline)? {
            let place = Place { reference: Some(&reference), datacenters: &datacenters };
            let Some(decided) = policy.check_until(&author, verb, place, until) else { return Ok(None) };
            reasons.extend(decided.err().map(|denied| denied.to_string()));
        }
        if !reasons.is_empty() {
            let (when, by) = (when(entry.time), entry.by.clone());
            trial.refused.push(TrialRefusal { sequence: entry.sequence, when, by, reasons });
        }
    }
    Ok(Some(trial))
}

/// The author of a change, where a name was proven.
fn author(entry: &LedgerEntry, tokens: &AccessTable, now: i64) -> Option<Principal> {
    if entry.by == Principal::Server.to_string() {
        return Some(Principal::Server);
    }
    match entry.proven {
        Some(Proven::Yes) => {}
        Some(Proven::Owner) => return Some(Principal::Owner(entry.by.clone())),
        // Only under a policy did an older conf-master write down nobody but who was proven.
        None if entry.token.is_some() || entry.policy.is_some() => {}
        Some(Proven::No) | None => return None,
    }
    let name: PrincipalName = entry.by.parse().ok()?;
    let of_token = entry.token.as_ref().and_then(|token| tokens.by_id(token)).map(|token| token.groups.clone());
    let groups = of_token.unwrap_or_else(|| tokens.groups_of(&name, now));
    Some(Principal::Named(Named { name, groups, scope: Scope::Policy, token: entry.token.clone() }))
}

/// The rights that a change needed, as far as the ledger and the snapshots tell.
fn needs(
    repo: &Repository,
    entry: &LedgerEntry,
    deadline: Instant,
) -> anyhow::Result<Vec<(RefName, Verb, BTreeSet<DatacenterName>)>> {
    let pushed: Vec<&Move> = entry.moves.iter().filter(|one| !one.name.is_reserved()).collect();
    let mut affected: BTreeMap<&RefName, BTreeSet<DatacenterName>> = BTreeMap::new();
    for one in &entry.moves {
        let (RefName::Snapshot(datacenter), Some(new)) = (&one.name, one.new) else { continue };
        let read = if Instant::now() < deadline { Some(sources(repo, new.commit)?) } else { None };
        let own = RefName::Datacenter(datacenter.clone());
        let is_pushed = |name: &RefName| pushed.iter().any(|one| one.name == *name);
        let known = read.as_ref().is_some_and(|read| read.iter().any(is_pushed)) || is_pushed(&own);
        for name in entry.moves.iter().map(|one| &one.name) {
            let is_source = *name == own || read.as_ref().is_some_and(|read| read.contains(name));
            if is_source || !known || read.is_none() {
                affected.entry(name).or_default().insert(datacenter.clone());
            }
        }
    }
    let of = |name: &RefName| affected.get(name).cloned().unwrap_or_default();
    if pushed.is_empty() {
        // A request about secrets moves nothing else.
        let secrets = entry.moves.iter().filter(|one| matches!(one.name, RefName::Secrets(_)));
        return Ok(secrets.map(|one| (one.name.clone(), Verb::Secrets, of(&one.name))).collect());
    }
    let need = |one: &&Move| (one.name.clone(), rights::verb(&one.name, one.new.is_none()), of(&one.name));
    Ok(pushed.iter().map(need).collect())
}

/// The refs from which a snapshot got what it has, and the one before had not.
fn sources(repo: &Repository, snapshot: CommitId) -> anyhow::Result<BTreeSet<RefName>> {
    let snapshot = Snapshot::read(repo, snapshot)?;
    let before = snapshot.parent.map(|parent| Snapshot::read(repo, parent)).transpose()?;
    let difference = compare(repo, before.as_ref(), &snapshot)?;
    let mut sources = BTreeSet::new();
    if difference.class {
        let classes = [Some(&snapshot), before.as_ref()].into_iter().flatten().filter_map(|one| one.class.as_ref());
        sources.extend(classes.map(|(name, _)| name.clone()));
    }
    for (name, change) in difference.components {
        for pin in [change.before, change.after].into_iter().flatten().map(|one| one.pin) {
            sources.insert(RefName::Branch(name.component.clone(), pin.branch));
        }
        if let Ok(tag) = name.version.as_str().parse() {
            sources.insert(RefName::Tag(name.component.clone(), tag));
        }
    }
    Ok(sources)
}

/// Says for each right that there may be on a ref whether somebody has it.
pub(crate) fn explain(
    policy: &Policy,
    named: &Named,
    reference: &RefName,
    datacenters: &BTreeSet<DatacenterName>,
) -> Vec<ExplainedRight> {
    let own = rights::verb(reference, false);
    let more = [Verb::Delete, Verb::Shrink, Verb::Breaking, Verb::Secrets];
    let verbs = match reference {
        RefName::Policy => vec![Verb::Administer],
        RefName::Secrets(_) => vec![Verb::Secrets],
        name if name.is_tag() => vec![own, Verb::Delete],
        _ => [own].into_iter().chain(more).collect(),
    };
    let principal = Principal::Named(named.clone());
    let explained = |verb: Verb| {
        let place = Place { reference: Some(reference), datacenters };
        ExplainedRight { verb, lacks: policy.check(&principal, verb, place).err().map(|denied| denied.to_string()) }
    };
    [Verb::Read].into_iter().chain(verbs).map(explained).collect()
}
