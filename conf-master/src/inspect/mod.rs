//! What landed, shown to people and programs.

pub(crate) mod blame;
pub(crate) mod conf;
pub(crate) mod deployments;
pub(crate) mod doc;
pub(crate) mod error;
pub(crate) mod explain;
pub(crate) mod policy;
pub(crate) mod running;
pub(crate) mod whereabouts;

pub(crate) use crate::inspect::conf::Audience;
pub(crate) use crate::inspect::deployments::{Deployment, SecretEvent};
pub(crate) use crate::inspect::doc::Doc;
pub(crate) use crate::inspect::error::InspectError;
pub(crate) use crate::inspect::explain::Explanation;
pub(crate) use crate::inspect::policy::{PolicyExplanation, PolicyTrial};
pub(crate) use crate::inspect::whereabouts::Whereabouts;
