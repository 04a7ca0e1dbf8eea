//! Hosts that prove themselves by their identity keys: `keyring` has the keys of the inventories,
//! `known` those with which hosts joined besides, and `sessions` says who has signed by one, and
//! knows what it gave him for that.

mod keyring;
mod known;
mod sessions;

pub(crate) use crate::session::{
    known::KnownKeys,
    sessions::{NoSession, SessionHost},
};
pub use crate::session::{
    keyring::{HostKeys, Keyring},
    sessions::Sessions,
};
