//! A central repository with snapshots in it, servers and hosts.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::{Duration, Instant},
};

use conf_core::{
    git::{self, Depth, Step},
    git_http::{ReceivePack, UploadLimits, UploadPack, git_routes},
    http::{self, Routes},
    upstream::{self, Credentials, FetchError, Fetched, Upstreams},
};
use git2::{FileMode, Oid, Repository, Signature, Time, build::TreeUpdateBuilder};
use libconf::name::CommitId;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A bare repository.
pub(crate) struct Repo {
    _folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Repo {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("repo.git");
        git::init(&path, &[("uploadpack.hideRefs", "refs/conf")]).unwrap();
        Repo { _folder: folder, path }
    }

    pub(crate) fn open(&self) -> Repository {
        Repository::open_bare(&self.path).unwrap()
    }

    /// Adds a snapshot: `changes` are components and their content, on top of `before`.
    pub(crate) fn snapshot(&self, before: Option<CommitId>, changes: &[(&str, &str)]) -> CommitId {
        let repo = self.open();
        let parent = before.map(|before| repo.find_commit(before.into()).unwrap());
        let mut builder = TreeUpdateBuilder::new();
        for (name, content) in changes {
            let hash = Sha256::digest(name.as_bytes());
            let folder = format!("services/{:02x}/{name}", hash[0]);
            let pin = format!("master/{}", Oid::hash_object(git2::ObjectType::Blob, content.as_bytes()).unwrap());
            builder.upsert(
                format!("{folder}/latest/config.yaml"),
                repo.blob(content.as_bytes()).unwrap(),
                FileMode::Blob,
            );
            builder.upsert(format!("{folder}/@latest"), repo.blob(pin.as_bytes()).unwrap(), FileMode::Blob);
        }
        let empty = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
        let base = parent.as_ref().map_or(empty, |parent| parent.tree().unwrap());
        let tree = repo.find_tree(builder.create_updated(&repo, &base).unwrap()).unwrap();
        commit(&repo, &tree, parent.as_ref())
    }

    /// A new snapshot with the tree of an older one.
    pub(crate) fn rollback(&self, before: CommitId, to: CommitId) -> CommitId {
        let repo = self.open();
        let tree = repo.find_commit(to.into()).unwrap().tree().unwrap();
        let parent = repo.find_commit(before.into()).unwrap();
        commit(&repo, &tree, Some(&parent))
    }

    /// Runs git in it, which must succeed.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        succeeded(git::command(&self.path).args(arguments).output().unwrap())
    }

    pub(crate) fn fsck(&self) {
        self.git(&["fsck", "--full", "--strict"]);
    }

    /// The files and folders below `objects`.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let (mut found, mut open) = (Vec::new(), vec![self.path.join("objects")]);
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.clone());
                if path.is_dir() {
                    open.push(path);
                }
            }
        }
        found
    }

    pub(crate) fn packs(&self) -> usize {
        let entries = std::fs::read_dir(self.path.join("objects/pack")).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "pack"))
            .count()
    }

    /// What a host does on a pointer: fetch, then move its ref.
    pub(crate) async fn step(
        &self,
        from: &Server,
        have: Option<CommitId>,
        want: CommitId,
    ) -> Result<Fetched, FetchError> {
        let step = Step { have, want, depth: Depth::One };
        let fetched = upstream::fetch(&from.upstreams.in_order()[0], self.path.clone(), step).await?;
        self.open().reference("refs/snapshots/us-west/v1", want.into(), true, "test").unwrap();
        Ok(fetched)
    }
}

fn commit(repo: &Repository, tree: &git2::Tree<'_>, parent: Option<&git2::Commit<'_>>) -> CommitId {
    let who = Signature::new("conf-master", "conf@example.com", &Time::new(1_700_000_000, 0)).unwrap();
    let message = "us-west/v1: one component\n\nConf-Sequence: 1\nConf-Format: 1\n";
    let parents: Vec<_> = parent.into_iter().collect();
    let content = repo.commit_create_buffer(&who, &who, message, tree, &parents).unwrap();
    // As long, and as hard to compress, as an Ed25519 signature of OpenSSH.
    let noise: Vec<String> = (0..5u8)
        .map(|line| {
            Sha256::digest([&content[..], &[line]].concat())
                .iter()
                .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
        })
        .collect();
    let signature = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----", noise.join("\n"));
    let id = repo.commit_signed(content.as_str().unwrap(), &signature, None).unwrap();
    repo.reference("refs/snapshots/us-west/v1", id, true, "test").unwrap();
    repo.reference("refs/heads/main", id, true, "test").unwrap();
    id.into()
}

pub(crate) fn succeeded(output: Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A server, until dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) upload: Arc<UploadPack>,
    pub(crate) upstreams: Arc<Upstreams>,
    stop: DropGuard,
    serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn of(repo: &Repo) -> Self {
        Server::with(UploadPack::new(repo.path.clone(), UploadLimits::default()), None).await
    }

    pub(crate) async fn with(upload: Arc<UploadPack>, receive: Option<Arc<ReceivePack>>) -> Self {
        let (url, stop, serving) = begin(git_routes(upload.clone(), receive)).await;
        let upstreams = Arc::new(upstreams(&[&url]));
        Server { url, upload, upstreams, stop, serving }
    }

    /// Ends it. Afterwards nobody gets an answer, over an open connection neither.
    pub(crate) async fn end(self) {
        drop(self.stop);
        self.serving.await.unwrap();
    }
}

pub(crate) fn upstreams(urls: &[&str]) -> Upstreams {
    let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    Upstreams::new(urls, &Credentials::none()).unwrap()
}

/// Serves routes on a port of the system's choice; answers the base URL.
pub(crate) async fn listen(routes: Routes) -> (String, DropGuard) {
    let (url, stop, _) = begin(routes).await;
    (url, stop)
}

async fn begin(routes: Routes) -> (String, DropGuard, JoinHandle<()>) {
    let listener = http::bind_tcp("127.0.0.1:0".parse().unwrap(), http::Gate::new(&[])).await.unwrap();
    let url = format!("http://{}", listener.address().unwrap());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(http::serve(listener, routes, stop.clone()));
    (url, stop.drop_guard(), serving)
}

/// Every git of this machine, by version: the path may have several.
pub(crate) fn gits() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    let candidates = std::env::split_paths(&path).chain([PathBuf::from("/usr/bin")]).map(|folder| folder.join("git"));
    let by_version: BTreeMap<Vec<u8>, PathBuf> =
        candidates.filter_map(|git| Some((Command::new(&git).arg("version").output().ok()?.stdout, git))).collect();
    assert!(!by_version.is_empty(), "install git");
    by_version.into_values().collect()
}

/// A git client as a person has it, but with nobody's configuration.
pub(crate) fn client(git: &Path, folder: &Path) -> Command {
    let mut command = Command::new(git);
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "-c", "init.defaultBranch=main"]);
    command
}

/// The pids of programs that have this text on their command line.
pub(crate) fn processes(text: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let line = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids.filter(|pid| String::from_utf8_lossy(&line(pid)).contains(text)).collect()
}

/// Looks every 20 ms until something is so.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(60), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
