//! Everything that runs: one conf-master, one conf-slave, three hosts with a conf-local each, and a
//! job on each host.
//!
//! Everything is in one temporary directory. A program that ends is started again on the same
//! address, as systemd would do.

mod certificates;
mod directory;
mod layout;

use std::{
    cmp::Reverse,
    ffi::OsString,
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use conf_core::{
    tls::{Certificates, ClientTls, OldestTls},
    upstream::{Credentials, Upstreams},
};
use poc::Report;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    engineers::{Change, Push, Way},
    observe::{self, Observation},
    place::{DATACENTER, PLACES, Unit},
    site::{directory::RunDirectory, layout::Layout},
};

/// Everything that runs.
pub(crate) struct Site {
    /// Its paths and addresses.
    pub layout: Layout,
    observed: mpsc::Sender<Observation>,
    pids: Vec<(Unit, u32)>,
    tasks: JoinSet<()>,
    // Last: removed when everything above is gone.
    directory: RunDirectory,
}

impl Site {
    /// Makes the directory; runs nothing yet.
    pub(crate) fn new(consul: Option<String>, tls: bool, observed: mpsc::Sender<Observation>) -> Result<Self> {
        let directory = RunDirectory::new()?;
        let layout = Layout::new(directory.temporary.path().to_owned(), consul, tls)?;
        Ok(Site { layout, observed, pids: Vec::new(), tasks: JoinSet::new(), directory })
    }

    /// Makes the identities of the hosts, and returns their public keys, to which secrets are
    /// sealed.
    pub(crate) async fn identities(&self) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        for place in 0..PLACES.len() {
            let arguments = ["identity".into(), "--state".into(), self.layout.host(place).into()];
            keys.push(self.tool("conf-local", arguments).await?.trim().to_owned());
        }
        Ok(keys)
    }

    /// Makes the central repository and its signing key.
    pub(crate) async fn init(&self) -> Result<()> {
        self.tool("conf-master", ["init".into(), "--repo".into(), self.layout.repo().into()]).await?;
        Ok(())
    }

    /// Makes a token for the cache, and one for the job manager, which asks the cache in Consul's
    /// place, as an administrator would. The hosts prove themselves by their keys.
    pub(crate) async fn make_tokens(&self) -> Result<()> {
        self.make_token(Unit::Slave, ["--slave", DATACENTER]).await?;
        let managed = PLACES.len() - 1;
        self.make_token(Unit::Job(managed), ["--host", &format!("{DATACENTER}/{}", PLACES[managed].host)]).await
    }

    async fn make_token(&self, unit: Unit, about: [&str; 2]) -> Result<()> {
        let (name, server) = (unit.name(), self.layout.url(Unit::Master)?);
        let arguments = ["token", "add", &name, about[0], about[1], "--server", server.url().as_str()];
        let files = ["--token-file".into(), self.layout.token(None).into(), "--out".into()];
        let files = files.into_iter().chain([self.layout.token(Some(unit)).into()]).chain(self.layout.trust());
        self.tool("conf-master", arguments.map(OsString::from).into_iter().chain(files)).await?;
        Ok(())
    }

    /// Returns the process of a running unit.
    pub(crate) fn pid(&self, unit: Unit) -> Option<u32> {
        self.pids.iter().find(|(one, _)| *one == unit).map(|(_, pid)| *pid)
    }

    /// Makes a client of a running daemon.
    fn client(&self, unit: Unit) -> Result<Upstreams> {
        let token = (unit == Unit::Master).then(|| self.layout.token(None));
        let tls = ClientTls::load(self.layout.trusted(), OldestTls::default(), &Certificates::default())?;
        Ok(Upstreams::new(vec![self.layout.url(unit)?], &Credentials::from_file(token).over(tls))?)
    }

    /// Starts a unit, and waits until it is ready.
    pub(crate) async fn start(&mut self, unit: Unit) -> Result<()> {
        let (mut child, mut lines) = self.spawn(unit)?;
        let pid = child.id().context("it ended at once")?;
        if let Unit::Job(place) = unit {
            let first = tokio::time::timeout(Duration::from_secs(30), next_report(&mut lines)).await;
            let first = first.ok().flatten().with_context(|| self.failure(unit))?;
            let _ = self.observed.send(Observation::Job(place, first)).await;
            let observed = self.observed.clone();
            self.tasks.spawn(async move {
                while let Some(report) = next_report(&mut lines).await {
                    let _ = observed.send(Observation::Job(place, report)).await;
                }
            });
            if place == 0 {
                self.watch(place, pid).await?;
            }
        } else {
            let address = ready(&mut lines).await.with_context(|| self.failure(unit))?;
            self.layout.addresses.retain(|(one, _)| *one != unit);
            self.layout.addresses.push((unit, address));
            self.tasks.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        }
        self.forget(unit);
        self.pids.push((unit, pid));
        let observed = self.observed.clone();
        // Waiting for the child would close its input, and a job takes that for the end of its
        // parent.
        let input = child.stdin.take();
        self.tasks.spawn(async move {
            let _input = input;
            if let Ok(status) = child.wait().await {
                let _ = observed.send(Observation::Died(unit, status)).await;
            }
        });
        Ok(())
    }

    /// Registers a job's process for a signal when its component changes.
    async fn watch(&self, place: usize, pid: u32) -> Result<()> {
        let component = PLACES[place].component;
        let arguments = ["watch".into(), component.into(), "--pid".into(), pid.to_string().into()];
        self.agent(place, arguments).await?;
        Ok(())
    }

    /// Runs a client command of conf-local against a host's agent.
    pub(crate) async fn agent(&self, place: usize, arguments: impl IntoIterator<Item = OsString>) -> Result<String> {
        let socket = ["--socket".into(), self.layout.socket(place).into()];
        self.tool("conf-local", arguments.into_iter().chain(socket)).await
    }

    /// Changes one section through the API, with a client command of conf-master.
    pub(crate) async fn update(&self, change: &Change) -> Result<Push> {
        let (branch, files) = change.edits.first_key_value().context("the change has no edit")?;
        let (component, branch) = branch.rsplit_once('/').context("the branch is not a component's")?;
        // The text of these files is HOCON as well as YAML.
        let file = self.layout.dir.join("update.conf");
        fs::write(&file, files.values().map(String::as_str).collect::<String>())?;
        let section = format!("{component}@{branch}");
        let arguments = ["update".into(), section.into(), "--file".into(), file.into()];
        self.command_master(Way::Api, arguments).await
    }

    /// Gives a secret a new value, with a client command of conf-master.
    pub(crate) async fn rotate(&self, secret: &str) -> Result<Push> {
        self.command_master(Way::Rotation, ["secret", "rotate", DATACENTER, secret].map(OsString::from)).await
    }

    async fn command_master(&self, way: Way, arguments: impl IntoIterator<Item = OsString>) -> Result<Push> {
        let mut command = self.layout.command("conf-master");
        command.args(arguments).args(["--server", self.layout.url(Unit::Master)?.url().as_str()]);
        command.arg("--token-file").arg(self.layout.token(None)).args(self.layout.trust());
        let began = SystemTime::now();
        let output = output(command).await.context("cannot run conf-master")?;
        let ended = SystemTime::now();
        let accepted = output.status.success();
        let printed = if accepted { &output.stdout } else { &output.stderr };
        Ok(Push { way, began, ended, accepted, output: String::from_utf8_lossy(printed).into_owned() })
    }

    /// Runs a command of the project to its end, and returns its output.
    async fn tool(&self, program: &str, arguments: impl IntoIterator<Item = OsString>) -> Result<String> {
        let mut command = self.layout.command(program);
        command.args(arguments);
        let shown = format!("{command:?}");
        let output = output(command).await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} failed: {}\n({shown})", error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn spawn(&self, unit: Unit) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
        let mut command = self.layout.unit(unit)?;
        let log = File::options().create(true).append(true).open(self.layout.log(unit))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", unit.name()))?;
        let out = child.stdout.take().context("it has no standard output")?;
        Ok((child, BufReader::new(out).lines()))
    }

    /// Describes a failure of a unit by the end of its log.
    pub(crate) fn failure(&self, unit: Unit) -> String {
        let log = fs::read_to_string(self.layout.log(unit)).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(8).collect();
        let lines: Vec<_> = lines.into_iter().rev().map(|line| format!("    {line}")).collect();
        format!("{} is not ready; the end of its log:\n{}", unit.name(), lines.join("\n"))
    }

    /// Begins to observe each tier.
    pub(crate) fn observe(&mut self) -> Result<()> {
        let master = self.client(Unit::Master)?;
        self.tasks.spawn(observe::landings(master, self.observed.clone()));
        let key = self.layout.keys()?.snapshot(&DATACENTER.parse()?);
        self.tasks.spawn(observe::pointer(self.layout.consul()?, key, self.observed.clone()));
        for place in 0..PLACES.len() {
            let host = self.client(Unit::Host(place))?;
            self.tasks.spawn(observe::exports(host, place, self.observed.clone()));
        }
        Ok(())
    }

    /// Stops everything: sends SIGTERM, and kills after five seconds.
    pub(crate) async fn stop(mut self) {
        self.terminate_all();
        let all_gone = async {
            while self.pids.iter().any(|(_, pid)| Path::new("/proc").join(pid.to_string()).exists()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), all_gone).await;
        self.tasks.shutdown().await;
        // No program is left that would write the keys again.
        if let (Some(_), Ok(consul), Ok(keys)) = (&self.layout.consul_url, self.layout.consul(), self.layout.keys()) {
            for entry in consul.list(keys.root()).await.unwrap_or_default() {
                let _ = consul.delete(&entry.key).await;
            }
        }
        let _ = self.directory.temporary.close();
    }

    fn terminate_all(&self) {
        // Jobs first, since they read from the others.
        let mut units: Vec<_> = self.pids.iter().collect();
        units.sort_by_key(|(unit, _)| Reverse(*unit));
        for (_, pid) in units {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
    }

    /// Forgets the process of a unit that ended.
    pub(crate) fn forget(&mut self, unit: Unit) {
        self.pids.retain(|(one, _)| *one != unit);
    }
}

async fn output(mut command: std::process::Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null());
    Command::from(command).kill_on_drop(true).output().await
}

/// Reads the address that a daemon listens on from its next line.
async fn ready(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<SocketAddr> {
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line());
    match line.await.context("it printed nothing within 30 s")?? {
        Some(line) => match line.strip_prefix("ready http=").or_else(|| line.strip_prefix("ready https=")) {
            Some(address) => Ok(address.parse()?),
            None => bail!("it printed {line:?} in place of `ready http=…` or `ready https=…`"),
        },
        None => bail!("it ended"),
    }
}

/// Reads the next report of a job. Other lines are ignored.
async fn next_report(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<Report> {
    loop {
        if let Ok(report) = lines.next_line().await.ok()??.parse() {
            return Some(report);
        }
    }
}
