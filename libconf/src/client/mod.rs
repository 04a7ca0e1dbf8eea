//! What applications link: typed settings of this host's components, and their changes.
//!
//! Read in this order: [`Client`] finds the export, [`Component`] names what to read, [`Typed`] holds its current value.
//! Inside, `locate` asks the agent where the export is, `snapshot` reads one whole snapshot, and `follow` is the one
//! thread that notices a new one.
//!
//! Always true:
//! - A value comes from one snapshot, read whole: `current` is resolved once per snapshot, never once per file.
//! - The sequence of a value never falls.
//! - A value that cannot be read or does not deserialize leaves the last good one in place.
//! - Nothing here needs the agent to run: the export directory alone is enough, at start too.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use libconf::client::Client;
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Web {
//!     port: u16,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect()?;
//! let mut web = client.component("services/web")?.typed::<Web>()?;
//! println!("port {}", web.current().port);
//! // In async code, on any runtime: `let now = web.changed().await;`
//! if let Some(now) = web.changed_blocking(Duration::from_secs(60)) {
//!     println!("port {} since change {}", now.port, now.sequence());
//! }
//! # Ok(())
//! # }
//! ```

mod component;
mod error;
mod follow;
mod locate;
mod snapshot;
mod typed;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use component::Component;
pub use error::Error;
pub use typed::{Current, Typed};

use crate::name::{ComponentSelector, Sequence};

/// Where conf-local exports to unless told otherwise.
pub const DEFAULT_EXPORT_DIR: &str = "/var/lib/conf-local/export";

/// Where conf-local listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/conf-local/conf-local.sock";

/// This host's configuration, followed by one thread of its own.
///
/// A clone is the same client. The thread ends when the last clone and the last handle made from it are dropped; that
/// drop waits for a reading that is under way.
#[derive(Clone, Debug)]
pub struct Client {
    follower: Arc<follow::Follower>,
}

impl Client {
    /// Finds this host's export and reads its current snapshot.
    ///
    /// - Shape: `CONF_EXPORT_DIR`, when set, is the export directory, and nobody is asked. Otherwise the agent is asked
    ///   for it, on the socket `CONF_LOCAL_SOCKET` or [`DEFAULT_SOCKET`]; when it does not answer within a second,
    ///   [`DEFAULT_EXPORT_DIR`] is taken.
    /// - Errors: [`Error::NoExport`] when there is no readable snapshot there (the agent has not exported yet).
    /// - Source: `GET /v1/status` of conf-local, member `export`.
    pub fn connect() -> Result<Self, Error> {
        if let Some(dir) = std::env::var_os("CONF_EXPORT_DIR").filter(|dir| !dir.is_empty()) {
            return Self::at(PathBuf::from(dir));
        }
        let socket = std::env::var_os("CONF_LOCAL_SOCKET").filter(|path| !path.is_empty());
        Self::through(socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from))
    }

    /// As [`Client::connect`], with the agent at this socket and without a look at the environment.
    ///
    /// - Errors: as [`Client::connect`].
    pub fn through(socket: impl AsRef<Path>) -> Result<Self, Error> {
        Self::at(locate::export_dir(socket.as_ref()).unwrap_or_else(|| PathBuf::from(DEFAULT_EXPORT_DIR)))
    }

    /// Reads and follows the export in this directory (the one that holds `current`), without any agent.
    ///
    /// - Errors: [`Error::NoExport`] when no snapshot can be read there.
    pub fn at(export_dir: impl Into<PathBuf>) -> Result<Self, Error> {
        Ok(Client { follower: Arc::new(follow::Follower::start(&export_dir.into())?) })
    }

    /// One component of this host, `<kind>/<name>` or `<kind>/<name>/<version>`.
    ///
    /// Without a version it is the one that the datacenter runs, and goes on to be when that gets another version name.
    ///
    /// - Errors: [`Error::Name`]; [`Error::NotExported`] when this host's current snapshot lacks it;
    ///   [`Error::SeveralVersions`], which lists them, when several versions run and none was named.
    pub fn component(&self, name: &str) -> Result<Component, Error> {
        let selector: ComponentSelector = name.parse()?;
        self.follower.snapshot().resolve(&selector, None)?;
        Ok(Component::new(Arc::clone(&self.follower), selector))
    }

    /// The sequence of the snapshot that this client reads now.
    pub fn sequence(&self) -> Sequence {
        self.follower.snapshot().sequence
    }

    /// The export directory that is followed.
    pub fn export_dir(&self) -> &Path {
        self.follower.export_dir()
    }

    /// Why the newest snapshot in the export could not be taken, while that is so; the last good one stays.
    ///
    /// What is wrong with one component alone is told by [`Typed::last_error`].
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.follower.last_error()
    }
}

#[cfg(test)]
mod tests;
