//! Registered processes on disk, so that a restart of the agent loses none.
//!
//! `watchers.json`: `{"format": 1, "watchers": [registration]}`, replaced as a whole. Not synced: a machine that lost
//! power runs none of the processes. A reader that meets a higher format starts with none, and says so.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use libconf::name::{ComponentSelector, Sequence};
use serde::{Deserialize, Serialize};

use crate::process::handle::Identity;

const FORMAT: u32 = 1;

/// One registered process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Who registered it.
    pub(crate) user: u32,
    pub(crate) signal: String,
    pub(crate) components: BTreeSet<ComponentSelector>,
    #[serde(default)]
    pub(crate) delay: Duration,
    /// What was exported when it came.
    pub(crate) sequence: Sequence,
    pub(crate) when: String,
}

impl Registration {
    /// The user that the process must have; root may name any.
    pub(crate) fn guard(&self) -> Option<u32> {
        (self.user != 0).then_some(self.user)
    }
}

#[derive(Serialize, Deserialize)]
struct Kept<W> {
    format: u32,
    watchers: W,
}

/// The file.
pub(crate) struct Registrations {
    path: PathBuf,
}

impl Registrations {
    pub(crate) fn in_directory(state: &Path) -> Self {
        Registrations { path: state.join("watchers.json") }
    }

    /// What is kept; nothing, with a warning, when it cannot be read.
    pub(crate) fn load(&self) -> Vec<Registration> {
        let read = || -> io::Result<Vec<Registration>> {
            let kept: Kept<Vec<Registration>> = serde_json::from_slice(&fs::read(&self.path)?)?;
            match kept.format {
                FORMAT => Ok(kept.watchers),
                format => Err(io::Error::other(format!("it has format {format}, written by a newer agent"))),
            }
        };
        match read() {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "registered processes are lost; they have to register again");
                Vec::new()
            }
        }
    }

    /// Replaces what is kept.
    pub(crate) fn save<'a>(
        &self,
        registrations: impl Iterator<Item = &'a Registration>,
    ) -> Result<(), (PathBuf, io::Error)> {
        let kept = Kept { format: FORMAT, watchers: registrations.collect::<Vec<_>>() };
        let new = self.path.with_extension("json.new");
        let write = || {
            fs::write(&new, serde_json::to_vec(&kept)?)?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| (self.path.clone(), error))
    }
}
