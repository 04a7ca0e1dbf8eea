//! Why a value is not sealed, or not opened.

use std::str;

use crate::secret::value::MAX_VALUE_BYTES;

/// The most that one sealed value may hold: a stanza for each of some 50,000 hosts.
pub const MAX_SEALED_BYTES: usize = 8 << 20;

/// Why a value cannot be sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It is too large.
    #[error("it has {0} bytes; a secret has at most {MAX_VALUE_BYTES}")]
    Large(usize),
    /// It is for too many.
    #[error("for {0} hosts it would have more than {MAX_SEALED_BYTES} bytes; let fewer hosts run its readers")]
    Many(usize),
    /// The library's reason.
    #[error("it cannot be sealed: {0}")]
    Failed(String),
}

/// Why a sealed value cannot be opened; never with a part of the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is sealed to others.
    #[error("it is not sealed to this key; the host's `key` in `inventories` must be the one that this identity has")]
    NotForThisKey,
    /// It is another secret's, put in this one's place.
    #[error("it is sealed as the secret {name} of the datacenter {datacenter}, and was put in this one's place")]
    Swapped {
        /// The datacenter that it was sealed for.
        datacenter: String,
        /// The secret that it was sealed as.
        name: String,
    },
    /// It is damaged, or of a form that this version does not know.
    #[error("it is damaged, or of a later version: {0}")]
    Damaged(&'static str),
}
