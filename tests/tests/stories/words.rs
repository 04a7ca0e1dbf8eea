//! What the programs say: never a credential, the name that was meant, what to write, one type for
//! one key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::OpenOptionsExt as _,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;
use tests::{
    Daemon, Plan, Site, eventually,
    program::{built, command, run, text},
    site::{DATACENTER, Pointers},
};

/// Puts a login into every URL of these arguments.
fn with_login(daemon: &mut Daemon, login: &str) {
    for argument in daemon.arguments().iter_mut() {
        let text = argument.to_str().expect("text").to_owned();
        if let Some(rest) = text.strip_prefix("http://") {
            *argument = format!("http://{login}@{rest}").into();
        }
    }
}

#[test]
fn a_login_in_an_address_is_sent_and_shown_nowhere() {
    let mut site = Plan { proxied: true, ..Plan::default() }.start();
    // Everybody demands the login, Consul's proxy too.
    let wanted = format!("Basic {}", STANDARD.encode("jo:c@nary"));
    let proxies = site.slaves.iter().flat_map(|slave| [slave.to_central.as_ref(), slave.proxy.as_ref()]);
    for proxy in proxies.chain([site.master.proxy.as_ref(), site.to_consul.first()]) {
        proxy.expect("a proxy").demand(&[&wanted]);
    }
    let Site { slaves, hosts, .. } = &mut site;
    for daemon in [&mut slaves[0].daemon, &mut hosts[0].daemon] {
        with_login(daemon, "jo:c%40nary");
        daemon.argument("--log-level");
        daemon.argument("trace");
        daemon.environment("CONSUL_HTTP_TOKEN", "canary-of-consul");
        daemon.restart();
    }
    site.push_and_wait("services/web", "round", "1\n");
    eventually("the branches to follow", || {
        let tip = site.work.id("services/web/master");
        let refs = site.slave().http().get("/conf.git/info/refs?service=git-upload-pack")?.text();
        if refs.contains(&tip) { Ok(()) } else { Err(refs) }
    });
    let shown = |site: &Site| {
        let client = |arguments: &[&str]| text(&site.host().run(arguments));
        [
            site.slave().daemon.log(),
            site.host().daemon.log(),
            site.slave().status().expect("it answers").to_string(),
            site.slave().http().get("/metrics").expect("it answers").text(),
            site.slave().http().get("/api/v1/hosts").expect("it answers").text(),
            site.master.http().get(&format!("/api/v1/datacenters/{DATACENTER}/hosts")).expect("it answers").text(),
            site.host().status().expect("it answers").to_string(),
            site.host().http().get("/metrics").expect("it answers").text(),
            client(&["status"]),
            client(&["status", "--json"]),
            client(&["history"]),
            client(&["verify"]),
        ]
        .join("\n")
    };
    let expect_hidden = |shown: &str| {
        for secret in ["c@nary", "c%40nary", "canary-of-consul", wanted.trim_start_matches("Basic ")] {
            let line = shown.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "the password is shown: {line:?}");
        }
    };
    expect_hidden(&shown(&site));

    // And not when everything fails: each proxy refuses the login, then the connection.
    let proxies = || {
        let of_slaves = site.slaves.iter().flat_map(|slave| [slave.to_central.as_ref(), slave.proxy.as_ref()]);
        of_slaves.chain([site.master.proxy.as_ref(), site.to_consul.first()]).flatten()
    };
    for proxy in proxies() {
        proxy.demand(&["Basic other"]);
        proxy.cut();
        proxy.mend();
    }
    site.push("services/web", "round", "2\n");
    let says = |what: &str, words: &str| {
        eventually(what, || {
            let shown = shown(&site);
            if shown.contains(words) { Ok(()) } else { Err(shown.chars().rev().take(3000).collect::<String>()) }
        });
    };
    says("somebody to say that the login is refused", "401");
    proxies().for_each(tests::Proxy::cut);
    says("somebody to say that a server is away", "cannot be reached");
    expect_hidden(&shown(&site));

    let folder = site.folder.path();
    let call = |program: &str, arguments: &[&str]| {
        let mut call = command(built(program), folder);
        call.args(arguments).env("CONF_MASTER_URL", "http://jo:c%40nary@127.0.0.1:9");
        call.env("CONF_LOCAL_CENTRAL", "http://jo:c%40nary@h").env("CONF_SLAVE_CONSUL", "http://jo:c%40nary@h");
        text(&run(call))
    };
    let file = folder.join("broken.yaml");
    fs::write(&file, "central: http://jo:c%40nary@h/conf.git\nlisten: [http://jo:c%40nary@h\n").expect("it is written");
    let file = file.to_str().expect("text");
    for (program, arguments, words) in [
        ("conf-master", &["log", "--refused"][..], "127.0.0.1:9"),
        ("conf-master", &["log", "--help"], "CONF_MASTER_URL"),
        ("conf-master", &["wait", DATACENTER, "--timeout", "0"], "127.0.0.1:9"),
        ("conf-master", &["log", DATACENTER, "--server", "jo:c%40nary@127.0.0.1:9"], "write http://HOST:PORT"),
        ("conf-local", &["run", "--help"], "CONF_LOCAL_CENTRAL"),
        ("conf-slave", &["run", "--help"], "CONF_SLAVE_CONSUL"),
        ("conf-slave", &["run", "--config", file], "broken.yaml"),
        ("conf-slave", &["run", "--central", "http://jo:c%40nary@h/conf.git"], "without /conf.git: http://h"),
    ] {
        let shown = call(program, arguments);
        assert!(shown.contains(words), "{program} {arguments:?}: {shown}");
        expect_hidden(&shown);
    }
}

#[test]
fn a_mistyped_name_is_answered_with_the_nearest() {
    let site = Site::start();
    let work = tempfile::tempdir().expect("a folder");
    let path = work.path().to_str().expect("text");
    for (arguments, meant) in [
        (&["explain", DATACENTER, "services/wbe"][..], "(did you mean `services/web`?)"),
        (&["explain", "us-wets/v1", "services/web"], "(did you mean `us-west/v1`?)"),
        (&["log", "us-wets/v1"], "(did you mean `us-west/v1`?)"),
        (&["wait", "us-wets/v1", "--timeout", "0"], "(did you mean `us-west/v1`?)"),
        (&["plan", "us-wets/v1", "--ref", "services/web/master=services/web/master"], "(did you mean `us-west/v1`?)"),
        (
            &["plan", DATACENTER, "--ref", "services/web/master=services/wbe/master"],
            "(did you mean `services/web/master`?)",
        ),
        (&["show", "services/wbe"], "(did you mean `services/web/master`?)"),
        (&["show", "datacenters/us-wets/v1"], "(did you mean `datacenters/us-west/v1`?)"),
        (&["doc", "services/wbe"], "(did you mean `services/web/master`?)"),
        (&["secret", "list", "us-wets/v1"], "(did you mean `us-west/v1`?)"),
        (&["secret", "rotate", "us-wets/v1", "cookie"], "(did you mean `us-west/v1`?)"),
    ] {
        let output = site.master.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(meant), "{arguments:?}: {}", text(&output));
    }
    // A branch that is not there may be meant, and the plan says so.
    let plan = site.master.run(&["plan", DATACENTER, "--ref", "services/wbe/master=services/web/master"]);
    let hint = "the server has no services/wbe/master yet (did you mean `services/web/master`?)";
    assert!(plan.status.success() && text(&plan).contains(hint), "{}", text(&plan));
    for arguments in [
        &["get", "services/wbe"][..],
        &["explain", "services/wbe"],
        &["wait", "services/wbe", "--timeout", "0"],
        &["diff", "services/wbe", path],
    ] {
        let output = site.host().run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains("(did you mean `services/web`?)"), "{arguments:?}: {}", text(&output));
    }
    let own = std::process::id().to_string();
    let output = site.host().run(&["watch", "services/wbe", "--pid", &own, "--signal", "URG"]);
    assert!(text(&output).contains("does not run services/wbe (did you mean `services/web`?)"), "{}", text(&output));
}

#[test]
fn addresses_and_keys_that_are_wrong_say_what_to_write() {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    let private = site.folder.path().join("central.git.key");
    let private = private.to_str().expect("text");
    let slave = ["run", "--datacenter", DATACENTER, "--listen", "127.0.0.1:0", "--consul", "embedded"];
    let slave = |more: &[&'static str]| [&slave[..], more].concat();
    let url = site.master.url();
    let taken = site.master.address.to_string();
    let trusting = ["--central", &url, "--trusted-key", private];
    let listening = ["--central", &url, "--trusted-key", &format!("{private}.pub"), "--listen", &taken];
    let bound = ["run", "--datacenter", DATACENTER, "--consul", "embedded"];
    for (arguments, words) in [
        (slave(&["--central", "127.0.0.1:7500"]), "write http://127.0.0.1:7500"),
        (slave(&["--central", "http://h:1/conf.git"]), "write the base URL, without /conf.git: http://h:1"),
        (vec!["run", "--listen", "localhost:7660"], "write 127.0.0.1:7660"),
        ([&slave(&[])[..], &trusting[..]].concat(), "central.git.key.pub"),
        ([&bound[..], &listening[..]].concat(), "another program listens there"),
    ] {
        let mut call = command(built("conf-slave"), site.folder.path());
        call.args(&arguments);
        let output = run(call);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(text(&output).contains(words), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn a_hangup_reads_the_options_again_and_ends_no_daemon() {
    let mut site = Site::start();
    let Site { master, slaves, hosts, folder, .. } = &mut site;
    let daemons = [&mut master.daemon, &mut slaves[0].daemon, &mut hosts[0].daemon];
    for (at, daemon) in daemons.into_iter().enumerate() {
        let file = folder.path().join(format!("options-{at}.yaml"));
        fs::write(&file, "log-level: info\n").expect("it is written");
        daemon.argument("--config");
        daemon.argument(&file);
        daemon.restart();
        let pid = daemon.pid();
        let says = |words: &str, signal: Signal| {
            let mark = daemon.log_mark();
            daemon.signal(signal);
            eventually(&format!("{words:?} in the log"), || {
                let log = daemon.log_since(mark);
                if log.contains(words) { Ok(()) } else { Err(log) }
            });
        };
        says("nothing is different", Signal::HUP);
        fs::write(&file, "log-level: debug\ninsecure: true\n").expect("it is written");
        says("log-level is now debug", Signal::HUP);
        says("different now, and used after a restart: insecure", Signal::HUP);
        fs::write(&file, "log-level: debug\nlog-levle: info\n").expect("it is written");
        says("line 2: unknown key 'log-levle' (did you mean `log-level`?)", Signal::HUP);
        says("SIGUSR1 means nothing", Signal::USR1);
        says("SIGUSR2 means nothing", Signal::USR2);
        assert!(daemon.is_running() && daemon.pid() == pid);
        // A file that hangs, as on a disk of the network, holds up no stop.
        fs::remove_file(&file).expect("it is there");
        let mut made = command("mkfifo", folder.path());
        made.arg(&file);
        assert!(run(made).status.success());
        daemon.signal(Signal::HUP);
        let mut writer = fs::OpenOptions::new();
        writer.write(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let mut hung = None;
        eventually("the daemon to read the file", || {
            hung = Some(writer.open(&file).map_err(|nobody| nobody.to_string())?);
            Ok(())
        });
        daemon.stop();
        drop(hung);
        fs::remove_file(&file).expect("it is there");
        fs::write(&file, "log-level: info\n").expect("it is written");
        daemon.start();
    }
    site.push_and_wait("services/web", "round", "1\n");
}

#[test]
fn a_password_in_a_command_or_in_a_broken_file_is_shown_nowhere() {
    const CANARY: &str = "Hunter2canary";
    let mut site = Plan { hosts: 0, ..Plan::default() }.start();
    let mut host = site.make_host(1);
    let file = host.home.join("conf-local.yaml");
    let entries = format!(
        "watch:\n- {{components: [services/web], command: [sh, -c, 'PGPASSWORD={CANARY} false']}}\n\
         - {{components: [services/web], command: [curl, -su, 'jo:{CANARY}', 'http://127.0.0.1:9/']}}\n\
         check: [{{component: services/api, command: [/bin/false, --password, {CANARY}]}}]\n\
         probe: [{{component: services/web, command: [/bin/false, -p{CANARY}], retries: 0}}]\n"
    );
    fs::write(&file, entries).expect("it can be written");
    host.daemon.argument("--config");
    host.daemon.argument(&file);
    host.daemon.start();
    site.hosts.push(host);
    site.push("services/web", "round", "1\n");
    let shown = |site: &Site| {
        let client = |arguments: &[&str]| text(&site.host().run(arguments));
        [
            site.host().daemon.log(),
            site.host().status().expect("it answers").to_string(),
            client(&["status"]),
            client(&["status", "--json"]),
            site.slave().http().get("/api/v1/hosts").expect("it answers").text(),
            site.master.http().get(&format!("/api/v1/datacenters/{DATACENTER}/hosts")).expect("it answers").text(),
            site.master.daemon.log(),
        ]
        .join("\n")
    };
    for words in ["PGPASSWORD=… false", "curl -su jo:… http://127.0.0.1:9/", "--password …", "/bin/false -p…"] {
        eventually(&format!("the host to show {words:?}"), || {
            let shown = shown(&site);
            if shown.contains(words) { Ok(()) } else { Err(shown) }
        });
    }
    let mut said = Vec::new();
    for (name, content, words) in [
        ("config.conf", format!("a = 1 \"{CANARY}\" {CANARY} : 2\n"), "config.conf:1: "),
        ("config.conf", format!("password\n{CANARY}\n"), "config.conf:2: text in column 1 stands behind a key"),
        ("config.conf", format!("password = [a] {CANARY}\n"), "config.conf:1: "),
        ("config.yaml", format!("password: !{CANARY}\n"), "config.yaml:1: the tag before this value is not known"),
        ("config.yaml", format!("password: *{CANARY}\n"), "config.yaml:1: "),
        ("config.toml", format!("password = {CANARY}\n"), "config.toml:1: "),
        ("config.json", format!("{{\"password\": {CANARY}}}"), "config.json:1: "),
        ("config.conf", "password = 73317331733173317331733\n".to_owned(), "the number has more than 64 bits"),
    ] {
        let change = site.work.change();
        let change = if name == "config.yaml" { change } else { change.without("services/web/master", "config.yaml") };
        said.push(change.file("services/web/master", name, content).push().refused(&[words]));
    }
    let body = format!(
        "{{\"request\": {{\"section\": \"services/web\", \"config\": {{}}, \"schemaVersion\": \"{CANARY}\"}}}}"
    );
    let answer = site.master.http().request(Method::POST, "/api/v1/config/update", &[], body).expect("it answers");
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("invalid type: string"), "{}", answer.text());
    said.extend([answer.text(), shown(&site), text(&site.master.run(&["log", DATACENTER, "--refused"]))]);
    for said in said {
        let line = said.lines().find(|line| line.contains(CANARY) || line.contains("73317331733"));
        assert!(line.is_none(), "it is shown: {line:?}");
    }
}

#[test]
fn a_key_of_the_log_has_one_type_in_all_daemons() {
    let mut site = Plan { hosts: 2, ..Plan::default() }.start();
    let Site { master, slaves, hosts, .. } = &mut site;
    let [first, second] = hosts.as_mut_slice() else { panic!("two hosts") };
    let mut daemons = [&mut master.daemon, &mut slaves[0].daemon, &mut first.daemon, &mut second.daemon];
    for daemon in &mut daemons {
        for argument in ["--log-format", "json", "--log-level", "debug"] {
            daemon.argument(argument);
        }
        daemon.restart();
    }
    site.push_and_wait("services/web", "round", "1\n");
    site.hosts[0].watch(&["services/web"], std::process::id());
    site.work.change().file("services/web/master", "config.yaml", "a: [").push().refused(&["config.yaml"]);
    site.master.daemon.restart();
    site.slaves[0].daemon.stop();
    site.push("services/api", "round", "1\n");
    site.slaves[0].daemon.start();
    site.push_and_wait("services/api", "round", "2\n");

    let mut types: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
    let daemons = site.hosts.iter().map(|host| &host.daemon).chain([&site.master.daemon, &site.slaves[0].daemon]);
    let logs: Vec<String> = daemons.map(Daemon::log).collect();
    let lines = logs.iter().flat_map(|log| log.lines()).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for line in lines {
        for (key, value) in line.as_object().into_iter().flatten() {
            let kind = match value {
                Value::Number(_) => "number",
                Value::String(_) => "text",
                Value::Bool(_) => "bool",
                _ => "other",
            };
            types.entry(key.clone()).or_default().entry(kind).or_insert_with(|| line.to_string());
        }
    }
    let several: Vec<_> = types.iter().filter(|(_, kinds)| kinds.len() > 1).collect();
    assert!(several.is_empty(), "{several:#?}");
    let numbers: BTreeSet<&str> =
        types.iter().filter(|(_, kinds)| kinds.contains_key("number")).map(|(key, _)| key.as_str()).collect();
    assert!(numbers.contains("sequence") && numbers.contains("took_ms"), "{numbers:?}");
}
