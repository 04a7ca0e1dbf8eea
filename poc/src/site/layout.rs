//! Paths, addresses and command lines of every program.

use std::{env, ffi::OsString, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use conf_core::{
    address::BaseUrl,
    consul::{Consul, ConsulCredentials, Keys},
    tls::{ClientFiles, NamedFile},
};
use poc::tether;

use crate::{
    place::{DATACENTER, PLACES, Unit},
    site::certificates::Certificates,
};

/// The places of everything.
pub(crate) struct Layout {
    /// The directory of this run.
    pub dir: PathBuf,
    /// The directory of the project's programs.
    pub programs: PathBuf,
    /// A real Consul, if there is one.
    pub consul_url: Option<String>,
    /// The certificates, where every program speaks TLS.
    pub tls: Option<Certificates>,
    // In a Consul that is not ours, all keys are below a prefix of this run's own.
    prefix: Option<String>,
    /// The addresses of daemons that are ready.
    pub addresses: Vec<(Unit, SocketAddr)>,
}

impl Layout {
    pub(crate) fn new(dir: PathBuf, consul_url: Option<String>, tls: bool) -> Result<Self> {
        let name = dir.file_name().and_then(|name| name.to_str()).context("the directory's name is not UTF-8")?;
        let prefix = consul_url.is_some().then(|| name.to_lowercase());
        let tls = tls.then(|| Certificates::make(&dir.join("tls"))).transpose().context("cannot make certificates")?;
        Ok(Layout { dir, programs: programs()?, consul_url, tls, prefix, addresses: Vec::new() })
    }

    /// Returns the central repository.
    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.join("central.git")
    }

    /// Returns the file with a token; `None` is the first administrator's, which `init` has made.
    pub(crate) fn token(&self, of: Option<Unit>) -> PathBuf {
        self.dir.join(of.map_or("central.git.token".to_owned(), |unit| unit.name() + ".token"))
    }

    /// Returns Git's credential helper for the reader.
    pub(crate) fn credential_helper(&self) -> String {
        let quoted = |path: PathBuf| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let (program, token) = (quoted(self.programs.join("conf-master")), quoted(self.token(None)));
        format!("!{program} credential --token-file {token}")
    }

    /// Returns a host's directory.
    pub(crate) fn host(&self, place: usize) -> PathBuf {
        self.dir.join(PLACES[place].host)
    }

    /// Returns a host's socket.
    pub(crate) fn socket(&self, place: usize) -> PathBuf {
        self.host(place).join("socket")
    }

    /// Returns the log of a unit.
    pub(crate) fn log(&self, unit: Unit) -> PathBuf {
        self.dir.join("logs").join(unit.name() + ".log")
    }

    /// Returns the base URL of a running daemon.
    pub(crate) fn url(&self, unit: Unit) -> Result<BaseUrl> {
        let address = self.address(unit).with_context(|| format!("{} does not run", unit.name()))?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{address}/").parse()?)
    }

    /// Returns what clients of this run's servers trust.
    pub(crate) fn trusted(&self) -> ClientFiles {
        let ca = self.tls.as_ref().map(|tls| NamedFile::new("--ca", tls.authority.clone()));
        ClientFiles { ca, ..ClientFiles::default() }
    }

    /// Returns the flags by which a command trusts this run's servers.
    pub(crate) fn trust(&self) -> Vec<OsString> {
        self.tls.iter().flat_map(|tls| ["--ca".into(), tls.authority.clone().into()]).collect()
    }

    /// Has a daemon speak TLS.
    fn serve_tls(&self, command: &mut Command) {
        if let Some(tls) = &self.tls {
            command.arg("--tls-cert").arg(&tls.certificate).arg("--tls-key").arg(&tls.key);
        }
    }

    /// Makes a client of the Consul that holds the pointers: a real one, or conf-slave in its
    /// place.
    pub(crate) fn consul(&self) -> Result<Consul> {
        let mut credentials = ConsulCredentials::from_variables(|name| env::var(name).ok());
        if self.consul_url.is_none() {
            // conf-slave in its place asks for a token of conf-master's.
            (credentials.token, credentials.token_file) = (None, Some(self.token(None)));
            credentials.files = self.trusted();
        }
        Ok(Consul::new(&[self.consul_address()?], credentials)?)
    }

    /// Returns the names of the pointers' keys.
    pub(crate) fn keys(&self) -> Result<Keys> {
        Ok(Keys::new(self.prefix.as_deref())?)
    }

    /// Makes a command of a program beside this one.
    pub(crate) fn command(&self, program: &str) -> Command {
        tether::command(self.programs.join(program))
    }

    /// Makes the command that runs a unit.
    pub(crate) fn unit(&self, unit: Unit) -> Result<Command> {
        match unit {
            Unit::Master => Ok(self.master()),
            Unit::Slave => self.slave(),
            Unit::Host(place) => self.agent(place),
            Unit::Job(place) => self.job(place),
        }
    }

    fn address(&self, unit: Unit) -> Option<SocketAddr> {
        self.addresses.iter().find(|(one, _)| *one == unit).map(|(_, address)| *address)
    }

    fn consul_address(&self) -> Result<String> {
        match &self.consul_url {
            Some(url) => Ok(url.clone()),
            None => Ok(self.url(Unit::Slave)?.url().as_str().trim_end_matches('/').to_owned()),
        }
    }

    /// Returns the former address of a daemon after a restart, and any free one at its first start.
    fn listen(&self, unit: Unit) -> String {
        self.address(unit).map_or("127.0.0.1:0".to_owned(), |address| address.to_string())
    }

    fn master(&self) -> Command {
        let mut command = self.command("conf-master");
        command.args(["serve", "--listen", &self.listen(Unit::Master), "--repo"]).arg(self.repo());
        self.serve_tls(&mut command);
        command
    }

    fn slave(&self) -> Result<Command> {
        let mut command = self.command("conf-slave");
        command
            .args(["run", "--datacenter", DATACENTER, "--listen", &self.listen(Unit::Slave)])
            .args(["--central", self.url(Unit::Master)?.url().as_str()])
            .args(["--consul", self.consul_url.as_deref().unwrap_or("embedded"), "--state"])
            .arg(self.dir.join("conf-slave"))
            .arg("--token-file")
            .arg(self.token(Some(Unit::Slave)));
        self.add_common(&mut command);
        Ok(command)
    }

    fn agent(&self, place: usize) -> Result<Command> {
        let mut command = self.command("conf-local");
        command
            .args(["run", "--datacenter", DATACENTER, "--host", PLACES[place].host])
            .args(["--listen", &self.listen(Unit::Host(place))])
            .args([
                "--surrogate",
                self.url(Unit::Slave)?.url().as_str(),
                "--central",
                self.url(Unit::Master)?.url().as_str(),
            ])
            .args(["--consul", &self.consul_address()?, "--state"])
            .arg(self.host(place))
            .arg("--socket")
            .arg(self.socket(place));
        self.add_common(&mut command);
        Ok(command)
    }

    fn add_common(&self, command: &mut Command) {
        command.arg("--trusted-key").arg(self.dir.join("central.git.key.pub"));
        command.args(self.trust());
        self.serve_tls(command);
        if let Some(prefix) = &self.prefix {
            command.args(["--pointer-prefix", prefix]);
        }
    }

    fn job(&self, place: usize) -> Result<Command> {
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
                if self.consul_url.is_none() {
                    command.env("CONSUL_HTTP_TOKEN_FILE", self.token(Some(Unit::Job(place))));
                    command.envs(self.tls.iter().map(|tls| ("CONSUL_CACERT", &tls.authority)));
                }
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
}

/// Finds the project's programs, which are beside this one.
fn programs() -> Result<PathBuf> {
    let me = env::current_exe().context("cannot find this program's own file")?;
    let folder = me.parent().context("this program's file is in no folder")?.to_owned();
    for program in ["conf-master", "conf-slave", "conf-local", "poc-app", "poc-job-manager"] {
        ensure!(
            folder.join(program).exists(),
            "{program} is not beside this program, in {}; start it as ./poc/run, which builds all of them",
            folder.display()
        );
    }
    Ok(folder)
}
