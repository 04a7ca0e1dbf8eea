//! What `./tests/run --packaging` runs. Each test here is marked
//! `#[ignore = "packaging: …"]`.

mod compose;
mod debs;
mod systemd;
