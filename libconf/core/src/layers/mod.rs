//! A component's settings in layers, later ones over earlier ones: which layer wins is decided here
//! and nowhere else.
//!
//! The lowest layer is the component's own settings; over it, as JSON Merge Patch (RFC 7396), the
//! class's `overrides/<kind>/<name>.yaml`, the datacenter's, the `settings` of the host's roles in
//! listed order, the host's own. A `raw` component has no settings, so no layers either.

mod layer;
mod overrides;
mod stack;
mod explain;
mod variables;
mod groups;
mod ingredients;
#[cfg(test)]
mod tests;

pub(crate) use crate::layers::variables::variables;
pub use crate::layers::{
    explain::{Explained, SetBy},
    groups::{Group, differ_by_host, groups, has_templates},
    ingredients::Ingredients,
    layer::{Layer, LayerError, LayerFault, LinkPolicy, Origin, Sources},
    overrides::Overrides,
    stack::{Stack, stack},
};
