//! A hostile conf-slave and a hostile Consul, each in front of an honest one: what they do not lie
//! about, they pass on.
//!
//! ```text
//! hostile slave  --listen ADDRESS --honest ADDRESS --datacenter NAME --folder FOLDER --mode MODE [--other ADDRESS]
//! hostile consul --listen ADDRESS --honest ADDRESS --key KEY --mode MODE [--value VALUE]
//! ```
//!
//! They print `ready http=ADDRESS` when they listen, `lied: …` each time they did, and go on until they
//! are killed.

mod consul;
mod peer;
mod slave;

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
};

use clap::Parser;

#[derive(Parser)]
#[command(about = "A hostile conf-slave or a hostile Consul in front of an honest one")]
enum Peer {
    /// Serves forged, mixed, old, foreign, cut or endless snapshots, or none newer than at its start.
    Slave(slave::Options),
    /// Serves forged, old, foreign or broken pointers.
    Consul(consul::Options),
}

fn main() -> io::Result<()> {
    match Peer::parse() {
        Peer::Slave(options) => {
            let listen = options.listen;
            let slave = Arc::new(slave::Slave::new(options)?);
            serve(listen, move |client| slave.answer(client))
        }
        Peer::Consul(options) => {
            let listen = options.listen;
            let consul = Arc::new(consul::Consul::new(options));
            serve(listen, move |client| consul.answer(client))
        }
    }
}

/// Tells whoever watches that a lie is on its way.
fn lied(about: &str) {
    eprintln!("lied: {about}");
}

/// Answers every connection in a thread of its own.
fn serve(
    listen: SocketAddr,
    answer: impl Fn(std::net::TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("ready http={}", listener.local_addr()?);
    io::stdout().flush()?;
    let answer = Arc::new(answer);
    for client in listener.incoming().flatten() {
        let answer = Arc::clone(&answer);
        // A client that goes away ends its thread.
        thread::spawn(move || drop(answer(client)));
    }
    Ok(())
}
