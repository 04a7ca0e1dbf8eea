//! Git on the wire: real servers on loopback, real repositories, the plain git client.
#![allow(missing_docs, unused_crate_dependencies)]

mod clients;
mod faults;
mod site;
mod steps;
mod upstreams;
