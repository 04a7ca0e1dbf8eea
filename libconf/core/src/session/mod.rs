//! Hosts that prove themselves by their identity keys: `keyring` has the keys, and `sessions` says
//! who has signed by one, and knows what it gave him for that.

mod keyring;
mod sessions;

pub(crate) use crate::session::sessions::SessionHost;
pub use crate::session::{
    keyring::{HostKeys, Keyring},
    sessions::Sessions,
};
