//! The central Git server: lands every change, composes each datacenter's snapshot, signs it, and tells the slaves.
//!
//! Read in this order: [`receive`] hands a push over from Git, [`judge`] decides what may land ([`resolve`] what a
//! datacenter would run, `libconf::tier::safety` what a tree may hold), [`secrets`] makes and seals what it declares, [`land`] makes it so, [`ledger`] remembers it, [`http`] shows it.
//!
//! Always true:
//! - Nothing changes but by a landing, and the move of `refs/conf/ledger` is its one commit point.
//! - What was accepted is durable and is never pruned; what was refused left no ref and no entry.
//! - The sequence only grows, by one for each accepted change.

pub mod audit;
pub mod catalog;
pub mod chains;
pub mod check;
pub mod client;
pub mod compatibility;
pub mod conf;
pub mod config;
pub mod delivery;
pub mod deployments;
pub mod doc;
pub mod endless;
pub mod explain;
pub mod history;
pub mod hosts;
pub mod http;
pub mod idempotency;
pub mod import;
pub mod inventory;
pub mod judge;
pub mod land;
pub mod ledger;
pub mod notation;
pub mod plan;
pub mod receive;
pub mod refs;
pub mod refusal;
pub mod repository;
pub mod resolve;
pub mod running;
pub mod schema;
pub mod secrets;
pub mod section;
pub mod serve;
pub mod update;
pub mod validate;
pub mod watermarks;
