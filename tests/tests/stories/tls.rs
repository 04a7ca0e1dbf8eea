//! Every hop over TLS, with certificates of an authority of the site's own, which openssl makes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tests::{
    Authority, Pair, Plan, Reader, Site, Work, eventually,
    http::{Address, connect_from, connect_over_tls},
    own_address, page,
    program::{Daemon, built, command, run, text},
    site::{DATACENTER, Pointers},
    stalled_since,
};
use tokio::{io::AsyncReadExt as _, runtime::Runtime};

const PAGE: &str = include_str!("../../../docs/tls.md");
const WEB: &str = "services/web";

fn over_tls() -> Plan {
    Plan { tls: true, pointers: Pointers::Embedded, ..Plan::default() }
}

fn authority(site: &Site) -> &Authority {
    site.master.authority.as_ref().expect("this site speaks TLS")
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Names of a certificate for a server at this address.
fn name_of(address: SocketAddr) -> String {
    format!("IP:{}", address.ip())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The certificate that a server shows.
fn shows(address: SocketAddr, ca: &Path) -> Result<Vec<u8>, String> {
    let connected = runtime().block_on(connect_over_tls(address, ca)).map_err(|error| error.to_string())?;
    let chain = connected.get_ref().1.peer_certificates().expect("a server shows one");
    Ok(chain[0].to_vec())
}

/// Puts a pair in the place of another one, the certificate first, as robots do.
fn replace(old: &Pair, new: &Pair) {
    for (old, new) in [(&old.certificate, &new.certificate), (&old.key, &new.key)] {
        fs::rename(new, old).expect("it can be replaced");
    }
}

#[test]
fn a_change_comes_from_a_push_to_a_signal_over_tls_alone() {
    let mut site = Plan { slaves: 2, pointers: Pointers::Consul, ..over_tls() }.start();
    let reader = Reader::start(&site.host().export());
    site.host().watch(&[WEB], reader.pid());
    let sequence = site.push(WEB, "round", "1\n");
    assert!(reader.told().sequence >= sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    site.wait_published(sequence);

    site.wait_branches();

    // Plain git, and every command that asks conf-master.
    let ca = authority(&site).certificate();
    let clone = site.folder.path().join("clone");
    let git = Work::new(&clone, &format!("{}/conf.git", site.slave().url));
    assert!(!git.try_git(&["ls-remote", "origin"]).ok, "no authority of this system signed that");
    git.git(&["-c", &format!("http.sslCAInfo={}", shown(&ca)), "fetch", "-q", "origin", "refs/heads/*:refs/heads/*"]);
    assert_eq!(git.git(&["show", "services/web/master:round"]), "1");
    for arguments in [["log", DATACENTER], ["show", WEB]] {
        let output = site.master.run(&arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }

    // Nothing answers without it: not to a request, and not to a report.
    assert_eq!(site.master.daemon.ready_line(), format!("ready https={}", site.master.address));
    for address in [site.master.address, site.slave().address] {
        let answer = Address::Tcp(address).get("/api/v1/status").expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.text().contains("this port speaks TLS")), (400, true));
    }
    site.slaves[0].daemon.stop();
    site.push_and_wait(WEB, "round", "2\n");
    site.expect_whole();
}

#[test]
fn certificates_are_replaced_under_load_and_no_request_fails() {
    let site = over_tls().start();
    let ca = authority(&site).certificate();
    let tls = site.folder.path().join("tls");
    let [master, slave] = ["conf-master", "conf-slave-1"]
        .map(|name| Pair { certificate: tls.join(format!("{name}.crt")), key: tls.join(format!("{name}.key")) });
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let servers = [site.master.http(), site.slave().http()];
    let askers = servers.iter().cloned().flat_map(|server| [(server.clone(), "/healthz"), (server, "/readyz")]);
    let askers: Vec<_> = askers
        .map(|(server, path)| {
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            // Each request has a connection and a handshake of its own.
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answer = server.get(path).unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    for round in 1..=3 {
        for (address, pair, daemon) in
            [(site.master.address, &master, &site.master.daemon), (site.slave().address, &slave, &site.slave().daemon)]
        {
            let before = shows(address, &ca).expect("it answers");
            let new = authority(&site).pair(&format!("new-{}-{round}", address.ip()), &name_of(address), 30);
            replace(pair, &new);
            // Once somebody says that it is there, and otherwise it is found.
            if round != 2 {
                daemon.signal(Signal::HUP);
            }
            eventually("the new certificate to be shown", || match shows(address, &ca)? {
                same if same == before => Err("the old one is shown".to_owned()),
                _ => Ok(()),
            });
        }
        site.push_and_wait(WEB, "round", &format!("{round}\n"));
    }
    let before = asked.load(Ordering::Relaxed);
    eventually("more requests", || match asked.load(Ordering::Relaxed) {
        more if more > before + 20 => Ok(()),
        few => Err(few.to_string()),
    });
    stop.store(true, Ordering::Relaxed);
    askers.into_iter().for_each(|asker| asker.join().expect("no request failed"));

    // Halves of two pairs are refused, and the last good pair is shown.
    let before = shows(site.master.address, &ca).expect("it answers");
    let mark = site.master.daemon.log_mark();
    let other = authority(&site).pair("other", &name_of(site.master.address), 30);
    fs::rename(&other.certificate, &master.certificate).expect("it can be replaced");
    site.master.daemon.signal(Signal::HUP);
    eventually("the log to say that they do not fit", || {
        let log = site.master.daemon.log_since(mark);
        let said = log.contains("is not the key of the certificate") && log.contains("the last good files stay in use");
        if said { Ok(()) } else { Err(log) }
    });
    assert_eq!(shows(site.master.address, &ca).as_ref(), Ok(&before));
    site.push_and_wait(WEB, "round", "last\n");
}

#[test]
fn an_authority_is_replaced_without_a_restart() {
    let mut site = over_tls().start();
    let (tls, ca) = (site.folder.path().join("tls"), authority(&site).certificate());
    let next = Authority::new(&tls, "next");
    let master = Pair { certificate: tls.join("conf-master.crt"), key: tls.join("conf-master.key") };
    let new = next.pair("conf-master-next", &name_of(site.master.address), 30);

    // A server's new certificate, whose authority its clients do not know yet.
    replace(&master, &new);
    let mark = site.master.daemon.log_mark();
    site.master.daemon.signal(Signal::HUP);
    eventually("the new certificate", || {
        let log = site.master.daemon.log_since(mark);
        if log.contains("read again; new connections use it") { Ok(()) } else { Err(log) }
    });
    site.slaves[0].daemon.restart();
    eventually("the slave to say whom it does not trust", || {
        let problems = site.slave().status()?["problems"].to_string();
        let said = problems.contains("no authority that is trusted here signed the server's certificate");
        if said && problems.contains("--ca") { Ok(()) } else { Err(problems) }
    });
    // Both are in the file while certificates of both are shown.
    let both = [fs::read(&ca).expect("it is there"), fs::read(next.certificate()).expect("it is there")].concat();
    fs::write(&ca, both).expect("it can be written");
    let git = ["config", "http.sslCAInfo", shown(&ca)];
    site.work.git(&git);
    site.push_and_wait(WEB, "round", "1\n");
}

#[test]
fn who_asks_a_server_is_told_what_is_wrong() {
    let site = Plan { hosts: 0, slaves: 0, ..over_tls() }.start_empty();
    let tls = site.folder.path().join("tls");
    let (own, other) = (authority(&site).clone(), Authority::new(&tls, "other"));
    let address = site.master.address;
    let mut master = site.master;
    let good = master.daemon.arguments().len() - 4;
    let url = master.url();
    let asks = |ca: &Path, url: &str, more: &[&str]| -> Output {
        let mut client = command(built("conf-master"), site.folder.path());
        client.args(["log", "--refused", "--json", "--server", url, "--ca"]).arg(ca).args(more);
        run(client)
    };
    let says = |output: &Output, words: &[&str]| {
        let said = text(output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        words.iter().for_each(|words| assert!(said.contains(words), "{words:?} is not in: {said}"));
    };
    assert!(asks(&own.certificate(), &url, &[]).status.success());
    says(&asks(&other.certificate(), &url, &[]), &["no authority that is trusted here signed", "with --ca"]);
    let of_one_name = Authority::new(&tls.join("again"), "ca");
    says(&asks(&of_one_name.certificate(), &url, &[]), &["no authority that is trusted here signed"]);
    let plain = url.replace("https", "http");
    says(&asks(&own.certificate(), &plain, &[]), &["400", "this port speaks TLS: write https:// in place of http://"]);

    let mut show = |pair: &Pair, more: &[&str]| {
        master.daemon.stop();
        master.daemon.arguments().truncate(good);
        pair.flags().into_iter().for_each(|flag| master.daemon.argument(flag));
        more.iter().for_each(|flag| master.daemon.argument(*flag));
        master.daemon.start();
        master.daemon.log()
    };
    let log = show(&own.expired("expired", &name_of(address)), &[]);
    assert!(log.contains("expired on 2020-01-02") && log.contains("so that nobody trusts it"), "{log}");
    says(&asks(&own.certificate(), &url, &[]), &["the server's certificate expired on 20", "renew it there"]);
    show(&own.pair("elsewhere", "DNS:conf.example.org,IP:192.0.2.7", 30), &[]);
    let words = format!("is for conf.example.org, 192.0.2.7, not for {}", address.ip());
    says(&asks(&own.certificate(), &url, &[]), &[&words]);
    show(&own.pair("nameless", "", 30), &[]);
    says(&asks(&own.certificate(), &url, &[]), &["names no server", &address.ip().to_string()]);
    let of_authority = Pair { certificate: own.certificate(), key: tls.join("ca.key") };
    show(&of_authority, &[]);
    says(&asks(&own.certificate(), &url, &[]), &["shows the certificate of an authority"]);

    // A server that wants to know its clients.
    let client = own.pair("client", "", 30);
    let ours = ["--client-cert", shown(&client.certificate), "--client-key", shown(&client.key)];
    let foreign = other.pair("foreign", "", 30);
    let theirs = ["--client-cert", shown(&foreign.certificate), "--client-key", shown(&foreign.key)];
    let server = own.pair("server", &name_of(address), 30);
    show(&server, &["--tls-client-ca", shown(&own.certificate())]);
    assert!(asks(&own.certificate(), &url, &ours).status.success(), "{}", text(&asks(&own.certificate(), &url, &ours)));
    says(&asks(&own.certificate(), &url, &[]), &["wants a certificate of its clients: give --client-cert"]);
    says(&asks(&own.certificate(), &url, &theirs), &["does not trust this client's certificate", "--tls-client-ca"]);
    says(&asks(&own.certificate(), &url, &ours[..2]), &["--client-cert and --client-key go together"]);

    // TLS 1.2 where it is asked for.
    let old = |ca: &Path| {
        let mut curl = command("curl", site.folder.path());
        curl.args(["-sS", "--tls-max", "1.2", "--cacert"]).arg(ca).arg(format!("{url}/healthz"));
        run(curl)
    };
    show(&server, &[]);
    assert!(!old(&own.certificate()).status.success());
    show(&server, &["--tls-min", "1.2"]);
    assert!(old(&own.certificate()).status.success(), "{}", text(&old(&own.certificate())));

    // No TLS at all.
    master.daemon.stop();
    master.daemon.arguments().truncate(good);
    master.daemon.start();
    let words = ["there is no TLS on this port: write http:// in place of https://", "--tls-cert"];
    says(&asks(&own.certificate(), &url, &[]), &words);
}

#[test]
fn tiers_show_their_certificates_to_each_other() {
    let mut site = Plan { hosts: 0, slaves: 0, ..over_tls() }.start_empty();
    site.populate();
    let own = authority(&site).clone();
    let ca = own.certificate();
    let of_client = |name: &str| {
        let pair = own.pair(name, "", 30);
        [("--client-cert", pair.certificate), ("--client-key", pair.key)]
    };
    let wanted = ("--tls-client-ca", ca.clone());
    let give = |daemon: &mut Daemon, flags: &[(&str, PathBuf)]| {
        for (name, path) in flags {
            daemon.argument(*name);
            daemon.argument(path);
        }
    };
    site.master.daemon.stop();
    give(&mut site.master.daemon, std::slice::from_ref(&wanted));
    site.master.daemon.start();
    let mut slave = site.make_slave(1);
    give(&mut slave.daemon, &of_client("of-slave"));
    give(&mut slave.daemon, &[wanted]);
    slave.daemon.start();
    site.slaves.push(slave);
    let mut host = site.make_host(1);
    give(&mut host.daemon, &of_client("of-host"));
    host.daemon.start();
    site.hosts.push(host);
    eventually("the host to have it", || site.host().read("services/web/latest/round"));

    // The host hears of a change by the stream, by the stand-in for Consul, or by both.
    assert!(!site.work.try_git(&["ls-remote", "origin"]).ok, "git has no certificate yet");
    let [(_, certificate), (_, key)] = of_client("of-git");
    site.work.git(&["config", "http.sslCert", shown(&certificate)]);
    site.work.git(&["config", "http.sslKey", shown(&key)]);
    site.work.change().file("services/web/master", "round", "1\n").land();
    eventually("the host to have the change", || match site.host().read("services/web/latest/round")?.as_str() {
        "1\n" => Ok(()),
        other => Err(other.to_owned()),
    });
    let status =
        site.host().wait_status("find nothing wrong", |status| status["problems"].as_array().is_none_or(Vec::is_empty));
    assert!(!status.to_string().contains("over TLS"), "{status}");

    // One without a certificate is told what to do.
    let mut stranger = site.make_host(2);
    stranger.daemon.start();
    stranger.wait_status("say what is missing", |status| {
        status.to_string().contains("wants a certificate of its clients: give --client-cert and --client-key")
    });
}

#[test]
fn a_file_that_cannot_be_used_keeps_a_daemon_from_starting() {
    let site = over_tls().start();
    let tls = site.folder.path().join("tls");
    let (good, other) = (tls.join("conf-master.crt"), tls.join("conf-slave-1.key"));
    let empty = tls.join("empty");
    fs::write(&empty, "").expect("it can be written");
    let state = site.folder.path().join("another");
    let state = shown(&state);
    let trusted = site.master.trusted_key();
    let url = site.master.url();
    let slave = ["conf-slave", "run", "--datacenter", DATACENTER, "--central", &url, "--consul", "embedded"];
    let agent = ["conf-local", "run", "--datacenter", DATACENTER, "--host", "web-9", "--central", &url];
    let socket = site.folder.path().join("another-socket");
    for (program, more, words) in [
        (&slave, ["--tls-cert", shown(&good), "--tls-key", shown(&other)], "is not the key of the certificate"),
        (&slave, ["--ca", shown(&empty), "--listen", "127.0.0.1:0"], "--ca: "),
        (&agent, ["--ca", shown(&empty), "--socket", shown(&socket)], "is empty; write the PEM text into it"),
        (&agent, ["--tls-cert", shown(&good), "--socket", shown(&socket)], "--tls-cert and --tls-key go together"),
    ] {
        let mut daemon = command(built(program[0]), site.folder.path());
        daemon.args(&program[1..]).args(["--state", state, "--trusted-key"]).arg(&trusted).args(more);
        let output = run(daemon);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(words), "{}", text(&output));
    }
}

#[test]
fn an_address_that_others_reach_is_served_over_tls() {
    let site = Plan { hosts: 0, slaves: 0, ..over_tls() }.start_empty();
    let repo = site.folder.path().join("open.git");
    assert!(site.master.run(&["init", "--repo", shown(&repo)]).status.success());
    let pair = authority(&site).pair("open", "IP:127.0.0.1", 30);
    fs::set_permissions(&pair.key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("it is ours");
    let arguments = ["serve", "--listen", "0.0.0.0:0", "--repo", shown(&repo)].map(str::to_owned);
    let arguments = arguments.into_iter().chain(pair.flags());
    let mut daemon = Daemon::new("open", built("conf-master"), site.folder.path(), arguments);
    daemon.start();
    assert!(daemon.ready_line().starts_with("ready https=0.0.0.0:"), "{}", daemon.ready_line());
    let log = daemon.log();
    assert!(log.contains("every user of this machine can read the private key"), "{log}");
    daemon.stop();
}

/// What docs/tls.md tells people to paste, pasted.
#[test]
fn an_authority_of_ones_own_in_ten_commands() {
    let folder = tempfile::Builder::new().prefix("conf-tls-").tempdir().expect("a folder can be made");
    let address = own_address(7400).ip().to_string();
    let reader = page::Reader { folder: folder.path(), address, seconds: 240, path: Vec::new() };
    let all = |language| page::fenced(PAGE, "# TLS", language).concat();
    let commands = all("sh").lines().filter(|line| line.starts_with("openssl ")).count();
    assert!(commands <= 12, "the page has {commands} commands of openssl");
    reader.paste(&all("sh"), &all("text"), &["master.log", "slave.log", "local.log"]);
}

#[test]
fn files_count_where_they_are_of_use_and_for_git_too() {
    let mut site = Plan { hosts: 0, ..over_tls() }.start();
    let ca = authority(&site).certificate();
    let slave = &mut site.slaves[0].daemon;
    slave.stop();
    let arguments = slave.arguments();
    let at = arguments.iter().position(|argument| argument == "--ca").expect("it has one");
    arguments.drain(at..at + 2);
    // The authorities of the system are those that a variable names, for Git as for the rest.
    slave.environment("SSL_CERT_FILE", &ca);
    // No Consul is asked over TLS: for it nothing is read.
    slave.environment("CONSUL_CACERT", "/nowhere/ca.crt");
    slave.start();
    site.push(WEB, "round", "1\n");
    site.wait_branches();
    let flags = vec!["--ca".to_owned(), shown(&ca).to_owned()];
    let plain = Plan { hosts: 0, pointers: Pointers::Embedded, slave_flags: flags, ..Plan::default() }.start();
    let log = plain.slave().daemon.log();
    assert_eq!(log.matches("--ca is of no use").count(), 1, "{log}");
}

#[test]
fn strangers_whose_handshakes_never_end_keep_nobody_out() {
    let mut site = Plan { hosts: 0, slaves: 0, ..over_tls() }.start_empty();
    site.populate();
    // Of 256 files, 192 may be connections, and half of these one stranger's.
    site.master.daemon.stop();
    let master = built("conf-master").into_os_string();
    let arguments = ["--nofile=256".into(), master].into_iter().chain(site.master.daemon.arguments().clone());
    let mut limited = Daemon::new("limited-conf-master", "prlimit".into(), site.folder.path(), arguments);
    limited.start();
    let strangers = [[127, 255, 8, 1], [127, 255, 8, 2]].map(std::net::Ipv4Addr::from);
    let runtime = runtime();
    let mut silent: Vec<_> = runtime.block_on(async {
        let mut silent = Vec::new();
        for stranger in strangers {
            for _ in 0..96 {
                silent.push(connect_from(stranger.into(), site.master.address).await.expect("it listens"));
            }
        }
        silent
    });
    let start = Instant::now();
    stalled_since(start);
    assert_eq!(site.master.http().get("/healthz").expect("an answer").status, 200);
    runtime.block_on(async {
        for connection in &mut silent {
            let _ = connection.read(&mut [0; 1]).await;
        }
    });
    let lasted = start.elapsed().saturating_sub(stalled_since(start));
    assert!(lasted < Duration::from_secs(20), "they were held for {lasted:?}");
    site.push(WEB, "round", "1\n");
}
