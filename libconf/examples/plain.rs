//! A plain, synchronous program around SIGHUP, like many: without an async runtime or a thread of
//! its own.
//!
//! `cargo run --example plain`, on a host with conf-local and a component `services/web` that has
//! settings and a file `motd`. It ends with SIGTERM.

use std::error::Error;

use libconf::client::{Client, Signal};
use serde_json::Value;
use signal_hook::{
    consts::{SIGHUP, SIGTERM},
    iterator::Signals,
};

fn main() -> Result<(), Box<dyn Error>> {
    // The handler comes first: without one, SIGHUP would end the program (libconf would wait for
    // it).
    let mut signals = Signals::new([SIGHUP, SIGTERM])?;
    let client = Client::connect()?;
    // libconf sends it once per change, after all reads below show the change.
    let _raising = client.group(["services/web"])?.raise_on_change(Signal::Hangup)?;

    show(&client)?;
    println!("ready");
    for signal in signals.forever() {
        match signal {
            SIGHUP => show(&client)?,
            _ => break,
        }
    }
    Ok(())
}

/// Reads settings and files of one snapshot.
fn show(client: &Client) -> Result<(), Box<dyn Error>> {
    let now = client.begin();
    let settings = now.get_blocking::<Value>("services/web")?;
    let motd = now.files_blocking("services/web")?.read_to_string("motd")?;
    println!("sequence={} settings={settings} motd={}", now.ready_blocking()?, motd.trim());
    Ok(())
}
