//! The datacenter's snapshots on this host: their objects, and what they declare for it.

mod collection;
mod manifests;
mod named;
mod repository;
mod secrets;
mod servers;

pub use crate::snapshot::servers::SnapshotServers;
pub(crate) use crate::snapshot::{
    collection::CollectionLock,
    manifests::Manifests,
    named::NamedComponent,
    repository::{Repository, descends},
    secrets::{SecretReader, identity_path, keep_salt, load_identity, salt},
};
