//! Client commands: what people and scripts ask a running conf-master. One file for each command,
//! with its flags.

mod connect;
mod print;
pub(crate) mod promote;
pub(crate) mod credential;
pub(crate) mod doc;
pub(crate) mod explain;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod secret;
pub(crate) mod show;
pub(crate) mod token;
pub(crate) mod update;
pub(crate) mod wait;
pub(crate) mod whereabouts;
