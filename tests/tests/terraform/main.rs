//! `terraform/` without a cloud: its files, its variables, and what it gives to each machine.
//!
//! What takes minutes or a container is marked `#[ignore = "packaging: …"]`:
//! `./tests/run --packaging` runs it.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod cloud_init;
mod files;
mod rights;
mod variables;
