//! Whether programs and configuration of two neighbouring versions work together, judged before a
//! change lands.
//!
//! Configuration arrives before the programs that need it, so programs written for the old
//! configuration must be able to read the new one. A component with a `config.schema.json` is
//! compared with its branch's earlier schema (`schemas`, inside the process of `worker`), by the
//! promise of the earlier schema, `x-compatibility`: a change cannot release itself from the
//! promise. A component without a schema is compared with its earlier settings (`settings`), where
//! its class asks for that. An author who breaks compatibility knowingly says so in the commit
//! (`trailer`).

pub(crate) mod branch;
mod explain;
mod schemas;
pub(crate) mod settings;
#[cfg(test)]
mod tests;
pub(crate) mod trailer;
mod violation;
pub(crate) mod worker;
