//! What the three daemons share, in the order in which a change meets it.

pub mod api;
pub mod manifest;
pub mod settings;
pub mod consul;
pub mod pointers;
pub mod sign;
pub mod snapshot;
pub mod yaml;
