//! Who somebody is, and what they may do.
//!
//! Read in this order: `token` is what somebody proves a name with, `table` holds the hashes of all
//! tokens, `principal` is who was proven, `verb` is what can be done.

mod token;
mod principal;
mod table;
mod verb;

pub use crate::access::{
    principal::{Named, Principal, Scope},
    table::{AccessTable, BadTable, TokenEntry, Unproven},
    token::{BadToken, Token, TokenHash, TokenId},
    verb::Verb,
};
