//! The datacenter's snapshots on this host: their objects, and what they declare for it.

mod ancestry;
mod collection;
mod manifests;
mod named;
mod repository;
mod source;
mod host_secrets;
mod secrets;
mod servers;
mod keys;

pub use crate::snapshot::servers::SnapshotServers;
pub(crate) use crate::snapshot::{
    ancestry::may_follow,
    collection::CollectionLock,
    host_secrets::{EVERY, HostSecrets, SourceUses},
    keys::HostKeys,
    manifests::Manifests,
    named::NamedComponent,
    repository::{Checked, Looked, Repository},
    secrets::{SecretReader, identity_path, keep_salt, load_identity, salt},
    source::Offers,
};
