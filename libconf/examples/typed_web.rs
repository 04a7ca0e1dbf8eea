//! A web service whose settings are a type of its own, and change without a restart.
//!
//! `cargo run --example typed_web -- 127.0.0.1:8080`, on a host with conf-local and a component
//! `services/web` such as
//!
//! ```yaml
//! greeting: hello
//! ```
//!
//! Every request reads the settings anew. That is one atomic load, so keeping them would gain
//! nothing.

use std::{convert::Infallible, error::Error};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use libconf::client::{Client, Typed};
use serde::Deserialize;
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Web {
    greeting: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // libconf finds the agent (CONF_LOCAL_SOCKET, or the default path); the service starts without
    // it as well.
    let client = Client::connect()?;
    // A service that cannot read its settings does not start. Once it runs, settings that do not
    // fit are refused, and the last good ones stay: `conf-local status` shows the refusal.
    let web: Typed<Web> = client.component("services/web")?.typed()?;

    tokio::spawn(tell_of_changes(web.clone()));

    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("ready http={}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let web = web.clone();
        let answer = service_fn(move |_: Request<Incoming>| {
            // One value serves the whole answer, even if it changes meanwhile.
            let now = web.current();
            let text = format!("{} (change {})\n", now.greeting, now.sequence());
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

/// Work for each change instead of each request, such as resizing a pool. Here it prints the
/// change.
async fn tell_of_changes(mut web: Typed<Web>) {
    loop {
        let now = web.changed().await;
        println!("changed greeting={} sequence={}", now.greeting, now.sequence());
    }
}
