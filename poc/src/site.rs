//! The machine room: one conf-master, one conf-slave, three hosts with a conf-local each, and a job on each host.
//!
//! Everything is in one temporary directory. What dies is started again on the same address, as systemd would do.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use conf_core::{
    consul::{Consul, ConsulCredentials, Keys},
    upstream::{self, Upstreams, Url},
};
use poc::{Report, tether};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    Seen,
    engineers::{Change, Push, Way},
    observe,
};

/// The datacenter of the demonstration.
pub(crate) const DATACENTER: &str = "us-west/v1";

/// A host with its job.
#[derive(Debug)]
pub(crate) struct Place {
    /// The host's name.
    pub host: &'static str,
    /// The component that the host runs.
    pub component: &'static str,
    /// What its job is.
    pub job: &'static str,
    /// The same at length, with how it learns of a change.
    pub how: &'static str,
}

/// The hosts and their jobs.
pub(crate) const PLACES: [Place; 3] = [
    Place {
        host: "web-1",
        component: "services/web",
        job: "shell script",
        how: "a shell script that gets SIGHUP, by `conf-local watch`",
    },
    Place {
        host: "web-2",
        component: "services/shop",
        job: "Rust program",
        how: "a Rust program that links libconf and needs no signal",
    },
    Place {
        host: "db-1",
        component: "services/db",
        job: "restarted job",
        how: "a shell script, restarted by a job manager that watches its key in Consul",
    },
];

/// A program that is kept running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// conf-master
    Master,
    /// conf-slave
    Slave,
    /// The conf-local of a place.
    Host(usize),
    /// The job of a place.
    Job(usize),
}

impl Unit {
    /// Its name in the timeline and of its log.
    pub(crate) fn name(self) -> String {
        match self {
            Unit::Master => "conf-master".to_owned(),
            Unit::Slave => "conf-slave".to_owned(),
            Unit::Host(place) => format!("conf-local-{}", PLACES[place].host),
            Unit::Job(place) => format!("job-{}", PLACES[place].host),
        }
    }
}

/// Everything that runs.
pub(crate) struct Site {
    /// Where everything is.
    pub dir: PathBuf,
    /// The programs of the project.
    pub programs: PathBuf,
    seen: mpsc::Sender<Seen>,
    consul_url: Option<String>,
    prefix: Option<String>,
    addresses: Vec<(Unit, SocketAddr)>,
    pids: Vec<(Unit, u32)>,
    keepers: JoinSet<()>,
    _lock: File,
    // Last: removed when everything above is gone.
    temporary: TempDir,
}

impl Site {
    /// Makes the directory and the central repository; runs nothing yet.
    pub(crate) fn new(consul: Option<String>, seen: mpsc::Sender<Seen>) -> Result<Self> {
        let programs = programs()?;
        let parent = short_temporary_directory();
        sweep(&parent);
        let temporary = tempfile::Builder::new()
            .prefix("conf-poc-")
            .tempdir_in(&parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let dir = temporary.path().to_owned();
        // Named only once it is locked: a run that starts now must not take this directory for an abandoned one.
        let lock = File::create(dir.join("unlocked"))?;
        lock.lock().context("cannot lock the directory")?;
        fs::rename(dir.join("unlocked"), dir.join("lock"))?;
        fs::create_dir(dir.join("logs"))?;
        fs::create_dir(dir.join("jobs"))?;
        for (name, text) in [("web.sh", include_str!("../jobs/web.sh")), ("db.sh", include_str!("../jobs/db.sh"))] {
            fs::write(dir.join("jobs").join(name), text)?;
        }
        // In a Consul that is not ours everything stays below a prefix of this run's own.
        let name = dir.file_name().and_then(|name| name.to_str()).context("the directory's name is no text")?;
        let prefix = consul.is_some().then(|| name.to_lowercase());
        Ok(Site {
            dir,
            programs,
            seen,
            consul_url: consul,
            prefix,
            addresses: Vec::new(),
            pids: Vec::new(),
            keepers: JoinSet::new(),
            _lock: lock,
            temporary,
        })
    }

    /// The public keys of the hosts, which are made now; secrets are sealed to them.
    pub(crate) async fn identities(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for place in 0..PLACES.len() {
            let arguments = ["identity".into(), "--state".into(), self.host(place).into()];
            keys.push(self.tool("conf-local", arguments).await?.trim().to_owned());
        }
        Ok(keys)
    }

    /// Makes the central repository and its signing key.
    pub(crate) async fn init(&self) -> Result<()> {
        let repo = self.repo();
        self.tool("conf-master", ["init".into(), "--repo".into(), repo.into()]).await?;
        Ok(())
    }

    /// The central repository.
    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.join("central.git")
    }

    /// A host's directory.
    pub(crate) fn host(&self, place: usize) -> PathBuf {
        self.dir.join(PLACES[place].host)
    }

    /// A host's socket.
    pub(crate) fn socket(&self, place: usize) -> PathBuf {
        self.host(place).join("socket")
    }

    /// The base URL of a daemon that runs.
    pub(crate) fn url(&self, unit: Unit) -> Result<Url> {
        let address = self.addresses.iter().find(|(one, _)| *one == unit).map(|(_, address)| address);
        let address = address.with_context(|| format!("{} does not run", unit.name()))?;
        Ok(format!("http://{address}/").parse()?)
    }

    /// The process of a unit that runs.
    pub(crate) fn pid(&self, unit: Unit) -> Option<u32> {
        self.pids.iter().find(|(one, _)| *one == unit).map(|(_, pid)| *pid)
    }

    /// The Consul that holds the pointers: a real one, or conf-slave in its place.
    pub(crate) fn consul(&self) -> Result<Consul> {
        let credentials = ConsulCredentials::from_variables(|name| env::var(name).ok());
        Ok(Consul::new(&[self.consul_address()?], credentials)?)
    }

    fn consul_address(&self) -> Result<String> {
        match &self.consul_url {
            Some(url) => Ok(url.clone()),
            None => Ok(self.url(Unit::Slave)?.as_str().trim_end_matches('/').to_owned()),
        }
    }

    /// The names of the pointers' keys.
    pub(crate) fn keys(&self) -> Result<Keys> {
        Ok(Keys::new(self.prefix.as_deref())?)
    }

    /// A client of a daemon that runs.
    pub(crate) fn client(&self, unit: Unit) -> Result<Upstreams> {
        Ok(Upstreams::new(vec![self.url(unit)?], &upstream::Credentials::none())?)
    }

    /// Starts a unit, and waits until it is ready.
    pub(crate) async fn start(&mut self, unit: Unit) -> Result<()> {
        let (mut child, mut lines) = self.spawn(unit)?;
        let pid = child.id().context("it ended at once")?;
        match unit {
            Unit::Master | Unit::Slave | Unit::Host(_) => {
                let address = ready(&mut lines).await.with_context(|| self.failure(unit))?;
                self.addresses.retain(|(one, _)| *one != unit);
                self.addresses.push((unit, address));
                self.keepers.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            }
            Unit::Job(place) => {
                let first = tokio::time::timeout(Duration::from_secs(30), report(&mut lines)).await;
                let first = first.ok().flatten().with_context(|| self.failure(unit))?;
                let _ = self.seen.send(Seen::Job(place, first)).await;
                let seen = self.seen.clone();
                self.keepers.spawn(async move {
                    while let Some(report) = report(&mut lines).await {
                        let _ = seen.send(Seen::Job(place, report)).await;
                    }
                });
                if place == 0 {
                    self.watch(place, pid).await?;
                }
            }
        }
        self.pids.retain(|(one, _)| *one != unit);
        self.pids.push((unit, pid));
        let seen = self.seen.clone();
        // Waiting would close it, and a job takes that for the end of whoever started it.
        let input = child.stdin.take();
        self.keepers.spawn(async move {
            let _input = input;
            if let Ok(status) = child.wait().await {
                let _ = seen.send(Seen::Died(unit, status)).await;
            }
        });
        Ok(())
    }

    /// Has a job's process signalled when its component changes.
    async fn watch(&self, place: usize, pid: u32) -> Result<()> {
        let component = PLACES[place].component;
        let arguments = ["watch".into(), component.into(), "--pid".into(), pid.to_string().into()];
        self.agent(place, arguments).await?;
        Ok(())
    }

    /// Asks a host's agent with conf-local's own commands.
    pub(crate) async fn agent(&self, place: usize, arguments: impl IntoIterator<Item = OsString>) -> Result<String> {
        let socket = ["--socket".into(), self.socket(place).into()];
        self.tool("conf-local", arguments.into_iter().chain(socket)).await
    }

    /// Makes a change of one section through the API, with conf-master's own command.
    pub(crate) async fn update(&self, change: &Change) -> Result<Push> {
        let (branch, files) = change.edits.first_key_value().context("a change of nothing")?;
        let (component, branch) = branch.rsplit_once('/').context("a branch of a component")?;
        // What these files say is HOCON as well.
        let file = self.dir.join("update.conf");
        fs::write(&file, files.values().map(String::as_str).collect::<String>())?;
        let section = format!("{component}@{branch}");
        let arguments = ["update".into(), section.into(), "--file".into(), file.into()];
        self.order(Way::Api, arguments).await
    }

    /// Gives a secret another value, with conf-master's own command.
    pub(crate) async fn rotate(&self, secret: &str) -> Result<Push> {
        self.order(Way::Rotation, ["secret", "rotate", DATACENTER, secret].map(OsString::from)).await
    }

    /// Has conf-master change something.
    async fn order(&self, way: Way, arguments: impl IntoIterator<Item = OsString>) -> Result<Push> {
        let mut command = self.command("conf-master");
        command.args(arguments).args(["--server", self.url(Unit::Master)?.as_str()]).stdin(Stdio::null());
        let began = SystemTime::now();
        let output = Command::from(command).kill_on_drop(true).output().await.context("cannot run conf-master")?;
        let ended = SystemTime::now();
        let accepted = output.status.success();
        let said = if accepted { &output.stdout } else { &output.stderr };
        Ok(Push { way, began, ended, accepted, output: String::from_utf8_lossy(said).into_owned() })
    }

    /// Runs a command of the project to its end, and answers what it printed.
    async fn tool(&self, program: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null());
        let shown = format!("{command:?}");
        let output = Command::from(command).kill_on_drop(true).output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} failed: {}\n({shown})", error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A program beside this one, untouched by settings that the user has for programs of these names.
    fn command(&self, program: &str) -> std::process::Command {
        let mut command = tether::command(self.programs.join(program));
        for (name, _) in env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("CONF_") || name_text.starts_with("GIT_") {
                command.env_remove(&name);
            }
        }
        command
    }

    fn spawn(&self, unit: Unit) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
        let mut command = match unit {
            Unit::Master => self.master(),
            Unit::Slave => self.slave()?,
            Unit::Host(place) => self.agent_daemon(place)?,
            Unit::Job(place) => self.job(place)?,
        };
        let path = self.log(unit);
        let log = File::options().create(true).append(true).open(&path)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", unit.name()))?;
        let out = child.stdout.take().context("no standard output")?;
        Ok((child, BufReader::new(out).lines()))
    }

    /// After a restart a daemon listens where it did before.
    fn listen(&self, unit: Unit) -> String {
        self.addresses.iter().find(|(one, _)| *one == unit).map_or("127.0.0.1:0".to_owned(), |(_, at)| at.to_string())
    }

    fn master(&self) -> std::process::Command {
        let mut command = self.command("conf-master");
        command.args(["serve", "--listen", &self.listen(Unit::Master), "--repo"]).arg(self.repo());
        command
    }

    fn slave(&self) -> Result<std::process::Command> {
        let mut command = self.command("conf-slave");
        command
            .args(["run", "--datacenter", DATACENTER, "--listen", &self.listen(Unit::Slave)])
            .args(["--central", self.url(Unit::Master)?.as_str()])
            .args(["--consul", self.consul_url.as_deref().unwrap_or("embedded")])
            .arg("--state")
            .arg(self.dir.join("conf-slave"))
            .arg("--trusted-key")
            .arg(self.dir.join("central.git.key.pub"));
        self.add_prefix(&mut command);
        Ok(command)
    }

    fn agent_daemon(&self, place: usize) -> Result<std::process::Command> {
        let mut command = self.command("conf-local");
        command
            .args(["run", "--datacenter", DATACENTER, "--host", PLACES[place].host])
            .args(["--listen", &self.listen(Unit::Host(place))])
            .args(["--surrogate", self.url(Unit::Slave)?.as_str(), "--central", self.url(Unit::Master)?.as_str()])
            .args(["--consul", &self.consul_address()?])
            .arg("--state")
            .arg(self.host(place))
            .arg("--socket")
            .arg(self.socket(place))
            .arg("--trusted-key")
            .arg(self.dir.join("central.git.key.pub"));
        self.add_prefix(&mut command);
        Ok(command)
    }

    fn add_prefix(&self, command: &mut std::process::Command) {
        if let Some(prefix) = &self.prefix {
            command.args(["--pointer-prefix", prefix]);
        }
    }

    fn job(&self, place: usize) -> Result<std::process::Command> {
        let component = PLACES[place].component;
        let current = self.host(place).join("export/current");
        let read = format!("{component}/latest");
        Ok(match place {
            0 => {
                let mut command = tether::command("bash");
                command.arg(self.dir.join("jobs/web.sh")).arg(current).arg(read);
                command
            }
            1 => {
                let mut command = self.command("poc-app");
                command.env("CONF_LOCAL_SOCKET", self.socket(place));
                command
            }
            _ => {
                let mut command = self.command("poc-job-manager");
                let key = self.keys()?.component(&read.parse()?);
                command
                    .args(["--consul", &self.consul_address()?, "--key", &key, "--component", component])
                    .arg("--conf-local")
                    .arg(self.programs.join("conf-local"))
                    .arg("--socket")
                    .arg(self.socket(place))
                    .args(["--", "bash"])
                    .arg(self.dir.join("jobs/db.sh"))
                    .arg(current)
                    .arg(read);
                command
            }
        })
    }

    fn log(&self, unit: Unit) -> PathBuf {
        self.dir.join("logs").join(unit.name() + ".log")
    }

    /// What a unit said last.
    pub(crate) fn failure(&self, unit: Unit) -> String {
        let log = fs::read_to_string(self.log(unit)).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        let said: Vec<_> = lines.into_iter().rev().map(|line| format!("    {line}")).collect();
        format!("{} is not ready; it said last:\n{}", unit.name(), said.join("\n"))
    }

    /// Begins to observe what each tier has.
    pub(crate) fn observe(&mut self) -> Result<()> {
        let master = self.client(Unit::Master)?;
        self.keepers.spawn(observe::landings(master, self.seen.clone()));
        let key = self.keys()?.snapshot(&DATACENTER.parse()?);
        self.keepers.spawn(observe::pointer(self.consul()?, key, self.seen.clone()));
        for place in 0..PLACES.len() {
            let host = self.client(Unit::Host(place))?;
            self.keepers.spawn(observe::exports(host, place, self.seen.clone()));
        }
        Ok(())
    }

    /// Stops everything: asks first, and kills what has not ended after some seconds.
    pub(crate) async fn stop(mut self) {
        self.signal_all(Signal::TERM);
        let all_gone = async {
            while self.pids.iter().any(|(_, pid)| Path::new("/proc").join(pid.to_string()).exists()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), all_gone).await;
        self.keepers.shutdown().await;
        // Nobody writes them again now.
        if let (Some(_), Ok(consul), Ok(keys)) = (&self.consul_url, self.consul(), self.keys()) {
            for entry in consul.list(keys.root()).await.unwrap_or_default() {
                let _ = consul.delete(&entry.key).await;
            }
        }
        let _ = self.temporary.close();
    }

    fn signal_all(&self, signal: Signal) {
        // Jobs first: they are fed by the others.
        let mut units: Vec<_> = self.pids.iter().collect();
        units.sort_by_key(|(unit, _)| std::cmp::Reverse(*unit));
        for (_, pid) in units {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Forgets a unit that died, until it is started again.
    pub(crate) fn forget(&mut self, unit: Unit) {
        self.pids.retain(|(one, _)| *one != unit);
    }
}

/// The next line of a daemon that tells where it listens.
async fn ready(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<SocketAddr> {
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line());
    match line.await.context("nothing was said within 30 s")?? {
        Some(line) => match line.strip_prefix("ready http=") {
            Some(address) => Ok(address.parse()?),
            None => bail!("it said {line:?} in place of `ready http=…`"),
        },
        None => bail!("it ended"),
    }
}

async fn report(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<Report> {
    loop {
        // A line that is no report is a job's own affair.
        if let Ok(report) = lines.next_line().await.ok()??.parse() {
            return Some(report);
        }
    }
}

/// Where the project's programs are: beside this one.
fn programs() -> Result<PathBuf> {
    let me = env::current_exe().context("cannot find out where this program is")?;
    let folder = me.parent().context("this program is nowhere")?.to_owned();
    for program in ["conf-master", "conf-slave", "conf-local", "poc-app", "poc-job-manager"] {
        ensure!(
            folder.join(program).exists(),
            "{program} is not beside this program, in {}; start it as ./poc/run, which builds all of them",
            folder.display()
        );
    }
    Ok(folder)
}

/// The usual temporary directory, unless the path of a socket in it would be too long for the system.
fn short_temporary_directory() -> PathBuf {
    let usual = env::temp_dir();
    if usual.as_os_str().len() <= 70 { usual } else { PathBuf::from("/tmp") }
}

/// Removes what an earlier run left that was killed: nobody holds its lock.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("conf-poc-"));
        // Without the file another run is just beginning.
        let unlocked = || File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_ours && path.is_dir() && unlocked() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// For messages with the time of day.
pub(crate) fn clock(at: SystemTime) -> String {
    let zone = jiff::tz::TimeZone::system();
    jiff::Timestamp::try_from(at).unwrap_or_default().to_zoned(zone).strftime("%H:%M:%S").to_string()
}
