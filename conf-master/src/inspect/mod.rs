//! What landed, shown to people and programs.

pub(crate) mod conf;
pub(crate) mod deployments;
pub(crate) mod doc;
pub(crate) mod error;
pub(crate) mod explain;
pub(crate) mod running;
