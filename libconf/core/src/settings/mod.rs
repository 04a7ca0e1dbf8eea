//! Settings: the notations, and what one can ask of a value.

mod fault;
mod json_pointer;
mod merge;
mod objections;
pub(crate) mod yaml;
mod json;
mod toml;
mod hocon;
mod format;
mod lines;
mod schema;
mod commented;
#[cfg(test)]
mod corpus;

pub use crate::settings::{
    commented::{commented, one_line},
    fault::{Fault, MAX_BYTES, MAX_DEPTH, SettingsFault, without_value},
    format::{Format, SECRET, TEMPLATE_ENDING, asked_secret, choose, objections, parse, read, to_canonical},
    json_pointer::{JsonPointer, member},
    lines::Lines,
    schema::{Compatibility, Notes, SCHEMA_FILE, Schema},
    yaml::{from_yaml, to_yaml},
};
pub(crate) use crate::settings::{
    fault::shown,
    merge::merge,
    yaml::{Key, Node, Shape, twice},
};
