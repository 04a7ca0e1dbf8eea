//! Reads HOCON: [`lexer`] cuts a text into tokens, [`parser`] makes a tree of them, [`resolve`]
//! replaces substitutions.
//!
//! - Source: the HOCON specification of lightbend/config (HOCON.md).
//! - Not read: other files and the environment. `include` and `${HOME}` are faults, `${?HOME}` is
//!   undefined.
//! - Numbers that JSON does not know (`0755`, `1.2.3`) are text. Whole numbers of more than 64 bits
//!   are faults.
//! - Bounds: [`MAX_BYTES`](crate::settings::MAX_BYTES) of text,
//!   [`MAX_DEPTH`](crate::settings::MAX_DEPTH) levels, and what substitutions may make of that
//!   ([`resolve`]).

mod tree;
mod scalar;
mod beside;
mod lexer;
mod parser;
mod resolve;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::settings::fault::Fault;

/// Reads a text whose top level is an object, with or without its braces.
pub(crate) fn read(text: &str) -> Result<Value, Fault> {
    resolve::resolve(&parser::parse(text)?)
}
