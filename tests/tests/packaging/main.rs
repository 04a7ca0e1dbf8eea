//! Packages: what each of them is made of, and that it works where it is installed.
//!
//! The tests of [`packaging`] take minutes, containers and what `packages/build` has built:
//! `./tests/run --packaging` runs them. The others are quick.

mod cargo_install;
mod packaging;
mod samples;
mod units;
