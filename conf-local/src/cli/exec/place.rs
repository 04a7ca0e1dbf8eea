//! The export, and whether it holds the components that the command needs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use conf_core::daemon::chain;
use libconf::{
    client::{DEFAULT_EXPORT_DIR, DEFAULT_SOCKET},
    name::{ComponentSelector, Sequence},
};

use crate::{
    agent::AgentSocket,
    cli::{near::near, output::note, socket::backoff},
    service::{LONGEST_WAIT, RegisterRequest, Registered, StatusAnswer},
};

/// 2 s: a restarted agent is back sooner.
const AWAY: Duration = Duration::from_secs(2);

/// An export that holds all the components.
pub(crate) struct ExportPlace {
    pub(crate) export: PathBuf,
    pub(crate) components: Vec<ComponentSelector>,
    pub(crate) socket: PathBuf,
    /// This process is registered with the agent.
    pub(crate) registered: bool,
}

/// One snapshot of it.
pub(crate) struct PlacedSnapshot {
    pub(crate) sequence: Sequence,
    pub(crate) directory: PathBuf,
}

/// Registers this process, and waits until all its components are exported, however long that
/// takes.
pub(crate) async fn find(socket: &AgentSocket, request: &RegisterRequest) -> anyhow::Result<ExportPlace> {
    let components: Vec<_> = request.components.iter().cloned().collect();
    let path = std::path::absolute(&socket.socket).unwrap_or_else(|_| socket.socket.clone());
    let place =
        |export, registered| ExportPlace { export, components: components.clone(), socket: path.clone(), registered };
    let (started, mut pause, mut said) = (Instant::now(), backoff(), false);
    let place = loop {
        let registered = async {
            let _: Registered = socket.post("/v1/watchers", request, Duration::ZERO).await?;
            socket.get::<StatusAnswer>("/v1/status", Duration::ZERO).await
        };
        match registered.await {
            Ok(answer) => break place(answer.status.export, true),
            Err(error) if error.is_passing() => {
                let fallback = without_agent(socket).map(|export| place(export, false));
                if let Some(place) = fallback.filter(|_| started.elapsed() > AWAY)
                    && place.current().is_ok_and(|snapshot| place.missing(&snapshot).next().is_none())
                {
                    note(format_args!("{error}; starting on the export in {}", place.export.display()));
                    return Ok(place);
                }
                if !said && started.elapsed() > AWAY {
                    said = true;
                    note(format_args!("waiting: {error}"));
                }
                tokio::time::sleep(pause.next_wait()).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    place.filled(socket).await;
    Ok(place)
}

/// Returns the export to use while the agent is away: the named one, or the usual one for the usual
/// socket.
fn without_agent(socket: &AgentSocket) -> Option<PathBuf> {
    match std::env::var_os("CONF_EXPORT_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Some(PathBuf::from(dir)),
        None => (socket.socket == Path::new(DEFAULT_SOCKET)).then(|| PathBuf::from(DEFAULT_EXPORT_DIR)),
    }
}

impl ExportPlace {
    /// Returns the snapshot that is current now, with its own folder.
    pub(crate) fn current(&self) -> anyhow::Result<PlacedSnapshot> {
        let read = || {
            let link = fs::read_link(self.export.join("current"))?;
            let sequence = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("`current` leads to {}", link.display()));
            Ok(PlacedSnapshot { sequence: sequence.ok_or_else(bad)?, directory: self.export.join(&link) })
        };
        let read: io::Result<_> = read();
        read.with_context(|| format!("cannot read the export in {}", self.export.display()))
    }

    /// Lists the components that the snapshot lacks.
    pub(crate) fn missing(&self, snapshot: &PlacedSnapshot) -> impl Iterator<Item = &ComponentSelector> {
        let directory = snapshot.directory.clone();
        self.components.iter().filter(move |one| {
            // Without a version, the component's folder exists if any version does.
            !directory.join(one.to_string()).exists()
        })
    }

    /// Returns the snapshot that is current now if it holds all the components, or else the reason.
    pub(crate) fn filled_now(&self) -> Result<PlacedSnapshot, String> {
        let snapshot = self.current().map_err(|error| chain(&*error))?;
        let missing = self.missing(&snapshot).next();
        let missing = missing.map(|missing| format!("{missing}{}", near(&snapshot.directory, missing)));
        missing.map_or(Ok(snapshot), |missing| Err(format!("this host's configuration has no {missing}")))
    }

    /// Returns the real paths of the components' files. They are equal if nothing changed, since a
    /// rendering is named by its hash.
    pub(crate) fn content(&self, snapshot: &PlacedSnapshot) -> Vec<Option<PathBuf>> {
        let real = |one: &ComponentSelector| fs::canonicalize(snapshot.directory.join(one.to_string())).ok();
        self.components.iter().map(real).collect()
    }

    async fn filled(&self, socket: &AgentSocket) {
        let (mut pause, mut said, mut hidden) = (backoff(), false, false);
        loop {
            let after = self.current().map_or(Sequence(0), |snapshot| snapshot.sequence);
            let waiting = match self.filled_now() {
                Ok(_) => return,
                Err(_) if after == Sequence(0) => "nothing is exported on this host".to_owned(),
                Err(why) => why,
            };
            if !said {
                said = true;
                note(format_args!("waiting: {waiting} yet"));
            }
            let question = format!("/v1/status?after={after}&timeout={}", LONGEST_WAIT.as_secs());
            match socket.get::<StatusAnswer>(&question, LONGEST_WAIT).await {
                Ok(answer) if answer.status.current.is_some() && self.current().is_err() => {
                    if !hidden {
                        hidden = true;
                        let export = self.export.display();
                        note(format_args!(
                            "the agent exports to {export}, which this process does not see; in a container, mount that \
                             folder at the same path"
                        ));
                    }
                    tokio::time::sleep(pause.next_wait()).await;
                }
                Ok(_) => pause.reset(),
                Err(_) => tokio::time::sleep(pause.next_wait()).await,
            }
        }
    }
}
