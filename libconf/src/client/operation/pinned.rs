//! An operation, which reads at one version.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

use crate::client::{
    error::Error,
    files::Files,
    follow::Follower,
    known::Known,
    operation::{baggage, headers::HeadersMut},
    resolve::Lookup,
    snapshot::Snapshot,
};
use crate::name::Sequence;

/// The time that a read waits for a version that this host does not have yet, without
/// [`Operation::with_deadline`].
pub const PATIENCE: Duration = Duration::from_secs(5);

/// An operation that reads at one version, from its beginning to its end.
///
/// A clone is the same operation. Once the files of its version were found, they stay on this host
/// while it exists.
#[derive(Clone)]
pub struct Operation {
    pub(crate) follower: Arc<Follower>,
    sequence: Sequence,
    pinned: Arc<OnceLock<Arc<Snapshot>>>,
    deadline: Option<Instant>,
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.pinned.get().map(|pinned| pinned.sequence);
        f.debug_struct("Operation")
            .field("sequence", &self.sequence)
            .field("snapshot", &snapshot)
            .finish_non_exhaustive()
    }
}

impl Operation {
    /// Pins the newest change that is known now.
    pub(crate) fn begin(follower: Arc<Follower>) -> Self {
        let known = follower.known();
        let (sequence, pinned) = (known.central, Arc::new(OnceLock::from(Arc::clone(&known.snapshot))));
        drop(known);
        Operation { follower, sequence, pinned, deadline: None }
    }

    /// Pins `sequence`, with its snapshot if that is at hand.
    pub(crate) fn at(follower: Arc<Follower>, sequence: Sequence) -> Self {
        let found = follower.shared.resolver.at_hand(&follower.known(), sequence);
        let pinned = Arc::new(found.map_or_else(OnceLock::new, OnceLock::from));
        Operation { follower, sequence, pinned, deadline: None }
    }

    /// Returns the pinned change, which is the same for every participant everywhere.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Sets the time until which reads wait for a version that is not here yet.
    ///
    /// Without it each read waits for [`PATIENCE`]. A version that is here is read without waiting,
    /// also after the deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Returns the time that [`Operation::with_deadline`] set.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Waits until the pinned version is on this host, and returns the sequence of its snapshot:
    /// this datacenter's newest not above [`Operation::sequence`].
    ///
    /// - Errors: [`Error::NotHere`] when the deadline passed; [`Error::NoneSoOld`];
    ///   [`Error::Replaced`].
    /// - Cancel: dropping the future loses nothing.
    pub async fn ready(&self) -> Result<Sequence, Error> {
        Ok(self.snapshot().await?.sequence)
    }

    /// As [`Operation::ready`], on this thread.
    pub fn ready_blocking(&self) -> Result<Sequence, Error> {
        Ok(self.snapshot_blocking()?.sequence)
    }

    /// Reads the settings of a component, `<kind>/<name>` or `<kind>/<name>/<version>`, at the
    /// pinned version.
    ///
    /// Once the version is here, the first read of a component takes a few file operations. Each
    /// later one by the same name and type is a map lookup and returns the same value.
    ///
    /// - Errors: those of [`Operation::ready`]; [`Error::HeldBack`] when this host's files of the
    ///   component are older than the pinned version; [`Error::NotExported`],
    ///   [`Error::SeveralVersions`], [`Error::NoSettings`], [`Error::Shape`], [`Error::Name`],
    ///   [`Error::Read`].
    /// - Cancel: dropping the future loses nothing; the next read gets the agent's answer.
    /// - Runs on any async runtime, or none: it needs no timer and no reactor.
    pub async fn get<T>(&self, component: &str) -> Result<Arc<T>, Error>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        self.snapshot().await?.value(component)
    }

    /// As [`Operation::get`], on this thread.
    pub fn get_blocking<T>(&self, component: &str) -> Result<Arc<T>, Error>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        self.snapshot_blocking()?.value(component)
    }

    /// Returns the files of a component at the pinned version.
    ///
    /// - Errors and cancelling: as for [`Operation::get`], without those of the settings.
    pub async fn files(&self, component: &str) -> Result<Files, Error> {
        let snapshot = self.snapshot().await?;
        Files::open(Arc::clone(snapshot), snapshot.exact(component)?)
    }

    /// As [`Operation::files`], on this thread.
    pub fn files_blocking(&self, component: &str) -> Result<Files, Error> {
        let snapshot = self.snapshot_blocking()?;
        Files::open(Arc::clone(snapshot), snapshot.exact(component)?)
    }

    /// Writes the pin into a message's headers. Other baggage there is not changed.
    ///
    /// All baggage becomes one line. The pin replaces an earlier `conf-version`.
    pub fn inject(&self, headers: &mut impl HeadersMut) {
        baggage::write(headers, self.sequence);
    }

    async fn snapshot(&self) -> Result<&Arc<Snapshot>, Error> {
        if let Some(pinned) = self.pinned.get() {
            return Ok(pinned);
        }
        let found = self.lookup().wait().await?;
        Ok(self.pinned.get_or_init(|| found))
    }

    fn snapshot_blocking(&self) -> Result<&Arc<Snapshot>, Error> {
        if let Some(pinned) = self.pinned.get() {
            return Ok(pinned);
        }
        let found = self.lookup().block()?;
        Ok(self.pinned.get_or_init(|| found))
    }

    fn lookup(&self) -> Lookup<'_, impl Fn() -> Arc<Known>> {
        let known = || Arc::clone(&self.follower.known());
        let deadline = self.deadline.unwrap_or_else(|| Instant::now() + PATIENCE);
        self.follower.shared.resolver.lookup(known, self.sequence, deadline)
    }
}
