//! One component of a snapshot as its readers get it: its files, and its settings as one JSON
//! object.

mod rendered;
mod secrets;
mod templates;
mod component;
#[cfg(test)]
mod tests;

pub use crate::render::{
    component::{render, templates},
    rendered::{Content, RenderError, Rendered, StoreHash},
    secrets::{SecretFault, Secrets},
    templates::{TemplateCheck, Templates},
};
