//! What the stories stand on, tried by itself.

use std::{fs, path::Path, time::Duration};

use tests::{
    Consul, Poller, Proxy, Reader, Work,
    git::executables,
    http::Address,
    program::{command, signal_pid, spawn},
};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

#[test]
fn consul_started_again_is_empty_and_takes_a_backup_back() {
    let folder = folder();
    let mut consul = Consul::start(folder.path());
    consul.put("a/b", "1");
    let backup = consul.backup();
    consul.put("a/b", "2");
    assert_eq!(consul.get("a/b").expect("it was put").value, "2");
    consul.kill9();
    consul.start_again();
    assert_eq!(consul.get("a/b"), None);
    consul.restore(&backup);
    assert_eq!(consul.values("a/").into_iter().collect::<Vec<_>>(), [("a/b".to_owned(), "1".to_owned())]);
}

#[test]
fn consul_that_denies_lets_a_token_do_what_its_policy_says() {
    let folder = folder();
    let consul = Consul::start_denying(folder.path());
    let token = consul.token("writer", r#"key_prefix "mine/" { policy = "write" }"#);
    let put = |key: &str| {
        let headers = [("x-consul-token", token.as_str())];
        let answer =
            Address::Tcp(consul.address()).request(hyper::Method::PUT, &format!("/v1/kv/{key}"), &headers, "1");
        answer.expect("Consul answers").status.as_u16()
    };
    assert_eq!((put("mine/a"), put("yours/a")), (200, 403));
}

#[test]
fn a_proxy_counts_demands_a_token_and_cuts() {
    let folder = folder();
    let consul = Consul::start(folder.path());
    let proxy = Proxy::start(consul.address());
    let ask = Address::Tcp(proxy.address());
    let first = ask.get("/v1/status/leader").expect("it goes through");
    assert_eq!(first.status, 200);
    let requests = proxy.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].line, "GET /v1/status/leader HTTP/1.1");
    assert!(requests[0].received > first.body.len() as u64, "{requests:?}");

    proxy.demand(&["Bearer right"]);
    assert_eq!(ask.get("/v1/status/leader").expect("it is answered").status, 401);
    let right = [("authorization", "Bearer right")];
    let answer = ask.request(hyper::Method::GET, "/v1/status/leader", &right, "");
    assert_eq!(answer.expect("it goes through").status, 200);

    proxy.cut();
    ask.get("/v1/status/leader").expect_err("nothing goes through");
    proxy.mend();
    let answer = ask.request(hyper::Method::GET, "/v1/status/leader", &right, "");
    assert_eq!(answer.expect("it goes through").status, 200);
}

#[test]
fn the_engineer_commits_without_a_working_tree_with_every_git_there_is() {
    for program in executables() {
        let folder = folder();
        let remote = folder.path().join("remote.git");
        let server = Work::new(&remote, "nowhere");
        let work = Work::with_program(&folder.path().join("work"), remote.to_str().expect("text"), &program);
        work.change()
            .file("services/web/master", "a b\n\"c", "1\n")
            .executable("services/api/master", "run", "#!\n")
            .land();
        work.change().file("services/web/master", "d/e", "2\n").link("services/web/master", "l", "d/e").land();
        assert_eq!(server.git(&["rev-list", "--count", "services/web/master"]), "2");
        assert_eq!(server.git(&["show", "services/web/master:d/e"]), "2");

        server.git(&["config", "receive.denyNonFastForwards", "true"]);
        fs::write(remote.join("hooks/pre-receive"), "#!/bin/sh\necho not today\nexit 1\n")
            .expect("a hook can be written");
        fs::set_permissions(remote.join("hooks/pre-receive"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("a hook can be made executable");
        let before = work.id("services/web/master");
        let refused = work.change().file("services/web/master", "x", "").file("services/new/master", "x", "").push();
        refused.refused(&["not today"]);
        assert_eq!(work.id("services/web/master"), before);
        assert!(!work.git(&["for-each-ref"]).contains("services/new"));
    }
}

#[test]
fn a_reader_says_when_it_is_told_and_a_poller_sees_what_is_there() {
    let folder = folder();
    let export = folder.path();
    fs::create_dir_all(export.join("snapshots/7")).expect("a folder");
    fs::write(export.join("snapshots/7/a"), "1").expect("a file");
    std::os::unix::fs::symlink("snapshots/7", export.join("current")).expect("a link");
    let reader = Reader::start(export);
    signal_pid(reader.pid(), rustix::process::Signal::HUP);
    assert_eq!(reader.told().sequence, 7);
    assert!(reader.told_within(Duration::ZERO).is_none());

    let poller = Poller::start(export, &["a"]);
    tests::eventually("a second signal", || {
        signal_pid(reader.pid(), rustix::process::Signal::HUP);
        reader.told_within(Duration::from_millis(20)).ok_or_else(String::new)
    });
    let seen = poller.stop();
    assert!(seen.rounds > 0 && seen.failures.is_empty(), "{seen:?}");
    assert_eq!(seen.contents.keys().collect::<Vec<_>>(), [&vec!["1".to_owned()]]);
}

#[test]
fn what_a_test_starts_ends_with_it() {
    let folder = folder();
    let written = folder.path().join("pid");
    // A process between us and the sleeper is killed; the sleeper, started as everything here is, goes with it.
    let mut middle = command("sh", folder.path());
    middle.args(["-c", "setpriv --pdeathsig KILL -- sleep 1000 & echo $! > pid.new; mv pid.new pid; wait"]);
    middle.current_dir(folder.path());
    let mut middle = spawn(middle).expect("a shell can be started");
    let pid: u32 = tests::eventually("the sleeper", || {
        let text = fs::read_to_string(&written).map_err(|error| error.to_string())?;
        text.trim().parse().map_err(|_| text)
    });
    middle.kill().expect("it is ours");
    middle.wait().expect("it is ours");
    tests::eventually("the sleeper to end", || {
        if Path::new(&format!("/proc/{pid}")).exists() { Err(format!("{pid} lives")) } else { Ok(()) }
    });
}

#[test]
#[should_panic(expected = "mixed")]
fn a_poller_notices_files_of_two_changes() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("snapshots/7")).expect("a folder");
    fs::write(folder.path().join("snapshots/7/a"), "1").expect("a file");
    fs::write(folder.path().join("snapshots/7/b"), "2").expect("a file");
    std::os::unix::fs::symlink("snapshots/7", folder.path().join("current")).expect("a link");
    Poller::start(folder.path(), &["a", "b"]).stop_unharmed();
}

#[test]
#[should_panic(expected = "went back")]
fn a_poller_notices_an_older_sequence() {
    let folder = folder();
    let current = folder.path().join("current");
    for sequence in ["7", "8"] {
        fs::create_dir_all(folder.path().join("snapshots").join(sequence)).expect("a folder");
        fs::write(folder.path().join("snapshots").join(sequence).join("a"), sequence).expect("a file");
    }
    std::os::unix::fs::symlink("snapshots/8", &current).expect("a link");
    let poller = Poller::start(folder.path(), &["a"]);
    for target in ["snapshots/8", "snapshots/7"] {
        let next = folder.path().join("next");
        std::os::unix::fs::symlink(target, &next).expect("a link");
        fs::rename(&next, &current).expect("it can be switched");
        poller.wait_rounds(2);
    }
    poller.stop_unharmed();
}

#[test]
#[should_panic(expected = "failed")]
fn a_poller_notices_a_file_that_is_gone() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("snapshots/7")).expect("a folder");
    std::os::unix::fs::symlink("snapshots/7", folder.path().join("current")).expect("a link");
    Poller::start(folder.path(), &["a"]).stop_unharmed();
}
