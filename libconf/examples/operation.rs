//! One operation across two services: both read the same version of the configuration, even if it
//! changes meanwhile.
//!
//! ```sh
//! cargo run --features http --example operation -- back 127.0.0.1:8081
//! cargo run --features http --example operation -- front 127.0.0.1:8080 127.0.0.1:8081
//! curl http://127.0.0.1:8080/
//! ```
//!
//! `front` pins a version for each request without one, reads its price there, and asks
//! `back`, which may be on another host, for the same: the pin travels in the header `baggage`.
//! Both read the component `services/shop`, such as
//!
//! ```yaml
//! price: 100
//! ```

use std::{error::Error, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use libconf::client::{Client, JoinError, Operation};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};

#[derive(Deserialize)]
struct Shop {
    price: u64,
}

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let usage = "usage: operation back ADDRESS | operation front ADDRESS ADDRESS-OF-BACK";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (address, back) = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["back", address] => (address, None),
        ["front", address, back] => (address, Some(back.parse::<SocketAddr>()?)),
        _ => return Err(usage.into()),
    };
    let client = Client::connect()?;
    let listener = TcpListener::bind(address).await?;
    println!("ready http={}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let client = client.clone();
        let service = service_fn(move |request| answer(client.clone(), back, request));
        tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    client: Client,
    back: Option<SocketAddr>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Failure> {
    let operation = match client.join(request.headers()) {
        Ok(operation) => operation,
        // The first participant pins its host's newest version for all of them.
        Err(JoinError::Absent) => client.begin(),
        Err(bad) => return said(StatusCode::BAD_REQUEST, &bad.to_string()),
    };
    let price = match operation.get::<Shop>("services/shop").await {
        Ok(shop) => shop.price,
        // It never gets another version silently: the caller may try again, or begin anew.
        Err(missing) => return said(StatusCode::SERVICE_UNAVAILABLE, &missing.to_string()),
    };
    let own = format!("price={price} pin={}", operation.sequence());
    match back {
        None => said(StatusCode::OK, &own),
        Some(back) => said(StatusCode::OK, &format!("front {own}, back {}", ask(back, &operation).await?)),
    }
}

/// Asks the other service within this operation.
async fn ask(back: SocketAddr, operation: &Operation) -> Result<String, Failure> {
    let mut request = Request::get("/").header("host", back.to_string()).body(Full::<Bytes>::default())?;
    operation.inject(request.headers_mut());
    let stream = TcpStream::connect(back).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await?.into_body().collect().await?;
    Ok(String::from_utf8(answer.to_bytes().into())?)
}

fn said(status: StatusCode, text: &str) -> Result<Response<Full<Bytes>>, Failure> {
    Ok(Response::builder().status(status).body(Full::from(text.to_owned()))?)
}
