//! The only module that speaks to Consul: its HTTP API, as much of it as pointers need.
//!
//! Always true:
//! - An error is never "no such key": a key is absent when Consul itself says so with 404 *and* an
//!   index.
//! - A key that would mean another one in a URL is refused before it is sent.
//! - Nothing waits without a deadline, and no request goes through a proxy.

mod keys;
mod operation;
mod address;
mod client;
mod watch;
mod catalog;
mod lock;

pub use crate::consul::{
    address::{BadAddress, ConsulCredentials, named_address, named_or_usual_address},
    catalog::{Instance, Service, ServiceIndex, Standing},
    client::{Consul, ConsulError},
    keys::{Keys, PinValue},
    lock::SessionId,
    operation::{Entry, MOST_OPERATIONS, Operation, Outcome},
    watch::WatchIndex,
};
