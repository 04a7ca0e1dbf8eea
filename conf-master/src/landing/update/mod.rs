//! Updates: sections that somebody wants to replace, and the commits that this makes.
//!
//! The request is read and its configuration parsed before the landing thread. In the landing
//! thread `draft` compares versions with the newest state, and writes each branch's next commit
//! into memory, of which only what lands is kept.

pub(crate) mod draft;
pub(crate) mod notation;
pub(crate) mod request;
pub(crate) mod section;
