//! Following the pointer: it is watched, its snapshot is fetched from a conf-slave or else from
//! conf-master, verified, and put in place. A server that is away, or damaged data, never changes
//! the exported files. Relies on everything up to `transaction`.

mod fetch;
mod pointer;
mod worker;
mod mend;
#[cfg(test)]
mod tests;

pub(crate) use crate::follow::{pointer::Sources, worker::run};
