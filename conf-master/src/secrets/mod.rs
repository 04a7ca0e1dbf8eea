//! Secrets at the centre: made or taken when a datacenter declares them, sealed to the hosts of
//! their readers, kept until they are rotated.
//!
//! Read in this order: `decide` compares what the datacenters of one id declare with what is
//! sealed, and writes nothing; `given` holds the values of the environment; `make` makes
//! values; `branch` reads and writes `refs/heads/secrets/<id>`; `own_key` reads conf-master's key;
//! `left` notes who may still know a value; `store` does what was decided; `recipients` is who
//! would read more by a change; `request` is what people and the clock ask for; `list` is what
//! people may know.
//!
//! Always true:
//! - A value is made for a change that lands, never for one that is refused or a dry run.
//! - A value that is no longer declared is kept, sealed to conf-master alone: a mistake in a
//!   `datacenter.yaml` loses no value.
//! - No value is logged, shown, or part of an error.

pub(crate) mod branch;
pub(crate) mod decide;
pub(crate) mod given;
pub(crate) mod left;
pub(crate) mod list;
pub(crate) mod make;
pub(crate) mod own_key;
pub(crate) mod recipients;
pub(crate) mod request;
pub(crate) mod store;

pub(crate) use crate::secrets::given::SecretsFor;
pub(crate) use crate::secrets::list::ListedSecret;
pub(crate) use crate::secrets::request::SecretRequest;
pub(crate) use crate::secrets::store::{RequestedActions, SecretStore, StagedSecrets};
