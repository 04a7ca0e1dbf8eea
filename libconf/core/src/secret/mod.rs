//! Secrets: their declarations, their sealed values, and the facts beside a sealed value.
//!
//! On the branch `refs/heads/secrets/<id>`, and under `secrets/` in a snapshot, each secret has a
//! folder: `<NAME>/value.age` is sealed to its readers' hosts and to conf-master (`seal`),
//! `<NAME>/about.json` is an `About` and holds no value.

mod declaration;
mod value;
mod identity;
mod sealed;
#[cfg(test)]
mod tests;

pub use crate::host_key::{BadHostKey, HostKey};
pub use crate::secret::{
    declaration::{Declaration, Encoding, Generate, Source},
    identity::{Identity, IdentityError, OpenError},
    sealed::{MAX_SEALED_BYTES, SealError, open, open_file, seal, seal_file},
    value::{ABOUT_FILE, About, LeftReader, MAX_VALUE_BYTES, SecretValue, VALUE_FILE},
};
