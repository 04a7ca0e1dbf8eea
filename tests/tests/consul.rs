//! The client of Consul, by one table of questions put to a real server and to the embedded one.

#![expect(clippy::unwrap_used, reason = "a test may end in a panic, in its helpers too")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use conf_core::{
    consul::{Consul, ConsulCredentials, ConsulError, Entry, Operation, Outcome, WatchIndex},
    http,
};
use conf_slave::EmbeddedConsul;
use hyper::Method;
use tests::{http::Address, own_address};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Long enough that only a change ends it.
const LONG: Duration = Duration::from_secs(50);

#[test]
fn the_real_server_answers_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let server = tests::Consul::start(folder.path());
    wait(table(&client(&[server.url()])));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_answers_the_table() {
    let (address, stop) = start_embedded().await;
    table(&client(&[format!("http://{address}")])).await;
    stop.cancel();
}

#[test]
fn both_take_a_key_with_its_slashes_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let real = tests::Consul::start(folder.path());
    let (embedded, stop) = wait(start_embedded());
    for server in [real.address(), embedded] {
        let written = Address::Tcp(server).request(Method::PUT, "/v1/kv/folder%2Fkey", &[], "x").unwrap();
        assert!(written.status.is_success(), "{}", written.text());
        let consul = client(&[format!("http://{server}")]);
        assert_eq!(wait(text(&consul, "folder/key")).as_deref(), Some("x"));
    }
    stop.cancel();
}

/// What both must answer alike.
async fn table(consul: &Arc<Consul>) {
    absent_is_told_from_errors(consul).await;
    values_are_bytes(consul).await;
    neighbours_stay(consul).await;
    compare_and_swap(consul).await;
    transactions_are_all_or_nothing(consul).await;
    sixty_four_at_once(consul).await;
    a_watch_ends_with_a_change(consul).await;
    a_watch_ends_with_its_time(consul).await;
    a_watch_sees_a_deletion(consul).await;
}

async fn absent_is_told_from_errors(consul: &Consul) {
    assert_eq!(consul.get("absent/key").await.unwrap(), None);
    assert_eq!(consul.list("absent/").await.unwrap(), []);
    for bad in ["", "a b", "a?raw", "a//b", "a/../b", "ä"] {
        assert!(matches!(consul.get(bad).await, Err(ConsulError::Refused(_))), "{bad:?}");
    }
}

async fn values_are_bytes(consul: &Consul) {
    let every_byte: Vec<u8> = (0..=255).collect();
    consul.put("bytes", &every_byte, 9).await.unwrap();
    let entry = consul.get("bytes").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.flags, entry.key.as_str()), (every_byte, 9, "bytes"));
    consul.put("bytes", b"", 0).await.unwrap();
    assert_eq!(consul.get("bytes").await.unwrap().unwrap().value, b"");
}

async fn neighbours_stay(consul: &Consul) {
    for key in ["r/a", "r/ab", "r/a/b", "rest"] {
        consul.put(key, key.as_bytes(), 0).await.unwrap();
    }
    consul.delete("r/a").await.unwrap();
    let left: Vec<String> = consul.list("r/").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(left, ["r/a/b", "r/ab"]);
}

async fn compare_and_swap(consul: &Consul) {
    let first = committed(consul, &[cas("cas", "one", 0)]).await;
    assert_eq!((first.len(), first[0].key.as_str(), first[0].flags), (1, "cas", 7));
    conflict(consul, &[cas("cas", "two", 0)]).await;
    conflict(consul, &[cas("cas", "two", first[0].index + 1)]).await;
    let second = committed(consul, &[cas("cas", "two", first[0].index)]).await;
    assert!(second[0].index > first[0].index);
    conflict(consul, &[Operation::DeleteCas { key: "cas".into(), index: first[0].index }]).await;
    assert_eq!(text(consul, "cas").await.as_deref(), Some("two"));
    committed(consul, &[Operation::DeleteCas { key: "cas".into(), index: second[0].index }]).await;
    assert_eq!(text(consul, "cas").await, None);
}

async fn transactions_are_all_or_nothing(consul: &Consul) {
    let guard = committed(consul, &[cas("txn/guard", "1", 0)]).await[0].index;
    let check = |index| Operation::CheckIndex { key: "txn/guard".into(), index };
    committed(consul, &[check(guard), cas("txn/a", "1", 0)]).await;
    let a = consul.get("txn/a").await.unwrap().unwrap().index;
    conflict(consul, &[cas("txn/a", "2", a), cas("txn/b", "2", 0), check(guard + 1)]).await;
    let absent = Operation::CheckIndex { key: "txn/absent".into(), index: 1 };
    conflict(consul, &[cas("txn/b", "2", 0), absent]).await;
    conflict(consul, &[Operation::DeleteCas { key: "txn/a".into(), index: a }, check(guard + 1)]).await;
    assert_eq!((text(consul, "txn/a").await.as_deref(), text(consul, "txn/b").await), (Some("1"), None));
    let set = Operation::Set { key: "txn/b".into(), value: b"3".into(), flags: 1 };
    let read = committed(consul, &[set, Operation::Get { key: "txn/a".into() }]).await;
    assert_eq!((read.len(), read[1].value.as_slice()), (2, b"1".as_slice()));
}

async fn sixty_four_at_once(consul: &Consul) {
    let key = |number: usize| format!("many/{number:02}");
    let all: Vec<Operation> = (0..64).map(|number| cas(&key(number), "x", 0)).collect();
    let entries = committed(consul, &all).await;
    assert_eq!(entries.len(), 64);
    // A publisher goes on from these indexes without reading again.
    for (number, entry) in entries.iter().enumerate() {
        assert_eq!((&entry.key, entry.index), (&key(number), entries[0].index));
    }
    let more: Vec<Operation> = (0..65).map(|number| cas(&format!("more/{number}"), "x", 0)).collect();
    assert!(matches!(consul.transaction(&more).await, Err(ConsulError::Refused(_))));
    assert_eq!(consul.list("more/").await.unwrap(), []);
}

async fn a_watch_ends_with_a_change(consul: &Arc<Consul>) {
    consul.put("watched", b"1", 0).await.unwrap();
    let mut seen = WatchIndex::default();
    // The first call answers at once, the second waits.
    let first = consul.watch("watched", &mut seen, LONG).await.unwrap().unwrap();
    assert_eq!(first.value, b"1");
    let waiting = Arc::clone(consul);
    let waiter = tokio::spawn(async move { waiting.watch("watched", &mut seen, LONG).await });
    consul.put("beside", b"another key wakes nobody", 0).await.unwrap();
    tokio::time::timeout(Duration::from_millis(200), async {
        while !waiter.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect_err("a change of another key ended the wait");
    consul.put("watched", b"2", 0).await.unwrap();
    let woken = waiter.await.unwrap().unwrap().unwrap();
    assert_eq!(woken.value, b"2");
}

async fn a_watch_ends_with_its_time(consul: &Consul) {
    let mut seen = WatchIndex::default();
    consul.watch("watched", &mut seen, LONG).await.unwrap();
    let start = Instant::now();
    let same = consul.watch("watched", &mut seen, Duration::from_millis(300)).await.unwrap().unwrap();
    assert_eq!(same.value, b"2");
    assert!(start.elapsed() >= Duration::from_millis(300));
}

async fn a_watch_sees_a_deletion(consul: &Arc<Consul>) {
    let mut seen = WatchIndex::default();
    consul.watch("watched", &mut seen, LONG).await.unwrap();
    let waiting = Arc::clone(consul);
    let waiter = tokio::spawn(async move { waiting.watch("watched", &mut seen, LONG).await });
    consul.delete("watched").await.unwrap();
    assert_eq!(waiter.await.unwrap().unwrap(), None);
}

#[test]
fn a_server_that_lost_everything_starts_the_watch_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = tests::Consul::start(folder.path());
    let consul = client(&[server.url()]);
    let mut seen = WatchIndex::default();
    wait(async {
        for round in 0..50 {
            consul.put("key", format!("{round}").as_bytes(), 0).await.unwrap();
        }
        consul.watch("key", &mut seen, LONG).await.unwrap();
    });
    let waiting = Arc::clone(&consul);
    let waiter = std::thread::spawn(move || {
        let broken = wait(waiting.watch("key", &mut seen, LONG));
        (broken, seen)
    });
    server.kill9();
    let (broken, mut seen) = waiter.join().unwrap();
    assert!(matches!(broken, Err(ConsulError::Unreachable { .. })), "{broken:?}");
    server.start_again();
    // With the old index this would wait: the new server's is far below it.
    let start = Instant::now();
    let anew = wait(async {
        consul.put("key", b"anew", 0).await.unwrap();
        consul.watch("key", &mut seen, LONG).await.unwrap()
    });
    assert_eq!(anew.unwrap().value, b"anew");
    assert!(start.elapsed() < LONG / 2);
}

#[test]
fn a_denied_token_is_neither_absence_nor_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let server = tests::Consul::start_denying(folder.path());
    let nobody = client(&[server.url()]);
    assert!(matches!(wait(nobody.get("key")), Err(ConsulError::Denied { .. })));
    assert!(matches!(wait(nobody.transaction(&[cas("key", "x", 0)])), Err(ConsulError::Denied { .. })));
    let token = server.token("writer", r#"key_prefix "configurations/" { policy = "write" }"#);
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let credentials = ConsulCredentials { token_file: Some(file.clone()), ..ConsulCredentials::default() };
    let writer = Consul::new(&[server.url()], credentials).unwrap();
    wait(committed(&writer, &[cas("configurations/a", "x", 0)]));
    assert!(matches!(wait(writer.transaction(&[cas("elsewhere", "x", 0)])), Err(ConsulError::Denied { .. })));
    // A token that was taken back is noticed without a restart, and so is the next one.
    std::fs::write(&file, "00000000-0000-0000-0000-000000000000").unwrap();
    assert!(matches!(wait(writer.get("configurations/a")), Err(ConsulError::Denied { .. })));
    std::fs::write(&file, &token).unwrap();
    assert_eq!(wait(text(&writer, "configurations/a")).as_deref(), Some("x"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_answers_when_the_first_does_not() {
    let (address, stop) = start_embedded().await;
    let consul = client(&[format!("http://{}", own_address(1)), format!("http://{address}")]);
    consul.put("key", b"x", 0).await.unwrap();
    assert_eq!(text(&consul, "key").await.as_deref(), Some("x"));
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_no_use_are_never_absence() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let answers = [
        ("HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 0\r\n\r\n", "empty 200"),
        ("HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 2\r\n\r\n[]", "empty list"),
        ("HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 9\r\n\r\n[{\"Key\":\"", "truncated JSON"),
        ("HTTP/1.1 200 OK\r\nX-Consul-Index: 5\r\nContent-Length: 99\r\n\r\n[{\"Key\":\"", "body cut off"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 without an index"),
        ("HTTP/1.1 404 Not Found\r\nX-Consul-Index: 0\r\nContent-Length: 0\r\n\r\n", "404 with index 0"),
        ("HTTP/1.1 500 E\r\nX-Consul-Index: 5\r\nContent-Length: 17\r\n\r\nNo cluster leader", "no leader"),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "redirected"),
        ("HTTP/1.1 403 Forbidden\r\nX-Consul-Index: 5\r\nContent-Length: 0\r\n\r\n", "denied"),
    ];
    for (answer, what) in answers {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let consul = client(&[format!("http://{}", listener.local_addr().unwrap())]);
        // Each question comes on a connection of its own, or one would fail for the end of the one before.
        let answer = answer.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let server = tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = connection.read(&mut request).await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        assert!(consul.get("key").await.is_err(), "{what}: get");
        assert!(consul.list("key/").await.is_err(), "{what}: list");
        assert!(consul.watch("key", &mut WatchIndex::default(), LONG).await.is_err(), "{what}: watch");
        assert!(asked.load(Ordering::Relaxed) >= 3, "{what}: a question was not answered");
        server.abort();
    }
}

/// A server that gives one answer after the other, the last one again and again; returns its address and the paths
/// of the requests.
async fn scripted(answers: Vec<String>) -> (String, Arc<Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, paths) = (format!("http://{}", listener.local_addr().unwrap()), Arc::default());
    let seen: Arc<Mutex<Vec<String>>> = Arc::clone(&paths);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let length = connection.read(&mut request).await.unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            seen.lock().unwrap().push(text.split(' ').nth(1).unwrap_or_default().to_owned());
            let answer = answers.get(number).or(answers.last()).unwrap();
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    });
    (address, paths)
}

fn kv(index: u64, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_acted_on_does_not_move_the_position() {
    let first = kv(5, r#"[{"Key":"key","Value":"MQ==","ModifyIndex":5}]"#);
    let second = kv(9, r#"[{"Key":"key","Value":"Mg==","ModifyIndex":9}]"#);
    for bad in [
        "<html>welcome</html>",
        "[]",
        "null",
        r#"[{"Key":"other","Value":"MQ==","ModifyIndex":9}]"#,
        r#"[{"Key":"key","Value":"M"#,
        "{}",
    ] {
        let (address, paths) = scripted(vec![first.clone(), kv(9, bad), second.clone()]).await;
        let (consul, mut seen) = (client(&[address]), WatchIndex::default());
        assert_eq!(consul.watch("key", &mut seen, LONG).await.unwrap().unwrap().value, b"1");
        let answer = consul.watch("key", &mut seen, LONG).await;
        assert!(matches!(answer, Err(ConsulError::Malformed { .. })), "{bad}: {answer:?}");
        // The next question does not wait for what comes after index 9.
        assert_eq!(consul.watch("key", &mut seen, LONG).await.unwrap().unwrap().value, b"2");
        let paths = paths.lock().unwrap().clone();
        assert!(paths[1].contains("index=5") && !paths[2].contains("index"), "{bad}: {paths:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_are_answered_early_are_few() {
    // Whatever the index, the value is the same.
    let answers =
        (5..1000).map(|index| kv(index, &format!(r#"[{{"Key":"key","Value":"MQ==","ModifyIndex":{index}}}]"#)));
    let (address, paths) = scripted(answers.collect()).await;
    let (consul, mut seen) = (client(&[address]), WatchIndex::default());
    let _ = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            consul.watch("key", &mut seen, LONG).await.unwrap();
        }
    })
    .await;
    let asked = paths.lock().unwrap().len();
    println!("{asked} requests in 3 s");
    assert!((3..=9).contains(&asked), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_address_has_the_next_one_asked_beside_it() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = start_embedded().await;
    let consul = client(&[format!("http://{}", silent.local_addr().unwrap()), format!("http://{address}")]);
    let start = Instant::now();
    committed(&consul, &[cas("key", "x", 0)]).await;
    // Waiting for the silent one alone would take ten.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        assert_eq!(text(&consul, "key").await.as_deref(), Some("x"));
        quickest = quickest.min(start.elapsed());
    }
    assert!(quickest < Duration::from_secs(1), "the one that answered is asked first: {quickest:?}");
    stop.cancel();
}

/// The harness does its own waiting, and may not be called where others wait.
fn wait<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    RUNTIME.block_on(future)
}

async fn start_embedded() -> (SocketAddr, CancellationToken) {
    let listener = http::bind_tcp("127.0.0.1:0".parse().unwrap(), http::Gate::new(&[])).await.unwrap();
    let (address, stop) = (listener.address().unwrap(), CancellationToken::new());
    tokio::spawn(http::serve(listener, EmbeddedConsul::new().routes(), stop.clone()));
    (address, stop)
}

fn client(addresses: &[String]) -> Arc<Consul> {
    Arc::new(Consul::new(addresses, ConsulCredentials::default()).unwrap())
}

fn cas(key: &str, value: &str, index: u64) -> Operation {
    Operation::Cas { key: key.to_owned(), value: value.as_bytes().to_vec(), flags: 7, index }
}

async fn committed(consul: &Consul, operations: &[Operation]) -> Vec<Entry> {
    match consul.transaction(operations).await {
        Ok(Outcome::Committed(entries)) => entries,
        other => panic!("{operations:?}: {other:?}"),
    }
}

async fn conflict(consul: &Consul, operations: &[Operation]) {
    let outcome = consul.transaction(operations).await;
    assert!(matches!(outcome, Ok(Outcome::Conflict(_))), "{operations:?}: {outcome:?}");
}

async fn text(consul: &Consul, key: &str) -> Option<String> {
    consul.get(key).await.unwrap().map(|entry| String::from_utf8(entry.value).unwrap())
}
