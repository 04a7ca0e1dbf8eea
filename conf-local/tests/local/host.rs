//! A host whose export the test switches, with real watchers and a real service.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use conf_core::{
    api::{HostState, Pin, Pointer},
    daemon::Metrics,
    git::RepositoryPool,
    http,
    sign::{SigningKey, TrustedKeys},
    upstream::{Credentials, Upstreams},
};
use conf_local::{
    Agent, ChangeKind, Demand, Exported, ExportedComponent, HistoryChange, HistoryEntry, Outbox, Reader, Registry,
    Service, SnapshotServers, Status, StatusAnswer, Switched, View, WatchEntry, WatcherState, WatcherStatus, Watchers,
    routes,
};
use libconf::name::{CommitId, ComponentVersion, Sequence};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// 30 s: no step takes so long on a busy machine, unless there is a defect.
pub const LONG: Duration = Duration::from_secs(30);

/// The state on disk, and the agent that uses it. Dropping `running` ends the agent.
pub struct Host {
    pub state: tempfile::TempDir,
    pub agent: Agent,
    pub entries: Vec<WatchEntry>,
    running: Option<Running>,
}

struct Running {
    registry: Arc<Registry>,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Makes what `/readyz` and `/metrics` answer from.
pub fn new_health() -> http::Health {
    http::Health::new(Metrics::new("conf-local", "0"))
}

impl Host {
    /// Starts an agent with nothing exported.
    pub async fn start(entries: Vec<WatchEntry>) -> Self {
        let state = tempfile::tempdir().unwrap();
        // Other users must be able to reach the socket.
        fs::set_permissions(state.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir_all(state.path().join("export/snapshots")).unwrap();
        git2::Repository::init_bare(state.path().join("repo.git")).unwrap();
        let status = Status::new("us-west/v1".parse().unwrap(), "web-1".parse().unwrap(), &state.path().join("export"));
        let (agent, _) = Agent::new(View::new(status), Vec::new());
        let mut host = Host { state, agent, entries, running: None };
        host.begin().await;
        host
    }

    /// Starts watchers and service with the state on disk.
    pub async fn begin(&mut self) {
        let outbox = Arc::new(Outbox::open(self.state.path(), self.agent.view().status.sequence));
        let registry = Registry::open(self.state.path(), &self.entries, Arc::clone(&outbox), self.agent.clone(), false);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(Arc::clone(&registry).run(stop.clone()));
        let listener = http::bind_unix(&self.socket(), 0o666).await.unwrap();
        self.running = Some(Running { registry, outbox, stop: stop.clone(), tasks });
        let routes = routes(Service { stop: stop.clone(), ..self.service() }, new_health());
        let running = self.running.as_mut().unwrap();
        running.tasks.spawn(http::serve(listener, routes, stop));
    }

    /// Ends them as SIGTERM does.
    pub async fn end(&mut self) {
        if let Some(Running { stop, mut tasks, .. }) = self.running.take() {
            stop.cancel();
            while tasks.join_next().await.is_some() {}
            fs::remove_file(self.socket()).unwrap();
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.state.path().join("agent.sock")
    }

    pub fn export(&self) -> PathBuf {
        self.state.path().join("export")
    }

    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.running.as_ref().unwrap().registry)
    }

    /// Puts a snapshot in place and tells watchers, in the order of the host transaction.
    pub fn switch(&self, sequence: u64, components: &[(&str, &str)]) {
        let kinds = self.prepare(sequence, components);
        let Running { registry, outbox, .. } = self.running.as_ref().unwrap();
        let snapshot = Pointer { sequence: Sequence(sequence), commit: commit(sequence) };
        outbox.prepare(snapshot, Sequence(sequence - 1), registry.concerned(&kinds)).unwrap();
        self.place(sequence, components, &kinds);
        outbox.switched(snapshot, Sequence(sequence - 1), registry.concerned(&kinds));
        registry.tell();
    }

    /// Does the steps of a switch until the agent is killed: readers see the files, and no watcher
    /// is told.
    pub fn switch_and_die(&mut self, sequence: u64, components: &[(&str, &str)]) {
        let kinds = self.prepare(sequence, components);
        let Running { registry, outbox, .. } = self.running.as_ref().unwrap();
        let snapshot = Pointer { sequence: Sequence(sequence), commit: commit(sequence) };
        outbox.prepare(snapshot, Sequence(sequence - 1), registry.concerned(&kinds)).unwrap();
        self.place(sequence, components, &kinds);
    }

    fn prepare(&self, sequence: u64, components: &[(&str, &str)]) -> BTreeMap<ComponentVersion, ChangeKind> {
        let view = self.agent.view();
        let now = |component: &ComponentVersion| {
            let exported = view.exported.as_ref()?;
            exported
                .components
                .get(component)
                .map(|_| fs::read_to_string(exported.directory.join(format!("{component}.json"))).unwrap())
        };
        let mut kinds = BTreeMap::new();
        for (component, settings) in components {
            let component: ComponentVersion = component.parse().unwrap();
            match now(&component) {
                None => drop(kinds.insert(component, ChangeKind::Added)),
                Some(before) if before != *settings => drop(kinds.insert(component, ChangeKind::Changed)),
                Some(_) => {}
            }
        }
        for component in view.exported.iter().flat_map(|exported| exported.components.keys()) {
            if !components.iter().any(|(name, _)| *name == component.to_string()) {
                kinds.insert(component.clone(), ChangeKind::Removed);
            }
        }
        let snapshot = self.export().join(format!("snapshots/{sequence}"));
        fs::create_dir_all(&snapshot).unwrap();
        for (at, (component, settings)) in components.iter().enumerate() {
            let stored = self.export().join(format!("store/{sequence}-{at}"));
            fs::create_dir_all(stored.join("files")).unwrap();
            fs::write(stored.join("settings.json"), settings).unwrap();
            fs::create_dir_all(snapshot.join(component).parent().unwrap()).unwrap();
            symlink(stored.join("files"), snapshot.join(component)).unwrap();
            symlink(stored.join("settings.json"), snapshot.join(format!("{component}.json"))).unwrap();
        }
        kinds
    }

    fn place(&self, sequence: u64, components: &[(&str, &str)], kinds: &BTreeMap<ComponentVersion, ChangeKind>) {
        let export = self.export();
        let directory = export.join(format!("snapshots/{sequence}"));
        symlink(format!("snapshots/{sequence}"), export.join(".new")).unwrap();
        fs::rename(export.join(".new"), export.join("current")).unwrap();
        let component = |(name, _): &(&str, &str)| {
            let component: ComponentVersion = name.parse().unwrap();
            let pin = Pin { component: component.clone(), branch: "master".parse().unwrap(), commit: commit(sequence) };
            (component, ExportedComponent { pin: Some(pin), reads_secrets: false })
        };
        let components: BTreeMap<_, _> = components.iter().map(component).collect();
        let (sequence, commit) = (Sequence(sequence), commit(sequence));
        self.agent.update(|view| {
            view.status.sequence = sequence;
            view.status.commit = Some(commit);
            view.status.current = Some(directory.clone());
            view.status.state = HostState::Current;
            view.status.components = components.len();
            view.exported = Some(Arc::new(Exported { sequence, commit, directory: directory.clone(), components }));
        });
        let changed =
            kinds.iter().map(|(name, kind)| (name.clone(), HistoryChange { kind: *kind, pin: None })).collect();
        let when = jiff::Timestamp::now().to_string();
        let entry = HistoryEntry { sequence, commit, when, took_ms: 1, changed, changed_count: kinds.len() };
        self.agent
            .announce(Switched { sequence, commit, before: Sequence(sequence.0 - 1), changed: kinds.clone() }, entry);
    }

    /// Waits for a state of the watchers. Shows their state if it never comes.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&[WatcherStatus]) -> bool) {
        let deadline = Instant::now() + LONG;
        loop {
            let watchers = self.registry().status();
            if holds(&watchers) {
                return;
            }
            assert!(Instant::now() < deadline, "never came: {what}; watchers are {watchers:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the only watcher has this state for this change.
    pub async fn until_state(&self, state: WatcherState, sequence: u64) {
        self.until(&format!("{state:?} of {sequence}"), |watchers| {
            watchers.len() == 1 && watchers[0].state == state && watchers[0].sequence.0 == sequence
        })
        .await;
    }

    /// Returns the status as programs get it.
    pub fn status(&self) -> StatusAnswer {
        self.service().status(Reader::All)
    }

    /// Returns a service without any server to ask.
    pub fn service(&self) -> Service {
        let repository = RepositoryPool::at(self.state.path().join("repo.git"));
        let nobody = || Upstreams::new(Vec::new(), &Credentials::none()).unwrap();
        let (agent, stop) = (self.agent.clone(), CancellationToken::new());
        let key = tempfile::tempdir().unwrap();
        SigningKey::generate(&key.path().join("key"), "nobody").unwrap();
        let keys = TrustedKeys::load(&key.path().join("key.pub")).unwrap();
        let servers = SnapshotServers::new(nobody(), nobody());
        let demand = Demand::new(agent, repository.clone(), Arc::default(), servers, keys, stop.clone());
        Service {
            agent: self.agent.clone(),
            watchers: self.registry(),
            demand: Arc::new(demand),
            processes: Arc::default(),
            repository,
            remembered: Arc::default(),
            stop,
        }
    }
}

/// Returns a commit id that contains its sequence.
pub fn commit(sequence: u64) -> CommitId {
    format!("{sequence:040x}").parse().unwrap()
}

pub fn selectors(names: &[&str]) -> BTreeSet<libconf::name::ComponentSelector> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A real process in a process group of its own, whose output is read line by line. Dropping this
/// ends the group.
pub struct Script {
    pub child: Child,
    lines: mpsc::Receiver<String>,
}

impl Script {
    /// Starts bash with this script.
    pub fn bash(script: &str) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        Self::spawn(command)
    }

    /// Starts a script that prints `ready` when it has its handler, and `told` at every SIGHUP. A
    /// signal that comes just before bash waits is handled when the short sleep ends.
    pub fn with_handler() -> Self {
        let script = Self::bash("trap 'echo told' HUP; echo ready; while :; do sleep 1 & wait $!; done");
        assert_eq!(script.line(), "ready");
        script
    }

    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = mpsc::channel();
        // This thread ends with the output.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Script { child, lines }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Waits for the next line.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(LONG).expect("a line of output")
    }

    /// Returns a line that was printed already.
    pub fn line_now(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    pub fn write(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Kills it and its group, and reaps it.
    pub fn end(&mut self) {
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // The command of `exec` is in another group, and ends with it only after SIGTERM.
        let asked = Instant::now();
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        while asked.elapsed() < Duration::from_secs(1) && self.is_running() {
            thread::yield_now();
        }
        self.end();
    }
}

/// Reads the lines of a file that is still being written.
pub fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
