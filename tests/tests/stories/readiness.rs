//! `/readyz` says why a daemon cannot serve, and that it can again.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use conf_core::secret::Identity;
use tests::{
    DEADLINE, Master, Plan, Site, eventually,
    http::Address,
    own_address,
    program::{command, run, text},
    site::{DATACENTER, Pointers},
};

fn central() -> Site {
    let site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start_empty();
    site.populate();
    site
}

/// Waits until conf-master is not ready, for a reason with these words.
#[track_caller]
pub(crate) fn expect_unready(master: &Master, words: &str) {
    eventually(&format!("/readyz to say {words:?}"), || {
        let answer = master.http().get("/readyz")?;
        if answer.status == 503 && answer.text().contains(words) { Ok(()) } else { Err(answer.text()) }
    });
}

/// Waits until conf-master is ready.
#[track_caller]
pub(crate) fn expect_ready(master: &Master) {
    eventually("/readyz to be ready", || {
        let answer = master.http().get("/readyz")?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
}

#[test]
fn a_repository_that_git_does_not_know_is_said_and_mended() {
    let site = central();
    expect_ready(&site.master);
    let repo = site.master.repo.clone();
    let hook = |name: &str| repo.join("hooks").join(name);
    let git = |arguments: &[&str]| drop(site.master.git(arguments));
    let harms: [(&str, &dyn Fn()); 8] = [
        ("HEAD", &|| fs::write(repo.join("HEAD"), "").expect("it can be written")),
        ("config", &|| fs::write(repo.join("config"), "").expect("it can be written")),
        ("receive.fsckObjects", &|| git(&["config", "receive.fsckObjects", "false"])),
        ("core.hooksPath", &|| git(&["config", "--unset", "core.hooksPath"])),
        ("uploadpack.allowAnySHA1InWant", &|| git(&["config", "--unset", "uploadpack.allowAnySHA1InWant"])),
        ("hooks/proc-receive is gone", &|| fs::remove_file(hook("proc-receive")).expect("it is there")),
        ("hooks/pre-receive", &|| fs::write(hook("pre-receive"), "#!/bin/sh\n").expect("it can be written")),
        ("hooks/pre-receive", &|| {
            fs::set_permissions(hook("pre-receive"), fs::Permissions::from_mode(0o644)).expect("it can be changed");
        }),
    ];
    for (round, (words, harm)) in harms.iter().enumerate() {
        harm();
        expect_unready(&site.master, words);
        expect_ready(&site.master);
        site.push("services/web", "round", &format!("{round} more\n"));
    }
    assert!(site.master.daemon.log().contains("written anew"), "{}", site.master.daemon.log());
}

#[test]
fn a_repository_that_cannot_be_mended_is_logged_once() {
    let site = central();
    expect_ready(&site.master);
    let mark = site.master.daemon.log_mark();
    let hooks = site.master.repo.join("hooks");
    fs::rename(&hooks, site.master.repo.join("elsewhere")).expect("it is there");
    fs::write(&hooks, "no folder").expect("it can be written");
    let logged = |words: &str| site.master.daemon.log_since(mark).matches(words).count();
    eventually("the log to say that it cannot be mended", || {
        if logged("cannot be written anew") > 0 { Ok(()) } else { Err(site.master.daemon.log_since(mark)) }
    });
    // Another condition begins and ends: that takes two more looks.
    let key = site.folder.path().join("central.git.key");
    let away = key.with_extension("away");
    fs::rename(&key, &away).expect("it is there");
    expect_unready(&site.master, "put the key back");
    fs::rename(&away, &key).expect("it is there");
    eventually("/readyz to say no more of the key", || {
        let words = site.master.http().get("/readyz")?.text();
        if words.contains("put the key back") { Err(words) } else { Ok(()) }
    });
    fs::remove_file(&hooks).expect("it is there");
    expect_ready(&site.master);
    assert_eq!(logged("cannot be written anew"), 1, "{}", site.master.daemon.log_since(mark));
}

#[test]
fn a_lost_ref_of_the_ledger_is_said_and_put_back() {
    let site = central();
    site.push("services/web", "round", "1\n");
    let reference = site.master.repo.join("refs/conf/ledger");
    let before = fs::read_to_string(&reference).expect("it is loose");
    for content in ["", "0000"] {
        fs::write(&reference, content).expect("it can be written");
        expect_unready(&site.master, "refs/conf/ledger");
        expect_ready(&site.master);
        assert_eq!(fs::read_to_string(&reference).expect("it is back"), before);
    }
    site.push("services/web", "round", "2\n");
    site.master.expect_unbroken_ledger();
}

#[test]
fn a_ledger_that_fell_back_to_a_packed_value_loses_nothing() {
    let mut site = central();
    // As upkeep does every hour.
    site.master.git(&["pack-refs", "--all"]);
    site.push("services/web", "round", "1\n");
    site.push("services/web", "round", "2\n");
    let reference = site.master.repo.join("refs/conf/ledger");
    let last = fs::read_to_string(&reference).expect("it is loose");
    let mark = site.master.daemon.log_mark();
    fs::remove_file(&reference).expect("it is loose");
    expect_unready(&site.master, "fell back to");
    expect_ready(&site.master);
    assert_eq!(fs::read_to_string(&reference).expect("it is back"), last);
    let written = site.master.daemon.log_since(mark).matches("written anew").count();
    assert_eq!(written, 1, "{}", site.master.daemon.log_since(mark));
    // A push that comes first loses nothing either.
    fs::remove_file(&reference).expect("it is loose");
    assert_eq!(site.push("services/web", "round", "3\n"), 4);
    site.master.expect_unbroken_ledger();
    // Nor does a start.
    site.master.daemon.stop();
    fs::remove_file(&reference).expect("it is loose");
    site.master.daemon.start();
    assert_eq!(site.master.sequence(), 4);
    assert_eq!(site.push("services/web", "round", "4\n"), 5);
    site.master.expect_unbroken_ledger();
}

#[test]
fn another_key_on_the_disk_is_said_before_the_next_start() {
    let site = central();
    let key = site.folder.path().join("central.git.key");
    let right = fs::read(&key).expect("the key");
    let other = site.folder.path().join("other.git");
    let made = site.master.run(&["init", "--repo", other.to_str().expect("text")]);
    assert!(made.status.success(), "{}", text(&made));
    fs::copy(site.folder.path().join("other.git.key"), &key).expect("it can be copied");
    expect_unready(&site.master, "holds another key than this server signs with");
    fs::remove_file(&key).expect("it is there");
    expect_unready(&site.master, "put the key back");
    fs::write(&key, right).expect("it can be written");
    expect_ready(&site.master);
}

#[test]
fn while_keys_are_changed_as_documented_the_centre_is_ready() {
    let site = central();
    let place = |name: &str| site.folder.path().join(name);
    let [key, public] = ["central.git.key", "central.git.key.pub"].map(place);
    let made = site.master.run(&["init", "--repo", place("other.git").to_str().expect("text")]);
    assert!(made.status.success(), "{}", text(&made));
    let old = fs::read_to_string(&public).expect("the public key");
    let new = fs::read_to_string(place("other.git.key.pub")).expect("the other public key");
    expect_ready(&site.master);
    let mark = site.master.daemon.log_mark();
    fs::write(&public, format!("{new}{old}")).expect("it can be written");
    fs::copy(place("other.git.key"), &key).expect("it can be copied");
    // What is said of a hook was found by a look that saw the key too.
    let hook = site.master.repo.join("hooks/pre-receive");
    fs::remove_file(&hook).expect("it is there");
    expect_unready(&site.master, "hooks/pre-receive");
    expect_ready(&site.master);
    let log = site.master.daemon.log_since(mark);
    assert!(!log.contains("another key"), "{log}");
    // The old line is taken out too early: hosts hold what the old key signed.
    fs::write(&public, &new).expect("it can be written");
    expect_unready(&site.master, "is signed by another key");
    fs::write(&public, format!("{new}{old}")).expect("it can be written");
    expect_ready(&site.master);
}

/// Starts conf-master, which must refuse, and returns its words.
#[track_caller]
fn refused(site: &mut Site) -> String {
    let mark = site.master.daemon.log_mark();
    site.master.daemon.start_unready();
    let status = site.master.daemon.wait_for_end(tests::DEADLINE);
    assert_eq!(status.code(), Some(1), "{}", site.master.daemon.log_since(mark));
    site.master.daemon.log_since(mark)
}

#[test]
fn a_key_that_no_host_trusts_is_refused_at_the_start_and_keys_can_be_changed() {
    let mut site = Plan { pointers: Pointers::Embedded, ..Plan::default() }.start();
    let place = |name: &str| site.folder.path().join(name);
    let [key, public, other, other_public] =
        ["central.git.key", "central.git.key.pub", "other.git.key", "other.git.key.pub"].map(place);
    let made = site.master.run(&["init", "--repo", place("other.git").to_str().expect("text")]);
    assert!(made.status.success(), "{}", text(&made));
    let old = fs::read_to_string(&public).expect("the public key");
    let new = fs::read_to_string(&other_public).expect("the other public key");
    site.master.daemon.stop();
    // The wrong private half.
    fs::rename(&key, key.with_extension("old")).expect("it is there");
    fs::copy(&other, &key).expect("it can be copied");
    let words = refused(&mut site);
    assert!(words.contains("is not the one of") && words.contains("Put the right key back"), "{words}");
    assert!(words.contains(new.trim()), "the line to add: {words}");
    // Both halves of another key: hosts hold the snapshots that the first one signed.
    fs::write(&public, &new).expect("it can be written");
    let words = refused(&mut site);
    assert!(words.contains("is signed by another key") && words.contains(DATACENTER), "{words}");
    fs::remove_file(&public).expect("it is there");
    let words = refused(&mut site);
    assert!(words.contains("is signed by another key"), "without the file the snapshot tells: {words}");
    // A change of keys: both lines, here and with everybody who trusts.
    fs::write(&public, format!("{new}{old}")).expect("it can be written");
    site.slaves[0].daemon.restart();
    site.hosts[0].daemon.restart();
    site.master.daemon.start();
    site.push_and_wait("services/web", "round", "signed by the new key\n");
    // The old one may go once everything newest is signed by the new one.
    fs::write(&public, &new).expect("it can be written");
    site.master.daemon.restart();
    site.slaves[0].daemon.restart();
    site.hosts[0].daemon.restart();
    site.push_and_wait("services/web", "round", "trusted alone\n");
    // A clone of the repository at another place has no file of public keys.
    let mut signed = command("git", site.folder.path());
    signed.arg("--git-dir").arg(&site.master.repo).args(["log", "-1", "--format=%H", "refs/snapshots/us-west/v1"]);
    assert!(run(signed).status.success());
}

#[test]
fn a_key_for_secrets_that_opens_nothing_is_refused_and_one_that_is_gone_is_written_again() {
    let mut site = central();
    let place = |name: &str| site.folder.path().join(name);
    let [identity, public, kept] = ["central.git.identity", "central.git.identity.pub", "kept"].map(place);
    // While nothing is sealed, a key can be made anew.
    site.master.daemon.stop();
    fs::remove_file(&identity).expect("it is there");
    site.master.daemon.start();
    let declared = |value: usize| {
        let secrets = format!("secrets:\n  key: {{generate: {{length: {value}}}, readers: [services/web]}}\n");
        format!("{}{secrets}", tests::site::instance())
    };
    site.work.change().file("datacenters/us-west/v1", "datacenter.yaml", declared(24)).land();
    expect_ready(&site.master);
    fs::rename(&identity, &kept).expect("it is there");
    eventually("the key to be written again", || {
        let [found, kept] = [&identity, &kept].map(|path| fs::read_to_string(path).unwrap_or_default());
        if found == kept { Ok(()) } else { Err(format!("{} bytes", found.len())) }
    });
    expect_ready(&site.master);
    fs::remove_file(&identity).expect("it is there");
    let other = Identity::create(&identity).expect("an identity").recipient().to_string();
    expect_unready(&site.master, "is another key than the one that the secret key of us-west is sealed to");
    site.master.daemon.stop();
    let words = refused(&mut site);
    assert!(words.contains("opens none of what is kept") && words.contains("Put the right file back"), "{words}");
    fs::remove_file(&identity).expect("it is there");
    let words = refused(&mut site);
    assert!(words.contains("central.git.identity is gone") && words.contains("ssh-keygen -t ed25519"), "{words}");
    assert!(!identity.exists(), "none is made in its place");
    // The file is lost, and a new one is meant: `ssh-keygen` writes both halves.
    let other = {
        let made = Identity::create(&identity).expect("an identity").recipient().to_string();
        assert_ne!(made, other);
        made
    };
    fs::write(&public, format!("{other} conf-master\n")).expect("it can be written");
    site.master.daemon.start();
    expect_ready(&site.master);
    let rotated = site.master.run(&["secret", "rotate", "us-west/v1", "key"]);
    assert!(rotated.status.success(), "{}", text(&rotated));
    // What is sealed last tells which key is the right one.
    fs::remove_file(&public).expect("it is there");
    site.master.daemon.restart();
    expect_ready(&site.master);
    site.master.daemon.stop();
    fs::copy(&kept, &identity).expect("it can be copied");
    assert!(refused(&mut site).contains("opens none of what is kept"));
}

#[test]
fn a_slave_of_a_datacenter_that_does_not_exist_says_which_there_are() {
    let mut site = central();
    let wrong = site.add_slave_of("us-est/v1");
    eventually("the slave to say which datacenters there are", || {
        let problems = wrong.status()?["problems"].to_string();
        let is_told = problems.contains("no datacenter us-est/v1; it has: us-west/v1");
        if is_told { Ok(()) } else { Err(problems) }
    });
    assert!(wrong.daemon.log().contains("it has: us-west/v1"), "{}", wrong.daemon.log());
    eventually("/readyz to say it", || {
        let answer = wrong.http().get("/readyz")?;
        let is_told = answer.status == 503 && answer.text().contains("it has: us-west/v1");
        if is_told { Ok(()) } else { Err(answer.text()) }
    });
    let instance = tests::site::instance();
    site.work.change().file("datacenters/us-est/v1", "datacenter.yaml", instance).land();
    let wrong = &site.slaves[0];
    eventually("the slave to serve it, without a problem", || {
        let status = wrong.status()?;
        let is_good = status["sequence"].as_u64() > Some(0) && !status["problems"].to_string().contains("us-est");
        if is_good { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn metrics_of_a_slave_show_the_state_of_the_moment() {
    let site = Plan { pointers: Pointers::Embedded, hosts: 2, ..Plan::default() }.start();
    eventually("both hosts to have reported", || {
        let hosts = site.slave().http().get_json("/api/v1/hosts")?;
        if hosts.as_array().map(Vec::len) == Some(2) { Ok(()) } else { Err(hosts.to_string()) }
    });
    for round in 1..=3 {
        let sequence = site.push_and_wait("services/web", "round", &format!("{round}\n"));
        eventually("the status to say that it is published", || {
            let status = site.slave().status()?;
            if status["published"]["sequence"] == sequence { Ok(()) } else { Err(status.to_string()) }
        });
        // Nothing is waited for: what the status says, the metrics say.
        let metrics = site.slave().http().get("/metrics").expect("an answer").text();
        for line in [
            format!("conf_slave_published_sequence {sequence}"),
            format!("conf_slave_sequence {sequence}"),
            "conf_slave_hosts 2".to_owned(),
        ] {
            assert!(metrics.lines().any(|one| one == line), "{line} is not in\n{metrics}");
        }
    }
}

#[test]
fn who_has_no_token_reads_metrics_at_an_address_of_their_own() {
    let [master, slave, host] = [9101, 9102, 9103].map(own_address);
    let flags = |address: &SocketAddr| vec!["--metrics-listen".to_owned(), address.to_string()];
    let plan = Plan { tokens: true, slave_flags: flags(&slave), host_flags: flags(&host), ..Plan::default() };
    let mut site = plan.start();
    let status = |address: SocketAddr, path: &str| Address::Tcp(address).get(path).map(|answer| answer.status.as_u16());
    assert!(status(master, "/healthz").is_err(), "by default it is not there");
    site.master.daemon.stop();
    flags(&master).into_iter().for_each(|argument| site.master.daemon.argument(argument));
    site.master.daemon.start();
    for address in [master, slave, host] {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(status(address, path), Ok(200), "{address} {path}");
        }
        let metrics = Address::Tcp(address).get("/metrics").expect("an answer").text();
        assert!(metrics.contains("conf_build_info"), "{metrics}");
        for path in ["/api/v1/status", "/api/v1/tokens", "/conf.git/info/refs?service=git-upload-pack", "/v1/kv/x", "/"]
        {
            assert_eq!(status(address, path), Ok(404), "{address} {path}");
        }
        // Whoever holds connections has half of the places.
        let _held: Vec<TcpStream> = (0..32).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        let mut more = TcpStream::connect(address).expect("it listens");
        more.set_read_timeout(Some(DEADLINE)).expect("it can be set");
        assert!(matches!(more.read(&mut [0]).map_err(|error| error.kind()), Ok(0) | Err(ErrorKind::ConnectionReset)));
    }
    // There is no other way without a token.
    assert_eq!(site.master.unproven().get("/metrics").expect("an answer").status, 401);
    assert_eq!(site.slave().unproven().get("/metrics").expect("an answer").status, 401);
}
