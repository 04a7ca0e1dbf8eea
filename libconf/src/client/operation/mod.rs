//! One version of the configuration for a whole operation, however many services and hosts take part in it.
//!
//! The first participant [begins](super::Client::begin) and pins the change that its host knows as the newest; every
//! message carries that number in the header `baggage`; every other participant [joins](super::Client::join) and reads
//! its own datacenter's newest configuration not above it. A pinned version is that one or an error, never another.

pub mod baggage;
mod clock;
mod headers;
#[cfg(feature = "tower")]
pub mod layer;
pub(super) mod resolve;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;

pub use self::{
    baggage::JoinError,
    headers::{Headers, HeadersMut},
};
use super::{Error, Files, follow::Follower, snapshot::Snapshot};
use crate::name::Sequence;

/// How long a read waits for a version that this host does not have yet, unless [`Operation::with_deadline`] says.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// An operation that reads at one version, for as long as it takes.
///
/// A clone is the same operation. While one exists, the files of its version stay on this host once they were found.
#[derive(Clone)]
pub struct Operation {
    follower: Arc<Follower>,
    sequence: Sequence,
    pinned: Arc<OnceLock<Arc<Snapshot>>>,
    deadline: Option<Instant>,
}

impl Operation {
    /// Pins what is known now.
    pub(super) fn begin(follower: Arc<Follower>) -> Self {
        let known = follower.known();
        let (sequence, pinned) = (known.central, Arc::new(OnceLock::from(Arc::clone(&known.snapshot))));
        drop(known);
        Operation { follower, sequence, pinned, deadline: None }
    }

    /// Pins `sequence`, and what it means here when that is at hand.
    pub(super) fn at(follower: Arc<Follower>, sequence: Sequence) -> Self {
        let found = follower.resolver().at_hand(&follower.known(), sequence);
        let pinned = Arc::new(found.map_or_else(OnceLock::new, OnceLock::from));
        Operation { follower, sequence, pinned, deadline: None }
    }

    /// The pinned change: the same for every participant, wherever it is.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The same operation, whose reads wait for a version that is not here yet until `deadline` at most.
    ///
    /// Without one each read waits for [`PATIENCE`]. What is here is read without waiting, also after the deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Until when reads wait for a version that is not here yet, where [`Operation::with_deadline`] said so.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Waits until the pinned version is on this host, and gives the snapshot that it means here: this datacenter's
    /// newest not above [`Operation::sequence`].
    ///
    /// - Errors: [`Error::NotHere`] when the deadline passed; [`Error::NoneSoOld`].
    /// - Cancel: dropping the future loses nothing.
    pub async fn ready(&self) -> Result<Sequence, Error> {
        Ok(self.snapshot().await?.sequence)
    }

    /// As [`Operation::ready`], on this thread.
    pub fn ready_blocking(&self) -> Result<Sequence, Error> {
        Ok(self.snapshot_blocking()?.sequence)
    }

    /// The settings of a component, `<kind>/<name>` or `<kind>/<name>/<version>`, at the pinned version.
    ///
    /// Once the version is here, the first read of a component takes a few file operations, and each later one by the same
    /// name and type is a map lookup and gives the same value.
    ///
    /// - Errors: those of [`Operation::ready`]; [`Error::HeldBack`] when this host's files of the component are older than
    ///   the pinned version; [`Error::NotExported`], [`Error::SeveralVersions`], [`Error::NoSettings`], [`Error::Shape`],
    ///   [`Error::Name`], [`Error::Read`].
    /// - Cancel: dropping the future loses nothing; what the agent was asked for is there for the next read.
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

    /// The files of a component at the pinned version.
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

    /// Puts the pin into a message's headers, beside whatever other baggage is there, which is not changed.
    ///
    /// All baggage becomes one line. An earlier `conf-version` is replaced.
    pub fn inject(&self, headers: &mut impl HeadersMut) {
        baggage::write(headers, self.sequence);
    }

    async fn snapshot(&self) -> Result<&Arc<Snapshot>, Error> {
        if let Some(pinned) = self.pinned.get() {
            return Ok(pinned);
        }
        let known = || Arc::clone(&self.follower.known());
        let found = self.follower.resolver().find(known, self.sequence, self.until()).await?;
        Ok(self.pinned.get_or_init(|| found))
    }

    fn snapshot_blocking(&self) -> Result<&Arc<Snapshot>, Error> {
        if let Some(pinned) = self.pinned.get() {
            return Ok(pinned);
        }
        let known = || Arc::clone(&self.follower.known());
        let found = self.follower.resolver().find_blocking(known, self.sequence, self.until())?;
        Ok(self.pinned.get_or_init(|| found))
    }

    fn until(&self) -> Instant {
        self.deadline.unwrap_or_else(|| Instant::now() + PATIENCE)
    }
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

#[cfg(test)]
mod tests;
