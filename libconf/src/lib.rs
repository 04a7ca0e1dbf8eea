//! Configuration kept in Git, for the program that reads it: typed settings from the export of
//! conf-local, and their changes.
//!
//! Nothing here prints; only `client::Client::connect` reads the environment.

// Names as types.
pub mod name;

// The client.
pub mod client;
