//! What the three daemons share, in the order in which a change meets it.

pub mod api;
pub mod sign;
pub mod snapshot;
