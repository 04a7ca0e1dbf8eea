//! One version of the configuration for a whole operation, however many services and hosts take
//! part in it.
//!
//! The first participant [begins](crate::client::Client::begin) and pins the newest change that its
//! host knows. Every message carries that number in the header `baggage`. Every other participant
//! [joins](crate::client::Client::join), and reads its own datacenter's newest configuration not
//! above it. A read returns the pinned version or an error, never another version.

mod headers;
pub mod baggage;
mod pinned;

pub use self::{
    baggage::JoinError,
    headers::{Headers, HeadersMut},
    pinned::{Operation, PATIENCE},
};

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
