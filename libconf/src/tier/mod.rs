//! What the three daemons share, in the order in which a change meets it.

pub mod api;
pub mod consul;
pub mod daemon;
pub mod flags;
pub mod git;
pub mod http;
mod listen;
pub mod manifest;
pub mod pack;
pub mod pointers;
pub mod safety;
pub mod settings;
pub mod sign;
pub mod snapshot;
pub mod upload;
pub mod upstream;
pub mod yaml;
