//! The central Git server: lands every change, composes each datacenter's snapshot, signs it, and tells the slaves.
//!
//! Read in this order: [`receive`] hands a push over from Git, [`judge`] decides what may land ([`resolve`] what a
//! datacenter would run, `conf_core::git::safety` what a tree may hold), [`secrets`] makes and seals what it declares, [`land`] makes it so, [`ledger`] remembers it, [`http`] shows it.
//!
//! Always true:
//! - Nothing changes but by a landing, and the move of `refs/conf/ledger` is its one commit point.
//! - What was accepted is durable and is never pruned; what was refused left no ref and no entry.
//! - The sequence only grows, by one for each accepted change.

pub mod cli;
pub mod fault;
pub mod hooks;
pub mod inspect;
pub mod landing;
pub mod server;
pub mod store;

pub mod catalog;
pub mod delivery;
pub mod http;
pub mod import;
pub mod judge;
pub mod secrets;
