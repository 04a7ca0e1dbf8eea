//! What `./tests/run --packaging` runs. Each test here is marked
//! `#[ignore = "packaging: …"]`.

mod checkov;
mod cloud_init;
mod variables;
