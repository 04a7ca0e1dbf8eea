//! The central Git server: lands every change, composes each datacenter's snapshot, signs it, and
//! tells the slaves.
//!
//! Each folder relies only on those above it. Read in this order: `hooks` receives a push from Git,
//! `judge` decides what may land, `secrets` makes and seals what is declared, `landing` writes it,
//! `store` remembers it, `http` shows it.
//!
//! Always true:
//! - Only a landing changes anything, and the move of `refs/conf/ledger` is its one commit point.
//! - What was accepted is durable and is never pruned; what was refused left no ref and no entry.
//! - The sequence only grows, by one for each accepted change.

/// How things are written for people: one line, counts, times.
mod text;
/// What is wrong with a change: faults with their places, and refusals.
mod fault;
/// The repository on disk: refs, ledger, history, landed requests. Relies on `text`.
mod store;
/// What each datacenter runs, and what a change would alter. Relies on `store` and `fault`.
mod catalog;
/// Sealed values: made, given, rotated, listed. Relies on `catalog`.
mod secrets;
/// Whether a change may land, and what it would do. Writes nothing. Relies on `catalog` and
/// `secrets`.
mod judge;
/// What landed, shown to people: deployments, settings, rendered files. Relies on `judge` for
/// trailers.
mod inspect;
/// The only writer: lands pushes, updates and requests about secrets. Relies on `judge`.
mod landing;
/// Which hosts run a change, and whether they are enough. Relies on `landing` for what is
/// published.
mod delivery;
/// What Git calls on a push: the hook program, its protocol, and the server's side. Relies on
/// `landing`.
mod hooks;
/// The routes. Relies on `landing`, `inspect`, `delivery` and `hooks`.
mod http;
/// `conf-master serve`: start, upkeep, renewal of certificates. Relies on `http`.
mod server;
/// `conf-master import`: proposes a repository for folders of configuration. Relies on `store`.
mod import;
/// The command line, and what each command does. Relies on everything above.
mod cli;

pub use crate::cli::main;
