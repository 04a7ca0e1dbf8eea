//! A host.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    http::Address,
    program::{Daemon, built, command, run, text},
    wait::eventually,
};

/// A host.
#[derive(Debug)]
pub struct Host {
    /// The agent.
    pub daemon: Daemon,
    /// Its name.
    pub name: String,
    /// Its datacenter.
    pub datacenter: String,
    /// The agent's folder.
    pub state: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
    /// The host's own folder.
    pub home: PathBuf,
}

impl Host {
    /// Returns the agent's address for requests.
    pub fn http(&self) -> Address {
        Address::Unix(self.socket.clone())
    }

    /// Requests the agent's status.
    pub fn status(&self) -> Result<Value, String> {
        self.http().get_json("/v1/status")
    }

    /// Returns the sequence of the export.
    pub fn sequence(&self) -> u64 {
        self.status().ok().and_then(|status| status["sequence"].as_u64()).unwrap_or_default()
    }

    /// Waits until the export is at a sequence or a later one.
    #[track_caller]
    pub fn wait_applied(&self, sequence: u64) {
        eventually(&format!("{} to apply #{sequence}", self.name), || {
            let status = self.http().get_json(&format!("/v1/status?after={}&timeout=5", sequence - 1))?;
            if status["sequence"].as_u64() >= Some(sequence) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Waits until the agent's status is right.
    #[track_caller]
    pub fn wait_status(&self, what: &str, mut right: impl FnMut(&Value) -> bool) -> Value {
        eventually(&format!("{} to {what}", self.name), || {
            let status = self.status()?;
            if right(&status) { Ok(status) } else { Err(status.to_string()) }
        })
    }

    /// Returns the export directory.
    pub fn export(&self) -> PathBuf {
        self.state.join("export")
    }

    /// Reads a file of the current snapshot, `<kind>/<name>/<version>/<path>`.
    pub fn read(&self, file: &str) -> Result<String, String> {
        let file = self.export().join("current").join(file);
        fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Reads a file of the current snapshot that must be there.
    #[track_caller]
    pub fn file(&self, file: &str) -> String {
        self.read(file).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the agent's repository.
    pub fn repository(&self) -> PathBuf {
        self.state.join("repo.git")
    }

    /// Runs a client command of conf-local.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(self.client(arguments))
    }

    /// Makes a client command of conf-local, which the test runs itself.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut client = command(built("conf-local"), &self.home);
        client.args(arguments).env("CONF_LOCAL_SOCKET", &self.socket);
        client
    }

    /// Registers a process for a signal after each change.
    #[track_caller]
    pub fn watch(&self, components: &[&str], pid: u32) {
        let pid = pid.to_string();
        let arguments: Vec<&str> =
            ["watch"].into_iter().chain(components.iter().copied()).chain(["--pid", &pid]).collect();
        let output = self.run(&arguments);
        assert!(output.status.success(), "conf-local watch failed:\n{}", text(&output));
    }
}
