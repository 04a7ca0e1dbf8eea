use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::client::{
    Client, Error,
    testing::{Export, FakeAgent, LONG, Web, block_on, until, web},
};
use crate::name::Sequence;

const WEB: &str = "services/web/latest";

fn port(operation: &Operation) -> u16 {
    operation.get_blocking::<Web>("services/web").unwrap().port
}

/// Headers of a message bus.
fn headers(sequence: u64) -> Vec<(String, String)> {
    vec![("baggage".to_owned(), format!("conf-version={sequence}"))]
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

#[test]
fn an_operation_stays_on_its_version_and_the_others_join_it() {
    let export = Export::with(3, &[(WEB, &web(3))]);
    let (first, second) = (export.client(), export.client());
    let operation = first.begin();
    assert_eq!((operation.sequence().0, port(&operation)), (3, 3));
    let mut message: Vec<(String, String)> = vec![("Baggage".to_owned(), "user=1".to_owned())];
    operation.inject(&mut message);
    export.switch(5, &[(WEB, &web(5))]);
    until("change 5", || second.sequence().0 == 5 && first.sequence().0 == 5);
    assert_eq!(port(&operation), 3, "went on to a newer version");
    let joined = second.join(&message).unwrap();
    assert_eq!((joined.sequence().0, port(&joined), joined.ready_blocking().unwrap().0), (3, 3, 3));
    assert_eq!(block_on(joined.get::<Web>(WEB)).unwrap().port, 3);
    assert_eq!(port(&second.begin()), 5);
    // For a change between the two snapshots, the older one is the newest.
    assert_eq!(port(&second.join(&headers(4)).unwrap()), 3);
}

#[test]
fn the_pin_is_the_highest_covered_change() {
    let export = Export::with(3, &[(WEB, &web(3))]);
    export.central(3, 9);
    let client = export.client();
    assert_eq!(client.begin().sequence().0, 9);
    let operation = client.join(&headers(7)).unwrap();
    assert_eq!((operation.sequence().0, port(&operation)), (7, 3));
    // The pin rises without a switch, and an operation ahead of it waits for that.
    let ahead = client.begin_at(Sequence(12)).with_deadline(Instant::now() + LONG);
    let waiting = thread::spawn(move || port(&ahead));
    export.central(3, 12);
    assert_eq!(waiting.join().unwrap(), 3);
    until("central 12", || client.begin().sequence().0 == 12);
    // A file about another snapshot does not count, and no pin falls.
    export.central(2, 50);
    export.central(3, 1);
    export.switch(20, &[(WEB, &web(20))]);
    until("change 20", || client.sequence().0 == 20);
    assert_eq!(client.begin().sequence().0, 20);
    // The range of 3 is known for ever, and its child ends it: no file is read again.
    std::fs::remove_file(export.path.join("snapshots/20/snapshot.json")).unwrap();
    assert_eq!(port(&client.join(&headers(19)).unwrap()), 3);
}

#[test]
fn neighbouring_folders_prove_their_range() {
    let export = Export::with(2, &[(WEB, &web(2))]);
    for sequence in [5, 8, 13] {
        export.switch(sequence, &[(WEB, &web(sequence))]);
    }
    // A snapshot that is built but not current: the host may refuse it.
    export.lay_out(15, Some(13), &[(WEB, &web(15))], &BTreeMap::new());
    let client = export.client();
    for (pin, expected) in [(2, 2), (4, 2), (5, 5), (7, 5), (8, 8), (12, 8), (13, 13)] {
        assert_eq!(u64::from(port(&client.join(&headers(pin)).unwrap())), expected, "change {pin}");
    }
    let later = client.join(&headers(15)).unwrap().with_deadline(soon());
    let error = later.get_blocking::<Web>("services/web").unwrap_err();
    assert!(matches!(error, Error::NotHere { sequence: Sequence(15), .. }), "{error}");
    assert!(error.to_string().contains("known to be the newest up to change 13"), "{error}");
}

#[test]
fn an_operation_stays_in_its_folder_when_the_snapshot_is_made_again() {
    let other = "services/other/latest";
    let export = Export::with(2, &[(WEB, &web(2)), (other, &web(2))]);
    let client = export.client();
    let operation = client.begin();
    assert_eq!(port(&operation), 2);
    export.lay_out(2, None, &[(WEB, &web(3)), (other, &web(3)), ("services/third/latest", "{}")], &BTreeMap::new());
    assert_eq!(operation.get_blocking::<Web>(other).unwrap().port, 2, "a mixture");
    assert_eq!(operation.files_blocking(other).unwrap().read_to_string("sub/deep").unwrap(), web(2));
    let third = operation.get_blocking::<serde_json::Value>("services/third");
    assert!(matches!(third, Err(Error::NotExported { .. })), "{third:?}");
}

#[test]
fn a_gap_between_folders_proves_nothing() {
    let export = Export::with(2, &[(WEB, &web(2))]);
    for sequence in [5, 8] {
        export.switch(sequence, &[(WEB, &web(sequence))]);
    }
    assert!(export.retire(5));
    let client = export.client();
    assert_eq!(port(&client.join(&headers(8)).unwrap()), 8);
    // 5 is gone: 2 is right for 3 and wrong for 6, and 2 and 8 alone cannot tell these cases apart.
    for pin in [1, 3, 6] {
        let error = client.join(&headers(pin)).unwrap().get_blocking::<Web>("services/web").unwrap_err();
        assert!(matches!(error, Error::NotHere { .. }), "{pin}: {error}");
    }
}

#[test]
fn the_agent_is_asked_once_for_a_snapshot_that_is_not_kept() {
    let export = Arc::new(Export::with(8, &[(WEB, &web(8))]));
    let agent = FakeAgent::start({
        let export = Arc::clone(&export);
        move |target, _| {
            if target.starts_with("/v1/at/") {
                export.lay_out(3, Some(2), &[(WEB, &web(3))], &BTreeMap::new());
                return FakeAgent::at(3, 6);
            }
            (200, "{}".to_owned())
        }
    });
    let client = Client::options().export_dir(&export.path).socket(agent.socket()).connect().unwrap();
    assert_eq!(block_on(client.join(&headers(5)).unwrap().get::<Web>(WEB)).unwrap().port, 3);
    for pin in [3, 4, 6] {
        assert_eq!(port(&client.join(&headers(pin)).unwrap()), 3);
    }
    let asked: Vec<_> = agent.asked.try_iter().filter(|(target, _)| target.starts_with("/v1/at/")).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0].0.starts_with("/v1/at/5?timeout="), "{asked:?}");
}

#[test]
fn concurrent_questions_for_one_change_are_one() {
    let export = Arc::new(Export::with(8, &[(WEB, &web(8))]));
    let (asked, all_ask) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(9)));
    let agent = FakeAgent::start({
        let (export, asked, all_ask) = (Arc::clone(&export), Arc::clone(&asked), Arc::clone(&all_ask));
        move |target, _| {
            if target.starts_with("/v1/at/5") {
                asked.fetch_add(1, Ordering::SeqCst);
                all_ask.wait();
                export.lay_out(3, None, &[(WEB, &web(3))], &BTreeMap::new());
            }
            FakeAgent::at(3, 6)
        }
    });
    let client = Client::options().export_dir(&export.path).socket(agent.socket()).connect().unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let operation = client.join(&headers(5)).unwrap().with_deadline(Instant::now() + LONG);
                let mut reading = std::pin::pin!(operation.get::<Web>(WEB));
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                assert!(reading.as_mut().poll(&mut context).is_pending());
                all_ask.wait();
                assert_eq!(block_on(reading).unwrap().port, 3);
            });
        }
    });
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn the_error_has_the_agents_reason() {
    let export = Export::with(8, &[(WEB, &web(8))]);
    let agent = FakeAgent::start(|target, _| match target {
        target if target.starts_with("/v1/at/2?") => (404, r#"{"error":"too old","reason":"none-so-old"}"#.to_owned()),
        target if target.starts_with("/v1/at/9?") => (504, r#"{"error":"s1 and s2 are away"}"#.to_owned()),
        _ => FakeAgent::at(3, 6),
    });
    let client = Client::options().export_dir(&export.path).socket(agent.socket()).connect().unwrap();
    let never = client.begin_at(Sequence(2)).with_deadline(Instant::now() + LONG);
    assert!(matches!(never.get_blocking::<Web>(WEB), Err(Error::NoneSoOld { sequence: Sequence(2) })));
    // On a busy machine the agent may miss the deadline, and the error then says that.
    let says = |pin, words: &str| {
        until(words, || {
            let operation = client.begin_at(Sequence(pin)).with_deadline(soon());
            let error = operation.get_blocking::<Web>(WEB).unwrap_err();
            assert!(matches!(error, Error::NotHere { .. }), "{error}");
            error.to_string().contains(words)
        });
    };
    says(9, "s1 and s2 are away");
    // An answer about another change, or with a missing folder, does not count.
    says(7, "answered for another change");
    says(5, "snapshots/3: No such file");
    // The folder is of another snapshot: the agent exports somewhere else.
    export.lay_out(3, None, &[(WEB, &web(3))], &BTreeMap::new());
    std::fs::write(export.path.join("snapshots/3/snapshot.json"), "{}").unwrap();
    says(5, "export somewhere else");
}

#[test]
fn a_hanging_agent_delays_no_read_beyond_its_deadline() {
    let export = Export::with(8, &[(WEB, &web(8))]);
    let dir = tempfile::tempdir().unwrap();
    // No program accepts: connecting works, but no answer comes.
    let socket = dir.path().join("hung.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let client = Client::options().export_dir(&export.path).socket(&socket).connect().unwrap();
    let operation = client.begin_at(Sequence(9)).with_deadline(soon());
    assert!(matches!(block_on(operation.get::<Web>(WEB)), Err(Error::NotHere { .. })));
    assert!(matches!(operation.get_blocking::<Web>(WEB), Err(Error::NotHere { .. })));
    // A new snapshot of the export ends the wait.
    let operation = client.begin_at(Sequence(9)).with_deadline(Instant::now() + LONG);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| block_on(operation.get::<Web>(WEB)).unwrap().port);
        export.switch(9, &[(WEB, &web(9))]);
        assert_eq!(waiting.join().unwrap(), 9);
    });
}

/// Polls another operation within its wake-up, as an executor may do.
struct Busy {
    client: Client,
    other: Sequence,
    woken: mpsc::Sender<()>,
}

impl Wake for Busy {
    fn wake(self: Arc<Self>) {
        let operation = self.client.begin_at(self.other).with_deadline(Instant::now() + LONG);
        let mut reading = std::pin::pin!(operation.get::<Web>(WEB));
        assert!(reading.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let _ = self.woken.send(());
    }
}

#[test]
fn a_woken_task_may_wait_again_at_once() {
    let export = Export::with(8, &[(WEB, &web(8))]);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("hung.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let client = Client::options().export_dir(&export.path).socket(&socket).connect().unwrap();
    let (tell, woken) = mpsc::channel();
    // A snapshot wakes it, and then the clock.
    for pin in [9, 10] {
        // Not over yet when the task begins to wait.
        let deadline = Instant::now() + if pin == 9 { LONG } else { Duration::from_secs(5) };
        let other = Sequence(pin + 10);
        let waker = Waker::from(Arc::new(Busy { client: client.clone(), other, woken: tell.clone() }));
        let operation = client.begin_at(Sequence(pin)).with_deadline(deadline);
        let mut reading = std::pin::pin!(operation.get::<Web>(WEB));
        assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        if pin == 9 {
            export.switch(9, &[(WEB, &web(9))]);
        }
        woken.recv_timeout(LONG).expect("it is woken");
    }
}

#[test]
fn a_folder_that_was_made_again_replaces_the_former() {
    let export = Export::with(8, &[(WEB, &web(8))]);
    export.lay_out(2, None, &[(WEB, &web(2))], &BTreeMap::new());
    let agent = FakeAgent::start(|target, _| {
        let pin = target.strip_prefix("/v1/at/").and_then(|rest| rest.split('?').next()).unwrap_or("2");
        FakeAgent::at(2, pin.parse().unwrap())
    });
    let client = Client::options().export_dir(&export.path).socket(agent.socket()).connect().unwrap();
    let first = client.join(&headers(3)).unwrap();
    assert_eq!(port(&first), 2);
    export.lay_out(2, None, &[(WEB, &web(22))], &BTreeMap::new());
    assert_eq!(port(&client.join(&headers(6)).unwrap()), 22);
    assert_eq!(port(&client.join(&headers(3)).unwrap()), 22);
    assert_eq!(port(&first), 2, "an operation stays");
}

#[test]
fn a_read_waits_for_the_agents_return() {
    let export = Arc::new(Export::with(8, &[(WEB, &web(8))]));
    export.lay_out(3, None, &[(WEB, &web(3))], &BTreeMap::new());
    let refusals = AtomicUsize::new(0);
    let agent = FakeAgent::start(move |_, _| match refusals.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => (503, r#"{"error":"stopping"}"#.to_owned()),
        _ => FakeAgent::at(3, 6),
    });
    let client = Client::options().export_dir(&export.path).socket(agent.socket()).connect().unwrap();
    let operation = client.begin_at(Sequence(5)).with_deadline(Instant::now() + LONG);
    assert_eq!(port(&operation), 3);
}

#[test]
fn a_held_back_component_is_an_error_and_never_older_settings() {
    let export = Export::with(1, &[(WEB, &web(1)), ("services/other/latest", "{}")]);
    let new = "services/new/latest";
    let faults = BTreeMap::from([(WEB, "its check failed"), (new, "cannot be rendered")]);
    export.lay_out(2, Some(1), &[(WEB, &web(1)), ("services/other/latest", "{}")], &faults);
    export.let_current_name(2);
    let operation = export.client().begin();
    for name in ["services/web", WEB, "services/new", new] {
        let error = operation.get_blocking::<Web>(name).unwrap_err();
        assert!(matches!(error, Error::HeldBack { sequence: Sequence(2), .. }), "{name}: {error}");
    }
    assert!(operation.get_blocking::<serde_json::Value>("services/other").is_ok());
    // The change before has the component.
    assert_eq!(port(&export.client().begin_at(Sequence(1))), 1);
}

#[test]
fn a_version_stays_while_an_operation_holds_it() {
    let export = Export::with(1, &[(WEB, &web(1))]);
    let operation = export.client().begin();
    export.switch(2, &[(WEB, &web(2))]);
    let other = export.client();
    until("change 2", || operation.follower.snapshot().sequence.0 == 2);
    assert!(!export.retire(1), "removed while it is held");
    assert_eq!(port(&operation), 1);
    drop(operation);
    until("the end of the hold", || export.retire(1));
    assert!(matches!(other.begin_at(Sequence(1)).get_blocking::<Web>(WEB), Err(Error::NotHere { .. })));
}

#[test]
fn a_client_holds_few_versions_beyond_its_operations() {
    let export = Export::with(1, &[(WEB, &web(1))]);
    let client = export.client();
    for sequence in 2..=30 {
        export.switch(sequence, &[(WEB, &web(sequence))]);
        until("the change", || client.sequence().0 == sequence);
    }
    let held = (1..=30).filter(|sequence| !export.retire(*sequence)).count();
    assert!((2..=9).contains(&held), "{held} are held");
}

#[test]
fn a_value_is_read_once() {
    let export = Export::with(1, &[(WEB, &web(1))]);
    let client = export.client();
    let first = client.begin().get_blocking::<Web>(WEB).unwrap();
    let again = client.begin().get_blocking::<Web>(WEB).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    // Each type has a value of its own.
    let plain = client.begin().get_blocking::<serde_json::Value>(WEB).unwrap();
    assert_eq!(plain["port"], 1);
    let misfit = client.begin().get_blocking::<Vec<u8>>(WEB).unwrap_err();
    assert!(matches!(misfit, Error::Shape { .. }));
}

#[test]
fn bad_pins_are_told_apart_and_may_be_replaced() {
    let export = Export::with(4, &[(WEB, &web(4))]);
    let client = export.client();
    let none: Vec<(String, String)> = Vec::new();
    assert_eq!(client.join(&none).unwrap_err(), JoinError::Absent);
    let bad = vec![("baggage".to_owned(), "conf-version=x".to_owned())];
    assert!(matches!(client.join(&bad).unwrap_err(), JoinError::Malformed { .. }));
    for headers in [&none, &bad] {
        assert_eq!(client.join_or_begin(headers).sequence().0, 4);
    }
    assert_eq!(client.join_or_begin(&headers(2)).sequence().0, 2);
}

#[cfg(feature = "http")]
#[test]
fn the_headers_of_http_carry_it() {
    let export = Export::with(4, &[(WEB, &web(4))]);
    let client = export.client();
    let mut headers = http::HeaderMap::new();
    headers.append("baggage", "a=1;p".parse().unwrap());
    headers.append("baggage", "conf-version=2, b=\u{fc}".parse().unwrap());
    assert_eq!(client.join(&headers).unwrap().sequence().0, 2);
    client.begin().inject(&mut headers);
    let lines: Vec<&[u8]> = headers.get_all("baggage").iter().map(http::HeaderValue::as_bytes).collect();
    assert_eq!(lines, ["a=1;p,b=\u{fc},conf-version=4".as_bytes()]);
    assert_eq!(client.join(&headers).unwrap().sequence().0, 4);
}

#[cfg(feature = "tokio")]
#[test]
fn the_programs_own_runtime_waits_for_the_agent() {
    let export = Export::with(8, &[(WEB, &web(8))]);
    export.lay_out(3, None, &[(WEB, &web(3))], &BTreeMap::new());
    let agent = FakeAgent::start(|target, _| match target {
        target if target.starts_with("/v1/at/5?") => FakeAgent::at(3, 6),
        _ => (504, r#"{"error":"s1 is away"}"#.to_owned()),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let options = Client::options().export_dir(&export.path).socket(agent.socket());
    let client = options.runtime(runtime.handle().clone()).connect().unwrap();
    runtime.block_on(async {
        let operation = client.begin_at(Sequence(5)).with_deadline(Instant::now() + LONG);
        assert_eq!(operation.get::<Web>(WEB).await.unwrap().port, 3);
        let began = Instant::now();
        loop {
            let late = client.begin_at(Sequence(9)).with_deadline(soon());
            let error = late.get::<Web>(WEB).await.unwrap_err().to_string();
            if error.contains("s1 is away") {
                break;
            }
            assert!(began.elapsed() < LONG, "{error}");
        }
    });
    // Without the runtime, a read fails at once.
    drop(runtime);
    let operation = client.begin_at(Sequence(9)).with_deadline(Instant::now() + LONG);
    let began = Instant::now();
    assert!(matches!(operation.get_blocking::<Web>(WEB), Err(Error::NotHere { .. })));
    assert!(began.elapsed() < LONG / 2);
}
