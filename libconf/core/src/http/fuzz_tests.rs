//! A fuzz target for requests as strangers send them. `cargo test` runs it for a moment with random
//! input.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use bolero::check;
use http::StatusCode;
use tokio_util::sync::CancellationToken;
use warp::Filter as _;

use crate::http::{Gate, Request, Routes, bind_tcp, request, serve, text};

/// A server that tells how long the body was.
fn start(runtime: &tokio::runtime::Runtime, stop: &CancellationToken) -> SocketAddr {
    let count = |request: Request| async move {
        let body = request.body.bytes(1 << 10).await;
        body.map_or_else(|refusal| refusal, |body| text(StatusCode::OK, format!("{} bytes", body.len())))
    };
    let routes: Routes = warp::path!("count").and(warp::post()).and(request()).then(count).boxed();
    let listener = runtime.block_on(bind_tcp(([127, 0, 0, 1], 0).into(), Gate::new(&[]))).unwrap();
    let address = listener.address().unwrap();
    runtime.spawn(serve(listener, routes, stop.clone()));
    address
}

/// Sends bytes, and no more if `is_all`, and returns all that comes back.
fn exchange(address: SocketAddr, bytes: &[u8], is_all: bool) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The server may have closed it already.
    let sent = socket.write_all(bytes);
    let _ = if is_all { sent.and_then(|()| socket.shutdown(Shutdown::Write)) } else { sent };
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Makes a request of random bytes.
fn raw(input: &[u8]) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "POST /count HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
        "Host: 127.0.0.1\r\n",
        "Content-Length: 4\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "4\r\nabcd\r\n",
        "0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "Content-Encoding: gzip\r\n",
        "Expect: 100-continue\r\n",
        "Content-Type: application/json\r\n",
        ": \r\n",
        "HTTP/1.0\r\n",
        "abcd",
    ];
    let word = |byte: &u8| match byte.checked_sub(128) {
        None => vec![*byte],
        Some(word) => WORDS[usize::from(word) % WORDS.len()].as_bytes().to_vec(),
    };
    input.iter().take(200).flat_map(word).collect()
}

#[test]
fn http_requests() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let address = start(&runtime, &stop);
    check!().for_each(|input: &[u8]| {
        let answer = exchange(address, &raw(input), true);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer}");
        let good = b"POST /count HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\nabcd";
        let answer = exchange(address, good, false);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("4 bytes"), "{answer}");
    });
    stop.cancel();
}
