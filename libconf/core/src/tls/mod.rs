//! TLS: certificates, keys and authorities from files, for listeners and for clients.
//!
//! Always true:
//! - What cannot be used replaces nothing: connections go on with the last good files.
//! - A file that changes is read again, and holds for each connection that begins after that.

mod provider;
mod file;
mod kept;
mod dates;
mod flags;
mod server;
mod client;
mod words;
#[cfg(test)]
mod tests;

pub use crate::tls::{
    client::{ClientFiles, ClientTls},
    file::{NamedFile, TlsError},
    flags::{ClientFlags, ListenFlags, OldestTls},
    kept::Certificates,
    server::ServerTls,
};
pub(crate) use crate::tls::{kept::Looked, words::words};
