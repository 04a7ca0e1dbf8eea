//! What strangers on the same machine try: web pages, other users.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
        process::ExitStatusExt as _,
    },
    time::{Duration, Instant},
};

use hyper::Method;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;
use tests::{
    DEADLINE, Plan, eventually,
    http::Address,
    program::{Daemon, built},
    site::Pointers,
};

/// All keys of a conf-slave that stands in for Consul.
const KEYS: &str = "/v1/kv/configurations/?recurse";

#[test]
fn a_web_page_changes_nothing_and_reads_nothing() {
    let site = Plan { hosts: 0, pointers: Pointers::Embedded, ..Plan::default() }.start();
    let (master, slave) = (site.master.http(), site.slave().http());
    let sequence = site.master.sequence();
    eventually("the pointer to be published", || match slave.get_json("/api/v1/status")? {
        status if status["published"]["sequence"] == sequence => Ok(()),
        status => Err(status.to_string()),
    });
    let before = (sequence, slave.get_json(KEYS).unwrap());
    let update = json!({"request": {"section": "services/web", "config": {"round": 9}, "version": -1}}).to_string();
    let transaction = json!([{"KV": {"Verb": "delete-tree", "Key": ""}}]).to_string();
    let doors: [(&Address, Method, &str, &str); 5] = [
        (&master, Method::POST, "/api/v1/config/update", &update),
        (&master, Method::POST, "/conf.git/git-receive-pack", "0000"),
        (&master, Method::GET, "/api/v1/config/services/web", ""),
        (&slave, Method::PUT, "/v1/txn", &transaction),
        (&slave, Method::GET, KEYS, ""),
    ];
    for (server, method, path, body) in doors {
        let is_read = method == Method::GET;
        let asks: [(&[(&str, &str)], u16); 5] = [
            (&[("origin", "http://evil.example.com"), ("content-type", "application/json")], 403),
            (&[("origin", "null")], 403),
            (&[("sec-fetch-site", "cross-site")], 403),
            (&[("host", "evil.example.com"), ("content-type", "application/json")], 421),
            (&[("content-type", "text/plain")], 415),
        ];
        for (headers, status) in asks {
            if is_read && status == 415 {
                continue;
            }
            let answer = server.request(method.clone(), path, headers, body.to_owned()).unwrap();
            assert_eq!(answer.status.as_u16(), status, "{path} {headers:?}: {}", answer.text());
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        }
    }
    assert_eq!((site.master.sequence(), slave.get_json(KEYS).unwrap()), before);
    let headers = [("content-type", "application/json")];
    let answer = master.request(Method::POST, "/api/v1/config/update", &headers, update).unwrap();
    assert_ne!(answer.status.as_u16(), 421, "{}", answer.text());
    assert!(answer.headers.contains_key("cross-origin-resource-policy"), "{:?}", answer.headers);
}

#[test]
fn a_name_that_is_listed_is_answered() {
    let mut site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let ask = |site: &tests::Site| {
        let headers = [("host", "conf.example.org:7400")];
        let answer = site.master.http().request(Method::GET, "/healthz", &headers, "").unwrap();
        (answer.status.as_u16(), answer.text())
    };
    let (status, words) = ask(&site);
    assert_eq!(status, 421);
    assert!(words.contains("start it with --allowed-host conf.example.org"), "{words}");
    site.master.daemon.arguments().extend(["--allowed-host".into(), "conf.example.org".into()]);
    site.master.daemon.restart();
    assert_eq!(ask(&site).0, 200);
}

#[test]
fn another_user_cannot_lock_a_daemon_out() {
    let site = Plan::default().start();
    let (slave, host) = (&site.slaves[0].state, &site.hosts[0].state);
    let locks = [site.master.repo.join("conf.lock"), slave.join("repo.git/conf.lock"), host.join("conf.lock")];
    for lock in locks {
        let mode = fs::metadata(&lock).unwrap_or_else(|error| panic!("{}: {error}", lock.display())).mode();
        assert_eq!(mode & 0o777, 0o600, "{}", lock.display());
    }
    assert_eq!(fs::metadata(slave).unwrap().mode() & 0o777, 0o700);
    // Processes of this host get to the export, and find nothing else by themselves.
    assert_eq!(fs::metadata(host).unwrap().mode() & 0o777, 0o711);
    for entry in fs::read_dir(host).unwrap() {
        let entry = entry.unwrap();
        // One that is gone shows nobody anything.
        let Ok(about) = entry.metadata() else { continue };
        let mode = about.permissions().mode();
        assert!(entry.file_name() == "export" || mode.trailing_zeros() >= 6, "{entry:?} has mode {mode:o}");
    }
}

#[test]
fn a_lock_that_an_older_build_left_readable_is_closed() {
    let mut site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    site.master.daemon.stop();
    let lock = site.master.repo.join("conf.lock");
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    site.master.daemon.start();
    assert_eq!(File::open(&lock).unwrap().metadata().unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_core_file_never_holds_a_key() {
    let mut site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    // Where this test runs nobody may leave one; it is started where everybody may.
    site.master.daemon.stop();
    let mut words: Vec<OsString> = ["--core=unlimited", "--"].map(OsString::from).into();
    words.push(built("conf-master").into());
    words.append(site.master.daemon.arguments());
    site.master.daemon = Daemon::new("conf-master-with-cores", "prlimit".into(), site.folder.path(), words);
    site.master.daemon.start();
    let pid = site.master.daemon.pid();
    let core = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = core.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // Even where somebody lifts the limit.
    let unlimited = Rlimit { current: None, maximum: None };
    prlimit(Pid::from_raw(i32::try_from(pid).unwrap()), Resource::Core, unlimited).unwrap();
    site.master.daemon.signal(Signal::ABORT);
    let ended = site.master.daemon.wait_for_end(DEADLINE.max(Duration::from_secs(10)));
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!ended.core_dumped(), "{ended}");
}

#[test]
fn a_push_whose_id_nobody_knows_lands_for_nobody() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let branch = "refs/heads/services/web/master";
    let (before, entry) = (site.master.git(&["rev-parse", branch]), site.master.sequence());
    // It would land, and is here already.
    site.work.change().file("services/web/master", "round", "9\n").commit();
    let (commit, folder) = (site.work.id(branch), site.work.folder().display().to_string());
    site.master.git(&["fetch", "-q", "--no-write-fetch-head", &folder, "services/web/master"]);
    let call = json!({
        "stage": "proc-receive", "push": "00112233445566778899aabbccddeeff", "over_ssh": false, "quarantine": null,
        "atomic": false, "options": [], "wishes": [[before.trim(), commit, branch]],
    });
    let mut socket = UnixStream::connect(site.master.repo.join("conf-master.sock")).unwrap();
    writeln!(socket, "{call}").unwrap();
    let mut answer = String::new();
    BufReader::new(socket).read_line(&mut answer).unwrap();
    assert!(answer.contains("conf-master did not start this push"), "{answer}");
    assert_eq!((site.master.git(&["rev-parse", branch]), site.master.sequence()), (before, entry));
}

#[test]
fn an_object_that_everybody_would_read_again_and_again_does_not_land() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let branch = "refs/heads/services/web/master";
    let before = site.master.git(&["rev-parse", branch]);
    let tree = site.work.git(&["rev-parse", &format!("{branch}^{{tree}}")]);
    let message = site.folder.path().join("message");
    let push = |letters: usize| {
        fs::write(&message, "x".repeat(letters)).unwrap();
        let parent = before.trim();
        let commit = site.work.git(&["commit-tree", tree.trim(), "-p", parent, "-F", &message.display().to_string()]);
        site.work.push(&[&format!("{}:{branch}", commit.trim())])
    };
    push(2 << 20).refused(&["the commit ", "at most 1048576 may be; make it smaller"]);
    // What Git itself cannot hold in the memory that it is given: compressed it has 0.6 MB.
    let began = Instant::now();
    let words = push(600 << 20).refused(&["unpack"]);
    println!("a commit of 600 MiB: refused after {:?}: {words}", began.elapsed());
    assert_eq!(site.master.git(&["rev-parse", branch]), before);
    let resident = fs::read_to_string(format!("/proc/{}/status", site.master.daemon.pid())).unwrap();
    let peak = resident.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("conf-master's most memory: {peak}");
    site.work.change().file("services/web/master", "config.yaml", "a: 1\n").land();
}
