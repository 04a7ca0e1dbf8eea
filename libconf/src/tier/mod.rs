//! What the three daemons share, in the order in which a change meets it.

pub mod api;
mod child;
pub mod commented;
mod complete;
mod consolidate;
pub mod consul;
pub mod daemon;
pub mod events;
pub mod flags;
#[cfg(test)]
mod fuzz_tests;
pub mod git;
pub mod hocon;
pub mod http;
pub mod layers;
pub mod lines;
mod listen;
pub mod manifest;
pub mod pack;
mod pktline;
pub mod pointer;
pub mod pointers;
mod receive;
pub mod render;
pub mod safety;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod sign;
pub mod snapshot;
mod store;
pub mod template;
pub mod thin;
pub mod upload;
pub mod upstream;
pub mod worker;
pub mod yaml;
