//! What the three daemons share, in the order in which a change meets it.

pub mod api;
pub mod git;
pub mod manifest;
pub mod pack;
pub mod settings;
pub mod consul;
pub mod pointers;
pub mod sign;
pub mod snapshot;
pub mod upload;
pub mod upstream;
pub mod yaml;
