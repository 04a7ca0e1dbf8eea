//! The part of the repository that somebody reads by Git.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use conf_core::access::{Policy, Principal};
use conf_core::daemon::blocking;
use conf_core::git_http::{Asked, Part, Parts, ShownRef};
use conf_core::snapshot::Snapshot;
use git2::Repository;
use libconf::name::{DatacenterName, ObjectId, RefName};

use crate::landing::{Lander, Looker};
use crate::store::RefTarget;

/// Finds parts by the newest policy.
pub(crate) fn of(repo: PathBuf, lander: &Lander) -> Arc<Parts> {
    let (published, looker) = (lander.published.clone(), lander.looker());
    Parts::new(move |who| {
        let rights = published.borrow().rights.clone();
        if rights.is_open || rights.policy.reads_everything(who) {
            return None;
        }
        let (repo, looker) = (repo.clone(), looker.clone());
        Some(Box::new(PolicyPart { repo, looker, policy: rights.policy, who: who.clone() }))
    })
}

/// What the policy lets somebody read.
struct PolicyPart {
    repo: PathBuf,
    looker: Looker,
    policy: Arc<Policy>,
    who: Principal,
}

impl PolicyPart {
    /// The refs in the part.
    async fn visible(&self) -> Result<Vec<(RefName, RefTarget)>, String> {
        let catalog = self.looker.catalog().await.ok_or("conf-master is busy; fetch again in a moment")?;
        let visible = catalog.table.iter().filter(|(name, _)| self.reads(name, || catalog.readers(name)));
        Ok(visible.map(|(name, target)| (name.clone(), target)).collect())
    }

    fn reads<'a>(&self, name: &RefName, run_by: impl FnOnce() -> BTreeSet<&'a DatacenterName>) -> bool {
        self.policy.reads_ref(&self.who, name, &run_by())
    }

    /// Takes the snapshots out that are in the part: they are asked for most, and their commits say
    /// whose they are.
    async fn without_snapshots(&self, mut wanted: BTreeSet<ObjectId>) -> Result<BTreeSet<ObjectId>, String> {
        let repo = self.repo.clone();
        let read = blocking(move || -> Result<_, git2::Error> {
            let repo = Repository::open_bare(repo)?;
            let of = |id: &ObjectId| Some((*id, Snapshot::read(&repo, (*id).into()).ok()?.datacenter));
            Ok(wanted.iter().filter_map(of).collect::<Vec<_>>()).map(|snapshots| (wanted, snapshots))
        });
        let snapshots;
        (wanted, snapshots) = read.await.map_err(|error| error.message().to_owned())?;
        for (id, datacenter) in snapshots {
            if self.reads(&RefName::Snapshot(datacenter), BTreeSet::new) {
                wanted.remove(&id);
            }
        }
        Ok(wanted)
    }
}

impl Part for PolicyPart {
    fn refs(&self) -> Asked<'_, Vec<ShownRef>> {
        Box::pin(async {
            let shown = |(name, RefTarget { value, commit }): (RefName, RefTarget)| {
                let commit = ObjectId::from(commit);
                ShownRef { name: name.to_string(), id: value, peeled: (value != commit).then_some(commit) }
            };
            let mut refs: Vec<ShownRef> = self.visible().await?.into_iter().map(shown).collect();
            refs.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(refs)
        })
    }

    fn refused(&self, wanted: BTreeSet<ObjectId>) -> Asked<'_, Option<ObjectId>> {
        Box::pin(async {
            let mut left = self.without_snapshots(wanted).await?;
            if !left.is_empty() {
                for (_, RefTarget { value, commit }) in self.visible().await? {
                    left.remove(&value);
                    left.remove(&commit.into());
                }
            }
            Ok(left.pop_first())
        })
    }
}
