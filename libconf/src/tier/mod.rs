//! What the three daemons share, in the order in which a change meets it.

pub mod api;
mod child;
mod complete;
mod consolidate;
pub mod consul;
pub mod daemon;
pub mod events;
pub mod flags;
pub mod git;
pub mod http;
mod listen;
pub mod manifest;
pub mod pack;
mod pktline;
pub mod pointers;
mod receive;
pub mod safety;
pub mod settings;
pub mod sign;
pub mod snapshot;
mod store;
pub mod thin;
pub mod upload;
pub mod upstream;
pub mod yaml;
