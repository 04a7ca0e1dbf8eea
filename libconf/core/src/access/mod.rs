//! Who somebody is, and what they may do.
//!
//! Read in this order: `token` proves a name, `table` holds the hashes of all tokens, `principal`
//! is who was proven, `verb` is what can be done, `policy` says who may do what, and `statement` is
//! what conf-slaves are told.

mod token;
mod principal;
mod table;
mod verb;
mod policy;
mod statement;

pub use crate::access::{
    policy::{Denied, Place, Policy, PolicyFault, Right},
    principal::{Named, Principal, Scope},
    statement::{AccessEvent, AccessReader},
    table::{AccessTable, BadTable, KnownHosts, TokenEntry, Unproven},
    token::{BadToken, Token, TokenHash, TokenId},
    verb::Verb,
};
