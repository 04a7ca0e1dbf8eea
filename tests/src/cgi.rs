//! Plain Git over smart HTTP: `git http-backend`, one process for each request, as web servers run
//! it. The mark that conf-master is compared with.

use std::{convert::Infallible, io, net::SocketAddr, path::PathBuf, process::Stdio, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

/// Serves the repositories below a folder until the process ends. Calls `ready` once it listens.
pub fn serve(folder: PathBuf, address: SocketAddr, ready: impl FnOnce()) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        ready();
        let folder = Arc::new(folder);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let folder = Arc::clone(&folder);
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let folder = Arc::clone(&folder);
                    async move { Ok::<_, Infallible>(answer(&folder, request).await) }
                });
                // The other side notices a broken connection itself.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

async fn answer(folder: &PathBuf, request: Request<Incoming>) -> Response<Full<Bytes>> {
    run(folder, request).await.unwrap_or_else(|error| {
        let mut answer = Response::new(Full::from(error.to_string()));
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
}

/// Runs the program for one request, with the variables of RFC 3875 that it reads.
async fn run(folder: &PathBuf, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut program = tokio::process::Command::new("git");
    program.arg("http-backend").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    program.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    program.env("GIT_PROJECT_ROOT", folder).env("GIT_HTTP_EXPORT_ALL", "1").env("GIT_PROTOCOL", header("git-protocol"));
    program.env("REQUEST_METHOD", head.method.as_str()).env("PATH_INFO", head.uri.path());
    program.env("QUERY_STRING", head.uri.query().unwrap_or_default()).env("CONTENT_TYPE", header("content-type"));
    program.env("HTTP_CONTENT_ENCODING", header("content-encoding")).env("REMOTE_USER", "engineer");
    program.env("REMOTE_ADDR", "127.0.0.1");
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut child = program.spawn()?;
    let mut input = child.stdin.take().ok_or_else(|| io::Error::other("its input is piped"))?;
    let feed = async move {
        // A program that needs no more of its input may end before all of it is written.
        let _ = input.write_all(&body).await;
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    parse(&output?.stdout)
}

/// Takes the head of a CGI program's output apart from its body.
fn parse(output: &[u8]) -> io::Result<Response<Full<Bytes>>> {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or_else(|| io::Error::other("git http-backend wrote no head"))?;
    let head = String::from_utf8_lossy(&output[..end]);
    let mut answer = Response::builder();
    for line in head.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        match name {
            "Status" => answer = answer.status(value.split(' ').next().unwrap_or_default()),
            _ => answer = answer.header(name, value),
        }
    }
    answer.body(Full::from(Bytes::copy_from_slice(&output[end + 4..]))).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_answer() {
        let answer = parse(b"Status: 404 Not Found\r\nContent-Type: text/plain\r\n\r\nno\r\n\r\n").expect("a head");
        assert_eq!(
            (answer.status(), answer.headers()["content-type"].as_bytes()),
            (StatusCode::NOT_FOUND, &b"text/plain"[..])
        );
        assert_eq!(parse(b"Expires: never\r\n\r\n").expect("a head").status(), StatusCode::OK);
        parse(b"fatal: no").expect_err("no head");
    }
}
