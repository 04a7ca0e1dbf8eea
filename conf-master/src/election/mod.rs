//! Which of several servers leads, by a lock in Consul.
//!
//! The key's value says who leads, and which standbys are in sync: these alone may lead next. The
//! leader changes it only while it holds the lock, and answers no change that a standby in sync
//! lacks. So whoever leads next has every change that was answered, and a leader that was stopped
//! or cut off answers nothing any more: a standby that leads acknowledges nothing to it, and
//! without the lock it cannot take the standby off the list.

mod elector;
mod office;
mod seat;

pub(crate) use crate::election::elector::{Elector, Own, run};
pub(crate) use crate::election::office::LockOffice;
pub(crate) use crate::election::seat::LeaderKey;
