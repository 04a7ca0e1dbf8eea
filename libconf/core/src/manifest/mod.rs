//! `datacenter.yaml`: the components that a class of datacenters runs, and the changes that one
//! datacenter makes.

mod pattern;
mod model;
mod merged;
mod reader;
#[cfg(test)]
mod tests;

pub use crate::manifest::{
    merged::{DeclaredIn, PinRequest, pins, platform, secrets},
    model::{ClassManifest, ClassRef, FILE, Host, InstanceManifest, Overlay, PinEntry, Role, Selection, Strictness},
    pattern::Pattern,
};
pub use crate::nearest::{MOST_LOOKS, nearest, nearest_component};
