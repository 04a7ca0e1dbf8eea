//! What applications link: typed settings of this host's components, and their changes.
//!
//! Read in this order: [`Client`] finds the export, [`Component`] names what to read, [`Typed`] holds its current value.
//! [`Operation`] reads at one version, together with other services. Inside, `agent` asks conf-local, `snapshot` reads one
//! whole snapshot, and `follow` is the one thread that notices a new one.
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

mod acknowledge;
mod agent;
mod component;
mod error;
mod files;
mod follow;
mod group;
pub mod operation;
mod signal;
mod snapshot;
mod typed;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use component::Component;
pub use error::Error;
pub use files::Files;
pub use group::{Change, Group, Subscription};
pub use operation::{JoinError, Operation};
pub use signal::Signal;
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
    /// Finds this host's export and agent by the environment, and reads the export's current snapshot.
    ///
    /// - Shape: as [`Options::connect`], with the export directory `CONF_EXPORT_DIR` and the socket `CONF_LOCAL_SOCKET`
    ///   where they are set and not empty.
    /// - Errors: [`Error::NoExport`] when there is no readable snapshot there (the agent has not exported yet).
    pub fn connect() -> Result<Self, Error> {
        let set = |name| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let (export_dir, socket) = (set("CONF_EXPORT_DIR"), set("CONF_LOCAL_SOCKET"));
        let options = Self::options().socket(socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)));
        Options { export_dir, ..options }.connect()
    }

    /// As [`Client::connect`], with the agent at this socket and without a look at the environment.
    ///
    /// - Errors: as [`Client::connect`].
    pub fn through(socket: impl AsRef<Path>) -> Result<Self, Error> {
        Self::options().socket(socket.as_ref()).connect()
    }

    /// Reads and follows the export in this directory (the one that holds `current`), without any agent.
    ///
    /// - Errors: [`Error::NoExport`] when no snapshot can be read there.
    pub fn at(export_dir: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::options().export_dir(export_dir).connect()
    }

    /// Where to find export and agent, said by the program.
    pub fn options() -> Options {
        Options::default()
    }

    /// Begins an operation: pins the highest change for which this host knows that it has its datacenter's newest
    /// configuration not above it.
    ///
    /// One atomic load: nobody is asked, and nothing is read.
    pub fn begin(&self) -> Operation {
        Operation::begin(Arc::clone(&self.follower))
    }

    /// Begins an operation at this change, such as the one that an update or a push answered: reads see what it wrote.
    ///
    /// Reads wait for it when this host does not have it yet.
    pub fn begin_at(&self, sequence: Sequence) -> Operation {
        Operation::at(Arc::clone(&self.follower), sequence)
    }

    /// Takes part in the operation whose pin a message's headers carry.
    ///
    /// Nothing is waited for here: reads wait when this host does not have the pinned version yet. Whoever can send such
    /// headers chooses what is read, and can make reads wait for versions that will never be: take them from your own
    /// services only.
    ///
    /// - Errors: [`JoinError::Absent`] when the caller pinned nothing: [`Client::begin`] is for that; the others when what
    ///   it sent is no pin.
    pub fn join(&self, headers: &impl operation::Headers) -> Result<Operation, JoinError> {
        Ok(self.begin_at(operation::baggage::read(headers)?))
    }

    /// As [`Client::join`], or a fresh pin when there is none in the headers, or none that can be read.
    pub fn join_or_begin(&self, headers: &impl operation::Headers) -> Operation {
        self.join(headers).unwrap_or_else(|_| self.begin())
    }

    /// One component of this host, `<kind>/<name>` or `<kind>/<name>/<version>`.
    ///
    /// Without a version it is the one that the datacenter runs, and goes on to be when that gets another version name.
    ///
    /// - Errors: [`Error::Name`]; [`Error::NotExported`] when this host's current snapshot lacks it; [`Error::HeldBack`] when
    ///   it was held back there, and no older files of it are here; [`Error::SeveralVersions`], which lists them, when several
    ///   versions run and none was named; [`Error::Read`].
    pub fn component(&self, name: &str) -> Result<Component, Error> {
        let selector: ComponentSelector = name.parse()?;
        self.follower.snapshot().find(&selector, None)?;
        Ok(Component::new(Arc::clone(&self.follower), selector))
    }

    /// Several components whose changes are told together, each named as for [`Client::component`].
    ///
    /// - Errors: those of [`Client::component`].
    pub fn group<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Group, Error> {
        let selectors = names.into_iter().map(|name| Ok(self.component(name)?.name().clone()));
        Ok(Group::of(Arc::clone(&self.follower), selectors.collect::<Result<_, Error>>()?))
    }

    /// All components of this host, whatever they are at the time.
    pub fn all(&self) -> Group {
        Group::all(Arc::clone(&self.follower))
    }

    /// Sends this process `signal` after each snapshot in which a component of this host changed: for programs that are
    /// built around it. To be told of some components alone, take [`Group::raise_on_change`].
    ///
    /// - Errors: [`Error::Thread`], [`Error::Read`].
    pub fn raise_on_change(&self, signal: Signal) -> Result<Subscription, Error> {
        self.all().raise_on_change(signal)
    }

    /// The sequence of the snapshot that this client reads now.
    pub fn sequence(&self) -> Sequence {
        self.follower.known().snapshot.sequence
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

/// Where a client finds the export and the agent; made by [`Client::options`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    export_dir: Option<PathBuf>,
    agent: agent::Agent,
}

impl Options {
    /// The export directory, the one that holds `current`.
    #[must_use]
    pub fn export_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.export_dir = Some(dir.into());
        self
    }

    /// The agent's Unix socket.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.agent.socket = Some(path.into());
        self
    }

    /// What `conf-local status` calls this process; the name of its executable unless told.
    #[must_use]
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.agent.program = Some(name.into());
        self
    }

    /// Where reads of an [`Operation`] wait for the agent: in this runtime, instead of in threads of libconf's own.
    ///
    /// It has to drive input, output and time (`enable_all`). Reads that wait when it is shut down end with
    /// [`Error::NotHere`].
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.agent.runtime = Some(runtime);
        self
    }

    /// Reads the export's current snapshot and follows it.
    ///
    /// - Shape: without an export directory the agent is asked for it; when it does not answer within a second, or no
    ///   socket was named, [`DEFAULT_EXPORT_DIR`] is taken. Without a socket no agent is ever asked: operations then read
    ///   what is kept in the export. With one the agent is told which snapshot this process runs on, and what of it does not
    ///   fit, by a thread of its own: an agent that is away or hangs holds nothing up.
    /// - Errors: [`Error::NoExport`] when there is no readable snapshot there (the agent has not exported yet).
    /// - Source: `GET /v1/status` of conf-local, member `export`.
    pub fn connect(self) -> Result<Client, Error> {
        let asked = || self.agent.socket.as_deref().and_then(agent::export_dir);
        let dir = self.export_dir.clone().or_else(asked).unwrap_or_else(|| PathBuf::from(DEFAULT_EXPORT_DIR));
        Ok(Client { follower: Arc::new(follow::Follower::start(&dir, self.agent)?) })
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
