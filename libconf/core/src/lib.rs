//! What the three daemons share, in the order in which a change meets it.

pub mod git_http;
pub mod sandbox;

pub mod api;
pub mod consul;
pub mod daemon;
#[cfg(test)]
mod fuzz_tests;
pub mod git;
pub mod http;
pub mod layers;
pub mod manifest;
pub mod render;
pub mod secret;
pub mod settings;
pub mod sign;
pub mod snapshot;
pub mod template;
pub mod upstream;
