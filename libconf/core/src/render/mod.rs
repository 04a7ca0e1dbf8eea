//! One component of a snapshot as its readers get it: its files, and its settings as one JSON
//! object.

mod rendered;
mod secrets;
mod templates;
mod component;
#[cfg(test)]
mod tests;

/// The number of the way in which components are rendered. It rises when a version of conf-core
/// makes other bytes of the same snapshot: 2 since templates keep the text outside of tags.
pub const RENDERING: u32 = 2;

pub use crate::render::{
    component::{render, templates},
    rendered::{Content, RenderError, Rendered, StoreHash},
    secrets::{SecretFault, Secrets},
    templates::{TemplateCheck, Templates},
};
