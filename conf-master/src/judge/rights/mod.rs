//! Which rights a change needs, and whether its author has them.
//!
//! Read in this order: `branch` reads and checks `refs/heads/policy`, `authority` is who asks under
//! which policy, `keys` finds the keys of files that need a right of their own, `needs` lists what
//! a judged change needs.

mod branch;
mod authority;
mod keys;
mod needs;

pub(crate) use crate::judge::rights::authority::{Authority, Rights};
pub(crate) use crate::judge::rights::branch::faults as faults_in_policy;
pub(crate) use crate::judge::rights::needs::{JudgedChange, Need, verb};
