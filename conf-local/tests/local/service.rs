//! The routes, over the real socket and a real loopback port.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use libconf::{client::Client, name::Sequence};
use serde_json::{Value, json};

use super::host::{Host, LONG, Script, commit, new_health};

const WEB: &str = "services/web/latest";

/// Sends a request as it is, and returns status, head and body of the answer.
fn exchange(mut stream: impl Read + Write, request: &str) -> (u16, String, String) {
    // A request that is too large is answered before it was all sent.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    // After the answer to a request that was not read completely there may be a reset.
    let ended = stream.read_to_end(&mut answer);
    assert!(ended.is_ok() || !answer.is_empty(), "{ended:?}");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

fn get(socket: &Path, path: &str, header: &str) -> (u16, String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
    exchange(UnixStream::connect(socket).unwrap(), &request)
}

fn post(socket: &Path, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let (status, _, body) = exchange(UnixStream::connect(socket).unwrap(), &request);
    (status, serde_json::from_str(&body).unwrap())
}

/// Runs blocking work beside the service.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_come_from_any_kept_snapshot() {
    let host = Host::start(Vec::new()).await;
    let socket = host.socket();
    let early = beside({
        let socket = socket.clone();
        move || get(&socket, "/v1/config/services/web", "")
    });
    assert_eq!(early.await.0, 503);
    host.switch(1, &[(WEB, r#"{"port":1}"#)]);
    host.switch(2, &[(WEB, r#"{"port":2}"#), ("services/web/v1", r#"{"port":3}"#), ("devices/a/v1", "{}")]);
    beside(move || {
        let ask = |path: &str| get(&socket, path, "");
        let (status, head, body) = ask("/v1/config/services/web/latest");
        assert_eq!((status, body.as_str()), (200, r#"{"port":2}"#));
        assert!(head.contains("conf-sequence: 2") && head.contains("conf-component: services/web/latest"), "{head}");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
        let (status, _, body) = get(&socket, "/v1/config/services/web/latest", &format!("If-None-Match: {tag}\r\n"));
        assert_eq!((status, body.as_str()), (304, ""));
        assert_eq!(get(&socket, "/v1/config/services/web/v1", &format!("If-None-Match: {tag}\r\n")).0, 200);

        assert_eq!(ask("/v1/config/services/web?sequence=1").2, r#"{"port":1}"#);
        let (status, _, body) = ask("/v1/config/services/web/latest?sequence=7");
        assert!(status == 404 && body.contains("it keeps 1, 2"), "{body}");
        let (status, _, body) = ask("/v1/config/services/web");
        assert!(status == 400 && body.contains("services/web/latest, services/web/v1"), "{body}");
        for (path, expected) in [
            ("/v1/config/services/nope", 404),
            ("/v1/config/services/web/v9?sequence=1", 404),
            ("/v1/config/things/web", 400),
            ("/v1/schema/services/nope", 404),
            ("/v1/schema/services/web?sequence=7", 404),
            ("/v1/schema/services/web", 400),
            ("/v1/schema/services/web/v1", 200),
            ("/v1/explain/services/nope", 404),
            ("/v1/explain/services/web", 400),
            ("/v1/explain/things/web", 400),
            // The exported snapshot is not in this repository: an error, not empty settings.
            ("/v1/explain/services/web/v1", 500),
            ("/v1/config/services/..%2f..%2fetc", 400),
            ("/v1/config/services/web/latest/more", 404),
            ("/v1/config/services/web?sequence=x", 400),
            ("/v1/watchers", 405),
            ("/v1/nothing", 404),
        ] {
            assert_eq!(ask(path).0, expected, "{path}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_the_export_through_the_agent() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, r#"{"port":1}"#)]);
    let (socket, export) = (host.socket(), host.export());
    // The agent has a second to answer; then the client looks elsewhere.
    let client = beside(move || {
        let began = Instant::now();
        loop {
            match Client::through(&socket) {
                Ok(client) if client.export_dir() == export => return client,
                other => assert!(began.elapsed() < LONG, "{other:?}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    })
    .await;
    let mut web = client.component("services/web").unwrap().typed::<Value>().unwrap();
    host.switch(2, &[(WEB, r#"{"port":2}"#)]);
    let now = beside(move || web.changed_blocking(LONG).map(|now| (now["port"].clone(), now.sequence()))).await;
    assert_eq!(now, Some((json!(2), Sequence(2))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_awaited() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let socket = host.socket();
    let (send, answers) = mpsc::channel();
    let waiting = thread::spawn(move || {
        let status = |path: &str| serde_json::from_str::<Value>(&get(&socket, path, "").2).unwrap();
        send.send(status("/v1/status?after=0")).unwrap();
        // Answered when its time is up, and when a newer change came.
        send.send(status("/v1/status?after=1&timeout=0.05")).unwrap();
        send.send(status("/v1/status?after=1")).unwrap();
    });
    let (first, second) = (answers.recv_timeout(LONG).unwrap(), answers.recv_timeout(LONG).unwrap());
    assert_eq!((&first["sequence"], &second["sequence"]), (&json!(1), &json!(1)));
    for member in ["datacenter", "host", "commit", "export", "current", "state", "pointer", "watchers", "problems"] {
        assert!(first.get(member).is_some(), "{member} is missing in {first}");
    }
    host.switch(2, &[(WEB, "2")]);
    assert_eq!(answers.recv_timeout(LONG).unwrap()["sequence"], 2);
    waiting.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_switch_is_an_event_and_missed_switches_are_one_event() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let listen = |last: Option<u64>| {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let last = last.map_or_else(String::new, |last| format!("Last-Event-ID: {last}\r\n"));
        write!(stream, "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{last}\r\n").unwrap();
        let (send, events) = mpsc::channel();
        thread::spawn(move || {
            use std::io::{BufRead, BufReader};
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // A heartbeat has no id.
                let is_heartbeat = line.starts_with("data: {\"period\"");
                let counts = ["HTTP/", "id: ", "data: "].iter().any(|start| line.starts_with(start));
                if counts && !is_heartbeat {
                    let _ = send.send(line);
                }
            }
        });
        assert_eq!(events.recv_timeout(LONG).unwrap(), "HTTP/1.1 200 OK");
        events
    };
    let next = |events: &mpsc::Receiver<String>| {
        let id = events.recv_timeout(LONG).unwrap();
        let data: Value = serde_json::from_str(&events.recv_timeout(LONG).unwrap()["data: ".len()..]).unwrap();
        assert_eq!(id, format!("id: {}", data["sequence"]));
        assert_eq!(data["commit"], commit(data["sequence"].as_u64().unwrap()).to_string());
        (data["sequence"].as_u64().unwrap(), data["components"].clone())
    };
    let events = listen(None);
    host.switch(2, &[(WEB, "2"), ("devices/a/v1", "1")]);
    assert_eq!(next(&events), (2, json!([WEB, "devices/a/v1"])));
    host.switch(3, &[(WEB, "2"), ("devices/a/v1", "2")]);
    assert_eq!(next(&events), (3, json!(["devices/a/v1"])));
    host.switch(4, &[(WEB, "4"), ("devices/a/v1", "2")]);
    assert_eq!(next(&events), (4, json!([WEB])));
    assert_eq!(next(&listen(Some(2))), (4, json!([WEB, "devices/a/v1"])));
    assert_eq!(next(&listen(Some(3))), (4, json!([WEB])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_registers_itself_and_only_processes_of_its_user() {
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let (socket, own, roots) = (host.socket(), Script::with_handler(), Script::with_handler());
    let (own, roots) = beside(move || {
        let wish = json!({"components": ["services/web", "services/later"], "pid": own.pid()}).to_string();
        let (status, answer) = post(&socket, "/v1/watchers", &wish);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["absent"], json!(["services/later"]));
        assert_eq!(answer["watcher"]["sequence"], 1);
        for (wish, expected) in [
            (json!({"components": ["services/web"], "pid": 1}), 403),
            (json!({"components": ["services/web"], "pid": 0}), 400),
            (json!({"components": [], "pid": own.pid()}), 400),
            (json!({"components": ["web"], "pid": own.pid()}), 400),
            (json!({"components": ["services/web"], "pid": own.pid(), "signal": "KILL"}), 400),
            (json!({"components": ["services/web"], "pid": own.pid(), "start": 1}), 400),
            (json!({"components": ["services/web"], "pid": own.pid(), "command": "reboot"}), 400),
        ] {
            let (status, answer) = post(&socket, "/v1/watchers", &wish.to_string());
            assert_eq!(status, expected, "{wish}: {answer}");
        }
        assert_eq!(post(&socket, "/v1/watchers", &" ".repeat(1 << 20)).0, 413);
        if nix::unistd::geteuid().is_root() {
            // Another user of this host may read, but may not have root's process signalled.
            let wish = json!({"components": ["services/web"], "pid": roots.pid()}).to_string();
            let script = r"my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; print $s $ARGV[1]; print <$s>";
            let request = format!(
                "POST /v1/watchers HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{wish}",
                wish.len()
            );
            let asked = Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e", script])
                .args([&socket.display().to_string(), &request])
                .output()
                .unwrap();
            let answer = String::from_utf8_lossy(&asked.stdout).into_owned();
            assert!(answer.starts_with("HTTP/1.0 403"), "{answer}{}", String::from_utf8_lossy(&asked.stderr));
            assert!(answer.contains("another user than 65534"), "{answer}");
        }
        (own, roots)
    })
    .await;
    host.switch(2, &[(WEB, "2")]);
    assert_eq!(beside(move || own.line()).await, "told");
    assert_eq!(roots.line_now(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_port_only_reads() {
    use conf_core::http;
    use conf_local::{Service, routes};
    let host = Host::start(Vec::new()).await;
    host.switch(1, &[(WEB, "1")]);
    let listener = http::bind_tcp("127.0.0.1:0".parse().unwrap(), http::Gate::new(&[])).await.unwrap();
    let address: SocketAddr = listener.address().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let service = Service { stop: stop.clone(), ..host.service() };
    let serving = tokio::spawn(http::serve(listener, routes(service, new_health()), stop.clone()));
    beside(move || {
        let ask = |method: &str, path: &str, name: &str, body: &str| {
            let length = body.len();
            let head =
                format!("{method} {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\nContent-Length: {length}");
            exchange(TcpStream::connect(address).unwrap(), &format!("{head}\r\n\r\n{body}")).0
        };
        assert_eq!(ask("GET", "/v1/config/services/web", &address.to_string(), ""), 200);
        assert_eq!(ask("GET", "/v1/config/services/web", "localhost:1", ""), 200);
        assert_eq!(ask("GET", "/v1/config/services/web", "[::1]:1", ""), 200);
        // A web page may let its own name lead here.
        for path in ["/v1/config/services/web", "/v1/status", "/v1/history", "/v1/events", "/v1/wait/services/web"] {
            assert_eq!(ask("GET", path, "evil.example.com", ""), 421, "{path}");
        }
        assert_eq!(ask("POST", "/v1/watchers", "localhost", r#"{"components":["services/web"],"pid":2}"#), 403);
        assert_eq!(ask("POST", "/v1/verify", "localhost", ""), 403);
    })
    .await;
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(60), serving).await.unwrap().unwrap();
}
