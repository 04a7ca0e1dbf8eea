//! Freshness: whether somebody on the way withholds changes.
//!
//! conf-master signs, again and again, which snapshot is a datacenter's newest at a time. Whoever
//! carries these statements can delay them and send old ones once more, but cannot make one. A
//! daemon that has heard none within its limit is *stale*: it says so, and goes on with what it
//! has.
//!
//! No clock that somebody sets decides this alone:
//! - A statement whose time is not above the newest known one proves nothing.
//! - The *lead* is conf-master's time less the time since this machine started, of the statement
//!   that came with the least delay. Since both clocks go on alike, the lead gives conf-master's
//!   time at any later moment, and the age of a statement is that time less its own. What is
//!   delayed or repeated is therefore old when it comes.
//! - The first statement after a start of the machine gives the lead, if its time is within the
//!   limit of the wall clock's. Otherwise it counts as old.
//! - Statements that are old by the lead, or have none, count again once later ones have kept pace
//!   with the clock of the machine for a whole limit: then the wall clock is wrong, or
//!   conf-master's was set. The difference is shown.
//! - A statement refreshes only who has the snapshot that it names, or knows of it: a peer that
//!   passes on statements and withholds the snapshots is noticed too.

mod moment;
mod kept;
mod rule;
mod state;
#[cfg(test)]
mod tests;

pub use crate::freshness::{
    kept::KeptFreshness,
    moment::{Moment, boot_id},
    rule::Freshness,
    state::FreshnessState,
};
