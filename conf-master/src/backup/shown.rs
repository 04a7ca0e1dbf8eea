//! What conf-slaves show that landed after a copy was made: snapshots that this server's key
//! signed, and the commits that these name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use conf_core::access::{AccessEvent, AccessTable};
use conf_core::address::BaseUrl;
use conf_core::api::KeysEvent;
use conf_core::git::{Depth, FetchBounds, RepositoryPool, Step};
use conf_core::sign::{TrustedKeys, verify_access};
use conf_core::snapshot::Snapshot;
use conf_core::upstream::{FetchError, Upstream, fetch};
use git2::Repository;
use http::StatusCode;
use libconf::name::{CommitId, DatacenterName, ObjectId, RefName, Sequence};
use serde::Deserialize;

use crate::judge::RefUpdate;
use crate::proof::ProofFlags;
use crate::store::{LedgerState, commit, keys};
use crate::text::now;

/// The most changes that a copy may be behind what conf-slaves and their hosts show.
const MOST_AHEAD: u64 = 1_000_000;

/// The server that is restored, as far as its copy goes.
pub(crate) struct Restored<'a> {
    /// Its repository.
    pub(crate) path: &'a Path,
    /// What the ledger of the copy says.
    pub(crate) state: &'a LedgerState,
    /// What its key signs.
    pub(crate) trusted: &'a TrustedKeys,
}

/// What conf-slaves show.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The highest number of a change.
    pub(crate) highest: Sequence,
    /// Who may ask them.
    pub(crate) readers: AccessTable,
    /// The commits that their snapshots name and the copy does not have at their refs.
    pub(crate) commits: BTreeMap<RefName, CommitId>,
    /// What does not come back, in words.
    pub(crate) lost: Vec<String>,
}

/// The part of a conf-slave's status that is read.
#[derive(Deserialize)]
struct Status {
    datacenter: DatacenterName,
    sequence: Sequence,
    commit: Option<CommitId>,
    watermark: Option<Sequence>,
}

/// The part of a host's report that is read.
#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    sequence: Sequence,
}

impl Shown {
    /// Asks all of these conf-slaves, and fetches what is newer. One that cannot be asked is an
    /// error: what it alone has would be lost.
    pub(crate) async fn by(slaves: &[BaseUrl], proof: &ProofFlags, restored: &Restored<'_>) -> anyhow::Result<Self> {
        let mut shown = Shown::default();
        // Of each datacenter the newest one.
        let mut lists = BTreeMap::new();
        for url in slaves {
            let asked = async {
                let servers = proof.connect(url)?;
                let server = servers.in_order().first().cloned().context("it has no address")?;
                shown.add(&server, restored, &mut lists).await
            };
            asked.await.with_context(|| format!("the conf-slave {url} does not show what it has"))?;
        }
        shown.readers = AccessTable::joined(lists.values().map(AccessEvent::table));
        Ok(shown)
    }

    async fn add(
        &mut self,
        server: &Arc<Upstream>,
        restored: &Restored<'_>,
        lists: &mut BTreeMap<DatacenterName, AccessEvent>,
    ) -> anyhow::Result<()> {
        let status: Status = server.get_json("api/v1/status").await?;
        let reports: Vec<Report> = server.get_json("api/v1/hosts").await?;
        let numbers = reports.iter().map(|one| one.sequence).chain([status.sequence]).chain(status.watermark);
        self.highest = numbers.fold(self.highest, Sequence::max);
        // Nobody has signed these, and whatever is taken from the numbers is gone for good.
        let copy = restored.state.sequence;
        if self.highest.0.saturating_sub(copy.0) > MOST_AHEAD {
            bail!(
                "it shows change #{}, which is more than {MOST_AHEAD} after #{copy} of the copy; if that is so, leave it out and \
                 say --above",
                self.highest
            );
        }
        let followed: KeysEvent = server.get_json("api/v1/keys").await?;
        let known = keys::read(&Repository::open_bare(restored.path)?, &restored.state.table)?;
        if followed.statements.len() > known.len() {
            bail!(
                "it has followed {} statements about keys and epochs, and the copy has {}: the copy is older than a change of \
                 the key, or another server goes on with its history already",
                followed.statements.len(),
                known.len()
            );
        }
        let list = server.get_json::<AccessEvent>("api/v1/access").await;
        match list {
            Ok(list) => {
                verify_access(&list, &status.datacenter, restored.trusted)
                    .context("its list of who may ask is not good")?;
                // It is told of each change of its list, and has heard of changes after the copy.
                let heard = list.central.max(status.watermark.unwrap_or_default());
                let is_newest = lists.get(&status.datacenter).is_none_or(|known| list.follows(known));
                if !list.open && heard >= restored.state.sequence && is_newest {
                    lists.insert(status.datacenter.clone(), list);
                }
            }
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
            Err(error) => return Err(error.into()),
        }
        match status.commit {
            Some(commit) if status.sequence > restored.state.sequence => {
                self.take(server, (&status.datacenter, commit), restored).await
            }
            _ => Ok(()),
        }
    }

    /// Takes what a newer snapshot names.
    async fn take(
        &mut self,
        server: &Arc<Upstream>,
        (datacenter, newest): (&DatacenterName, CommitId),
        restored: &Restored<'_>,
    ) -> anyhow::Result<()> {
        let table = &restored.state.table;
        let before = table.target(&RefName::Snapshot(datacenter.clone())).map(|tip| tip.commit);
        let pool = RepositoryPool::at(restored.path);
        pool.bounded(FetchBounds::HISTORY);
        let step = Step { have: before, want: newest, depth: Depth::Full };
        fetch(server, pool.clone(), step).await.context("its newest snapshot cannot be fetched")?;
        let (named, sequence) = {
            let repo = Repository::open_bare(restored.path)?;
            let snapshot = Snapshot::verify(&repo, newest, restored.trusted, datacenter)
                .context("its newest snapshot is not signed by this server's key")?;
            self.lost.extend(secrets_lost(&repo, &snapshot, before)?);
            (named(&repo, &snapshot)?, snapshot.sequence)
        };
        for (name, Content { commit: wanted, tree, is_newest }) in named {
            let tip = self.commits.get(&name).copied().or_else(|| table.target(&name).map(|tip| tip.commit));
            if tip == Some(wanted) {
                continue;
            }
            let step = Step { have: tip, want: wanted, depth: Depth::Full };
            match fetch(server, pool.clone(), step).await {
                Ok(_) => {}
                Err(FetchError::NotFound { .. } | FetchError::Unwanted(_)) if !is_newest => {
                    self.lost.push(format!("{}: the commit {}, of which there is a tag", name.short(), wanted.short()));
                    continue;
                }
                // Branches follow a snapshot by some seconds. It has the content itself.
                Err(FetchError::NotFound { .. } | FetchError::Unwanted(_)) => {
                    let repo = Repository::open_bare(restored.path)?;
                    let words = format!("As {datacenter} runs it with #{sequence}: the commit {wanted} was lost\n");
                    let made = commit::write(&repo, tree.into(), tip, now(), &words)?;
                    self.lost.push(format!(
                        "{}: the commit {}; a new one, {}, has what {datacenter} runs of it",
                        name.short(),
                        wanted.short(),
                        made.short()
                    ));
                    self.commits.insert(name, made);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let repo = Repository::open_bare(restored.path)?;
            let leads =
                |from: CommitId, to: CommitId| repo.graph_descendant_of(to.into(), from.into()).unwrap_or(false);
            match tip {
                Some(tip) if leads(wanted, tip) => {}
                Some(tip) if name.is_tag() || !leads(tip, wanted) => {
                    let (name, tip, wanted) = (name.short(), tip.short(), wanted.short());
                    self.lost.push(format!("{name}: it is {tip} in the copy, and {datacenter} runs {wanted} of it"));
                }
                _ => _ = self.commits.insert(name, wanted),
            }
        }
        Ok(())
    }

    /// What lands so that the refs are where the conf-slaves know them.
    pub(crate) fn updates(&self, state: &LedgerState) -> Vec<RefUpdate> {
        let old = |name: &RefName| state.table.target(name).map_or(ObjectId::ZERO, |tip| tip.value);
        let update =
            |(name, commit): (&RefName, &CommitId)| RefUpdate { name: name.to_string(), old: old(name), new: *commit };
        self.commits.iter().map(update).collect()
    }
}

/// What a ref held when a snapshot was made.
struct Content {
    commit: CommitId,
    /// The tree of the commit.
    tree: ObjectId,
    /// The ref named this commit, and no later one.
    is_newest: bool,
}

impl Content {
    fn newest(commit: CommitId, tree: ObjectId) -> Self {
        Content { commit, tree, is_newest: true }
    }
}

/// The refs that a snapshot names; a branch is there once for each commit of it.
fn named(repo: &Repository, snapshot: &Snapshot) -> anyhow::Result<Vec<(RefName, Content)>> {
    let mut named = Vec::new();
    if let Some(commit) = snapshot.datacenter_commit {
        let tree = snapshot.datacenter_tree(repo)?;
        named.push((RefName::Datacenter(snapshot.datacenter.clone()), Content::newest(commit, tree)));
    }
    if let Some((name, commit)) = snapshot.class.clone() {
        named.push((name, Content::newest(commit, snapshot.class_tree(repo)?)));
    }
    for (name, component) in snapshot.components(repo)? {
        let (of, pin) = (name.component, &component.pin);
        if !name.version.is_latest()
            && let Ok(tag) = name.version.as_str().parse()
        {
            named.push((RefName::Tag(of.clone(), tag), Content::newest(pin.commit, component.tree)));
        }
        // A branch may have gone on after the commit that a tag names.
        let content = Content { is_newest: name.version.is_latest(), ..Content::newest(pin.commit, component.tree) };
        named.push((RefName::Branch(of, pin.branch.clone()), content));
    }
    Ok(named)
}

/// Says that secrets do not come back as they were last: no snapshot names the commit of their
/// branch.
fn secrets_lost(repo: &Repository, newest: &Snapshot, before: Option<CommitId>) -> anyhow::Result<Option<String>> {
    let known = before.map(|before| Snapshot::read(repo, before)?.secrets_tree(repo)).transpose()?.flatten();
    let is_same = newest.secrets_tree(repo)? == known;
    Ok((!is_same).then(|| {
        format!(
            "the secrets of {} changed after the copy was made, and are as they were in it; rotate those that were rotated",
            newest.datacenter
        )
    }))
}
