//! Following the pointer: it is heard from Consul and from a conf-slave, whichever is first, its
//! snapshot is fetched from a conf-slave or else from conf-master, verified, and put in place. A
//! server that is away, or damaged data, never changes the exported files. Relies on everything up
//! to `transaction`.

mod rivals;
mod candidates;
mod fetch;
mod finder;
mod pointer;
mod stream;
mod worker;
mod bring;
mod mend;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use crate::follow::{candidates::fork, finder::Finder, pointer::Sources, run::run};
