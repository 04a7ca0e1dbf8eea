//! `terraform/` without a cloud: its files, its variables, and what it gives to each machine.
//!
//! The tests of [`packaging`] take minutes and containers: `./tests/run --packaging` runs them. The
//! others are quick.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

mod files;
mod packaging;
mod rights;
