use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::mpsc,
};

use super::{
    super::testing::{Export, LONG, Web, until, web},
    *,
};

const WEB: &str = "services/web/latest";
const DB: &str = "services/db/latest";
const OTHER: &str = "services/other/latest";

/// The arguments of a callback: the snapshot, the changed components, and the ports of both.
type Told = (u64, Vec<String>, u16, u16);

fn listen(group: &Group) -> (Subscription, mpsc::Receiver<Told>) {
    let (tell, told) = mpsc::channel();
    let subscription = group.on_change(move |change| {
        let port = |name| change.get::<Web>(name).map_or(0, |web| web.port);
        let changed = change.changed().map(ToString::to_string).collect();
        tell.send((change.sequence().0, changed, port("services/web"), port("services/db"))).unwrap();
    });
    (subscription.unwrap(), told)
}

#[test]
fn a_group_gets_one_call_per_snapshot() {
    let export = Export::with(1, &[(WEB, &web(1)), (DB, &web(1)), (OTHER, &web(1))]);
    let client = export.client();
    let (_listening, told) = listen(&client.group(["services/web", DB]).unwrap());
    export.switch(2, &[(WEB, &web(2)), (DB, &web(2)), (OTHER, &web(1))]);
    let both = vec![DB.to_owned(), "services/web".to_owned()];
    assert_eq!(told.recv_timeout(LONG).unwrap(), (2, both, 2, 2));
    // A change of another component leads to no call; one of its own does, and reads both of one
    // snapshot.
    export.switch(3, &[(WEB, &web(2)), (DB, &web(2)), (OTHER, &web(3))]);
    until("change 3", || client.sequence().0 == 3);
    export.switch(4, &[(WEB, &web(2)), (DB, &web(4)), (OTHER, &web(3))]);
    assert_eq!(told.recv_timeout(LONG).unwrap(), (4, vec![DB.to_owned()], 2, 4));
    // Removing a component is a change, too, and so is its return.
    export.switch(5, &[(WEB, &web(2)), (OTHER, &web(3))]);
    assert_eq!(told.recv_timeout(LONG).unwrap(), (5, vec![DB.to_owned()], 2, 0));
    export.switch(6, &[(WEB, &web(2)), (DB, &web(4)), (OTHER, &web(3))]);
    assert_eq!(told.recv_timeout(LONG).unwrap(), (6, vec![DB.to_owned()], 2, 4));
    assert!(told.try_recv().is_err());
}

#[test]
fn all_components_are_a_group() {
    let export = Export::with(1, &[(WEB, &web(1))]);
    let client = export.client();
    let (_listening, told) = listen(&client.all());
    export.switch(2, &[(WEB, &web(1)), (DB, &web(2))]);
    assert_eq!(told.recv_timeout(LONG).unwrap(), (2, vec!["services/db".to_owned()], 1, 2));
    export.switch(3, &[(WEB, &web(1)), (DB, &web(2))]);
    until("change 3", || client.sequence().0 == 3);
    export.switch(4, &[(WEB, &web(4)), (DB, &web(2))]);
    assert_eq!(told.recv_timeout(LONG).unwrap(), (4, vec!["services/web".to_owned()], 4, 2));
}

#[test]
fn a_slow_call_is_followed_by_one_for_the_newest() {
    let export = Export::with(1, &[(WEB, &web(1)), (DB, &web(1))]);
    let client = export.client();
    let (tell, told) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let listening = client.all().on_change(move |change| {
        tell.send((change.sequence().0, change.changed().count())).unwrap();
        wait.recv().unwrap();
        assert_ne!(change.sequence().0, 2, "a call that panics is over, and no more");
    });
    let listening = listening.unwrap();
    export.switch(2, &[(WEB, &web(2)), (DB, &web(1))]);
    assert_eq!(told.recv_timeout(LONG).unwrap(), (2, 1));
    for (sequence, web_port, db_port) in [(3, 3, 1), (4, 3, 4), (5, 3, 5)] {
        export.switch(sequence, &[(WEB, &web(web_port)), (DB, &web(db_port))]);
        until("the change", || client.sequence().0 == sequence);
    }
    // The client is on a snapshot before its callbacks hear of it.
    until("the newest waits", || {
        lock(&listening.mailbox.contents).change.as_ref().is_some_and(|waiting| waiting.sequence().0 == 5)
    });
    go_on.send(()).unwrap();
    assert_eq!(told.recv_timeout(LONG).unwrap(), (5, 2));
    go_on.send(()).unwrap();
}

#[test]
fn a_dropped_subscription_ends_the_calls() {
    let export = Export::with(1, &[(WEB, &web(1))]);
    let client = export.client();
    let (listening, told) = listen(&client.all());
    drop(listening);
    export.switch(2, &[(WEB, &web(2))]);
    until("change 2", || client.sequence().0 == 2);
    // The channel ends with the thread.
    assert_eq!(told.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn a_callback_comes_after_every_handle_is_on_the_snapshot() {
    let export = Export::with(1, &[(WEB, &web(1))]);
    let client = export.client();
    let (tell, told) = mpsc::channel();
    // It joins before the handle, so that it is prepared first.
    let handle: Arc<Mutex<Option<super::super::Typed<Web>>>> = Arc::default();
    let _listening = client.all().on_change({
        let handle = Arc::clone(&handle);
        move |change| {
            let port = handle.lock().unwrap().as_ref().map_or(0, |web| web.current().port);
            tell.send((change.sequence().0, u64::from(port))).unwrap();
        }
    });
    *handle.lock().unwrap() = Some(client.component("services/web").unwrap().typed().unwrap());
    for sequence in 2..50 {
        export.switch(sequence, &[(WEB, &web(sequence))]);
        let (at, port) = told.recv_timeout(LONG).unwrap();
        assert!(port >= at, "the callback for {at} sees {port}");
    }
}

/// The other half of the test below: a process without a handler for the signal.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn raises_the_signal_on_itself() {
    let export_dir = std::env::var_os("TEST_EXPORT").expect("started by the other test");
    let client = super::super::Client::at(export_dir).unwrap();
    let mut web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    let _raising = client.raise_on_change(Signal::Hangup).unwrap();
    println!("\nready");
    assert_eq!(web.changed_blocking(LONG).expect("a change").port, 2);
    // Without a handler the signal has to wait, and this process ends normally.
}

#[test]
fn a_signal_that_nobody_handles_ends_no_process() {
    let export = Export::with(1, &[(WEB, &web(1))]);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "client::group::tests::raises_the_signal_on_itself", "--nocapture"])
        .env("TEST_EXPORT", &export.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
    lines.find(|line| line.as_ref().unwrap() == "ready").expect("it starts").unwrap();
    export.switch(2, &[(WEB, &web(2))]);
    lines.for_each(drop);
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.code()), (None, Some(0)));
}
