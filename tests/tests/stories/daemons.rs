//! What every daemon does alike: flags, readiness, the end, logs.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixDatagram,
    },
    path::Path,
    time::Duration,
};

use tests::{
    Daemon, Plan, Site, Work, eventually, own_address,
    program::{built, command, run, text},
    site::{DATACENTER, Pointers},
};

#[test]
fn sigterm_in_the_middle_of_work_ends_each_daemon_with_0_within_five_seconds() {
    let mut site = Plan { hosts: 2, ..Plan::default() }.start();
    // Somebody who never goes away by themselves.
    let events = site.master.http().events(&format!("/api/v1/events?datacenter={DATACENTER}"), &[]);
    events.next();
    let waiting = site.hosts[0].http().events("/v1/events", &[]);
    for round in 1..=5 {
        site.push("services/web", "round", &format!("{round}\n"));
        let took = site.hosts[0].daemon.stop();
        println!("conf-local {took:?}");
        site.push("services/web", "round", &format!("{round} more\n"));
        println!("conf-slave {:?}", site.slaves[0].daemon.stop());
        println!("conf-master {:?}", site.master.daemon.stop());
        site.master.daemon.start();
        site.slaves[0].daemon.start();
        site.hosts[0].daemon.start();
        site.wait_applied(site.master.sequence());
    }
    drop((events, waiting));
    site.expect_whole();
}

#[test]
fn sigint_is_an_orderly_end_too() {
    let mut site = Site::start();
    site.hosts[0].daemon.signal(rustix::process::Signal::INT);
    assert!(site.hosts[0].daemon.wait_for_end(Duration::from_secs(10)).success());
    site.slaves[0].daemon.signal(rustix::process::Signal::INT);
    assert!(site.slaves[0].daemon.wait_for_end(Duration::from_secs(10)).success());
    site.master.daemon.signal(rustix::process::Signal::INT);
    assert!(site.master.daemon.wait_for_end(Duration::from_secs(10)).success());
}

#[test]
fn port_0_takes_a_free_port_and_says_which() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let repo = site.folder.path().join("another.git");
    let made = site.master.run(&["init", "--repo", repo.to_str().expect("text")]);
    assert!(made.status.success(), "{}", text(&made));
    let arguments = ["serve", "--repo", repo.to_str().expect("text"), "--listen", "127.0.0.1:0"];
    let mut daemon = Daemon::new("another", built("conf-master"), site.folder.path(), arguments);
    daemon.start();
    let address = daemon.ready_line().strip_prefix("ready http=").expect("it says where").to_owned();
    let address: std::net::SocketAddr = address.parse().expect("an address");
    assert_ne!(address.port(), 0);
    assert_eq!(tests::http::Address::Tcp(address).get("/readyz").expect("an answer").status, 200);
    daemon.stop();
}

#[test]
fn each_daemon_tells_systemd_when_it_is_ready() {
    let mut site = Site::start();
    for who in ["master", "slave", "host"] {
        let path = site.folder.path().join(format!("notify-{who}"));
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
        let daemon = match who {
            "master" => &mut site.master.daemon,
            "slave" => &mut site.slaves[0].daemon,
            _ => &mut site.hosts[0].daemon,
        };
        daemon.environment("NOTIFY_SOCKET", &path);
        daemon.restart();
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{who} says nothing: {error}"));
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(said.lines().any(|line| line == "READY=1"), "{who}: {said}");
    }
}

#[test]
fn an_agent_that_must_have_exported_something_is_ready_then_and_with_what_an_earlier_run_has_left() {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    site.slaves[0].daemon.stop();
    site.master.daemon.stop();
    let mut host = site.make_host(1);
    let path = site.folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    host.daemon.environment("NOTIFY_SOCKET", &path);
    host.daemon.arguments().extend(["--ready".into(), "exported".into()]);
    host.daemon.start_unready();
    host.wait_status("answer", |status| status["current"].is_null());
    socket.set_nonblocking(true).expect("a flag");
    assert!(socket.recv(&mut [0; 1024]).is_err(), "it says that it is ready, and has nothing");
    socket.set_nonblocking(false).expect("a flag");
    site.master.daemon.start();
    site.slaves[0].daemon.start();
    host.daemon.await_ready();
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).expect("it tells systemd");
    assert!(String::from_utf8_lossy(&buffer[..length]).contains("READY=1"));
    assert_eq!(host.file("services/web/latest/round"), "0\n");
    site.slaves[0].daemon.stop();
    site.master.daemon.stop();
    host.daemon.kill9_and_restart();
    assert_eq!(host.file("services/web/latest/round"), "0\n");
}

/// Lists all that other users may write below a folder, and may get to.
fn writable(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let about = entry.metadata().expect("it is there");
        let (path, mode) = (entry.path(), about.permissions().mode());
        if mode & 0o022 != 0 && !about.is_symlink() && !about.file_type().is_socket() {
            found.push(format!("{} {:o}", path.display(), mode & 0o7777));
        }
        if about.is_dir() && mode & 0o011 != 0 {
            found.extend(writable(&path));
        }
    }
    found
}

#[test]
fn no_umask_decides_who_may_read_or_change_what_the_centre_keeps() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for umask in ["077", "000"] {
        let home = site.folder.path().join(format!("umask-{umask}"));
        let (repo, address) = (home.join("central.git"), own_address(7460).to_string());
        fs::create_dir(&home).expect("a folder");
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let under = |words: &[&str]| {
            let script = format!("umask {umask}; exec \"$@\"");
            let words = words.iter().map(|word| (*word).to_owned());
            let program = built("conf-master").display().to_string();
            ["-c".to_owned(), script, "sh".to_owned(), program].into_iter().chain(words).collect::<Vec<_>>()
        };
        let at = repo.display().to_string();
        let mut init = command("/bin/sh", &home);
        init.args(under(&["init", "--repo", &at]));
        let output = run(init);
        assert!(output.status.success(), "{}", text(&output));
        let words = under(&["serve", "--open", "--repo", &at, "--listen", &address]);
        let mut daemon = Daemon::new(&format!("centre-{umask}"), "/bin/sh".into(), &home, words);
        daemon.start();
        let work = Work::new(&site.folder.path().join(format!("work-{umask}")), &format!("http://{address}/conf.git"));
        work.change().file("services/web/master", "round", "1\n").land();
        daemon.stop();
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
        for (name, wanted) in [
            ("central.git", 0o755),
            ("central.git/objects", 0o755),
            ("central.git/HEAD", 0o644),
            ("central.git/hooks/pre-receive", 0o755),
            ("central.git.key", 0o600),
            ("central.git.identity", 0o600),
            ("central.git.key.pub", 0o644),
        ] {
            assert_eq!(mode(&home.join(name)), wanted, "{name} under umask {umask}");
        }
        assert_eq!(writable(&home), Vec::<String>::new(), "umask {umask}");
    }
}

#[test]
fn no_umask_decides_who_may_read_the_export_or_change_what_the_daemons_keep() {
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    fs::set_permissions(site.folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    for (number, umask) in [(1, "077"), (2, "000")] {
        let mut host = site.make_host(number);
        fs::set_permissions(&host.home, fs::Permissions::from_mode(0o755)).expect("it is ours");
        // Folders that the agent makes itself lead to its state and its socket.
        host.state = host.home.join("var/lib/state");
        host.socket = host.home.join("run/socket");
        let mut words = vec!["-c".into(), format!("umask {umask}; exec \"$@\"").into(), "sh".into()];
        words.push(built("conf-local").into());
        words.append(&mut host.daemon.arguments().clone());
        for (flag, path) in [("--state", &host.state), ("--socket", &host.socket)] {
            let at = words.iter().position(|word| word == flag).expect("the flag is there");
            words[at + 1] = path.into();
        }
        host.daemon = Daemon::new(&format!("umask-{umask}"), "/bin/sh".into(), site.folder.path(), words);
        host.daemon.start();
        host.wait_applied(site.master.sequence());
        let as_other = |words: &[&str]| {
            let mut other = command("setpriv", Path::new("/"));
            other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"]).args(words);
            run(other)
        };
        let file = host.export().join("current/services/web/latest/round");
        let read = as_other(&["cat", file.to_str().expect("text")]);
        assert_eq!(text(&read), "0\n", "umask {umask}");
        let open = as_other(&["sh", "-c", &format!("test -w {}", host.socket.display())]);
        assert!(open.status.success(), "umask {umask}: others do not get to the socket");
        assert_eq!(writable(&host.home), Vec::<String>::new(), "umask {umask}");
        site.hosts.push(host);
    }
}

#[test]
fn wrong_usage_ends_with_2_and_words_and_help_is_there_for_every_command() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let call = |program: &str, arguments: &[&str]| {
        let mut call = command(built(program), site.folder.path());
        call.args(arguments);
        run(call)
    };
    let commands: [(&str, &[&str]); 3] = [
        ("conf-master", &["init", "serve", "check", "log"]),
        ("conf-slave", &["run"]),
        ("conf-local", &["run", "get", "wait", "watch", "exec", "status", "verify", "history"]),
    ];
    for (program, names) in commands {
        let version = call(program, &["--version"]);
        assert!(version.status.success() && text(&version).contains(program), "{}", text(&version));
        let help = call(program, &["--help"]);
        assert!(help.status.success());
        for name in names {
            assert!(text(&help).contains(name), "{program} --help does not name {name}:\n{}", text(&help));
            let help = call(program, &[name, "--help"]);
            assert!(help.status.success() && text(&help).contains("Usage"), "{program} {name}:\n{}", text(&help));
            let wrong = call(program, &[name, "--no-such-flag"]);
            assert_eq!(wrong.status.code(), Some(2), "{program} {name}:\n{}", text(&wrong));
        }
        let wrong = call(program, &["no-such-command"]);
        assert_eq!(wrong.status.code(), Some(2), "{program}:\n{}", text(&wrong));
    }
    for (program, arguments, word) in [
        ("conf-slave", &["run", "--datacenter", "us-west"][..], "us-west"),
        ("conf-slave", &["run", "--datacenter", DATACENTER, "--central", "not a url"], "not a url"),
        ("conf-local", &["run", "--datacenter", DATACENTER, "--host", "a/b"], "a/b"),
        ("conf-master", &["serve", "--repo", "/tmp", "--listen", "nowhere"], "nowhere"),
    ] {
        let wrong = call(program, arguments);
        assert_eq!(wrong.status.code(), Some(2), "{program} {arguments:?}:\n{}", text(&wrong));
        assert!(text(&wrong).contains(word), "{program} {arguments:?}:\n{}", text(&wrong));
    }
    // Right usage, wrong world.
    for (program, arguments, word) in [
        ("conf-master", &["serve", "--repo", "/nonexistent/repo", "--listen", "127.0.0.1:0"][..], "/nonexistent/repo"),
        (
            "conf-slave",
            &[
                "run",
                "--datacenter",
                DATACENTER,
                "--central",
                "http://127.0.0.1:9",
                "--consul",
                "embedded",
                "--listen",
                "127.0.0.1:0",
                "--trusted-key",
                "/nonexistent/key",
            ],
            "/nonexistent/key",
        ),
        ("conf-master", &["log", DATACENTER, "--server", "http://127.0.0.1:9"], "127.0.0.1:9"),
        ("conf-local", &["status", "--socket", "/nonexistent/socket"], "/nonexistent/socket"),
        ("conf-local", &["get", "services/web", "--socket", "/nonexistent/socket"], "/nonexistent/socket"),
    ] {
        let wrong = call(program, arguments);
        assert_eq!(wrong.status.code(), Some(1), "{program} {arguments:?}:\n{}", text(&wrong));
        assert!(text(&wrong).contains(word), "{program} {arguments:?}:\n{}", text(&wrong));
    }
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file_and_unknown_keys_are_named() {
    let mut site = Site::start();
    let file = site.folder.path().join("slave.yaml");
    let address = own_address(7401);
    // All that the flags said, by other ways.
    let arguments = site.slaves[0].daemon.arguments().clone();
    let value = |name: &str| {
        let at = arguments.iter().position(|one| one == name).expect("the flag is there");
        arguments[at + 1].to_str().expect("text").to_owned()
    };
    let yaml = format!(
        "datacenter: {DATACENTER}\ncentral: [{}]\nlisten: {address}\nstate: {}\nconsul: [http://127.0.0.1:9]\n\
         trusted-key: {}\nlog-format: json\n",
        value("--central"),
        value("--state"),
        value("--trusted-key")
    );
    fs::write(&file, &yaml).expect("the folder can be written");
    *site.slaves[0].daemon.arguments() = vec!["run".into(), "--config".into(), file.clone().into()];
    site.slaves[0].daemon.environment("CONF_SLAVE_CONSUL", value("--consul"));
    let mark = site.slaves[0].daemon.log_mark();
    site.slaves[0].daemon.restart();
    assert_eq!(site.slaves[0].daemon.ready_line(), format!("ready http={address}"));
    let sequence = site.push("services/web", "round", "1\n");
    let key = format!("configurations/snapshots/{DATACENTER}");
    eventually("the pointer to be published through the address in the environment", || {
        let value = site.consul().get(&key).map(|entry| entry.value).unwrap_or_default();
        if value.starts_with(&format!("{sequence}/")) { Ok(()) } else { Err(value) }
    });
    let log = site.slaves[0].daemon.log_since(mark);
    let lines: Vec<&str> = log.lines().filter(|line| line.starts_with('{')).collect();
    assert!(!lines.is_empty(), "no JSON lines:\n{log}");
    lines.iter().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).expect("JSON")));

    for (wrong, word) in [("lisen: 1\n", "lisen"), ("listen: [1\n", "slave.yaml"), ("listen: nowhere\n", "nowhere")] {
        fs::write(&file, format!("{}{wrong}", yaml.replace(&format!("listen: {address}\n"), "")))
            .expect("it can be written");
        let mut call = command(built("conf-slave"), site.folder.path());
        call.args(["run", "--config"]).arg(&file);
        let output = run(call);
        assert_eq!(output.status.code(), Some(2), "{wrong}:\n{}", text(&output));
        assert!(text(&output).contains(word), "{wrong}:\n{}", text(&output));
    }
}

#[test]
fn what_is_wrong_outside_is_said_once_in_words_and_ends_nobody() {
    let mut site = Site::start();
    site.push_and_wait("services/web", "round", "1\n");
    let mark = site.slaves[0].daemon.log_mark();
    site.master.daemon.stop();
    eventually("the slave to say that the centre is away", || {
        let log = site.slaves[0].daemon.log_since(mark);
        if log.contains("central") || log.contains("conf-master") { Ok(()) } else { Err(log) }
    });
    let status = site.slave().status().expect("it answers");
    assert!(!status["problems"].as_array().expect("a list").is_empty(), "{status}");
    site.master.daemon.start();
    site.push_and_wait("services/web", "round", "2\n");
    eventually("the slave to be well again", || {
        let status = site.slave().status()?;
        if status["problems"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(status.to_string()) }
    });
    let log = site.slaves[0].daemon.log_since(mark);
    assert!(log.lines().count() < 20, "one line per change of state:\n{log}");
}

#[test]
fn proxies_of_the_environment_do_not_stand_between_the_tiers() {
    let mut site = Site::start();
    let Site { master, slaves, hosts, .. } = &mut site;
    for daemon in [&mut master.daemon, &mut slaves[0].daemon, &mut hosts[0].daemon] {
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"] {
            daemon.environment(name, "http://127.0.0.1:9");
        }
        daemon.restart();
    }
    site.push_and_wait("services/web", "round", "1\n");
    eventually("the host's report to arrive", || {
        let hosts = site.master.http().get_json(&format!("/api/v1/datacenters/{DATACENTER}/hosts"))?;
        if hosts.to_string().contains("current") { Ok(()) } else { Err(hosts.to_string()) }
    });
}

#[test]
fn a_wrong_url_is_said_in_words_and_a_right_one_beside_it_is_used() {
    let mut site = Site::start();
    for (daemon, flag) in [(&mut site.slaves[0].daemon, "--central"), (&mut site.hosts[0].daemon, "--surrogate")] {
        // The wrong one comes first; addresses of the list are tried in order and by health.
        let at = daemon.arguments().iter().position(|one| one == flag).expect("the flag is there");
        daemon.arguments().insert(at + 1, "http://127.0.0.1:9".into());
        daemon.restart();
    }
    for round in 1..=3 {
        site.push_and_wait("services/web", "round", &format!("{round}\n"));
    }
    // With nothing but the wrong one it stays up, keeps serving, and names the address.
    let arguments = site.slaves[0].daemon.arguments();
    let at = arguments.iter().position(|one| one == "--central").expect("the flag is there");
    arguments.remove(at + 2);
    let mark = site.slaves[0].daemon.log_mark();
    site.slaves[0].daemon.restart();
    eventually("the slave to name the address that it cannot reach", || {
        let (log, status) = (site.slaves[0].daemon.log_since(mark), site.slave().status()?);
        let said = log.contains("127.0.0.1:9") && status["problems"].to_string().contains("127.0.0.1:9");
        if said { Ok(()) } else { Err(format!("{log}\n{status}")) }
    });
    assert_eq!(site.slave().status().expect("it answers")["sequence"], site.master.sequence());
}

#[test]
fn two_daemons_on_one_folder_are_kept_apart() {
    let mut site = Site::start();
    let mut second = site.make_host(1);
    second.daemon = Daemon::new("second", built("conf-local"), site.folder.path(), second.daemon.arguments().clone());
    second.daemon.start_unready();
    let status = second.daemon.wait_for_end(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "{}", second.daemon.log());
    site.push_and_wait("services/web", "round", "1\n");
    let arguments = site.master.daemon.arguments().clone();
    let mut second = Daemon::new("second-master", built("conf-master"), site.folder.path(), arguments);
    second.set_flag("--listen", [own_address(7400).to_string()]);
    second.start_unready();
    let status = second.wait_for_end(Duration::from_secs(60));
    assert_eq!(status.code(), Some(1), "{}", second.log());
    assert!(site.master.daemon.is_running());
    site.push_and_wait("services/web", "round", "2\n");
}

#[test]
fn listening_for_other_machines_without_protection_needs_a_word() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let repo = site.folder.path().join("open.git");
    assert!(site.master.run(&["init", "--repo", repo.to_str().expect("text")]).status.success());
    let mut call = command(built("conf-master"), site.folder.path());
    call.args(["serve", "--listen", "0.0.0.0:0", "--repo"]).arg(&repo);
    let output = run(call);
    assert!(!output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("--insecure"), "{}", text(&output));
}
