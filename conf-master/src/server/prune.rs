//! Removes what is in the repository and did not land: the objects of refused refs, and those that
//! came in a pack without need.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use conf_core::daemon::{chain, millis};
use conf_core::git;
use git2::Oid;
use libconf::name::ObjectId;
use tracing::{info, warn};

use crate::landing::Lander;
use crate::store::unreachable::{self, Removal};

/// How often a removal begins anew without what came again meanwhile.
const TRIES: usize = 3;

/// Looks for unreachable objects again and again. What nothing led to at two looks is removed: a
/// push or a landing under way ends long before.
pub(crate) struct Pruning {
    path: PathBuf,
    /// The time between two looks.
    every: Duration,
    last: Option<Instant>,
    /// What the last look found.
    found: Arc<HashSet<Oid>>,
    /// The ledger and the packs after the last look. While they are the same and nothing was found,
    /// there is nothing to look for.
    standing: Option<Standing>,
}

type Standing = (BTreeSet<ObjectId>, Vec<(PathBuf, u64)>);

impl Pruning {
    /// Looks at the repository at `path`, and again after `every`.
    pub(crate) fn new(path: &Path, every: Duration) -> Self {
        Pruning { path: path.to_owned(), every, last: None, found: Arc::default(), standing: None }
    }

    /// Looks and removes, if it is time. Nobody else may remove packs meanwhile. Cancel: leaves at
    /// most files that the next start removes.
    pub(crate) async fn look(&mut self, lander: &Lander) {
        if self.last.is_some_and(|last| last.elapsed() < self.every) {
            return;
        }
        let began = Instant::now();
        self.last = Some(began);
        match self.try_look(lander).await {
            Ok(0) => {}
            Ok(count) => info!(count, took_ms = millis(began.elapsed()), "objects that did not land are removed"),
            Err(error) => {
                warn!(error = chain(&*error), "what did not land cannot be removed; tried again later");
                // What a look that failed says counts for nothing.
                (self.found, self.standing) = (Arc::default(), None);
            }
        }
    }

    async fn try_look(&mut self, lander: &Lander) -> anyhow::Result<usize> {
        let landed = lander.landed.clone();
        let roots = landed.roots();
        let standing = (roots.clone(), git::packs(&self.path)?);
        if self.found.is_empty() && self.standing.as_ref() == Some(&standing) {
            return Ok(0);
        }
        let (path, from) = (self.path.clone(), roots.clone());
        let look = move || {
            let (known, again) = (landed.apart(), landed.take_again());
            if let Err(error) = unreachable::release_packs(&path) {
                warn!(%error, "packs of pushes that were killed stay");
            }
            let found = unreachable::objects(&path, &from)?;
            landed.note_look(&known, &found);
            anyhow::Ok((found, again))
        };
        let (found, again) = tokio::task::spawn_blocking(look).await.context("the look ended")??;
        // What came again since the last look may be on its way.
        let gone: HashSet<Oid> = found.intersection(&self.found).filter(|id| !again.contains(id)).copied().collect();
        self.found = Arc::new(found);
        let count = self.remove(lander, gone, &roots).await?;
        self.standing = Some((lander.landed.roots(), git::packs(&self.path)?));
        Ok(count)
    }

    /// Removes these objects, but for those that come again meanwhile: `roots` are from before the
    /// look.
    async fn remove(&self, lander: &Lander, gone: HashSet<Oid>, roots: &BTreeSet<ObjectId>) -> anyhow::Result<usize> {
        for _ in 0..TRIES {
            let (path, landed, mut gone) = (self.path.clone(), lander.landed.clone(), gone.clone());
            let prepare = move || {
                landed.spare(&mut gone);
                if gone.is_empty() { Ok(None) } else { Removal::prepare(&path, gone).map(Some) }
            };
            let prepared = tokio::task::spawn_blocking(prepare).await.context("the removal ended")??;
            let Some(removal) = prepared.filter(|removal| !removal.gone.is_empty()) else { return Ok(0) };
            if let Some(count) = self.finish(lander, removal, roots.clone()).await? {
                return Ok(count);
            }
        }
        let count = gone.len();
        warn!(count, "some of what did not land comes again and again; it is removed later");
        Ok(0)
    }

    /// Removes while nothing lands, if still nothing leads to any of it; nothing, if some of it has
    /// come again.
    async fn finish(
        &self,
        lander: &Lander,
        removal: Removal,
        roots: BTreeSet<ObjectId>,
    ) -> anyhow::Result<Option<usize>> {
        let (path, landed) = (self.path.clone(), lander.landed.clone());
        let (reply, done) = tokio::sync::oneshot::channel();
        let work = move || {
            let finish = || {
                let mut gone = removal.gone.clone();
                if landed.spare(&mut gone) {
                    return Ok(None);
                }
                let since = unreachable::since(&path, &roots, &landed.roots())?;
                ensure!(since.is_disjoint(&gone), "some of it has just landed");
                removal.finish()?;
                landed.forget(&gone);
                Ok(Some(gone.len()))
            };
            // The receiver is gone when the daemon stops.
            let _: Result<(), anyhow::Result<Option<usize>>> = reply.send(finish());
        };
        lander.exclusively(work).await;
        done.await.context("the landing thread has ended")?
    }
}
