//! `datacenter.yaml`: what a class of datacenters runs, and what one datacenter makes of it.

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
