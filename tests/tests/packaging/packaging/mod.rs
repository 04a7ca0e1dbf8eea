//! What `./tests/run --packaging` runs. Each test here is marked
//! `#[ignore = "packaging: …"]`.

mod cargo_install;
mod compose;
mod debs;
mod systemd;
