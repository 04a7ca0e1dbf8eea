//! What `./tests/run --packaging` runs. Each test here is marked
//! `#[ignore = "packaging: …"]`.

mod debs;
mod systemd;
