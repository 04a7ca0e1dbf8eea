//! The host transaction on real snapshots, signed and composed as conf-master does; no network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use conf_core::{
    api::{Pin, Pointer},
    git,
    sign::{SigningKey, TrustedKeys},
    snapshot::{Component, Composition, compose},
};
use git2::{FileMode, build::TreeUpdateBuilder};
use libconf::name::{CommitId, ComponentVersion, DatacenterName, ObjectId, Sequence};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::FileOnly,
    export::{ChangeKind, Retention},
    fs::injected::{self, Mode},
    notify::{WatcherId, Watchers},
    snapshot::Offers,
    state::{Agent, Status, VerifyReport, View},
    transaction::{Audience, Checks, Host, HostOptions, TransactionError},
};

mod checks;
mod crash;
mod damage;
mod exchange;
mod heal;
mod held_back;
mod once_more;
mod power;
mod secrets;
mod stalled;
mod take;

/// One host's state folder, into whose repository the test writes as conf-master does.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    key: SigningKey,
    datacenter: DatacenterName,
    components: BTreeMap<ComponentVersion, Component>,
    sequence: u64,
    parent: Option<CommitId>,
    instance: String,
    class: String,
    /// `export:` and `check:` of the host's configuration.
    file: FileOnly,
    /// A folder to use in place of `folder`.
    other: Option<PathBuf>,
}

/// Watches every component, and counts the calls of `tell`.
#[derive(Default)]
struct Everything(AtomicUsize);

impl Watchers for Everything {
    fn concerned(
        &self,
        changed: &BTreeMap<ComponentVersion, ChangeKind>,
    ) -> BTreeMap<WatcherId, BTreeSet<ComponentVersion>> {
        let components: BTreeSet<_> = changed.keys().cloned().collect();
        if components.is_empty() {
            return BTreeMap::new();
        }
        BTreeMap::from([(WatcherId("everything".to_owned()), components)])
    }

    fn tell(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Site {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(&folder.path().join("master.key"), "test").unwrap();
        Site {
            folder,
            key,
            datacenter: "us-west/v1".parse().unwrap(),
            components: BTreeMap::new(),
            sequence: 0,
            parent: None,
            instance: "conf: datacenter-configuration/big/latest\n".to_owned(),
            class: "services: []\n".to_owned(),
            file: FileOnly::default(),
            other: None,
        }
    }

    /// Reads the host's configuration. `PLACE` stands for a folder of this site.
    pub(crate) fn configure(&mut self, file: &str) {
        self.file = conf_core::settings::from_yaml(&file.replace("PLACE", self.place().to_str().unwrap())).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.other.clone().unwrap_or_else(|| self.folder.path().to_owned())
    }

    pub(crate) fn place(&self) -> PathBuf {
        self.folder().join("etc")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    fn repo(&self) -> git2::Repository {
        git::init(&self.state().join("repo.git"), &[]).unwrap()
    }

    pub(crate) fn set(&mut self, component: &str, files: &[(&str, &str)]) -> &mut Self {
        let tree = tree(&self.repo(), files);
        let name: ComponentVersion = component.parse().unwrap();
        let pin = Pin { component: name.clone(), branch: "master".parse().unwrap(), commit: tree };
        self.components.insert(name, Component { pin, tree });
        self
    }

    pub(crate) fn land(&mut self) -> Pointer {
        self.sequence += 1;
        let commit = self.compose(&self.key, &self.datacenter, self.sequence, self.parent);
        self.parent = Some(commit);
        Pointer { sequence: Sequence(self.sequence), commit }
    }

    fn compose(
        &self,
        key: &SigningKey,
        datacenter: &DatacenterName,
        sequence: u64,
        parent: Option<CommitId>,
    ) -> CommitId {
        let repo = self.repo();
        let composition = Composition {
            datacenter: datacenter.clone(),
            sequence: Sequence(sequence),
            epoch: 1,
            time: 1_700_000_000,
            parent,
            base: None,
            components: self.components.iter().map(|(name, one)| (name.clone(), Some(one.clone()))).collect(),
            datacenter_tree: tree(&repo, &[("datacenter.yaml", &self.instance)]),
            datacenter_commit: CommitId::from([8; 20]),
            class_tree: tree(&repo, &[("datacenter.yaml", &self.class)]),
            class: ("refs/heads/datacenter-configuration/big".parse().unwrap(), CommitId::from([9; 20])),
            secrets_tree: None,
            summary: "test".to_owned(),
            by: "tester".to_owned(),
        };
        compose(&repo, &composition, key).unwrap()
    }

    pub(crate) fn open(&self) -> (Host, Audience) {
        self.open_as("web-1")
    }

    fn open_as(&self, name: &str) -> (Host, Audience) {
        let host = Host::open(HostOptions {
            datacenter: &self.datacenter,
            host: &name.parse().unwrap(),
            keys: TrustedKeys::load(&self.folder().join("master.key.pub")).unwrap(),
            state: &self.state(),
            git_dir: None,
            retention: Retention { last: 2, younger_than: Duration::ZERO },
            identity: None,
            place: Some(self.file.export.clone()),
            links: self.file.links.clone(),
            checks: Checks::new(self.file.check.clone(), CancellationToken::new()),
            offers: self.file.secret_sources.clone(),
            named: Vec::new(),
        })
        .unwrap();
        let status = Status::new(self.datacenter.clone(), name.parse().unwrap(), &host.export.path);
        let (agent, _) = Agent::new(View::new(status), Vec::new());
        (host, Audience { agent, watchers: Arc::new(Everything::default()) })
    }

    fn current(&self) -> PathBuf {
        self.state().join("export/current")
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.current().join(path)).ok()
    }

    /// Asserts that the export has no unfinished entry, and none that no snapshot uses.
    fn assert_tidy(&self) {
        let export = self.state().join("export");
        for folder in [".", "store", "names", "snapshots"] {
            for name in names(&export.join(folder)) {
                assert!(!name.starts_with('.') || name == ".next", "{folder}/{name} was left");
            }
        }
        let mut used = BTreeSet::new();
        for snapshot in names(&export.join("snapshots")).iter().filter(|name| *name != ".next") {
            for kind in ["services", "applications", "devices"] {
                let folder = export.join("snapshots").join(snapshot).join(kind);
                for name in names(&folder) {
                    for entry in names(&folder.join(&name)) {
                        let target = fs::canonicalize(folder.join(&name).join(entry)).unwrap();
                        used.insert(target.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned());
                    }
                }
            }
        }
        assert_eq!(names(&export.join("store")), used, "the store holds what nothing leads to");
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Writes a tree of files. The content `-> target` makes a link; a path that ends in `*` is
/// executable.
fn tree(repo: &git2::Repository, files: &[(&str, &str)]) -> ObjectId {
    let empty = repo.find_tree(repo.treebuilder(None).unwrap().write().unwrap()).unwrap();
    let mut update = TreeUpdateBuilder::new();
    for (path, content) in files {
        match (content.strip_prefix("-> "), path.strip_suffix('*')) {
            (Some(target), _) => update.upsert(*path, repo.blob(target.as_bytes()).unwrap(), FileMode::Link),
            (_, Some(path)) => update.upsert(path, repo.blob(content.as_bytes()).unwrap(), FileMode::BlobExecutable),
            _ => update.upsert(*path, repo.blob(content.as_bytes()).unwrap(), FileMode::Blob),
        };
    }
    update.create_updated(repo, &empty).unwrap().into()
}

pub(crate) fn take(host: &mut Host, pointer: Pointer, audience: &Audience) -> Result<(), TransactionError> {
    let snapshot = host.accept(pointer)?;
    host.put_in_place(&snapshot, false, Instant::now(), audience)
}

/// Mends what is wrong, as `verify --repair` does where no server is needed.
fn repair(host: &mut Host, audience: &Audience) -> VerifyReport {
    let first = host.verify();
    assert_eq!(host.mend_folders(true, audience).unwrap(), None);
    host.mend_export(true, audience).unwrap();
    let second = host.verify();
    let repaired = first.problems.iter().filter(|one| !second.problems.contains(one)).cloned().collect();
    VerifyReport { repaired, ..first }
}

/// Prepares a step from snapshot 1 to 2 that adds, changes and removes components, and turns a file
/// into a folder.
fn step() -> (Site, Pointer) {
    step_with("{}")
}

/// Does the same on a host with this configuration.
fn step_with(file: &str) -> (Site, Pointer) {
    let mut site = Site::new();
    fs::create_dir_all(site.place().join("a")).unwrap();
    fs::write(site.place().join("a/theirs"), "theirs").unwrap();
    site.configure(file);
    site.set("services/a/latest", &[("config.yaml", "at: 1\n"), ("x", "file"), ("one", "1")]);
    site.set("services/gone/latest", &[("config.yaml", "at: 1\n")]).set("services/same/latest", &[("s", "s")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    host.outbox.forget(&WatcherId("everything".to_owned()));
    host.outbox.write().unwrap();
    site.set("services/a/latest", &[("config.yaml", "at: 2\n"), ("x/y", "folder"), ("two", "2")]);
    site.components.remove(&"services/gone/latest".parse().unwrap());
    site.set("services/new/latest", &[("config.yaml", "at: 2\n")]);
    let second = site.land();
    (site, second)
}

fn seen(site: &Site) -> u64 {
    let all = |paths: [&str; 5]| paths.map(|path| site.read(path).is_some());
    let old = all([
        "services/a/latest/one",
        "services/a/latest/x",
        "services/gone/latest.json",
        "services/same/latest/s",
        "services/a/latest.json",
    ]);
    let new = all([
        "services/a/latest/two",
        "services/a/latest/x/y",
        "services/new/latest.json",
        "services/same/latest/s",
        "services/a/latest.json",
    ]);
    let at = site.read("services/a/latest.json").unwrap_or_default();
    match (at.as_str(), old, new) {
        (r#"{"at":1}"#, [true, true, true, true, true], [false, false, false, true, true]) => 1,
        (r#"{"at":2}"#, [false, false, false, true, true], [true, true, true, true, true]) => 2,
        other => panic!("a mixture: {other:?}"),
    }
}

const PLACED: &str = "export:
  - {component: services/a, path: PLACE/a, mode: copy, file_mode: '0644'}
  - {component: services/a, path: PLACE/made/again, mode: copy, dir_mode: '0750'}
  - {component: services/gone, path: PLACE/gone, mode: copy}
  - {component: services/new, path: PLACE/made/deep/new, mode: copy, dir_mode: '0750'}
";

/// The places of `PLACED`: component, path, and the modes of files and of folders.
const PLACES: [(&str, &str, u32, u32); 4] = [
    ("services/a", "a", 0o644, 0o755),
    ("services/a", "made/again", 0o444, 0o750),
    ("services/gone", "gone", 0o444, 0o755),
    ("services/new", "made/deep/new", 0o444, 0o750),
];

/// Reads everything in a folder: text, mode and owner by path. A folder's path ends with a slash.
fn placed(folder: &Path) -> BTreeMap<String, (String, u32, u32)> {
    let mut found = BTreeMap::new();
    for name in names(folder) {
        let path = folder.join(&name);
        let seen = fs::metadata(&path).unwrap();
        let seen_as = |text: String| (text, seen.permissions().mode() & 0o7777, seen.uid());
        if path.is_dir() {
            let inner = placed(&path).into_iter().map(|(inner, text)| (format!("{name}/{inner}"), text));
            found.extend(inner.collect::<Vec<_>>());
            found.insert(format!("{name}/"), seen_as(String::new()));
            continue;
        }
        found.insert(name, seen_as(fs::read_to_string(path).unwrap()));
    }
    found
}

/// Asserts that every place holds the exported files, whole, besides files of others.
fn assert_placed(site: &Site, what: &str) {
    for place in PLACES {
        assert_placed_at(site, place, what);
    }
    let made = fs::metadata(site.place().join("made")).unwrap().permissions().mode() & 0o7777;
    assert_eq!(made, 0o755, "{what}: what leads to a place");
}

fn assert_placed_at(site: &Site, (component, path, file_mode, dir_mode): (&str, &str, u32, u32), what: &str) {
    let root = site.place().join(path);
    let me = rustix::process::geteuid().as_raw();
    let mut wanted = placed(&site.current().join(component).join("latest"));
    for (path, (_, mode, owner)) in &mut wanted {
        (*mode, *owner) = (if path.ends_with('/') { dir_mode } else { file_mode }, me);
    }
    if path == "a" {
        wanted.insert("theirs".to_owned(), ("theirs".to_owned(), 0o644, me));
    }
    assert_eq!(placed(&root), wanted, "{what}: {path}");
    if let Ok(root) = fs::metadata(&root) {
        assert_eq!(root.permissions().mode() & 0o7777, dir_mode, "{what}: {path}");
    }
}
