//! The local mirror: one bare repository, whose ref `refs/snapshots/<id>/<version>` is what this slave serves.
//!
//! Always true:
//! - The ref names a snapshot that was verified and is complete, and it only moves forward along its chain.
//! - The highest sequence ever served is remembered beside the repository, so that a repository that was lost or thrown
//!   away does not bring an older one back.
//! - A damaged repository is never mended in place: a new one is filled beside it and takes its place by one rename.

pub mod tips;
pub mod upkeep;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use conf_core::{
    api::{DatacenterStatus, Pin, Pointer, WatermarkEvent},
    daemon::chain,
    git::{self, Depth, GitError, LockError, RepositoryLock, RepositoryPool, Step},
    git_http::UploadPack,
    sign::{self, KeyError, TrustedKeys},
    snapshot::{self, Snapshot, SnapshotError},
    upstream::{self, FetchError, Fetched, UpstreamError, Upstreams},
};
use git2::{ErrorCode, Repository};
use libconf::name::{CommitId, ComponentVersion, DatacenterName, RefName, Sequence};
use tokio::{sync::watch, task::spawn_blocking};

/// What this slave serves.
#[derive(Clone, Debug)]
pub struct Serving {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What it pins.
    pub pins: Arc<BTreeMap<ComponentVersion, Pin>>,
}

impl Serving {
    /// Its pointer.
    pub fn pointer(&self) -> Pointer {
        Pointer { sequence: self.snapshot.sequence, commit: self.snapshot.commit }
    }
}

/// The mirror of one datacenter.
#[derive(Debug)]
pub struct Mirror {
    place: Place,
    keys: TrustedKeys,
    upstreams: Arc<Upstreams>,
    upload: Arc<UploadPack>,
    serving: watch::Sender<Option<Arc<Serving>>>,
    // The highest ever served.
    floor: Mutex<Option<Pointer>>,
    lock: Mutex<RepositoryLock>,
}

/// Where things are.
#[derive(Clone, Debug)]
struct Place {
    state: PathBuf,
    datacenter: DatacenterName,
}

/// What a commit that someone named turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// A snapshot signed for this datacenter, with the sequence that was named.
    Signed,
    /// No such thing.
    Damage,
    /// Nobody could be asked.
    Unknown,
}

/// Why the mirror is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Objects could not be brought.
    #[error("cannot fetch the snapshot")]
    Fetch(#[source] FetchError),
    /// The central server does not say what is newest.
    #[error("cannot ask which snapshot is newest")]
    Ask(#[source] UpstreamError),
    /// What came is not a snapshot for us.
    #[error("a snapshot from the central server is refused")]
    Refused(#[source] SnapshotError),
    /// What came does not follow what is here.
    #[error(
        "snapshot {offered} from the central server does not follow {here}, which is kept; was the central \
             repository put back to an older state?"
    )]
    NotForward {
        /// What came.
        offered: Pointer,
        /// What is here, or was here before the repository was lost.
        here: Pointer,
    },
    /// The repository cannot be used.
    #[error("cannot use the repository in {path}")]
    Repository {
        /// Where.
        path: PathBuf,
        /// Git's words.
        #[source]
        cause: git2::Error,
    },
    /// A file or folder cannot be used.
    #[error("cannot use {path}; see that this user may write there and that there is room")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's words.
        #[source]
        cause: std::io::Error,
    },
    /// A new repository cannot be made.
    #[error("cannot make a repository")]
    Make(#[source] GitError),
    /// Someone else holds it.
    #[error("cannot hold the repository")]
    Lock(#[source] LockError),
}

impl MirrorError {
    /// True when a damaged local repository may be behind it.
    pub fn may_be_damage(&self) -> bool {
        matches!(
            self,
            MirrorError::Fetch(FetchError::Corrupt { .. } | FetchError::Repository { .. })
                | MirrorError::Repository { .. }
                | MirrorError::Refused(SnapshotError::Read { .. })
        )
    }
}

/// What a repository holds.
enum Found {
    Nothing,
    Whole(Box<Serving>),
    Damage(String),
}

impl Mirror {
    /// Sees that a watermark is this datacenter's, and signed by whom snapshots are trusted of.
    pub fn trusts(&self, watermark: &WatermarkEvent) -> Result<(), KeyError> {
        sign::verify_watermark(watermark, &self.place.datacenter, &self.keys)
    }

    /// Takes the mirror in the folder `state`, or makes an empty one; a damaged one is set aside. Blocks.
    pub fn open(
        state: &Path,
        datacenter: DatacenterName,
        keys: TrustedKeys,
        upstreams: Arc<Upstreams>,
        upload: Arc<UploadPack>,
    ) -> Result<Self, MirrorError> {
        let place = Place { state: state.to_owned(), datacenter };
        let repo = place.repo();
        make_folder(&repo)?;
        let mut lock = git::lock(&repo).map_err(MirrorError::Lock)?;
        let found = match git::init(&repo, &SETTINGS) {
            Ok(opened) => place.find(&opened, &keys),
            Err(error) => Found::Damage(chain(&error)),
        };
        let serving = match found {
            Found::Nothing => None,
            Found::Whole(serving) => Some(*serving),
            Found::Damage(reason) => {
                tracing::warn!(%reason, "the local repository is damaged; it is thrown away and cloned anew");
                place.set_aside()?;
                remove(&place.aside())?;
                make_folder(&repo)?;
                lock = git::lock(&repo).map_err(MirrorError::Lock)?;
                git::init(&repo, &SETTINGS).map_err(MirrorError::Make)?;
                None
            }
        };
        let floor = place.read_floor().into_iter().chain(serving.as_ref().map(Serving::pointer));
        let floor = floor.max_by_key(|pointer| pointer.sequence);
        let serving = serving.filter(|serving| Some(serving.pointer()) == floor);
        Ok(Mirror {
            place,
            keys,
            upstreams,
            upload,
            serving: watch::Sender::new(serving.map(Arc::new)),
            floor: Mutex::new(floor),
            lock: Mutex::new(lock),
        })
    }

    /// The bare repository in the folder `state`.
    pub fn repository_in(state: &Path) -> PathBuf {
        state.join("repo.git")
    }

    /// The bare repository.
    pub fn repo(&self) -> PathBuf {
        self.place.repo()
    }

    /// Whose mirror it is.
    pub fn datacenter(&self) -> &DatacenterName {
        &self.place.datacenter
    }

    /// What is served now.
    pub fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.borrow().clone()
    }

    /// Tells of every change of what is served.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Serving>>> {
        self.serving.subscribe()
    }

    /// The highest sequence that was ever served.
    pub fn floor(&self) -> Sequence {
        self.lock_floor().map_or(Sequence::default(), |pointer| pointer.sequence)
    }

    /// Brings the snapshot `commit`, checks it, serves it; does nothing when it is served already.
    ///
    /// Cancel: leaves at most unreferenced objects.
    pub async fn advance(&self, commit: CommitId) -> Result<(), MirrorError> {
        let before = self.serving();
        if before.as_ref().is_some_and(|serving| serving.snapshot.commit == commit) {
            return Ok(());
        }
        let step =
            Step { have: before.as_ref().map(|serving| serving.snapshot.commit), want: commit, depth: Depth::Full };
        // Not for longer: upkeep packs it anew, and another may take its place.
        let opened = RepositoryPool::at(self.repo());
        let Fetched { answer, wire_bytes, .. } = self.fetch(&opened, step).await.map_err(MirrorError::Fetch)?;
        let (place, keys, floor) = (self.place.clone(), self.keys.clone(), *self.lock_floor());
        let serving = spawn_blocking(move || {
            let repo = opened.lend().map_err(|cause| place.unusable(cause))?;
            let serving = place.check(&repo, &keys, commit, before.as_deref(), floor)?;
            place.move_ref(&repo, commit)?;
            Ok::<_, MirrorError>(serving)
        });
        let serving = Arc::new(serving.await.expect("checking does not panic")?);
        if let Some((request, response)) = answer {
            self.upload.prime(request, response).await;
        }
        tracing::info!(sequence = %serving.snapshot.sequence, commit = %commit.short(), wire_bytes, "serves a snapshot");
        self.serve(serving);
        Ok(())
    }

    /// Makes what is served known, then remembered: a crash between the two is made good by the ref.
    fn serve(&self, serving: Arc<Serving>) {
        *self.lock_floor() = Some(serving.pointer());
        self.serving.send_replace(Some(serving));
    }

    /// Writes the highest sequence down, durably. Blocks; off the way of a change.
    pub fn remember(&self) -> Result<(), MirrorError> {
        let Some(floor) = *self.lock_floor() else { return Ok(()) };
        let path = self.place.floor_file();
        git::replace_file(&path, format!("{floor}\n").as_bytes(), git::Durability::Durable)
            .map_err(|cause| MirrorError::File { path, cause })
    }

    /// Moves the branch that a plain clone checks out to what is served. HEAD cannot name `refs/snapshots/…` itself: `git
    /// fsck` takes a HEAD that names no branch for damage. Blocks; off the way of a change.
    pub fn move_head(&self, serving: &Serving) -> Result<(), MirrorError> {
        let repo = self.place.open_repo()?;
        let moved = self.place.move_head(&repo, serving.snapshot.commit);
        moved.map_err(|cause| MirrorError::Repository { path: self.repo(), cause })
    }

    /// The full name of that branch.
    pub fn head_branch(&self) -> String {
        self.place.head_branch()
    }

    /// Learns what a pointer is, from the repository or else from the central server.
    pub async fn judge(&self, pointer: Pointer) -> Judgement {
        if let Some(judgement) = self.judge_here(pointer).await {
            return judgement;
        }
        let have = self.serving().map(|serving| serving.snapshot.commit);
        let step = Step { have, want: pointer.commit, depth: Depth::Full };
        match self.fetch(&RepositoryPool::at(self.repo()), step).await {
            Ok(_) => self.judge_here(pointer).await.unwrap_or(Judgement::Damage),
            Err(FetchError::NotFound { .. }) => Judgement::Damage,
            Err(_) => Judgement::Unknown,
        }
    }

    /// `None`: it is not here.
    async fn judge_here(&self, pointer: Pointer) -> Option<Judgement> {
        let (place, keys) = (self.place.clone(), self.keys.clone());
        let verified = spawn_blocking(move || {
            let repo = Repository::open_bare(place.repo())
                .map_err(|cause| SnapshotError::Read { commit: pointer.commit, cause })?;
            Snapshot::verify(&repo, pointer.commit, &keys, &place.datacenter)
        });
        match verified.await.expect("checking does not panic") {
            Ok(snapshot) if snapshot.sequence == pointer.sequence => Some(Judgement::Signed),
            // Signed, by a conf-master newer than this program: only its successor can read more.
            Err(SnapshotError::Newer { .. }) => Some(Judgement::Signed),
            Err(SnapshotError::Read { .. }) => None,
            Ok(_) | Err(_) => Some(Judgement::Damage),
        }
    }

    /// Looks whether everything that is served is there and readable; says what is wrong. Blocks, for seconds when large.
    pub fn examine(&self) -> Result<(), String> {
        let Some(serving) = self.serving() else { return Ok(()) };
        let repo = self.place.open_repo().map_err(|error| chain(&error))?;
        match self.place.find(&repo, &self.keys) {
            Found::Whole(found) if found.snapshot.commit == serving.snapshot.commit => {}
            Found::Whole(_) | Found::Nothing => return Err("its ref is not where it was put".to_owned()),
            Found::Damage(reason) => return Err(reason),
        }
        let output = git::command(&self.repo()).args(["fsck", "--no-dangling", "--no-progress"]).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let words = String::from_utf8_lossy(&output.stderr);
                Err(words.lines().next().unwrap_or("git fsck says that it is damaged").to_owned())
            }
            // Not to be able to look is no sign of damage.
            Err(cause) => {
                tracing::warn!(%cause, "cannot run git fsck");
                Ok(())
            }
        }
    }

    /// Clones the newest snapshot into a new repository, which then takes the old one's place.
    pub async fn clone_anew(&self) -> Result<(), MirrorError> {
        let status = format!("api/v1/datacenters/{}", self.place.datacenter);
        let newest: DatacenterStatus = self.upstreams.get_json(&status).await.map_err(MirrorError::Ask)?;
        let path = self.place.state.join("repo.new");
        let fresh = path.clone();
        let lock = spawn_blocking(move || {
            remove(&fresh)?;
            make_folder(&fresh)?;
            let lock = git::lock(&fresh).map_err(MirrorError::Lock)?;
            git::init(&fresh, &SETTINGS).map_err(MirrorError::Make)?;
            Ok::<_, MirrorError>(lock)
        });
        let lock = lock.await.expect("making a folder does not panic")?;
        let step = Step { have: None, want: newest.commit, depth: Depth::Full };
        self.fetch(&RepositoryPool::at(path.clone()), step).await.map_err(MirrorError::Fetch)?;
        let (place, keys, floor) = (self.place.clone(), self.keys.clone(), *self.lock_floor());
        let serving = spawn_blocking(move || {
            let repo =
                Repository::open_bare(&path).map_err(|cause| MirrorError::Repository { path: path.clone(), cause })?;
            let serving = place.check(&repo, &keys, newest.commit, None, floor)?;
            place.move_ref(&repo, newest.commit)?;
            // A crash after this leaves no repository, which is cloned at the next start.
            place.set_aside()?;
            // One rename takes the old one away and one puts the new one there, since only an empty folder is replaced.
            fs::rename(&path, place.repo())
                .and_then(|()| git::sync_folder(&place.state))
                .map_err(|cause| MirrorError::File { path, cause })?;
            remove(&place.aside())?;
            Ok::<_, MirrorError>(serving)
        });
        let serving = Arc::new(serving.await.expect("checking does not panic")?);
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
        tracing::info!(sequence = %serving.snapshot.sequence, "cloned anew");
        self.serve(serving);
        Ok(())
    }

    /// Asks one central server after the other; the error is the one that says most about what is true.
    async fn fetch(&self, repo: &RepositoryPool, step: Step) -> Result<Fetched, FetchError> {
        let mut worst: Option<FetchError> = None;
        for upstream in self.upstreams.in_order() {
            match upstream::fetch(&upstream, repo.clone(), step).await {
                Ok(fetched) => {
                    upstream.report(true);
                    return Ok(fetched);
                }
                Err(error @ (FetchError::NotFound { .. } | FetchError::Repository { .. })) => {
                    worst = worst.or(Some(error));
                }
                // It could have been there: that nobody has it is not known.
                Err(error) => {
                    upstream.report(false);
                    worst = Some(error);
                }
            }
        }
        Err(worst.unwrap_or(FetchError::Unreachable(UpstreamError::NoServer)))
    }

    fn lock_floor(&self) -> std::sync::MutexGuard<'_, Option<Pointer>> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Old clients (protocol v0) ask for what is advertised only; the rest is for maintenance, which the daemon starts.
const SETTINGS: [(&str, &str); 3] = [("gc.auto", "0"), ("maintenance.auto", "false"), ("repack.writeBitmaps", "false")];

impl Place {
    fn repo(&self) -> PathBuf {
        Mirror::repository_in(&self.state)
    }

    fn floor_file(&self) -> PathBuf {
        self.state.join("highest")
    }

    fn reference(&self) -> String {
        RefName::Snapshot(self.datacenter.clone()).to_string()
    }

    fn open_repo(&self) -> Result<Repository, MirrorError> {
        Repository::open_bare(self.repo()).map_err(|cause| self.unusable(cause))
    }

    fn unusable(&self, cause: git2::Error) -> MirrorError {
        MirrorError::Repository { path: self.repo(), cause }
    }

    /// Reads what the ref names, and sees that all of it is there.
    fn find(&self, repo: &Repository, keys: &TrustedKeys) -> Found {
        // libgit2 opens a repository with an empty HEAD, git does not.
        if let Err(error) = repo.find_reference("HEAD") {
            return Found::Damage(chain(&error));
        }
        let commit: CommitId = match repo.find_reference(&self.reference()).and_then(|found| found.peel_to_commit()) {
            Ok(commit) => commit.id().into(),
            Err(error) if error.code() == ErrorCode::NotFound && !self.has_ref_file() => return Found::Nothing,
            Err(error) => return Found::Damage(chain(&error)),
        };
        let whole = Snapshot::verify(repo, commit, keys, &self.datacenter)
            .map_err(|error| chain(&error))
            .and_then(|snapshot| git::complete(repo, None, commit).map(|()| snapshot).map_err(|error| chain(&error)))
            .and_then(|snapshot| pins_of(repo, &snapshot, None).map_err(|error| chain(&error)));
        match whole {
            Ok(serving) => Found::Whole(Box::new(serving)),
            Err(reason) => Found::Damage(reason),
        }
    }

    /// An object that the ref names and that is gone is "not found", too.
    fn has_ref_file(&self) -> bool {
        self.repo().join(self.reference()).exists()
    }

    /// Accepts a snapshot that was fetched: signed for this datacenter, and ahead of what is served or ever was.
    fn check(
        &self,
        repo: &Repository,
        keys: &TrustedKeys,
        commit: CommitId,
        before: Option<&Serving>,
        floor: Option<Pointer>,
    ) -> Result<Serving, MirrorError> {
        let snapshot = Snapshot::verify(repo, commit, keys, &self.datacenter).map_err(MirrorError::Refused)?;
        let offered = Pointer { sequence: snapshot.sequence, commit };
        let follows = match (before, floor) {
            // A commit names its parents by their content, so one good signature vouches for the whole chain.
            (Some(before), _) => {
                snapshot.sequence > before.snapshot.sequence
                    && repo
                        .graph_descendant_of(commit.into(), before.snapshot.commit.into())
                        .map_err(|cause| MirrorError::Repository { path: self.repo(), cause })?
            }
            (None, Some(floor)) => offered == floor || offered.sequence > floor.sequence,
            (None, None) => true,
        };
        if !follows {
            let here = before.map(Serving::pointer).or(floor).unwrap_or(offered);
            return Err(MirrorError::NotForward { offered, here });
        }
        pins_of(repo, &snapshot, before).map_err(MirrorError::Refused)
    }

    fn move_ref(&self, repo: &Repository, commit: CommitId) -> Result<(), MirrorError> {
        let failed = |cause| MirrorError::Repository { path: self.repo(), cause };
        let name = self.reference();
        repo.reference(&name, commit.into(), true, "served").map_err(failed)?;
        // Later moves of it can wait; the first one makes clones possible.
        match repo.head() {
            Ok(_) => Ok(()),
            Err(_) => self.move_head(repo, commit).map_err(failed),
        }
    }

    fn move_head(&self, repo: &Repository, commit: CommitId) -> Result<(), git2::Error> {
        let branch = self.head_branch();
        repo.reference(&branch, commit.into(), true, "served")?;
        repo.set_head(&branch)
    }

    fn head_branch(&self) -> String {
        format!("refs/heads/snapshots/{}", self.datacenter)
    }

    fn read_floor(&self) -> Option<Pointer> {
        let text = fs::read_to_string(self.floor_file()).ok()?;
        let floor = text.trim().parse();
        floor
            .inspect_err(
                |error| tracing::warn!(%error, "{} is damaged and counts as absent", self.floor_file().display()),
            )
            .ok()
    }

    fn aside(&self) -> PathBuf {
        self.state.join("repo.damaged")
    }

    /// Puts the repository out of the way; the one that was put there before goes.
    fn set_aside(&self) -> Result<(), MirrorError> {
        let aside = self.aside();
        remove(&aside)?;
        match fs::rename(self.repo(), &aside) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(MirrorError::File { path: self.repo(), cause })
            }
            _ => Ok(()),
        }
    }
}

fn remove(path: &Path) -> Result<(), MirrorError> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(MirrorError::File { path: path.to_owned(), cause })
        }
        _ => Ok(()),
    }
}

/// What a snapshot pins, from the one before where there is one: the cost grows with the difference.
fn pins_of(repo: &Repository, snapshot: &Snapshot, before: Option<&Serving>) -> Result<Serving, SnapshotError> {
    let difference = snapshot::compare(repo, before.map(|serving| &serving.snapshot), snapshot)?;
    let mut pins = before.map_or_else(BTreeMap::new, |serving| (*serving.pins).clone());
    for (name, change) in difference.components {
        match change.after {
            Some(component) => pins.insert(name, component.pin),
            None => pins.remove(&name),
        };
    }
    Ok(Serving { snapshot: snapshot.clone(), pins: Arc::new(pins) })
}

fn make_folder(path: &Path) -> Result<(), MirrorError> {
    fs::create_dir_all(path).map_err(|cause| MirrorError::File { path: path.to_owned(), cause })
}
