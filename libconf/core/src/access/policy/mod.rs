//! The policy: groups of principals, and their rights. It is the file `policy.yaml` on the branch
//! `policy`.
//!
//! ```yaml
//! groups: {web: [alice, ci], ops: [bob]}
//! rights:
//!   - {group: web, may: [push, tag], refs: ["services/web/*"], datacenters: ["lab/*"]}
//!   - {group: ops, may: [administer]}
//! ```
//!
//! Read in this order: `model` is its content, `parse` reads it, `check` decides, `denied` is what
//! somebody is told who may not.

mod limit;
mod model;
mod parse;
mod denied;
mod check;
#[cfg(test)]
mod tests;

pub use crate::access::policy::{
    check::Place,
    denied::Denied,
    model::{Policy, PolicyFault, Right},
};
