//! Whether programs and configuration of two neighbouring versions work together, judged before a
//! change lands.
//!
//! Configuration arrives before the programs that need it, so programs written for the old
//! configuration must be able to read the new one. A component with a `config.schema.json` is
//! compared with its branch's earlier schema (`schemas`, inside the process of `worker`), by the
//! promise of the earlier schema, `x-compatibility`: a change cannot release itself from the
//! promise. A datacenter that runs another commit of a component, because it names another branch
//! or tag, is judged in the same way (`pins`). A component without a schema is compared with its
//! earlier settings (`settings`), where its class asks for that. Going back to an earlier commit is
//! free: the programs have read it before. An author who breaks compatibility knowingly says so in
//! the commit (`trailer`).

pub(crate) mod branch;
mod explain;
pub(crate) mod pins;
pub(crate) mod schemas;
pub(crate) mod settings;
#[cfg(test)]
mod tests;
pub(crate) mod trailer;
pub(crate) mod violation;
pub(crate) mod worker;
