//! Finds the export and the agent of this host.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::client::{
    agent::{self, Agent},
    component::Component,
    error::Error,
    follow::Follower,
    group::{Group, Subscription},
    operation::{self, JoinError, Operation},
    signal::Signal,
};
use crate::name::{ComponentSelector, Sequence};

/// The default export directory of conf-local.
pub const DEFAULT_EXPORT_DIR: &str = "/var/lib/conf-local/export";

/// The default socket of conf-local.
pub const DEFAULT_SOCKET: &str = "/run/conf-local/conf-local.sock";

/// This host's configuration, followed by one thread of its own.
///
/// A clone is the same client. The thread ends when the last clone and the last handle made from it
/// are dropped. That drop waits for the present reading.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) follower: Arc<Follower>,
}

impl Client {
    /// Finds this host's export and agent by the environment, and reads the export's current
    /// snapshot.
    ///
    /// - Shape: as [`Options::connect`], with the export directory `CONF_EXPORT_DIR` and the socket
    ///   `CONF_LOCAL_SOCKET` if they are set and not empty.
    /// - Errors: [`Error::NoExport`] when there is no readable snapshot there (the agent has not
    ///   exported yet).
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

    /// Reads and follows the export in this directory (the one that holds `current`), without any
    /// agent.
    ///
    /// - Errors: [`Error::NoExport`] when no snapshot can be read there.
    pub fn at(export_dir: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::options().export_dir(export_dir).connect()
    }

    /// Begins options by which the program names export and agent itself.
    pub fn options() -> Options {
        Options::default()
    }

    /// Begins an operation: pins the highest change for which this host knows its datacenter's
    /// newest configuration not above it.
    ///
    /// This is one atomic load, without a request and without reading a file.
    pub fn begin(&self) -> Operation {
        Operation::begin(Arc::clone(&self.follower))
    }

    /// Begins an operation at this change, such as the one that an update or a push returned, so
    /// that reads see it.
    ///
    /// Reads wait for the change if this host does not have it yet.
    pub fn begin_at(&self, sequence: Sequence) -> Operation {
        Operation::at(Arc::clone(&self.follower), sequence)
    }

    /// Joins the operation whose pin is in a message's headers.
    ///
    /// This does not wait: reads wait if this host does not have the pinned version yet. The sender
    /// of such headers chooses the version that is read, and can make reads wait for a version that
    /// never comes. Take them from your own services only.
    ///
    /// - Errors: [`JoinError::Absent`] when the caller pinned nothing, which is a case for
    ///   [`Client::begin`]; the others when its pin is malformed.
    pub fn join(&self, headers: &impl operation::Headers) -> Result<Operation, JoinError> {
        Ok(self.begin_at(operation::baggage::read(headers)?))
    }

    /// As [`Client::join`], or with a fresh pin when the headers have none, or a malformed one.
    pub fn join_or_begin(&self, headers: &impl operation::Headers) -> Operation {
        self.join(headers).unwrap_or_else(|_| self.begin())
    }

    /// Returns one component of this host, `<kind>/<name>` or `<kind>/<name>/<version>`.
    ///
    /// Without a version it is the version that the datacenter runs, also after that gets another
    /// name.
    ///
    /// - Errors: [`Error::Name`]; [`Error::NotExported`] when this host's current snapshot lacks
    ///   it; [`Error::HeldBack`] when it was held back there and has no older files here;
    ///   [`Error::SeveralVersions`], which lists them, when several versions run and the name has
    ///   none; [`Error::Read`].
    pub fn component(&self, name: &str) -> Result<Component, Error> {
        let selector: ComponentSelector = name.parse()?;
        self.follower.snapshot().find(&selector, None)?;
        Ok(Component::new(Arc::clone(&self.follower), selector))
    }

    /// Groups several components, whose changes are reported together. Each is named as for
    /// [`Client::component`].
    ///
    /// - Errors: those of [`Client::component`].
    pub fn group<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Group, Error> {
        let selectors = names.into_iter().map(|name| Ok(self.component(name)?.name().clone()));
        Ok(Group::of(Arc::clone(&self.follower), selectors.collect::<Result<_, Error>>()?))
    }

    /// Groups all components of this host, including later ones.
    pub fn all(&self) -> Group {
        Group::all(Arc::clone(&self.follower))
    }

    /// Sends this process `signal` after each snapshot in which a component of this host changed.
    /// For some components alone, use [`Group::raise_on_change`].
    ///
    /// - Errors: [`Error::Thread`], [`Error::Read`].
    pub fn raise_on_change(&self, signal: Signal) -> Result<Subscription, Error> {
        self.all().raise_on_change(signal)
    }

    /// Returns the sequence of the snapshot that this client reads now.
    pub fn sequence(&self) -> Sequence {
        self.follower.known().snapshot.sequence
    }

    /// Returns the export directory.
    pub fn export_dir(&self) -> &Path {
        &self.follower.shared.export_dir
    }

    /// Returns the reason for not being on the newest snapshot of the export, if so. The last good
    /// one stays.
    ///
    /// [`Typed::last_error`](crate::client::Typed::last_error) has the errors of one component.
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.follower.shared.error.load_full()
    }
}

/// The places of the export and the agent; made by [`Client::options`].
#[derive(Clone, Debug, Default)]
pub struct Options {
    export_dir: Option<PathBuf>,
    agent: Agent,
}

impl Options {
    /// Sets the export directory, which holds `current`.
    #[must_use]
    pub fn export_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.export_dir = Some(dir.into());
        self
    }

    /// Sets the agent's Unix socket.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.agent.socket = Some(path.into());
        self
    }

    /// Sets the name of this process in `conf-local status`. The default is the name of its
    /// executable.
    #[must_use]
    pub fn program(mut self, name: impl Into<String>) -> Self {
        self.agent.program = Some(name.into());
        self
    }

    /// Makes reads of an [`Operation`] wait for the agent in this runtime, instead of in threads of
    /// libconf's own.
    ///
    /// The runtime has to drive input, output and time (`enable_all`). When it shuts down, waiting
    /// reads end with [`Error::NotHere`].
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.agent.runtime = Some(runtime);
        self
    }

    /// Reads the export's current snapshot and follows it.
    ///
    /// - Shape: without an export directory the client asks the agent for it. If the agent does not
    ///   answer within a second, or without a socket, it takes [`DEFAULT_EXPORT_DIR`]. Without a
    ///   socket it never asks an agent: operations then read the snapshots that the export keeps.
    ///   With a socket, a thread of its own tells the agent which snapshot this process runs on,
    ///   and which of its settings do not fit. An agent that is away or hangs holds nothing up.
    /// - Errors: [`Error::NoExport`] when there is no readable snapshot there (the agent has not
    ///   exported yet).
    /// - Source: `GET /v1/status` of conf-local, member `export`.
    pub fn connect(self) -> Result<Client, Error> {
        let asked = || self.agent.socket.as_deref().and_then(agent::export_dir);
        let dir = self.export_dir.clone().or_else(asked).unwrap_or_else(|| PathBuf::from(DEFAULT_EXPORT_DIR));
        Ok(Client { follower: Arc::new(Follower::start(&dir, self.agent)?) })
    }
}
