//! One central server, one datacenter's caches and its hosts, each a real process.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
};

use rand::seq::IndexedRandom;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Consul, Daemon, Proxy, Work, eventually,
    http::Address,
    own_address,
    program::{built, command, run, text},
    remove_folder,
};

/// The datacenter of most stories.
pub const DATACENTER: &str = "us-west/v1";
/// Another one, of the stories of several. Its first cache answers for Consul.
pub const ELSEWHERE: &str = "eu-north/v1";
/// Its class.
pub const CLASS: &str = "datacenter-configuration/big";

/// Where pointers go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pointers {
    /// A real Consul server.
    #[default]
    Consul,
    /// A real Consul server that denies what no token allows.
    DenyingConsul,
    /// The first conf-slave answers for Consul.
    Embedded,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many caches.
    pub slaves: usize,
    /// How many hosts, `web-1` and so on.
    pub hosts: usize,
    /// Where pointers go.
    pub pointers: Pointers,
    /// What the datacenter runs, each from `master`, at `latest`.
    pub components: Vec<String>,
    /// Puts a proxy before the central server, every cache and Consul.
    pub proxied: bool,
    /// More flags for the caches.
    pub slave_flags: Vec<String>,
    /// More flags for the hosts.
    pub host_flags: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        let components = ["services/web", "services/api", "applications/shop", "devices/router"];
        Plan {
            slaves: 1,
            hosts: 1,
            pointers: Pointers::Consul,
            components: components.map(str::to_owned).into(),
            proxied: false,
            slave_flags: Vec::new(),
            host_flags: Vec::new(),
        }
    }
}

/// All of it, running.
#[derive(Debug)]
pub struct Site {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The caches.
    pub slaves: Vec<Slave>,
    /// The central server.
    pub master: Master,
    /// Consul, unless it is embedded.
    pub consul: Option<Consul>,
    /// Between everyone and Consul.
    pub to_consul: Option<Proxy>,
    /// The engineer's repository.
    pub work: Work,
    /// Everyone's folder; the last to go.
    pub folder: TempDir,
    plan: Plan,
}

impl Site {
    /// The common case: one of each, and a real Consul.
    pub fn start() -> Self {
        Plan::default().start()
    }

    /// The only host, or the first.
    pub fn host(&self) -> &Host {
        &self.hosts[0]
    }

    /// The only cache, or the first.
    pub fn slave(&self) -> &Slave {
        &self.slaves[0]
    }

    /// The Consul server.
    pub fn consul(&self) -> &Consul {
        self.consul.as_ref().expect("this site has a Consul server")
    }

    /// Pushes one file of one component's branch `master` and hands back the sequence.
    #[track_caller]
    pub fn push(&self, component: &str, path: &str, content: &str) -> u64 {
        self.work.change().file(&format!("{component}/master"), path, content).land();
        self.master.sequence()
    }

    /// Pushes one file and waits until every host has it.
    #[track_caller]
    pub fn push_and_wait(&self, component: &str, path: &str, content: &str) -> u64 {
        let sequence = self.push(component, path, content);
        self.wait_applied(sequence);
        sequence
    }

    /// Waits until every host's export is at a sequence or past it.
    #[track_caller]
    pub fn wait_applied(&self, sequence: u64) {
        for host in &self.hosts {
            host.wait_applied(sequence);
        }
    }

    /// Adds a cache and starts it.
    pub fn add_slave(&mut self) -> &mut Slave {
        self.add_slave_of(DATACENTER)
    }

    /// Adds a cache of a datacenter and starts it.
    pub fn add_slave_of(&mut self, datacenter: &str) -> &mut Slave {
        let mut slave = self.make_slave_of(datacenter, self.slaves.len() + 1);
        slave.daemon.start();
        self.slaves.push(slave);
        self.slaves.last_mut().expect("it was just added")
    }

    /// Adds a host and starts it.
    pub fn add_host(&mut self) -> &mut Host {
        self.add_host_of(DATACENTER)
    }

    /// Adds a host of a datacenter and starts it.
    pub fn add_host_of(&mut self, datacenter: &str) -> &mut Host {
        let mut host = self.make_host_of(datacenter, self.hosts.len() + 1);
        host.daemon.start();
        self.hosts.push(host);
        self.hosts.last_mut().expect("it was just added")
    }

    fn slaves_of<'s>(&'s self, datacenter: &'s str) -> impl Iterator<Item = &'s Slave> {
        self.slaves.iter().filter(move |slave| slave.datacenter == datacenter)
    }

    fn consul_url(&self, datacenter: &str) -> String {
        match (&self.to_consul, &self.consul) {
            (Some(proxy), _) if datacenter == DATACENTER => proxy.url(),
            (None, Some(consul)) if datacenter == DATACENTER => consul.url(),
            _ => self.slaves_of(datacenter).next().map_or_else(|| "embedded".to_owned(), |first| first.url.clone()),
        }
    }

    /// A cache with its flags, not started yet.
    pub fn make_slave(&self, number: usize) -> Slave {
        self.make_slave_of(DATACENTER, number)
    }

    /// A cache of a datacenter with its flags, not started yet.
    pub fn make_slave_of(&self, datacenter: &str, number: usize) -> Slave {
        let address = own_address(7401);
        let folder = self.folder.path().join(format!("slave-{number}"));
        fs::create_dir_all(&folder).expect("the folder can be made");
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(flag("--datacenter", datacenter));
        let to_central = self.plan.proxied.then(|| Proxy::start(self.master.address));
        let central = to_central.as_ref().map_or_else(|| self.master.url(), Proxy::url);
        arguments.extend(flag("--central", central));
        arguments.extend(flag("--listen", address.to_string()));
        arguments.extend(flag("--state", path(&folder.join("state"))));
        arguments.extend(flag("--consul", self.consul_url(datacenter)));
        arguments.extend(flag("--trusted-key", path(&self.master.trusted_key())));
        arguments.extend(self.plan.slave_flags.iter().cloned());
        let daemon = Daemon::new(&format!("conf-slave-{number}"), built("conf-slave"), self.folder.path(), arguments);
        let proxy = self.plan.proxied.then(|| Proxy::start(address));
        let url = format!("http://{address}");
        let (datacenter, state) = (datacenter.to_owned(), folder.join("state"));
        Slave { daemon, datacenter, address, url, proxy, to_central, state }
    }

    /// A host with its flags, not started yet. It asks every cache that is there now.
    pub fn make_host(&self, number: usize) -> Host {
        self.make_host_of(DATACENTER, number)
    }

    /// A host of a datacenter with its flags, not started yet. It asks every cache of that datacenter that is there now.
    pub fn make_host_of(&self, datacenter: &str, number: usize) -> Host {
        let name = format!("web-{number}");
        let folder = self.folder.path().join(&name);
        fs::create_dir_all(&folder).expect("the folder can be made");
        let (state, socket) = (folder.join("state"), folder.join("socket"));
        let mut arguments = vec!["run".to_owned()];
        arguments.extend(flag("--datacenter", datacenter));
        arguments.extend(flag("--host", name.as_str()));
        arguments.extend(self.slaves_of(datacenter).flat_map(|slave| flag("--surrogate", slave.public_url())));
        arguments.extend(flag("--central", self.master.public_url()));
        arguments.extend(flag("--consul", self.consul_url(datacenter)));
        arguments.extend(flag("--state", path(&state)));
        arguments.extend(flag("--socket", path(&socket)));
        arguments.extend(flag("--trusted-key", path(&self.master.trusted_key())));
        arguments.extend(self.plan.host_flags.iter().cloned());
        let daemon = Daemon::new(&format!("conf-local-{name}"), built("conf-local"), self.folder.path(), arguments);
        Host { daemon, name, datacenter: datacenter.to_owned(), state, socket, home: folder }
    }

    /// Expects every repository of every tier to be whole, and the ledger unbroken.
    #[track_caller]
    pub fn expect_whole(&self) {
        fsck(&self.master.repo);
        for slave in &self.slaves {
            slave.repositories().iter().for_each(|repo| fsck(repo));
        }
        for host in &self.hosts {
            fsck(&host.repository());
        }
        self.master.expect_unbroken_ledger();
    }
}

impl Plan {
    /// Starts everything, with content for every component, and waits until every host has it.
    pub fn start(self) -> Site {
        let mut site = self.start_empty();
        site.populate();
        for _ in 0..site.plan.slaves {
            site.add_slave();
        }
        for _ in 0..site.plan.hosts {
            site.add_host();
        }
        site.wait_applied(site.master.sequence());
        site
    }

    /// Starts Consul and the central server alone, with nothing in it.
    pub fn start_empty(self) -> Site {
        let folder = tempfile::Builder::new().prefix("conf-").tempdir().expect("a temporary folder can be made");
        let consul = match self.pointers {
            Pointers::Consul => Some(Consul::start(folder.path())),
            Pointers::DenyingConsul => Some(Consul::start_denying(folder.path())),
            Pointers::Embedded => None,
        };
        let to_consul = consul.as_ref().filter(|_| self.proxied).map(|consul| Proxy::start(consul.address()));
        let mut master = Master::start(folder.path());
        master.proxy = self.proxied.then(|| Proxy::start(master.address));
        let work = Work::new(&folder.path().join("work"), &master.git_url());
        Site { hosts: Vec::new(), slaves: Vec::new(), master, consul, to_consul, work, folder, plan: self }
    }
}

impl Site {
    /// Pushes the class, the datacenter and every component, in one step.
    pub fn populate(&self) {
        let pins: Vec<Pin<'_>> = self.plan.components.iter().map(|name| (name.as_str(), "master", "latest")).collect();
        let mut change = self.work.change();
        for (name, _, _) in &pins {
            let branch = format!("{name}/master");
            change = change.file(&branch, "config.yaml", format!("component: {name}\nround: 0\n"));
            change = change.file(&branch, "round", "0\n");
        }
        change = change.file(CLASS, "datacenter.yaml", class(&pins));
        change.file(&format!("datacenters/{DATACENTER}"), "datacenter.yaml", instance()).land();
    }
}

/// A component's name, its branch, its tag.
pub type Pin<'a> = (&'a str, &'a str, &'a str);

/// A class's `datacenter.yaml`.
pub fn class(pins: &[Pin<'_>]) -> String {
    let mut text = String::new();
    for kind in ["services", "applications", "devices"] {
        let mine = pins.iter().filter_map(|(name, branch, tag)| {
            let name = name.strip_prefix(kind)?.strip_prefix('/')?;
            Some(format!("  - {{name: {name}, branch: {branch}, tag: {tag}}}\n"))
        });
        let mine: String = mine.collect();
        let _ = if mine.is_empty() { writeln!(text, "{kind}: []") } else { write!(text, "{kind}:\n{mine}") };
    }
    text
}

/// The `datacenter.yaml` of a datacenter of the class at its tip.
pub fn instance() -> String {
    format!("conf: {CLASS}/latest\n")
}

/// The central server.
#[derive(Debug)]
pub struct Master {
    /// The process.
    pub daemon: Daemon,
    /// Its repository.
    pub repo: PathBuf,
    /// What stands between it and hosts.
    pub proxy: Option<Proxy>,
    /// Where it listens.
    pub address: SocketAddr,
    home: PathBuf,
}

impl Master {
    /// Makes a repository in a folder and serves it.
    pub fn start(folder: &Path) -> Self {
        let mut master = Self::init(folder);
        master.daemon.start();
        master
    }

    /// Makes a repository in a folder without serving it.
    pub fn init(folder: &Path) -> Self {
        let repo = folder.join("central.git");
        let mut init = command(built("conf-master"), folder);
        init.args(["init", "--repo"]).arg(&repo);
        let output = run(init);
        assert!(output.status.success(), "conf-master init failed:\n{}", text(&output));
        let address = own_address(7400);
        let arguments =
            ["serve".to_owned(), "--repo".to_owned(), path(&repo), "--listen".to_owned(), address.to_string()];
        let daemon = Daemon::new("conf-master", built("conf-master"), folder, arguments);
        Master { daemon, repo, proxy: None, address, home: folder.to_owned() }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The base URL that hosts are given: the proxy's, where there is one.
    pub fn public_url(&self) -> String {
        self.proxy.as_ref().map_or_else(|| self.url(), Proxy::url)
    }

    /// Where git finds it.
    pub fn git_url(&self) -> String {
        format!("{}/conf.git", self.url())
    }

    /// For requests by hand.
    pub fn http(&self) -> Address {
        Address::Tcp(self.address)
    }

    /// The file with the key that it signs by.
    pub fn trusted_key(&self) -> PathBuf {
        let mut name = self.repo.as_os_str().to_owned();
        name.push(".key.pub");
        name.into()
    }

    /// What `GET /api/v1/datacenters/<id>/<version>` says of the datacenter.
    pub fn datacenter(&self) -> Result<Value, String> {
        self.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}"))
    }

    /// The sequence of the datacenter's newest snapshot.
    #[track_caller]
    pub fn sequence(&self) -> u64 {
        let answer = self.datacenter().unwrap_or_else(|error| panic!("conf-master: {error}"));
        answer["sequence"].as_u64().unwrap_or_else(|| panic!("no sequence: {answer}"))
    }

    /// The datacenter's newest snapshot.
    #[track_caller]
    pub fn snapshot(&self) -> String {
        let answer = self.datacenter().unwrap_or_else(|error| panic!("conf-master: {error}"));
        answer["commit"].as_str().unwrap_or_else(|| panic!("no commit: {answer}")).to_owned()
    }

    /// Runs a client command of conf-master.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(self.client(arguments))
    }

    /// A client command of conf-master, for a test to run as it likes.
    pub fn client(&self, arguments: &[&str]) -> std::process::Command {
        let mut client = command(built("conf-master"), &self.home);
        client.args(arguments).env("CONF_MASTER_URL", self.url());
        client
    }

    /// Runs git in the repository, as an operator on the server would, and expects success.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        in_repository(&self.repo, arguments)
    }

    /// Expects each entry of the ledger to follow the one before it, down to the first, one number at a time.
    #[track_caller]
    pub fn expect_unbroken_ledger(&self) {
        let log = self.git(&["log", "--first-parent", "--format=%B%x00", "refs/conf/ledger"]);
        let entries = log.split('\0').map(str::trim).filter(|entry| !entry.is_empty());
        let entries: Vec<&str> = entries.collect();
        let numbers: Vec<u64> = entries.iter().map_while(|entry| sequence_of(entry)).collect();
        let highest = numbers.first().copied().unwrap_or_default();
        let wanted: Vec<u64> = (1..=highest).rev().collect();
        let found = numbers.strip_suffix(&[0]).unwrap_or(&numbers);
        assert_eq!(found, wanted, "one entry for each number, newest first");
        // Below the first change stands only what `init` made.
        assert!(entries.len() - numbers.len() <= 1, "entries without a number: {:?}", &entries[numbers.len()..]);
    }
}

/// The number in `Conf-Sequence: <n>`.
pub fn sequence_of(message: &str) -> Option<u64> {
    message.lines().find_map(|line| line.strip_prefix("Conf-Sequence:")?.trim().parse().ok())
}

/// A datacenter's cache.
#[derive(Debug)]
pub struct Slave {
    /// The process.
    pub daemon: Daemon,
    /// Whose cache it is.
    pub datacenter: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its base URL.
    pub url: String,
    /// What stands between it and its hosts.
    pub proxy: Option<Proxy>,
    /// What stands between it and the central server.
    pub to_central: Option<Proxy>,
    /// Its folder.
    pub state: PathBuf,
}

impl Slave {
    /// The base URL that hosts are given: the proxy's, where there is one.
    pub fn public_url(&self) -> String {
        self.proxy.as_ref().map_or_else(|| self.url.clone(), Proxy::url)
    }

    /// For requests by hand.
    pub fn http(&self) -> Address {
        Address::Tcp(self.address)
    }

    /// `GET /api/v1/status`
    pub fn status(&self) -> Result<Value, String> {
        self.http().get_json("/api/v1/status")
    }

    /// Waits until it has published a sequence or a later one.
    #[track_caller]
    pub fn wait_at(&self, sequence: u64) {
        eventually(&format!("{} to be at #{sequence}", self.url), || {
            let status = self.status()?;
            if status["sequence"].as_u64() >= Some(sequence) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Its repositories on disk.
    pub fn repositories(&self) -> Vec<PathBuf> {
        repositories_below(&self.state)
    }

    /// Loses all that it has, and starts again.
    pub fn empty_and_restart(&mut self) {
        self.daemon.kill9();
        remove_folder(&self.state);
        self.daemon.start();
    }
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// The agent.
    pub daemon: Daemon,
    /// Its name.
    pub name: String,
    /// Whose host it is.
    pub datacenter: String,
    /// The agent's folder.
    pub state: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The host's own folder.
    pub home: PathBuf,
}

impl Host {
    /// For requests by hand.
    pub fn http(&self) -> Address {
        Address::Unix(self.socket.clone())
    }

    /// What the agent says of itself.
    pub fn status(&self) -> Result<Value, String> {
        self.http().get_json("/v1/status")
    }

    /// The sequence of the export.
    pub fn sequence(&self) -> u64 {
        self.status().ok().and_then(|status| status["sequence"].as_u64()).unwrap_or_default()
    }

    /// Waits until the export is at a sequence or past it.
    #[track_caller]
    pub fn wait_applied(&self, sequence: u64) {
        eventually(&format!("{} to apply #{sequence}", self.name), || {
            let status = self.http().get_json(&format!("/v1/status?after={}&timeout=5", sequence - 1))?;
            if status["sequence"].as_u64() >= Some(sequence) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Waits until the agent says something of itself.
    #[track_caller]
    pub fn wait_status(&self, what: &str, mut right: impl FnMut(&Value) -> bool) -> Value {
        eventually(&format!("{} to {what}", self.name), || {
            let status = self.status()?;
            if right(&status) { Ok(status) } else { Err(status.to_string()) }
        })
    }

    /// The folder with what processes read.
    pub fn export(&self) -> PathBuf {
        self.state.join("export")
    }

    /// A file of the current snapshot, `<kind>/<name>/<version>/<path>`.
    pub fn read(&self, file: &str) -> Result<String, String> {
        let file = self.export().join("current").join(file);
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// A file of the current snapshot that must be there.
    #[track_caller]
    pub fn file(&self, file: &str) -> String {
        self.read(file).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The agent's repository.
    pub fn repository(&self) -> PathBuf {
        self.state.join("repo.git")
    }

    /// Runs a client command of conf-local.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(self.client(arguments))
    }

    /// A client command of conf-local, for a test to run as it likes.
    pub fn client(&self, arguments: &[&str]) -> std::process::Command {
        let mut client = command(built("conf-local"), &self.home);
        client.args(arguments).env("CONF_LOCAL_SOCKET", &self.socket);
        client
    }

    /// Registers a process to be told.
    #[track_caller]
    pub fn watch(&self, components: &[&str], pid: u32) {
        let pid = pid.to_string();
        let arguments: Vec<&str> =
            ["watch"].into_iter().chain(components.iter().copied()).chain(["--pid", &pid]).collect();
        let output = self.run(&arguments);
        assert!(output.status.success(), "conf-local watch failed:\n{}", text(&output));
    }
}

/// One of several, at random.
pub fn any<T>(several: &[T]) -> &T {
    several.choose(&mut rand::rng()).expect("there is at least one")
}

/// Runs git in a bare repository and expects success.
#[track_caller]
pub fn in_repository(repo: &Path, arguments: &[&str]) -> String {
    let mut git = crate::git::git(Path::new("git"), repo);
    git.args(arguments);
    let output = run(git);
    assert!(output.status.success(), "git {arguments:?} in {}:\n{}", repo.display(), text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Expects a repository to be whole.
#[track_caller]
pub fn fsck(repo: &Path) {
    let mut git = crate::git::git(Path::new("git"), repo);
    // Objects of refused pushes lie about until they are pruned, which is no fault.
    git.args(["-c", "safe.directory=*", "fsck", "--full", "--no-dangling"]);
    let output = run(git);
    let words = text(&output);
    let faults = words.lines().filter(|line| !line.starts_with("notice:")).count();
    assert!(output.status.success() && faults == 0, "git fsck in {} ({}):\n{words}", repo.display(), output.status);
}

fn repositories_below(folder: &Path) -> Vec<PathBuf> {
    if folder.join("HEAD").is_file() && folder.join("objects").is_dir() {
        return vec![folder.to_owned()];
    }
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .flat_map(|entry| repositories_below(&entry.path()))
        .collect()
}

fn path(path: &Path) -> String {
    path.to_str().expect("a test's paths are text").to_owned()
}

fn flag(name: &str, value: impl Into<String>) -> [String; 2] {
    [name.to_owned(), value.into()]
}
