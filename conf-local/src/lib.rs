//! The agent on each host: keeps this host's files equal to one snapshot, and tells the readers.
//!
//! Read in this order: [`config`] says what to follow, [`follow`] learns which snapshot is wanted and brings it,
//! [`repository`] keeps its objects, [`secrets`] opens what is sealed to this host, [`conf_core::render`] makes a component's
//! files of it, [`export`] puts them in place in one step, [`place`] where else programs look for them, [`check`] lets this host
//! refuse them, [`transaction`] is the order of all that, [`duties`] remembers who is to be told, [`watcher`] tells them, [`probe`]
//! asks whether they are well, [`state`] is what everybody else may know, [`central`] up to which change that is the newest,
//! [`demand`] brings what was the newest at another one, [`processes`] what the readers say that they
//! run on, [`service`] answers from it, [`report`] sends it on.
//! [`agent`] holds it together.
//!
//! Always true:
//! - `export/current` names a complete snapshot, even after a power cut.
//! - With Consul, surrogates and the central repository all away, the last good files stay in place.
//! - The sequence of what is exported never falls.

pub mod cli;
mod fs;
pub mod notify;
pub mod on_demand;
pub mod process;
pub mod snapshot;

pub mod agent;
pub mod export;
pub mod follow;
pub mod place;
pub mod probe;
pub mod report;
pub mod service;
pub mod state;
pub mod transaction;
