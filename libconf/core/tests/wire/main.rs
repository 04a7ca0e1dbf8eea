//! Git on the wire: real servers on loopback, real repositories, the plain git client.
#![expect(clippy::unwrap_used, reason = "what a test cannot set up fails it")]

mod clients;
mod faults;
mod site;
mod steps;
mod upstreams;
