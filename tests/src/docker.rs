//! A Docker daemon of a test's own, and systems in it that run systemd.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    program::{Daemon, command, run, text},
    wait::eventually,
};

/// What systemd needs as the first process, short of `--privileged`: that also asks for
/// capabilities that a test machine may not have itself. The control groups come read-only.
const FOR_SYSTEMD: [&str; 15] = [
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--cgroupns=private",
    "--tmpfs=/run",
    "--tmpfs=/tmp:exec",
    "--env=container=docker",
    "--stop-signal=SIGRTMIN+3",
    "--entrypoint=/bin/sh",
    "--interactive=false",
    "--tty=false",
    "--detach",
    "--restart=no",
];
const FIRST: &str = "for place in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                     mountpoint -q \"$place\" && mount -o remount,bind,rw \"$place\"; done; exec /sbin/init";

/// A Docker daemon with folders and namespaces of its own; see `tests/dockerd`. It reaches no
/// network.
#[derive(Debug)]
pub struct Docker {
    daemon: Daemon,
    client: PathBuf,
    socket: String,
    // The last field: the folder goes after the daemon.
    folder: TempDir,
}

impl Docker {
    /// Starts one without images and containers.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut daemon =
            Daemon::new("dockerd", script("dockerd"), folder.path(), [folder.path().join("docker").into_os_string()]);
        let server = printed_by("get-docker", &[]);
        for name in ["CARGO_TARGET_DIR", "DOCKERD"] {
            if let Some(value) = std::env::var_os(name) {
                daemon.environment(name, value);
            }
        }
        daemon.start();
        let socket = daemon.ready_line().rsplit('=').next().expect("it names its socket").to_owned();
        let client = Path::new(&server).ancestors().nth(2).expect("it is in a folder sbin").join("bin/docker");
        Docker { daemon, client, socket: format!("unix://{socket}"), folder }
    }

    /// Returns the value of `DOCKER_HOST` for other programs.
    pub fn host(&self) -> &str {
        &self.socket
    }

    /// Returns a PATH for other programs that begins with the folder of the client.
    pub fn path(&self) -> std::ffi::OsString {
        let own = self.client.parent().expect("a program is in a folder").to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        std::env::join_paths([own].into_iter().chain(std::env::split_paths(&others))).expect("no folder has a colon")
    }

    /// Returns a command of the client.
    pub fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut docker = command(&self.client, self.folder.path());
        docker.env("DOCKER_HOST", &self.socket).args(arguments);
        docker
    }

    /// Runs a command of the client, and returns what it printed.
    ///
    /// # Panics
    ///
    /// Where the command fails.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> String {
        succeed(self.command(arguments))
    }

    /// Makes an image of a Debian that has systemd, git and these packages; see
    /// `tests/make-system`.
    pub fn make_system_image(&self, image: &str, packages: &[&str]) {
        let tar = printed_by("make-system", packages);
        self.run(["import", &tar, image]);
    }

    /// Starts a container of an image with systemd as its first process, and waits until all of its
    /// units run. `arguments` are further ones of `docker run`.
    pub fn start_system(&self, name: &str, image: &str, arguments: &[&str]) -> System<'_> {
        let system = self.boot_system(name, image, arguments);
        system.wait_running();
        system
    }

    /// As [`Docker::start_system`], without waiting.
    pub fn boot_system(&self, name: &str, image: &str, arguments: &[&str]) -> System<'_> {
        let named = ["--name", name, "--hostname", name];
        self.run(["run"].iter().chain(&FOR_SYSTEMD).chain(&named).chain(arguments).chain(&[image, "-c", FIRST]));
        self.system(name)
    }

    /// Returns a container that was started before.
    pub fn system(&self, name: &str) -> System<'_> {
        System { docker: self, name: name.to_owned() }
    }

    /// Returns the id of a process that is in the network of the daemon, where the gateways of its
    /// networks are.
    pub fn network_process(&self) -> u32 {
        let pid = self.daemon.pid();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).expect("the daemon runs");
        children.split(' ').next().and_then(|child| child.parse().ok()).expect("it has one child")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // In order, so that no control group of a container stays.
        if self.daemon.is_running() {
            self.daemon.signal(rustix::process::Signal::TERM);
            self.daemon.wait_for_end(Duration::from_secs(60));
        }
    }
}

/// A container that runs systemd.
#[derive(Debug)]
pub struct System<'d> {
    docker: &'d Docker,
    name: String,
}

impl System<'_> {
    /// Waits until systemd has started everything. A unit that failed fails the test.
    #[track_caller]
    pub fn wait_running(&self) {
        let failed = || text(&self.try_sh("systemctl --failed --no-legend; journalctl --no-pager -n 40"));
        eventually(&format!("{} to run", self.name), || {
            let state = text(&self.try_sh("systemctl is-system-running"));
            match state.trim() {
                "running" => Ok(()),
                "degraded" => panic!("a unit of {} has failed:\n{}", self.name, failed()),
                _ => Err(state),
            }
        });
    }

    /// Runs a script of bash in it, as root, and returns what it printed.
    ///
    /// # Panics
    ///
    /// Where the script fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(output.status.success(), "{}: {script}\n{}\n{}", self.name, output.status, text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As [`System::sh`], also where the script fails.
    pub fn try_sh(&self, script: &str) -> Output {
        let script = format!("set -euo pipefail\n{script}");
        run(self.docker.command(["exec", &self.name, "bash", "-c", &script]))
    }

    /// Asks a script every 20 ms until it succeeds, and returns what it printed.
    #[track_caller]
    pub fn eventually(&self, what: &str, script: &str) -> String {
        eventually(what, || {
            let output = self.try_sh(script);
            if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
        })
    }

    /// Copies a file or a folder into it.
    #[track_caller]
    pub fn copy_in(&self, from: &Path, to: &str) {
        let (from, to) = (from.as_os_str(), format!("{}:{to}", self.name));
        self.docker.run([OsStr::new("cp"), from, OsStr::new(&to)]);
    }

    /// Returns the journal of a unit.
    pub fn journal(&self, unit: &str) -> String {
        text(&self.try_sh(&format!("journalctl --no-pager --output cat --unit {unit}")))
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Runs a script of this folder that prints a path.
pub fn printed_by(name: &str, arguments: &[&str]) -> String {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let mut found = command(script(name), Path::new(&home));
    found.args(arguments);
    for name in ["CARGO_TARGET_DIR", "DOCKERD", "DEBOOTSTRAP", "DOCKER_COMPOSE"] {
        if let Some(value) = std::env::var_os(name) {
            found.env(name, value);
        }
    }
    let found = run(found);
    assert!(found.status.success(), "{}", text(&found));
    String::from_utf8_lossy(&found.stdout).trim().to_owned()
}

#[track_caller]
fn succeed(command: Command) -> String {
    let name = format!("{command:?}");
    let output = run(command);
    assert!(output.status.success(), "{name}: {}\n{}", output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
