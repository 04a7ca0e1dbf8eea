//! Snapshots on demand: the folder that was this datacenter's newest at a change, for operations
//! that are pinned to it. Relies on `snapshot`, `export` and `state`.
//!
//! In this order: the exported snapshot; a snapshot that is kept, or that the repository holds
//! (`lookup`). Otherwise the conf-slaves and then conf-master are asked which snapshot it is
//! (`ask`). A newer one than the exported is taken as if the pointer had named it. An older one is
//! fetched and rendered beside the export (`bring`). A snapshot that was asked for stays for the
//! whole time of the retention.
//!
//! Always true:
//! - An answer is proven: by the chain of snapshots that this host has verified, by the signed
//!   snapshot that follows, or, if none follows, by a signed watermark. A server whose answer fails
//!   its proof is not trusted again for this change.
//! - "No snapshot that old" is proven too: the first snapshot is signed and has no parent.
//! - A failure of this host or of the network is no answer and no server's lie: it is tried again.
//! - An older snapshot never changes `current`.

mod callers;
mod unavailable;
mod lookup;
mod ask;
mod bring;
mod demand;

pub use crate::on_demand::demand::Demand;
pub(crate) use crate::on_demand::unavailable::Unavailable;
