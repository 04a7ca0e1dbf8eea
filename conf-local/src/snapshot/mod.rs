//! The datacenter's snapshots on this host: their objects, and what they declare for it. Relies on
//! `fs`.

pub(crate) mod collection;
pub(crate) mod manifests;
pub(crate) mod repository;
pub(crate) mod secrets;
pub(crate) mod servers;
