//! The central Git server: lands every change, composes each datacenter's snapshot, signs it, and
//! tells the slaves.
//!
//! Each folder imports only those above it. A push goes this way: `hooks` receives it from Git,
//! `judge` decides whether it may land, `secrets` makes and seals what is declared, `landing`
//! writes it, `store` keeps it, and `http` tells the slaves.
//!
//! Always true:
//! - Only a landing changes anything, and the move of `refs/conf/ledger` is its one commit point.
//! - What was accepted is durable and is never pruned; what was refused left no ref and no entry.
//! - The sequence only grows: by one for each accepted change, and by more where the history goes
//!   on in another epoch.

/// How things are written for people: one line, counts, times.
mod text;
/// What is wrong with a change: faults with their places, and refusals.
mod fault;
/// The repository on disk: refs, ledger, history, landed requests.
mod store;
/// Requests to make, replace or revoke a token.
mod access;
/// What each datacenter runs, and what a change would alter.
mod catalog;
/// Sealed values: made, given, rotated, listed.
mod secrets;
/// Whether a change may land, and what it would do. Writes nothing.
mod judge;
/// What landed, shown to people: deployments, settings, rendered files.
mod inspect;
/// The only writer: lands pushes, updates, and requests about secrets, tokens and keys.
mod landing;
/// Tokens for those who ask, over HTTP or at the server's own machine.
mod tokens;
/// The keys that sign, for the owner of the repository at the server's own machine.
mod keys;
/// Which hosts run a change, and whether they are enough.
mod delivery;
/// What Git calls on a push: the hook program, its protocol, and the server's side.
mod hooks;
/// How commands prove to a server who asks, and which servers they trust.
mod proof;
/// Copies of the repository: made, looked at, and made a server of again.
mod backup;
/// A second conf-master that has all that landed, and can go on in the place of the first.
mod standby;
/// Which of several servers leads, by a lock in Consul.
mod election;
/// The routes.
mod http;
/// `conf-master serve`: start, upkeep, renewal of certificates.
mod server;
/// `conf-master import`: proposes a repository for folders of configuration.
mod import;
/// The command line, and what each command does.
mod cli;

pub use crate::cli::{described, main};
