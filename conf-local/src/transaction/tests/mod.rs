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
    api::{Pin, SnapshotAt},
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
    fs::fault::{self, Mode},
    notify::{WatcherId, Watchers},
    state::{Agent, Status, View},
    transaction::{Audience, Checks, Host, HostOptions, TransactionError},
};

mod held_back;
mod once_more;

/// One host's state folder, and a conf-master's hand in its repository.
struct Site {
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
    /// A folder to use in place of its own.
    other: Option<PathBuf>,
}

/// A watcher of everything, which counts how often it was woken.
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
    fn new() -> Self {
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

    /// Reads the host's configuration; `PLACE` is a folder of its own.
    fn configure(&mut self, file: &str) {
        self.file =
            conf_core::settings::yaml::from_str(&file.replace("PLACE", self.place().to_str().unwrap())).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.other.clone().unwrap_or_else(|| self.folder.path().to_owned())
    }

    fn place(&self) -> PathBuf {
        self.folder().join("etc")
    }

    fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    fn repo(&self) -> git2::Repository {
        git::init(&self.state().join("repo.git"), &[]).unwrap()
    }

    fn set(&mut self, component: &str, files: &[(&str, &str)]) -> &mut Self {
        let tree = tree(&self.repo(), files);
        let name: ComponentVersion = component.parse().unwrap();
        let pin = Pin { component: name.clone(), branch: "master".parse().unwrap(), commit: tree };
        self.components.insert(name, Component { pin, tree });
        self
    }

    fn land(&mut self) -> SnapshotAt {
        self.sequence += 1;
        let commit = self.compose(&self.key, &self.datacenter, self.sequence, self.parent);
        self.parent = Some(commit);
        SnapshotAt { sequence: Sequence(self.sequence), commit }
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

    fn open(&self) -> (Host, Audience) {
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
            checks: Checks::new(self.file.check.clone(), CancellationToken::new()),
        })
        .unwrap();
        let status = Status::new(self.datacenter.clone(), name.parse().unwrap(), &host.export.path);
        let (agent, _) = Agent::new(View::new(status), Vec::new());
        (host, Audience { agent, watchers: Arc::new(Everything::default()) })
    }

    fn current(&self) -> PathBuf {
        self.state().join("export/current")
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.current().join(path)).ok()
    }

    /// Nothing half made, and nothing that no snapshot leads to.
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

/// A tree of files; `-> target` is a link, a path that ends in `*` is executable.
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

fn take(host: &mut Host, pointer: SnapshotAt, audience: &Audience) -> Result<(), TransactionError> {
    let snapshot = host.accept(pointer)?;
    host.put_in_place(&snapshot, false, Instant::now(), audience)
}

#[test]
fn files_settings_and_modes() {
    let mut site = Site::new();
    site.set(
        "services/web/latest",
        &[
            ("config.yaml", "port: 80\n"),
            ("bin/start*", "#!/bin/sh\n"),
            ("deep/er/file", "x"),
            ("deep/link", "-> er/file"),
            (".gitignore", "*\n"),
        ],
    );
    site.set("devices/router/v1", &[("a.conf", "a")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();

    assert_eq!(site.read("services/web/latest.json").as_deref(), Some(r#"{"port":80}"#));
    assert_eq!(site.read("services/web/latest/deep/link").as_deref(), Some("x"));
    assert_eq!(site.read("services/web/latest/.gitignore").as_deref(), Some("*\n"));
    assert_eq!(site.read("devices/router/v1.json").as_deref(), Some("{}"));
    let mode = |path: &str| fs::metadata(site.current().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("services/web/latest/bin/start"), 0o555);
    assert_eq!(mode("services/web/latest/config.yaml"), 0o444);
    let status = audience.agent.view().status.clone();
    assert_eq!((status.sequence, status.commit, status.components), (Sequence(1), Some(first.commit), 2));

    // The next one: only what changed is told, and the one before is still there for who holds it.
    site.set("services/web/latest", &[("config.yaml", "port: 81\n")]);
    let second = site.land();
    let mut heard = audience.agent.switches();
    take(&mut host, second, &audience).unwrap();
    let switched = heard.try_recv().unwrap();
    let changed = BTreeMap::from([("services/web/latest".parse().unwrap(), ChangeKind::Changed)]);
    assert_eq!(switched.changed, changed);
    assert_eq!(site.read("services/web/latest.json").as_deref(), Some(r#"{"port":81}"#));
    assert!(site.read("services/web/latest/bin/start").is_none());
    let before = site.state().join("export/snapshots/1/services/web/latest/deep/link");
    assert_eq!(fs::read_to_string(before).unwrap(), "x");

    // Gone ones are gone, and only the last two snapshots stay.
    site.components.remove(&"devices/router/v1".parse().unwrap());
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
    assert!(site.read("devices/router/v1.json").is_none());
    host.tidy(&audience, None);
    let kept = [".next", "2", "3"].map(str::to_owned);
    assert_eq!(names(&site.state().join("export/snapshots")), BTreeSet::from(kept));
    site.assert_tidy();
    let pending = host.outbox.pending();
    let notice = &pending[&WatcherId("everything".to_owned())];
    assert_eq!((notice.sequence, notice.components.len()), (Sequence(3), 2));
}

#[test]
fn one_that_cannot_be_rendered_does_not_stop_the_others() {
    let mut site = Site::new();
    site.set("services/a/latest", &[("config.yaml", "a: 1\n")]).set("services/b/latest", &[("config.yaml", "b: 1\n")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    site.set("services/a/latest", &[("config.yaml", "a: [\n")]).set("services/b/latest", &[("config.yaml", "b: 2\n")]);
    site.set("services/new/latest", &[("config.yaml", "a: 1"), ("config.json", "{}")]);
    let second = site.land();
    take(&mut host, second, &audience).unwrap();
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(site.read("services/b/latest.json").as_deref(), Some(r#"{"b":2}"#));
    assert!(site.read("services/new/latest.json").is_none());
    let faults = audience.agent.view().status.faults.clone();
    assert_eq!(
        faults.keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["services/a/latest", "services/new/latest"]
    );
    // A restart and an unrelated change keep saying so; mending it ends it.
    drop(host);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    site.set("services/b/latest", &[("config.yaml", "b: 3\n")]);
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
    assert_eq!(audience.agent.view().status.faults.len(), 2);
    site.set("services/a/latest", &[("config.yaml", "a: 4\n")]).set("services/new/latest", &[("page.html", "x")]);
    let fourth = site.land();
    take(&mut host, fourth, &audience).unwrap();
    assert!(audience.agent.view().status.faults.is_empty());
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some(r#"{"a":4}"#));
}

#[test]
fn a_host_runs_what_its_inventory_says() {
    let mut site = Site::new();
    site.instance += "inventories:\n  roles:\n    core: {components: [services/a]}\n  hosts:\n    web-1: {roles: [core], components: ['devices/*']}\n";
    site.class = "services:\n  - {name: a, branch: master, tag: latest, raw: true}\n  - {name: b, branch: master, tag: latest}\ndevices:\n  - {name: d, branch: master, tag: latest}\n".to_owned();
    site.set("services/a/latest", &[("config.yaml", "not: [read"), ("x.j2", "raw")]);
    site.set("services/b/latest", &[("config.yaml", "b: 1\n")]).set("devices/d/latest", &[("f", "f")]);
    let pointer = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, pointer, &audience).unwrap();
    assert_eq!(site.read("services/a/latest/x.j2").as_deref(), Some("raw"));
    assert_eq!(site.read("services/a/latest.json").as_deref(), Some("{}"));
    assert!(site.read("devices/d/latest.json").is_some() && site.read("services/b/latest.json").is_none());
    assert!(audience.agent.view().status.listed);
    // The same state under another name: what that one runs, of the same snapshot.
    drop(host);
    let (mut host, audience) = site.open_as("other");
    host.settle(&audience).unwrap();
    assert!(site.read("services/b/latest.json").is_some());
    assert!(!audience.agent.view().status.listed);
}

#[test]
fn what_is_refused() {
    let mut site = Site::new();
    site.set("services/web/latest", &[("config.yaml", "port: 1\n")]);
    let first = site.land();
    let second = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    let before = names(&site.state().join("export/store"));

    let stranger = SigningKey::generate(&site.folder.path().join("stranger.key"), "stranger").unwrap();
    let other: DatacenterName = "us-east/v1".parse().unwrap();
    let at = |sequence, commit| SnapshotAt { sequence: Sequence(sequence), commit };
    let cases = [
        ("unknown key", at(3, site.compose(&stranger, &site.datacenter, 3, site.parent))),
        ("another datacenter's", at(3, site.compose(&site.key, &other, 3, site.parent))),
        ("older", first),
        ("a number that is not its own", at(9, second.commit)),
        ("an older one under a higher number", at(9, first.commit)),
        ("one that does not follow", at(3, site.compose(&site.key, &site.datacenter, 3, Some(first.commit)))),
        ("another of the same number", at(2, site.compose(&site.key, &site.datacenter, 2, None))),
        ("a tree", at(3, site.components.values().next().unwrap().tree)),
    ];
    for (what, pointer) in cases {
        let result = take(&mut host, pointer, &audience);
        assert!(result.is_err(), "{what} was taken");
        assert_eq!(host.known(), Some(second), "{what}");
        assert_eq!(names(&site.state().join("export/store")), before, "{what}");
    }
    let third = site.land();
    take(&mut host, third, &audience).unwrap();
}

#[test]
fn one_bad_tree_is_kept_out() {
    let mut site = Site::new();
    site.set("services/good/latest", &[("f", "f")]).set("services/bad/latest", &[("way-out", "-> ../../../../../etc")]);
    let pointer = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, pointer, &audience).unwrap();
    assert!(site.read("services/good/latest/f").is_some());
    assert!(fs::symlink_metadata(site.current().join("services/bad")).is_err());
    assert_eq!(audience.agent.view().status.faults.len(), 1);
}

/// A step from 1 to 2 that adds, changes, removes, and lets a file become a folder; then the whole
/// of one of the two.
fn step() -> (Site, SnapshotAt) {
    step_with("{}")
}

/// The same on a host with this configuration.
fn step_with(file: &str) -> (Site, SnapshotAt) {
    let mut site = Site::new();
    fs::create_dir_all(site.place().join("a")).unwrap();
    fs::write(site.place().join("a/theirs"), "theirs").unwrap();
    site.configure(file);
    site.set("services/a/latest", &[("config.yaml", "at: 1\n"), ("x", "file"), ("one", "1")]);
    site.set("services/gone/latest", &[("config.yaml", "at: 1\n")]).set("services/same/latest", &[("s", "s")]);
    let first = site.land();
    let (mut host, audience) = site.open();
    take(&mut host, first, &audience).unwrap();
    host.outbox.delivered(&WatcherId("everything".to_owned()), Sequence(1)).unwrap();
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

/// The same by component and path, with the modes of files and of folders.
const PLACES: [(&str, &str, u32, u32); 4] = [
    ("services/a", "a", 0o644, 0o755),
    ("services/a", "made/again", 0o444, 0o750),
    ("services/gone", "gone", 0o444, 0o755),
    ("services/new", "made/deep/new", 0o444, 0o750),
];

/// Everything in a folder: text, mode and owner by path; a folder's path ends with a slash.
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

/// Whole files of one snapshot besides what is not ours: what a restart must lead to.
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

#[test]
fn killed_at_every_step() {
    kill_at_every_step(false, "{}");
    kill_at_every_step(true, "{}");
}

#[test]
fn killed_at_every_step_of_placing() {
    kill_at_every_step(false, PLACED);
}

/// What changes something on disk. What opens a file for writing has changed nothing that the next
/// of these does not see.
const MUTATING: [&str; 17] = [
    "mkdir",
    "mkdirat",
    "write",
    "pwrite64",
    "ftruncate",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "symlinkat",
    "linkat",
    "rename",
    "renameat",
    "renameat2",
    "unlinkat",
    "fsync",
    "syncfs",
];

/// The process that is killed: takes the second step of what stands in a folder, and ends.
#[test]
#[ignore = "started by killed_at_every_system_call_that_changes_something"]
fn takes_the_step_that_it_is_given() {
    let folder = PathBuf::from(std::env::var_os("CONF_TEST_FOLDER").unwrap());
    let commit: CommitId = std::env::var("CONF_TEST_COMMIT").unwrap().parse().unwrap();
    let mut site = Site::new();
    site.key = SigningKey::load(&folder.join("master.key")).unwrap();
    site.other = Some(folder);
    site.configure(PLACED);
    let (mut host, audience) = site.open();
    host.settle(&audience).unwrap();
    // From here on every call counts that a host makes for a switch.
    fs::write(site.folder().join("begun"), "").unwrap();
    take(&mut host, SnapshotAt { sequence: Sequence(2), commit }, &audience).unwrap();
}

#[test]
fn killed_at_every_system_call_that_changes_something() {
    use std::process::Command;
    let (site, second) = step_with(PLACED);
    drop(site.open());
    let (folder, before) = (site.folder(), tempfile::tempdir().unwrap());
    let copy = |from: &Path, to: &Path| {
        let done = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(&folder, before.path());
    let strace = std::env::var_os("STRACE").unwrap_or_else(|| "strace".into());
    let (mut killed, mut within) = (BTreeMap::new(), 0);
    for call in MUTATING {
        for number in 1.. {
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            copy(before.path(), &folder);
            let mut child = Command::new(&strace);
            child.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            child.args(["-e", &format!("inject={call}:signal=SIGKILL:when={number}"), "--"]);
            child.arg(std::env::current_exe().unwrap()).args(["--ignored", "--exact", "--test-threads=1"]);
            child.arg("transaction::tests::takes_the_step_that_it_is_given");
            child.env("CONF_TEST_FOLDER", &folder).env("CONF_TEST_COMMIT", second.commit.to_string());
            let output = child.output().expect("tests/get-strace names an strace to use as STRACE");
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || !text.contains("panicked"), "{call} {number}: {text}");
            let whole = output.status.success();
            within += u32::from(!whole && folder.join("begun").exists());
            let what = format!("killed at {call} number {number}");
            let (mut host, audience) = site.open();
            host.restore_places();
            assert_placed(&site, &what);
            seen(&site);
            host.settle(&audience).unwrap();
            take(&mut host, second, &audience).unwrap();
            assert_eq!(seen(&site), 2, "{what}");
            assert_placed(&site, &what);
            if whole {
                break;
            }
            *killed.entry(call).or_insert(0) += 1;
        }
    }
    println!("killed {within} times in the switch itself, of {killed:?}");
    assert!(within > 40 && killed["renameat"] > 5 && killed["unlinkat"] > 2, "{within} {killed:?}");
}

#[test]
fn a_disk_that_is_full_at_any_step_of_placing_keeps_the_earlier_files() {
    // Every file of either of the two, whole.
    let known = [
        ("config.yaml", "at: 1\n"),
        ("x", "file"),
        ("one", "1"),
        ("config.yaml", "at: 2\n"),
        ("x/y", "folder"),
        ("two", "2"),
        ("theirs", "theirs"),
    ];
    let mut with_errors = 0;
    for at in 0.. {
        let (site, second) = step_with(PLACED);
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        fault::set(Some((at, Mode::Full)));
        let result = take(&mut host, second, &audience);
        let finished = fault::set(None) <= at;
        let what = format!("step {at}, {result:?}");
        // Whatever could not be done: what stands there is what is exported, be that of before or
        // new, or an error says why not.
        seen(&site);
        let placements = audience.agent.view().status.placements.clone();
        for (place, status) in PLACES.into_iter().zip(&placements) {
            if status.error.is_none() {
                assert_placed_at(&site, place, &what);
                continue;
            }
            with_errors += 1;
            for (path, (text, ..)) in placed(&site.place().join(place.1)) {
                let staging = path.starts_with(".conf-local/");
                assert!(staging || path.ends_with('/') || known.contains(&(&path, &text)), "{what}: {path} {text:?}");
            }
        }
        if finished {
            assert!(at > 20 && with_errors > 10, "only {at} steps, {with_errors} errors");
            break;
        }
        take(&mut host, second, &audience).unwrap();
        host.place_again(&audience).unwrap();
        assert!(!host.is_troubled(), "{what}");
        assert_eq!(seen(&site), 2, "{what}");
        assert_placed(&site, &format!("after {what}"));
    }
}

/// With `ahead`, the links of the next snapshot were made before.
fn kill_at_every_step(ahead: bool, file: &str) {
    let mut finished = false;
    for at in 0.. {
        let (site, second) = step_with(file);
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        if ahead {
            host.tidy(&audience, None);
        }
        fault::set(Some((at, Mode::Dead)));
        let result = take(&mut host, second, &audience);
        drop(host);
        finished = fault::set(None) <= at;
        assert!(result.is_err() || finished || seen(&site) == 2, "step {at}");
        seen(&site);

        let (mut host, audience) = site.open();
        if file == PLACED {
            // Before anything newer is taken: the files of what is exported, none of a switch that
            // did not happen.
            host.restore_places();
            assert_placed(&site, &format!("killed at step {at}, at once"));
        }
        seen(&site);
        host.settle(&audience).unwrap();
        assert_eq!(seen(&site), 2, "killed at step {at}, not whole after a restart");
        if file == PLACED {
            assert_placed(&site, &format!("killed at step {at}"));
        }
        let pending = host.outbox.pending();
        assert_eq!(pending.values().map(|notice| notice.sequence).collect::<Vec<_>>(), [Sequence(2)], "step {at}");
        site.assert_tidy();
        if finished {
            println!("killed at each of {at} steps");
            assert!(at > 20, "only {at} steps");
            break;
        }
    }
    assert!(finished);
}

#[test]
fn a_full_disk_at_every_step() {
    for at in 0.. {
        let (site, second) = step();
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        host.tidy(&audience, None);
        fault::set(Some((at, Mode::Full)));
        let result = take(&mut host, second, &audience);
        let finished = fault::set(None) <= at;
        if finished {
            break;
        }
        match result {
            // Readers have it; only that it survives a power cut is not sure.
            Ok(()) => assert_eq!(seen(&site), 2, "step {at}"),
            Err(TransactionError::Export(error)) => {
                assert_eq!(error.cause.kind(), std::io::ErrorKind::StorageFull, "{error}");
                assert_eq!(seen(&site), 1, "step {at}");
                site.assert_tidy();
            }
            Err(other) => panic!("{other}"),
        }
        take(&mut host, second, &audience).unwrap();
        assert_eq!(seen(&site), 2, "step {at}");
    }
}

#[test]
fn a_damaged_export_is_mended_from_the_repository() {
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 7] = [
        ("wiped", |export| fs::remove_dir_all(export).unwrap()),
        ("no current", |export| fs::remove_file(export.join("current")).unwrap()),
        ("current is a folder", |export| {
            fs::remove_file(export.join("current")).unwrap();
            fs::create_dir(export.join("current")).unwrap();
        }),
        ("no store", |export| fs::remove_dir_all(export.join("store")).unwrap()),
        ("no names", |export| fs::remove_dir_all(export.join("names")).unwrap()),
        ("no header", |export| fs::remove_file(export.join("current/snapshot.json")).unwrap()),
        ("a file changed", |export| {
            let file = export.join("current/services/a/latest/two");
            fs::remove_file(&file).unwrap();
            fs::write(&file, "3").unwrap();
        }),
    ];
    for (what, damage) in damage {
        let (site, second) = step();
        let (mut host, audience) = site.open();
        take(&mut host, second, &audience).unwrap();
        drop(host);
        damage(&site.state().join("export"));
        let (mut host, audience) = site.open();
        host.settle(&audience).unwrap();
        assert_eq!(seen(&site), 2, "{what}");
        assert_eq!(site.read("services/a/latest/two").as_deref(), Some("2"), "{what}");
        let report = host.verify(false, &audience);
        assert_eq!(report.problems, Vec::<String>::new(), "{what}");
        assert!(report.objects > 10);
    }
}

#[test]
fn verify_finds_and_mends() {
    let (site, second) = step();
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    let file = fs::canonicalize(site.current().join("services/a/latest/two")).unwrap();
    fs::remove_file(&file).unwrap();
    let report = host.verify(false, &audience);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    let report = host.verify(true, &audience);
    assert!(report.is_whole() && report.repaired.len() == 1);
    assert_eq!(seen(&site), 2);
    assert!(host.verify(false, &audience).problems.is_empty());
}

#[test]
fn a_damaged_repository_is_set_aside_and_the_export_stays() {
    let (site, second) = step();
    let (mut host, audience) = site.open();
    take(&mut host, second, &audience).unwrap();
    assert!(!host.heal().unwrap(), "a good repository was thrown away");
    let objects = site.state().join("repo.git/objects");
    for folder in names(&objects).iter().filter(|name| name.len() == 2) {
        for object in names(&objects.join(folder)) {
            let path = objects.join(folder).join(object);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&path, "damaged").unwrap();
        }
    }
    drop(host);
    let (mut host, audience) = site.open();
    let _ = host.settle(&audience);
    assert_eq!(seen(&site), 2);
    assert!(host.heal().unwrap());
    assert_eq!(host.have(), None);
    assert_eq!(host.known(), Some(second), "the sequence that was taken is forgotten");
    assert!(site.state().join("repo.git.damaged").exists());
    assert_eq!(seen(&site), 2);
}

#[test]
fn a_second_agent_is_kept_out_and_another_datacenter_too() {
    let (mut site, _) = step();
    let (host, _) = site.open();
    drop(host);
    site.datacenter = "us-east/v1".parse().unwrap();
    let open = Host::open(HostOptions {
        datacenter: &site.datacenter,
        host: &"web-1".parse().unwrap(),
        keys: TrustedKeys::load(&site.folder.path().join("master.key.pub")).unwrap(),
        state: &site.state(),
        git_dir: None,
        retention: Retention { last: 2, younger_than: Duration::ZERO },
        identity: None,
        place: None,
        checks: Checks::default(),
    });
    let error = open.err().unwrap().to_string();
    assert!(error.contains("us-west/v1"), "{error}");
}

/// How long this thread was on a processor: what a busy machine does not change.
fn cpu() -> Duration {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(schedstat.split(' ').next().unwrap().parse().unwrap())
}

/// Prints what a change costs on a host with 3,000 components. Run it in release for figures to
/// quote.
#[test]
fn three_thousand_components() {
    let mut site = Site::new();
    for number in 0..3000 {
        let config = format!("number: {number}\n");
        site.set(&format!("services/service-{number}/latest"), &[("config.yaml", &config), ("readme", "the same")]);
    }
    let pointer = site.land();
    let (mut host, audience) = site.open();
    let since = Instant::now();
    take(&mut host, pointer, &audience).unwrap();
    println!("3,000 components, first export: {:?}", since.elapsed());
    for round in 0..5 {
        site.set("services/service-7/latest", &[("config.yaml", &format!("number: {round}\n"))]);
        let pointer = site.land();
        let (since, before) = (Instant::now(), cpu());
        let snapshot = host.accept(pointer).unwrap();
        let accepted = since.elapsed();
        host.put_in_place(&snapshot, false, since, &audience).unwrap();
        let placed = since.elapsed();
        println!("on the processor: {:?}", cpu().saturating_sub(before));
        host.tidy(&audience, None);
        println!("one changed: accepted {accepted:?}, switched {placed:?}, tidied {:?}", since.elapsed());
        assert_eq!(site.read("services/service-7/latest.json"), Some(format!(r#"{{"number":{round}}}"#)));
    }
    drop(host);
    let since = Instant::now();
    let (mut host, audience) = site.open();
    let opened = since.elapsed();
    host.settle(&audience).unwrap();
    println!("restart: opened {opened:?}, every byte checked {:?}", since.elapsed());
}
