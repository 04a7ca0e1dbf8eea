//! The part of the repository that somebody reads by Git, and the refs that pushers are shown.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conf_core::access::{Policy, Principal};
use conf_core::daemon::blocking;
use conf_core::git_http::{Asked, ListedRefs, Part, Parts, ShownRef};
use conf_core::snapshot::Snapshot;
use git2::{Oid, Repository};
use libconf::name::{ObjectId, RefName};

use crate::catalog::Catalog;
use crate::landing::{Lander, Looker};
use crate::store::RefTarget;

/// The most commits that are looked at for those that a fetch names and no ref.
const MOST_LOOKED_AT: usize = 50_000;
/// What a client is told while the landing thread cannot say what there is.
const BUSY: &str = "conf-master is busy; try again in a moment";

/// Finds parts by the newest policy.
pub(crate) fn of(repo: PathBuf, lander: &Lander) -> Arc<Parts> {
    let (published, looker) = (lander.published.clone(), lander.looker());
    Parts::new(move |who| {
        let rights = published.borrow().rights.clone();
        if rights.is_open || rights.policy.reads_everything(who) {
            return None;
        }
        let reader = Reader { policy: rights.policy, who: who.clone() };
        Some(Arc::new(PolicyPart { repo: repo.clone(), looker: looker.clone(), reader: Arc::new(reader) }))
    })
}

/// Lists the refs that a pusher is shown: those that he may read or change.
pub(crate) fn shown_to_pushers(lander: Lander) -> impl Fn(&Principal) -> Asked<'static, ListedRefs> {
    move |who| {
        let (lander, rights) = (lander.clone(), lander.published.borrow().rights.clone());
        let reader = Reader { policy: rights.policy, who: who.clone() };
        Box::pin(async move {
            if rights.is_open || reader.policy.reads_everything(&reader.who) {
                let durable = lander.durable();
                let ledger = (RefName::Ledger.to_string(), durable.ledger);
                let refs = durable.table.iter().map(|(name, target)| (name.to_string(), target.value));
                return Ok(ListedRefs::All(refs.chain([ledger]).collect()));
            }
            let catalog = lander.looker().catalog().await.ok_or(BUSY)?;
            let listed = blocking(move || {
                let touches = |(name, _): &(&RefName, RefTarget)| {
                    reader.policy.touches_ref(&reader.who, name, &catalog.readers(name))
                };
                let refs = catalog.table.iter().filter(touches);
                refs.map(|(name, target)| (name.to_string(), target.value)).collect()
            });
            Ok(ListedRefs::Part(listed.await))
        })
    }
}

/// Somebody, and the policy that says what he reads.
struct Reader {
    policy: Arc<Policy>,
    who: Principal,
}

/// What the policy lets somebody read.
struct PolicyPart {
    repo: PathBuf,
    looker: Looker,
    reader: Arc<Reader>,
}

impl Reader {
    /// The refs in the part.
    fn visible(&self, catalog: &Catalog) -> Vec<(RefName, RefTarget)> {
        let reads = |name: &RefName| self.policy.reads_ref(&self.who, name, &catalog.readers(name));
        catalog.table.iter().filter(|(name, _)| reads(name)).map(|(name, target)| (name.clone(), target)).collect()
    }

    /// The snapshots among these objects that are in the part: they are asked for most, and their
    /// commits say whose they are.
    fn snapshots(&self, repo: &Repository, named: &BTreeSet<ObjectId>) -> BTreeSet<ObjectId> {
        let is_readable = |id: &ObjectId| {
            let datacenter = Snapshot::read(repo, *id).ok().map(|snapshot| snapshot.datacenter);
            datacenter.is_some_and(|own| self.policy.reads_ref(&self.who, &RefName::Snapshot(own), &BTreeSet::new()))
        };
        named.iter().copied().filter(is_readable).collect()
    }

    /// What of these is in the history of the refs in the part, as far as that is looked at.
    fn in_history(
        &self,
        repo: &Repository,
        catalog: &Catalog,
        mut left: BTreeSet<ObjectId>,
    ) -> Result<BTreeSet<ObjectId>, git2::Error> {
        let (visible, mut found) = (self.visible(catalog), BTreeSet::new());
        let mut walk = repo.revwalk()?;
        for (_, RefTarget { value, commit }) in &visible {
            found.extend([value, commit].into_iter().filter(|id| left.remove(*id)));
            walk.push(Oid::from(*commit))?;
        }
        for id in walk.take(MOST_LOOKED_AT) {
            if left.is_empty() {
                break;
            }
            let id = id?.into();
            if left.remove(&id) {
                found.insert(id);
            }
        }
        Ok(found)
    }
}

fn open(path: &Path) -> Result<Repository, String> {
    Repository::open_bare(path).map_err(|error| error.message().to_owned())
}

impl Part for PolicyPart {
    fn refs(&self) -> Asked<'_, Vec<ShownRef>> {
        Box::pin(async {
            let (catalog, reader) = (self.looker.catalog().await.ok_or(BUSY)?, self.reader.clone());
            let listed = blocking(move || {
                let shown = |(name, RefTarget { value, commit }): (RefName, RefTarget)| ShownRef {
                    name: name.to_string(),
                    id: value,
                    peeled: (value != commit).then_some(commit),
                };
                let mut refs: Vec<ShownRef> = reader.visible(&catalog).into_iter().map(shown).collect();
                refs.sort_by(|one, other| one.name.cmp(&other.name));
                refs
            });
            Ok(listed.await)
        })
    }

    fn readable(&self, named: BTreeSet<ObjectId>) -> Asked<'_, BTreeSet<ObjectId>> {
        Box::pin(async {
            let (path, reader) = (self.repo.clone(), self.reader.clone());
            let looked = blocking(move || {
                let found = reader.snapshots(&open(&path)?, &named);
                let left: BTreeSet<ObjectId> = named.difference(&found).copied().collect();
                Ok::<_, String>((found, left))
            });
            let (mut found, left) = looked.await?;
            if !left.is_empty() {
                let (path, reader) = (self.repo.clone(), self.reader.clone());
                let catalog = self.looker.catalog().await.ok_or(BUSY)?;
                let more = blocking(move || {
                    let more = reader.in_history(&open(&path)?, &catalog, left);
                    more.map_err(|error| error.message().to_owned())
                });
                found.extend(more.await?);
            }
            Ok(found)
        })
    }
}
