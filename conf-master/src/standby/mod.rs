//! A standby: a second conf-master that has all that the first one landed, and can go on in its
//! place.
//!
//! It asks its leader what is newest, and says with each question what is on its own disk: that is
//! how a leader knows which standbys are in sync. Its landing thread takes the entries of the
//! ledger (`landing/following.rs`), and its readers see them as those of any conf-master.

pub(crate) mod call;
mod follow;
mod init;
pub(crate) mod keys_file;
mod records;
pub(crate) mod succession;

pub(crate) use crate::standby::call::{ListedStandby, StandbyAnswer, StandbyCall};
pub(crate) use crate::standby::follow::{ABOUT, Following, follow, run};
pub(crate) use crate::standby::init::{FollowFlags, init};
