//! Where the export is, and whether it holds what the command needs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use conf_core::daemon::chain;
use libconf::{
    client::{DEFAULT_EXPORT_DIR, DEFAULT_SOCKET},
    name::{ComponentSelector, Sequence},
};

use crate::cli::{
    ClientError, note,
    socket::{Pause, Socket},
};
use crate::service::{LONGEST_WAIT, RegisterRequest, Registered, StatusAnswer};

/// A restarted agent is back sooner.
const AWAY: Duration = Duration::from_secs(2);

/// An export that holds all the components.
pub(crate) struct Place {
    pub(crate) export: PathBuf,
    pub(crate) components: Vec<ComponentSelector>,
    pub(crate) socket: PathBuf,
    /// The agent knows of this process.
    pub(crate) registered: bool,
}

/// One snapshot of it.
pub(crate) struct Snapshot {
    pub(crate) sequence: Sequence,
    pub(crate) directory: PathBuf,
}

/// Registers this process and waits, as long as it takes, until all its components are exported.
pub(crate) async fn find(socket: &Socket, request: &RegisterRequest) -> Result<Place, ClientError> {
    let components: Vec<_> = request.components.iter().cloned().collect();
    let path = std::path::absolute(socket.path()).unwrap_or_else(|_| socket.path().to_owned());
    let place = |export, registered| Place { export, components: components.clone(), socket: path.clone(), registered };
    let (started, mut pause, mut said) = (Instant::now(), Pause::new(), false);
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
                    note(format_args!("{error}; starting on what is exported in {}", place.export.display()));
                    return Ok(place);
                }
                if !said && started.elapsed() > AWAY {
                    said = true;
                    note(format_args!("waiting: {error}"));
                }
                pause.rest().await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    place.filled(socket).await;
    Ok(place)
}

/// The export directory to use while the agent is away: the one that was named, or the usual one of the usual socket.
fn without_agent(socket: &Socket) -> Option<PathBuf> {
    match std::env::var_os("CONF_EXPORT_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => Some(PathBuf::from(dir)),
        None => (socket.path() == Path::new(DEFAULT_SOCKET)).then(|| PathBuf::from(DEFAULT_EXPORT_DIR)),
    }
}

impl Place {
    /// The snapshot that is current now, by its own folder.
    pub(crate) fn current(&self) -> Result<Snapshot, ClientError> {
        let read = || {
            let link = fs::read_link(self.export.join("current"))?;
            let sequence = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("`current` leads to {}", link.display()));
            Ok(Snapshot { sequence: sequence.ok_or_else(bad)?, directory: self.export.join(&link) })
        };
        let what = || format!("cannot read the export in {}", self.export.display());
        read().map_err(|source| ClientError::System { what: what(), source })
    }

    /// The components that the snapshot does not hold.
    pub(crate) fn missing(&self, snapshot: &Snapshot) -> impl Iterator<Item = &ComponentSelector> {
        let directory = snapshot.directory.clone();
        self.components.iter().filter(move |one| {
            // Without a version, its folder is there when any version is.
            !directory.join(one.to_string()).exists()
        })
    }

    /// The snapshot that is current now, if it holds all the components; or why not, in words.
    pub(crate) fn filled_now(&self) -> Result<Snapshot, String> {
        let snapshot = self.current().map_err(|error| chain(&error))?;
        let missing = self.missing(&snapshot).next().map(ToString::to_string);
        missing.map_or(Ok(snapshot), |missing| Err(format!("this host's configuration has no {missing}")))
    }

    /// Where the components' files really are: equal where nothing changed, since what is rendered is named by its hash.
    pub(crate) fn content(&self, snapshot: &Snapshot) -> Vec<Option<PathBuf>> {
        let real = |one: &ComponentSelector| fs::canonicalize(snapshot.directory.join(one.to_string())).ok();
        self.components.iter().map(real).collect()
    }

    async fn filled(&self, socket: &Socket) {
        let (mut pause, mut said) = (Pause::new(), false);
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
                Ok(_) => pause = Pause::new(),
                Err(_) => pause.rest().await,
            }
        }
    }
}
