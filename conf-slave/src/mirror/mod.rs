//! The local mirror: one bare repository, whose ref `refs/snapshots/<id>/<version>` names the
//! served snapshot.
//!
//! Always true:
//! - The ref names a complete and verified snapshot, and moves only forward along its chain.
//! - The highest sequence ever served is kept beside the repository, so that a new repository in
//!   place of a lost one does not bring an older snapshot back.
//! - A damaged repository is never mended in place: a new one is filled beside it and replaces it
//!   by a rename.

mod error;
mod served;
mod packs;
mod folder;
mod pools;

use std::{
    future::pending,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::{
    api::{DatacenterStatus, Pointer, WatermarkEvent},
    daemon::{self, chain},
    git::{self, Depth, FetchBounds, RepositoryLock, RepositoryPool, Step},
    git_http::UploadPack,
    sign::{KeyError, TrustedKeys, verify_watermark},
    snapshot::{Snapshot, SnapshotError},
    upstream::{FetchError, Fetched, Hedge, Upstream, UpstreamError, Upstreams, fetch},
};
use git2::Repository;
use libconf::name::{DatacenterName, Sequence};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

pub(crate) use crate::mirror::{
    error::MirrorError,
    folder::repository_in,
    served::{Pins, ServedSnapshot, differing},
};
use crate::mirror::{
    folder::{Examined, StateFolder},
    packs::SeenPacks,
    pools::Pools,
};

/// 1.5 s: a central server whose answer does not go on for so long is asked again over another
/// connection, and the next one beside it.
const PATIENCE: Duration = Duration::from_millis(1500);
/// 10 s before the first part of a whole snapshot, since Git counts its objects first.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(10);

/// 5 s: after so long a silence a newer snapshot is fetched in place of this one.
const OVERTAKING: Duration = Duration::from_secs(5);

/// The mirror of one datacenter, and the newest pointer and watermark that it has heard of.
#[derive(Debug)]
pub(crate) struct Mirror {
    folder: Arc<StateFolder>,
    pub(crate) opened: Pools,
    /// The central servers.
    pub(crate) upstreams: Arc<Upstreams>,
    upload: Arc<UploadPack>,
    served: watch::Sender<Option<Arc<ServedSnapshot>>>,
    wanted: watch::Sender<Option<Pointer>>,
    watermark: watch::Sender<Option<WatermarkEvent>>,
    /// Notified by a task that has a reason to suspect damage.
    pub(crate) suspicion: Notify,
    // The highest ever served.
    highest: Mutex<Option<Pointer>>,
    lock: Mutex<RepositoryLock>,
    packs: Mutex<SeenPacks>,
}

/// The result of looking up a pointer that someone else wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It names a snapshot that was signed for this datacenter with that sequence.
    Signed,
    /// It names no such snapshot.
    Damage,
    /// No central server could be asked.
    Unknown,
}

impl Mirror {
    /// Opens the mirror in the folder `state`, or makes an empty one in place of a missing or
    /// damaged one. Blocks.
    pub(crate) fn open(
        state: &Path,
        datacenter: DatacenterName,
        (keys, bounds): (TrustedKeys, FetchBounds),
        upstreams: Arc<Upstreams>,
        upload: Arc<UploadPack>,
    ) -> Result<Self, MirrorError> {
        let folder = StateFolder { path: state.to_owned(), datacenter, keys, bounds };
        let repo = folder.repo();
        let mut lock = folder::lock_folder(&repo)?;
        let examined = match git::init(&repo, &folder::SETTINGS) {
            Ok(opened) => folder.examine(&opened),
            Err(error) => Examined::Damaged(chain(&error)),
        };
        let served = match examined {
            Examined::Empty => None,
            Examined::Whole(served) => Some(*served),
            Examined::Damaged(reason) => {
                tracing::warn!(%reason, "the local repository is damaged; it is thrown away and cloned anew");
                folder.set_aside()?;
                folder.remove_damaged()?;
                lock = folder::create(&repo)?;
                None
            }
        };
        let highest = folder.read_highest().into_iter().chain(served.as_ref().map(ServedSnapshot::pointer));
        let highest = highest.max_by_key(|pointer| pointer.sequence);
        let served = served.filter(|served| Some(served.pointer()) == highest);
        Ok(Mirror {
            opened: Pools::of(&folder),
            folder: Arc::new(folder),
            upstreams,
            upload,
            served: watch::Sender::new(served.map(Arc::new)),
            wanted: watch::Sender::default(),
            watermark: watch::Sender::default(),
            suspicion: Notify::new(),
            highest: Mutex::new(highest),
            lock: Mutex::new(lock),
            packs: Mutex::default(),
        })
    }

    /// Returns the path of the bare repository.
    pub(crate) fn repo(&self) -> PathBuf {
        self.folder.repo()
    }

    /// Returns the name of the mirrored datacenter.
    pub(crate) fn datacenter(&self) -> &DatacenterName {
        &self.folder.datacenter
    }

    /// Returns the full name of the branch that a plain clone checks out.
    pub(crate) fn head_branch(&self) -> String {
        self.folder.head_branch()
    }

    /// Returns the snapshot that is served now.
    pub(crate) fn served(&self) -> Option<Arc<ServedSnapshot>> {
        self.served.borrow().clone()
    }

    /// Subscribes to the served snapshot.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<ServedSnapshot>>> {
        self.served.subscribe()
    }

    /// Returns the highest sequence that was ever served.
    pub(crate) fn highest(&self) -> Sequence {
        self.highest.lock().map_or(Sequence::default(), |pointer| pointer.sequence)
    }

    /// Asks for the snapshot that `pointer` names, unless a newer one is wanted already.
    pub(crate) fn want(&self, pointer: Pointer) {
        self.wanted.send_if_modified(|now| {
            let newer = now.is_none_or(|now| pointer.sequence >= now.sequence && pointer != now);
            if newer {
                *now = Some(pointer);
            }
            newer
        });
    }

    /// Subscribes to the newest wanted pointer.
    pub(crate) fn subscribe_wanted(&self) -> watch::Receiver<Option<Pointer>> {
        self.wanted.subscribe()
    }

    /// Keeps `watermark` if it is newer than the last one. Refuses one that is not signed for this
    /// datacenter: hosts would not believe it either.
    pub(crate) fn take_watermark(&self, watermark: WatermarkEvent) -> Result<(), KeyError> {
        verify_watermark(&watermark, &self.folder.datacenter, &self.folder.keys)?;
        // Watermarks never go back, not even if the central server is put back to an older state.
        self.watermark.send_if_modified(|now| {
            let newer = now.as_ref().is_none_or(|now| watermark.central > now.central);
            if newer {
                *now = Some(watermark);
            }
            newer
        });
        Ok(())
    }

    /// Subscribes to the newest watermark.
    pub(crate) fn subscribe_watermark(&self) -> watch::Receiver<Option<WatermarkEvent>> {
        self.watermark.subscribe()
    }

    /// Fetches the snapshot that `pointer` names, verifies it and serves it. Does nothing if it is
    /// served already. If it `may_end`, a silence is shorter while a newer one is wanted.
    ///
    /// Cancel: leaves at most unreferenced objects.
    pub(crate) async fn advance(&self, pointer: Pointer, may_end: bool) -> Result<(), MirrorError> {
        let commit = pointer.commit;
        let before = self.served();
        let have = before.as_ref().map(|served| served.snapshot.commit);
        if have == Some(commit) {
            return Ok(());
        }
        let step = Step { have, want: commit, depth: Depth::Full };
        let (opened, mut wanted) = (self.opened.clone(), self.wanted.subscribe());
        let newer = async move {
            let is_newer = |wanted: &Option<Pointer>| wanted.is_some_and(|wanted| wanted.sequence > pointer.sequence);
            if !may_end || wanted.wait_for(is_newer).await.is_err() {
                pending::<()>().await;
            }
        };
        let Fetched { answer, wire_bytes, .. } =
            self.fetch(&opened.snapshots, step, newer).await.map_err(MirrorError::Fetch)?;
        let (folder, highest) = (Arc::clone(&self.folder), *self.highest.lock());
        let served = daemon::blocking(move || {
            let repo = opened.lend().map_err(|cause| folder.unusable(cause))?;
            folder.accept(&repo, commit, before.as_deref(), highest)
        });
        let served = served.await?;
        if let Some((request, response)) = answer {
            self.upload.prime(request, response).await;
        }
        tracing::info!(sequence = served.snapshot.sequence.0, commit = %commit.short(), wire_bytes, "serves a snapshot");
        self.serve(served);
        Ok(())
    }

    /// Makes a step that serves nothing: a branch behind a snapshot. Moves no ref.
    pub(crate) async fn bring(&self, step: Step) -> Result<(), FetchError> {
        self.fetch(&self.opened.branches, step, pending()).await.map(drop)
    }

    /// Publishes the snapshot within this program. `remember` writes the sequence later; after a
    /// crash before that, the ref still names the snapshot.
    fn serve(&self, served: ServedSnapshot) {
        *self.highest.lock() = Some(served.pointer());
        self.served.send_replace(Some(Arc::new(served)));
    }

    /// Writes the highest sequence, durably. Blocks; no change waits for it.
    pub(crate) fn remember(&self) -> Result<(), MirrorError> {
        let highest = *self.highest.lock();
        highest.map_or(Ok(()), |highest| self.folder.write_highest(highest))
    }

    /// Moves the branch that a plain clone checks out to `served`. Blocks; no change waits for it.
    pub(crate) fn move_head(&self, served: &ServedSnapshot) -> Result<(), MirrorError> {
        let repo = self.opened.lend().map_err(|cause| self.folder.unusable(cause))?;
        self.folder.move_head(&repo, served.snapshot.commit)
    }

    /// Looks up a pointer in the repository, or else at the central server.
    pub(crate) async fn judge(&self, pointer: Pointer) -> Judgement {
        if let Some(judgement) = self.judge_here(pointer).await {
            return judgement;
        }
        let have = self.served().map(|served| served.snapshot.commit);
        let step = Step { have, want: pointer.commit, depth: Depth::Full };
        match self.fetch(&self.opened.snapshots, step, pending()).await {
            Ok(_) => self.judge_here(pointer).await.unwrap_or(Judgement::Damage),
            Err(FetchError::NotFound { .. } | FetchError::Unwanted(_)) => Judgement::Damage,
            Err(_) => Judgement::Unknown,
        }
    }

    /// Looks up a pointer in the repository; `None` if its commit is not here.
    async fn judge_here(&self, pointer: Pointer) -> Option<Judgement> {
        let (folder, opened) = (Arc::clone(&self.folder), self.opened.clone());
        let verified = daemon::blocking(move || {
            let repo = opened.lend().map_err(|cause| SnapshotError::Read { commit: pointer.commit, cause })?;
            Snapshot::verify(&repo, pointer.commit, &folder.keys, &folder.datacenter)
        });
        match verified.await {
            Ok(snapshot) if snapshot.sequence == pointer.sequence => Some(Judgement::Signed),
            // Signed by a conf-master newer than this program: only a newer conf-slave can read
            // more of it.
            Err(SnapshotError::Newer { .. }) => Some(Judgement::Signed),
            Err(SnapshotError::Read { .. }) => None,
            Ok(_) | Err(_) => Some(Judgement::Damage),
        }
    }

    /// Looks for damage that shows without reading objects: folders, refs, packs. Blocks.
    ///
    /// While a change is taken, its ref is ahead of what is served, which looks like damage.
    pub(crate) fn look(&self) -> Result<(), String> {
        if let Err(cut) = self.packs.lock().set_cut_aside(&self.repo()) {
            self.suspicion.notify_one();
            return Err(cut);
        }
        let Some(served) = self.served() else { return Ok(()) };
        self.folder.look(served.snapshot.commit, &mut self.packs.lock())?;
        // Another repository in the place of this one has other packs.
        self.packs.lock().look(&self.repo())
    }

    /// Holds the looks at the packs until [`Mirror::packed`]: a program is going to replace some.
    pub(crate) fn packing(&self) {
        self.packs.lock().hold();
    }

    /// Forgets what the packs were: others have replaced them, or they were all read and are whole.
    pub(crate) fn packed(&self) {
        self.packs.lock().clear();
        self.opened.forget();
    }

    /// Checks that every served object is there and readable; an error describes the damage.
    /// Blocks, and takes seconds in a large repository.
    pub(crate) fn examine(&self) -> Result<(), String> {
        let Some(served) = self.served() else { return Ok(()) };
        let repo = self.folder.open_repo().map_err(|error| chain(&error))?;
        match self.folder.examine(&repo) {
            Examined::Whole(found) if found.snapshot.commit == served.snapshot.commit => {}
            Examined::Whole(_) | Examined::Empty => return Err("its ref is not where it was put".to_owned()),
            Examined::Damaged(reason) => return Err(reason),
        }
        match git::command(&self.repo()).args(["fsck", "--no-dangling", "--no-progress"]).output() {
            Ok(output) if output.status.success() => {
                self.packed();
                Ok(())
            }
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                Err(words.lines().next().unwrap_or("git fsck says that it is damaged").to_owned())
            }
            // A program that cannot start is no sign of damage.
            Err(cause) => {
                tracing::warn!(%cause, "cannot run git fsck");
                Ok(())
            }
        }
    }

    /// Clones the newest snapshot into a new repository, which then takes the old one's place.
    pub(crate) async fn clone_anew(&self) -> Result<(), MirrorError> {
        self.keep_others_out().await?;
        let status = format!("api/v1/datacenters/{}", self.folder.datacenter);
        let newest: DatacenterStatus = self.upstreams.get_json(&status).await.map_err(MirrorError::Ask)?;
        let path = self.folder.path.join("repo.new");
        let fresh = path.clone();
        let lock = daemon::blocking(move || folder::remove(&fresh).and_then(|()| folder::create(&fresh)));
        let lock = lock.await?;
        let step = Step { have: None, want: newest.commit, depth: Depth::Full };
        self.fetch(&self.folder.pool(path.clone()), step, pending()).await.map_err(MirrorError::Fetch)?;
        let (folder, highest) = (Arc::clone(&self.folder), *self.highest.lock());
        let served = daemon::blocking(move || {
            let repo =
                Repository::open_bare(&path).map_err(|cause| MirrorError::Repository { path: path.clone(), cause })?;
            let served = folder.accept(&repo, newest.commit, None, highest)?;
            folder.replace_repo(&path)?;
            Ok::<_, MirrorError>(served)
        });
        let served = served.await?;
        *self.lock.lock() = lock;
        self.packed();
        tracing::info!(sequence = served.snapshot.sequence.0, "cloned anew");
        self.serve(served);
        Ok(())
    }

    /// Locks the repository again if another one is in its place: the state folder was removed, and
    /// another slave may have begun in a new one.
    async fn keep_others_out(&self) -> Result<(), MirrorError> {
        let repo = self.repo();
        if self.lock.lock().is_of(&repo) || !repo.exists() {
            return Ok(());
        }
        let lock = daemon::blocking(move || folder::lock_folder(&repo)).await?;
        *self.lock.lock() = lock;
        Ok(())
    }

    /// Fetches from one central server after the other, and from the next one already while one
    /// is silent. After a shorter silence of all it ends once `newer` is ready. The returned
    /// error is the one that tells most: "no server has it" is returned only if every server
    /// answered so.
    async fn fetch(
        &self,
        repo: &RepositoryPool,
        step: Step,
        newer: impl Future<Output = ()>,
    ) -> Result<Fetched, FetchError> {
        let (repo, start) = (repo.clone(), Instant::now());
        let ask = move |server: Arc<Upstream>| {
            let repo = repo.clone();
            async move { fetch(&server, repo, step).await }
        };
        let mut hedge = Hedge::new(self.upstreams.in_order(), PATIENCE, ask).putting_silent_ones_last();
        if step.have.is_none() {
            hedge = hedge.waiting_longer_at_first(PATIENCE_AT_FIRST);
        }
        let mut worst: Option<FetchError> = None;
        let (mut newer, mut is_newer) = (pin!(newer), false);
        loop {
            let answer = tokio::select! {
                answer = hedge.next() => answer,
                () = &mut newer, if !is_newer => {
                    is_newer = true;
                    hedge.give_up_after(OVERTAKING);
                    continue;
                }
            };
            let Some((upstream, answer)) = answer else { break };
            match answer {
                Ok(fetched) => {
                    upstream.report(true);
                    return Ok(fetched);
                }
                Err(
                    error @ (FetchError::NotFound { .. } | FetchError::Unwanted(_) | FetchError::Repository { .. }),
                ) => worst = worst.or(Some(error)),
                // This server could have the snapshot.
                Err(error) => {
                    upstream.report(false);
                    worst = Some(error);
                }
            }
        }
        let nobody = || {
            let url = self.upstreams.in_order().first().map_or_else(String::new, |one| one.url().to_string());
            UpstreamError::Silent { url, after: Duration::from_secs(start.elapsed().as_secs()) }
        };
        Err(worst.unwrap_or_else(|| FetchError::Unreachable(nobody())))
    }
}
