//! Configuration kept in Git, as a program reads it: typed settings from the export of conf-local, and their changes.
//!
//! Nothing here prints; only `client::Client::connect` reads the environment.

pub mod name;

pub mod client;
