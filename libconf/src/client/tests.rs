use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use serde::Deserialize;

use super::{
    testing::{Export, FakeAgent, LONG, Web, block_on, until, web},
    *,
};
use crate::name::Sequence;

#[test]
fn a_value_follows_the_export() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let client = export.client();
    let mut web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    assert_eq!((web.current().port, web.sequence().0), (1, 1));
    assert!(web.changed_blocking(Duration::ZERO).is_none());

    export.switch(2, &[("services/web/latest", r#"{"port":2}"#)]);
    let now = web.changed_blocking(LONG).expect("a change");
    assert_eq!((now.port, now.sequence().0, client.sequence().0), (2, 2, 2));
    assert_eq!(now.component().to_string(), "services/web/latest");
    assert!(web.changed_blocking(Duration::ZERO).is_none(), "told twice");
}

#[test]
fn a_snapshot_that_leaves_the_component_alone_is_no_change_but_raises_the_sequence() {
    let web = ("services/web/latest", r#"{"port":1}"#);
    let export = Export::with(1, &[web]);
    let mut handle = export.client().component("services/web").unwrap().typed::<Web>().unwrap();
    let before = handle.current().to_arc();
    export.switch(5, &[web, ("services/other/latest", "{}")]);
    until("sequence 5", || handle.sequence().0 == 5);
    assert!(handle.changed_blocking(Duration::ZERO).is_none());
    assert!(Arc::ptr_eq(&before, &handle.current().to_arc()), "equal settings were parsed again");
}

#[test]
fn settings_that_do_not_fit_leave_the_last_good_ones() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let client = export.client();
    let mut web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    for (sequence, settings) in [(2, r#"{"port":"many"}"#), (3, "{"), (4, "")] {
        export.switch(sequence, &[("services/web/latest", settings)]);
        until("the refusal", || {
            web.last_error().is_some_and(|error| {
                matches!(&*error, Error::Shape { sequence: at, component, .. }
                    if at.0 == sequence && component.to_string() == "services/web/latest")
            })
        });
        assert_eq!((web.current().port, web.sequence().0), (1, 1));
    }
    assert!(client.last_error().is_none(), "one component's fault is not the client's");
    export.switch(5, &[("services/web/latest", r#"{"port":5}"#)]);
    assert_eq!(web.changed_blocking(LONG).expect("a change").port, 5);
    assert!(web.last_error().is_none());
}

#[test]
fn a_panic_in_the_programs_parsing_is_a_refusal() {
    #[derive(Debug)]
    struct Touchy;
    impl<'de> Deserialize<'de> for Touchy {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            let web = Web::deserialize(from)?;
            assert_ne!(web.port, 2, "two is too much");
            Ok(Touchy)
        }
    }
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let mut web = export.client().component("services/web").unwrap().typed::<Touchy>().unwrap();
    export.switch(2, &[("services/web/latest", r#"{"port":2}"#)]);
    until("the refusal", || web.last_error().is_some());
    export.switch(3, &[("services/web/latest", r#"{"port":3}"#)]);
    assert!(web.changed_blocking(LONG).is_some(), "the following ended");
}

#[test]
fn values_may_use_the_client_when_they_are_dropped_and_panic() {
    static CLIENT: Mutex<Option<Client>> = Mutex::new(None);
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    #[derive(Debug, Deserialize)]
    struct Clumsy {
        port: u64,
    }
    impl Drop for Clumsy {
        fn drop(&mut self) {
            let Some(client) = CLIENT.lock().unwrap().clone() else { return };
            drop(client.component("services/other").map(|other| other.typed::<serde_json::Value>()));
            drop(client.begin_at(Sequence(1000)));
            DROPPED.fetch_add(1, Ordering::SeqCst);
            assert_ne!(self.port % 10, 5, "some are dropped with a panic");
        }
    }
    let (name, other) = ("services/web/latest", ("services/other/latest", "{}"));
    let export = Export::with(1, &[(name, r#"{"port":1}"#), other]);
    let client = export.client();
    *CLIENT.lock().unwrap() = Some(client.clone());
    let mut handle = client.component(name).unwrap().typed::<Clumsy>().unwrap();
    for sequence in 2..=30 {
        // Operations read them as well; their snapshots are released after a while.
        assert_eq!(client.begin().get_blocking::<Clumsy>(name).unwrap().port, sequence - 1);
        export.switch(sequence, &[(name, &web(sequence)), other]);
        assert_eq!(handle.changed_blocking(LONG).expect("a change").port, sequence);
    }
    // The values of the handle, and those of released snapshots.
    until("the values to be dropped", || DROPPED.load(Ordering::SeqCst) >= 29 + 20);
    *CLIENT.lock().unwrap() = None;
}

#[test]
fn a_component_that_cannot_be_read_holds_up_no_other_and_is_tried_again() {
    const NAMES: [&str; 2] = ["services/web/latest", "services/db/latest"];
    let export = Export::with(1, &NAMES.map(|name| (name, r#"{"port":1}"#)));
    let client = export.client();
    let typed = |name| client.component(name).unwrap().typed::<Web>().unwrap();
    let (mut web, mut db) = (typed(NAMES[0]), typed(NAMES[1]));
    let (tell, told) = mpsc::channel();
    let listening = client.group(NAMES).unwrap().on_change(move |change| {
        tell.send((change.sequence().0, change.changed().map(ToString::to_string).collect::<Vec<_>>())).unwrap();
    });
    let _listening = listening.unwrap();
    export.lay_out(2, Some(1), &NAMES.map(|name| (name, r#"{"port":2}"#)), &BTreeMap::new());
    // A link to itself: even root cannot read it.
    let unread = export.path.join("snapshots/2/services/db/latest.json");
    let stored = fs::read_link(&unread).unwrap();
    fs::remove_file(&unread).unwrap();
    symlink("latest.json", &unread).unwrap();
    export.let_current_name(2);
    let now = web.changed_blocking(LONG).expect("a change of the other");
    assert_eq!((now.port, now.sequence().0, client.sequence().0, client.begin().sequence().0), (2, 2, 2, 2));
    assert_eq!(told.recv_timeout(LONG).unwrap(), (2, vec![NAMES[0].to_owned()]));
    assert_eq!((db.current().port, db.sequence().0), (1, 1));
    assert!(matches!(*db.last_error().unwrap(), Error::Read { .. }));
    assert!(client.last_error().is_none(), "one component's fault is not the client's");
    // No event says that it is readable now.
    symlink(stored, unread.with_extension("new")).unwrap();
    fs::rename(unread.with_extension("new"), &unread).unwrap();
    let now = db.changed_blocking(LONG).expect("it is tried again");
    assert_eq!((now.port, now.sequence().0), (2, 2));
    assert!(db.last_error().is_none());
    assert_eq!(told.recv_timeout(LONG).unwrap(), (2, vec![NAMES[1].to_owned()]));
}

#[test]
fn a_held_back_component_never_shows_the_new_snapshot() {
    const WEB: &str = "services/web/latest";
    let export = Export::with(1, &[(WEB, r#"{"port":1}"#)]);
    let client = export.client();
    let before = client.component("services/web").unwrap().typed::<Web>().unwrap();
    let faults = BTreeMap::from([(WEB, "its check failed"), ("services/new/latest", "cannot be rendered")]);
    export.lay_out(2, Some(1), &[(WEB, r#"{"port":1}"#)], &faults);
    export.let_current_name(2);
    let held_back = |error: &Error| matches!(error, Error::HeldBack { sequence: Sequence(2), .. });
    until("the refusal", || before.last_error().is_some_and(|error| held_back(&error)));
    assert_eq!((before.current().port, before.sequence().0), (1, 1));
    // A program that starts now has a value, and an error that says so.
    let component = export.client().component("services/web").unwrap();
    let after = component.typed::<Web>().unwrap();
    assert_eq!(after.current().port, 1);
    assert!(after.last_error().is_some_and(|error| held_back(&error)));
    let files = component.files().unwrap();
    assert_eq!(
        (files.read("sub/deep").unwrap(), files.held_back()),
        (br#"{"port":1}"#.to_vec(), Some("its check failed"))
    );
    for absent in ["services/new", "services/new/latest"] {
        assert!(held_back(&client.component(absent).unwrap_err()), "{absent}");
    }
    // The agent makes the same snapshot again, complete.
    export.switch(2, &[(WEB, r#"{"port":2}"#)]);
    for mut handle in [before, after] {
        let now = handle.changed_blocking(LONG).expect("a change");
        assert_eq!((now.port, now.sequence().0), (2, 2));
        assert!(handle.last_error().is_none());
    }
    assert!(component.files().unwrap().held_back().is_none());
}

#[test]
fn a_version_that_is_held_back_is_no_fault_of_another_that_runs() {
    let one = ("services/web/v1.0", r#"{"port":1}"#);
    let export = Export::with(1, &[one]);
    let client = export.client();
    let web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    export.lay_out(2, Some(1), &[one], &BTreeMap::from([("services/web/v2.0", "cannot be rendered")]));
    export.let_current_name(2);
    until("change 2", || web.sequence().0 == 2);
    assert_eq!(web.current().port, 1);
    assert!(web.last_error().is_none());
}

#[test]
fn a_removed_component_keeps_its_last_value() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let web = export.client().component("services/web").unwrap().typed::<Web>().unwrap();
    export.switch(2, &[("services/other/latest", "{}")]);
    until("the removal", || web.last_error().is_some_and(|error| matches!(*error, Error::NotExported { .. })));
    assert_eq!(web.current().port, 1);
}

#[test]
fn a_name_without_version_is_the_one_that_runs() {
    let one = ("services/web/v1.0", r#"{"port":1}"#);
    let two = ("services/web/v2.0", r#"{"port":2}"#);
    let export = Export::with(1, &[one]);
    let client = export.client();
    let mut web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    // Both versions run: the handle stays on its version, and a new one has to choose.
    export.switch(2, &[one, two]);
    until("both", || web.sequence().0 == 2);
    assert_eq!(web.current().port, 1);
    let error = client.component("services/web").unwrap_err();
    assert_eq!(
        error.to_string(),
        "services/web runs in several versions, name one: services/web/v1.0, services/web/v2.0"
    );
    assert_eq!(client.component("services/web/v2.0").unwrap().typed::<Web>().unwrap().current().port, 2);
    // The other version alone runs: the handle moves to it.
    export.switch(3, &[two]);
    assert_eq!(web.changed_blocking(LONG).expect("a change").port, 2);
}

#[test]
fn missing_components_are_errors() {
    let export = Export::with(1, &[("services/web/v1", r#"{"port":1}"#), ("services/raw/latest", "{}")]);
    fs::remove_file(export.path.join("snapshots/1/services/raw/latest.json")).unwrap();
    let client = export.client();
    for absent in ["services/nope", "services/web/v2", "devices/web"] {
        assert!(matches!(client.component(absent), Err(Error::NotExported { .. })), "{absent}");
    }
    for bad in ["web", "services/../x", "services/web/latest/x", ""] {
        assert!(matches!(client.component(bad), Err(Error::Name(_))), "{bad}");
    }
    let raw = client.component("services/raw").unwrap();
    assert!(matches!(raw.typed::<Web>(), Err(Error::NoSettings { .. })));
    let empty = Export::new();
    let error = Client::at(&empty.path).unwrap_err();
    assert!(error.to_string().contains("start `conf-local run`"), "{error}");
}

#[test]
fn the_sequence_never_falls() {
    let export = Export::with(7, &[("services/web/latest", r#"{"port":7}"#)]);
    let client = export.client();
    let mut web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    export.switch(3, &[("services/web/latest", r#"{"port":3}"#)]);
    until("the refusal", || client.last_error().is_some_and(|error| matches!(*error, Error::WentBack { .. })));
    assert_eq!((web.current().port, web.sequence().0), (7, 7));
    export.switch(8, &[("services/web/latest", r#"{"port":8}"#)]);
    assert_eq!(web.changed_blocking(LONG).expect("a change").port, 8);
    until("no error", || client.last_error().is_none());
}

#[test]
fn a_replaced_export_directory_is_followed() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let mut web = export.client().component("services/web").unwrap().typed::<Web>().unwrap();
    fs::rename(&export.path, export.path.with_extension("old")).unwrap();
    fs::create_dir_all(export.path.join("store")).unwrap();
    export.switch(2, &[("services/web/latest", r#"{"port":2}"#)]);
    assert_eq!(web.changed_blocking(LONG).expect("a change").port, 2);
    export.switch(3, &[("services/web/latest", r#"{"port":3}"#)]);
    assert_eq!(web.changed_blocking(LONG).expect("a change").port, 3);
}

#[test]
fn a_change_is_awaited_without_a_runtime_and_by_every_clone() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let web = export.client().component("services/web").unwrap().typed::<Web>().unwrap();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let mut web = web.clone();
                scope.spawn(move || block_on(async { web.changed().await.port }))
            })
            .collect();
        export.switch(2, &[("services/web/latest", r#"{"port":2}"#)]);
        for one in waiting {
            assert_eq!(one.join().unwrap(), 2);
        }
    });
    // A dropped future loses no change.
    let mut web = web;
    drop(web.changed());
    assert_eq!(block_on(web.changed()).port, 2);
}

#[test]
fn handles_switch_together_and_values_never_go_back() {
    let settings = |port: u64| format!(r#"{{"port":{port}}}"#);
    let export = Export::with(1, &[("services/a/latest", &settings(1)), ("services/b/latest", &settings(1))]);
    let client = export.client();
    let a = client.component("services/a").unwrap().typed::<Web>().unwrap();
    let b = client.component("services/b").unwrap().typed::<Web>().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for sequence in 2..=200 {
                export.switch(
                    sequence,
                    &[("services/a/latest", &settings(sequence)), ("services/b/latest", &settings(sequence))],
                );
            }
        });
        let (mut last_a, mut last_b) = (0, 0);
        while last_a < 200 || last_b < 200 {
            let (now_a, now_b) = (a.current(), b.current());
            assert_eq!(u64::from(now_a.port), now_a.sequence().0, "a value of another snapshot");
            assert_eq!(u64::from(now_b.port), now_b.sequence().0, "a value of another snapshot");
            assert!(now_a.port >= last_a && now_b.port >= last_b, "went back");
            (last_a, last_b) = (now_a.port, now_b.port);
        }
    });
}

#[test]
fn dropping_the_last_handle_ends_the_thread() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let client = export.client();
    let web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    let alive = Arc::downgrade(&client.follower);
    drop(client);
    assert!(alive.upgrade().is_some(), "a handle alone keeps the following");
    export.switch(2, &[("services/web/latest", r#"{"port":2}"#)]);
    until("port 2", || web.current().port == 2);
    drop(web);
    assert!(alive.upgrade().is_none());
}

#[test]
fn without_an_agent_the_default_directory_is_named() {
    let nobody = tempfile::tempdir().unwrap();
    let named = match Client::through(nobody.path().join("no.sock")) {
        Err(Error::NoExport { dir, .. }) => dir,
        // This machine may itself be a host.
        connected => connected.unwrap().export_dir().to_owned(),
    };
    assert_eq!(named, Path::new(DEFAULT_EXPORT_DIR));
}

#[test]
fn files_are_of_one_snapshot_for_as_long_as_they_are_held() {
    let export = Export::with(1, &[("services/web/latest", "{}")]);
    let client = export.client();
    let component = client.component("services/web").unwrap();
    let files = component.files().unwrap();
    export.switch(2, &[("services/web/latest", r#"{"new":1}"#)]);
    until("change 2", || client.sequence().0 == 2);
    assert_eq!((files.sequence().0, files.component().to_string().as_str()), (1, "services/web/latest"));
    assert_eq!(files.read_to_string("motd").unwrap(), "services/web/latest {}");
    assert_eq!(files.read("sub/deep").unwrap(), b"{}");
    assert_eq!(fs::read(files.dir().join("motd")).unwrap(), files.read("motd").unwrap());
    assert_eq!(files.list().unwrap(), [Path::new("motd"), Path::new("sub/deep")]);
    assert!(!export.retire(1), "removed while its files are held");
    assert_eq!(component.files().unwrap().read("sub/deep").unwrap(), br#"{"new":1}"#);
    let pinned = client.begin_at(Sequence(1)).files_blocking("services/web").unwrap();
    assert_eq!(pinned.read("sub/deep").unwrap(), b"{}");
    for absent in ["no", "motd/x", "sub/no"] {
        assert!(matches!(files.read(absent), Err(Error::NoFile { .. })), "{absent}");
    }
    for bad in ["", "/etc/passwd", "../settings.json", "sub/../motd", "./motd"] {
        assert!(matches!(files.read(bad), Err(Error::BadPath { .. })), "{bad}");
    }
}

#[test]
fn a_snapshot_that_was_made_again_is_taken() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let client = export.client();
    let mut web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    // The agent makes the snapshot again, without a change of the datacenter.
    export.switch(1, &[("services/web/latest", r#"{"port":2}"#)]);
    assert_eq!(web.changed_blocking(LONG).expect("a change").port, 2);
    assert_eq!(client.begin().get_blocking::<Web>("services/web").unwrap().port, 2);
}

#[test]
fn the_agent_is_told_what_a_process_runs_on() {
    let export = Export::with(1, &[("services/web/latest", r#"{"port":1}"#)]);
    let agent = FakeAgent::start(|_, _| (200, "{}".to_owned()));
    let options = Client::options().export_dir(&export.path).socket(agent.socket());
    let client = options.program("web").connect().unwrap();
    let web = client.component("services/web").unwrap().typed::<Web>().unwrap();
    let told = || {
        let (target, body) = agent.asked.recv_timeout(LONG).unwrap();
        assert_eq!(target, "/v1/processes");
        serde_json::from_str::<serde_json::Value>(&body).unwrap()
    };
    assert_eq!(told(), serde_json::json!({"sequence": 1, "program": "web", "errors": []}));
    export.switch(2, &[("services/web/latest", r#"{"port":"secret"}"#)]);
    let misfit = told();
    assert_eq!((&misfit["sequence"], &misfit["errors"][0]["sequence"]), (&2.into(), &2.into()));
    assert_eq!(misfit["errors"][0]["component"], "services/web/latest");
    let words = misfit["errors"][0]["error"].as_str().unwrap();
    assert!(words.contains("expected u16") && !words.contains("secret"), "{words}");
    assert_eq!(web.current().port, 1);
    export.switch(3, &[("services/web/latest", r#"{"port":3}"#)]);
    assert_eq!(told(), serde_json::json!({"sequence": 3, "program": "web", "errors": []}));
    // The agent itself knows the components that it holds back.
    let held_back = BTreeMap::from([("services/web/latest", "its check failed")]);
    export.lay_out(4, Some(3), &[("services/web/latest", r#"{"port":3}"#)], &held_back);
    export.let_current_name(4);
    assert_eq!(told(), serde_json::json!({"sequence": 4, "program": "web", "errors": []}));
    assert!(matches!(*web.last_error().unwrap(), Error::HeldBack { .. }));
}
