//! The pointers in Consul: `decide` lists what to write, `publisher` writes it.

mod decide;
mod memory;
mod publisher;

pub(crate) use publisher::Publisher;
