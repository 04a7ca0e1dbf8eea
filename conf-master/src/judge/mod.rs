//! Decides what of a push may land. Writes nothing.
//!
//! `refs` judges ref by ref: names, moved tags, rewound branches, and the datacenters that a push
//! touches. It asks `validate` and `compatibility` about those, and `rights` whether the author
//! may.

pub(crate) mod compatibility;
pub(crate) mod content;
pub(crate) mod hosts;
pub(crate) mod plan;
pub(crate) mod proposal;
pub(crate) mod reporting;
pub(crate) mod rights;
pub(crate) mod schema;
pub(crate) mod suspicions;
pub(crate) mod timeouts;
pub(crate) mod validate;
pub(crate) mod effort;
mod worker;
mod deletions;
mod knowledge;
mod offered;
mod parallel;
mod refs;

pub(crate) use crate::judge::compatibility::branch::BranchComparison;
pub(crate) use crate::judge::effort::{Effort, TOO_MUCH};
pub(crate) use crate::judge::knowledge::Judge;
pub(crate) use crate::judge::parallel::Open;
pub(crate) use crate::judge::plan::ChangePlan;
pub(crate) use crate::judge::proposal::{Judgement, ProposalOptions, RefUpdate};
pub(crate) use crate::judge::reporting::ReportingHosts;
pub(crate) use crate::judge::rights::{Authority, Need, Rights};
pub(crate) use crate::judge::validate::ChangeLimits;
pub(crate) use crate::judge::validate::shrink::MaxShrink;
