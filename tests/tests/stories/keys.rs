//! Another key signs, under a running site: everybody follows by themselves, and nobody follows a key that only its owner
//! has made known.

use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;
use tests::{
    DEADLINE, Daemon, Plan, Reader, Site, eventually, own_address,
    program::{built, text},
    site::{DATACENTER, Host, Pointers, token_in},
};

fn site(plan: Plan) -> Site {
    Plan { copied_key: true, pointers: Pointers::Embedded, ..plan }.start()
}

/// Runs `conf-master key`, and returns what it printed.
#[track_caller]
fn key(site: &Site, arguments: &[&str]) -> String {
    let repo = site.master.repo.display().to_string();
    let done = site.master.run(&[&["key"], arguments, &["--repo", &repo]].concat());
    assert!(done.status.success(), "{}", text(&done));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

fn listed(site: &Site) -> Value {
    serde_json::from_str(&key(site, &["list", "--json"])).expect("JSON")
}

/// Expects the newest snapshot to be signed by the key with this public line, as Git sees it.
#[track_caller]
fn expect_signed_by(site: &Site, line: &str) {
    let signers = site.folder.path().join("allowed_signers");
    fs::write(&signers, format!("* namespaces=\"git\" {line}\n")).expect("the folder can be written");
    let signers = format!("gpg.ssh.allowedSignersFile={}", signers.display());
    site.master.git(&["-c", &signers, "verify-commit", &site.master.snapshot()]);
}

fn replace(host: &mut Host, flag: &str, value: &Path) {
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == flag).expect("it has that flag");
    arguments[at + 1] = value.into();
}

#[test]
fn everybody_follows_a_new_key_by_themselves() {
    let mut site = site(Plan::default());
    let given = site.given_key();
    let old = fs::read_to_string(&given).expect("the key");
    let reader = Reader::start(&site.host().export());
    site.host().watch(&["services/web"], reader.pid());
    let before = site.master.sequence();
    let new = key(&site, &["rotate"]);
    assert_eq!(site.master.sequence(), before + 1, "with it every datacenter has a snapshot");
    site.wait_applied(before + 1);
    expect_signed_by(&site, &new);
    let sequence = site.push("services/web", "round", "1\n");
    // It is told of the change, and was not told of the key.
    assert_eq!(reader.told().sequence, sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "1\n");
    expect_signed_by(&site, &new);
    assert_eq!(fs::read_to_string(&given).expect("it is there"), old, "the operator's file is as it was");
    for (name, mode) in [("central.git.key", 0o600), ("central.git.key.old", 0o600), ("central.git.key.pub", 0o644)] {
        let found = fs::metadata(site.folder.path().join(name)).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    let line = fs::read_to_string(site.master.trusted_key()).expect("it is there");
    assert_eq!(line.trim(), new, "what new hosts are given");
    for http in [site.master.http(), site.slave().http()] {
        let keys = http.get_json("/api/v1/keys").expect("an answer");
        assert_eq!(keys["statements"].as_array().map(Vec::len), Some(1), "{keys}");
    }
    let keys = listed(&site);
    let signs = |at: usize| (keys[at]["signs"].as_bool(), keys[at]["replaced"].as_u64());
    assert_eq!((signs(0), signs(1)), ((Some(false), Some(before + 1)), (Some(true), None)), "{keys}");

    site.master.daemon.restart();
    site.slaves[0].daemon.restart();
    site.hosts[0].daemon.restart();
    let sequence = site.push_and_wait("services/web", "round", "2\n");
    assert_eq!(site.host().sequence(), sequence);
    // A host that is given the new key alone.
    let mut fresh = site.make_host(2);
    replace(&mut fresh, "--trusted-key", &site.master.trusted_key());
    fresh.daemon.start();
    fresh.wait_applied(sequence);
    site.expect_whole();

    // The old key is put back.
    site.master.daemon.stop();
    let place = |name: &str| site.folder.path().join(name);
    fs::copy(place("central.git.key.old"), place("central.git.key")).expect("it can be copied");
    let mark = site.master.daemon.log_mark();
    site.master.daemon.start_unready();
    assert_eq!(site.master.daemon.wait_for_end(DEADLINE).code(), Some(1));
    let words = site.master.daemon.log_since(mark);
    assert!(words.contains("is an older one"), "{words}");
}

#[test]
fn who_was_away_for_two_changes_of_keys_follows_both() {
    let mut site = site(Plan { slaves: 2, hosts: 2, tokens: true, ..Plan::default() });
    site.slaves[0].daemon.stop();
    site.hosts[0].daemon.stop();
    key(&site, &["rotate"]);
    let sequence = site.push("services/web", "round", "1\n");
    site.hosts[1].wait_applied(sequence);
    let first = listed(&site)[0]["fingerprint"].as_str().expect("a key").to_owned();
    let new = key(&site, &["rotate", "--revoke-old"]);
    key(&site, &["revoke", &first]);
    let sequence = site.push("services/web", "round", "2\n");
    expect_signed_by(&site, &new);
    site.slaves[0].daemon.start();
    site.slave().wait_at(sequence);
    site.hosts[0].daemon.start();
    site.wait_applied(sequence);
    assert_eq!(site.host().file("services/web/latest/round"), "2\n");
    for host in &site.hosts {
        // The last one revokes, and no snapshot needs it.
        eventually("all statements to be kept", || {
            let kept = fs::read_to_string(host.state.join("keys.json")).map_err(|error| error.to_string())?;
            let read: Value = serde_json::from_str(&kept).map_err(|error| error.to_string())?;
            if read["statements"].as_array().is_some_and(|all| all.len() == 3) { Ok(()) } else { Err(kept) }
        });
    }
    let keys = listed(&site);
    let revoked = keys.as_array().expect("a list").iter().filter(|one| one["revoked"].is_u64()).count();
    assert_eq!((revoked, keys[2]["signs"].as_bool()), (2, Some(true)), "{keys}");
    // The list of who may ask is signed by the new key too, and is good after a restart without conf-master.
    site.master.daemon.stop();
    site.slaves[0].daemon.restart();
    site.slave().wait_at(sequence);
    let token = token_in(&site.folder.path().join("web-1.token"));
    let status = site.slave().unproven().with(&token).get_json("/api/v1/status").expect("the host is let in");
    assert_eq!(status["sequence"].as_u64(), Some(sequence), "{status}");
}

#[test]
fn a_key_that_only_its_owner_has_made_known_is_followed_by_nobody() {
    let site = site(Plan { hosts: 0, ..Plan::default() });
    let (honest, given) = (site.slave().address.to_string(), site.given_key());
    // The lie follows from a snapshot that follows from another one.
    let sequence = site.push("services/web", "round", "1\n");
    site.slave().wait_at(sequence);
    let address = own_address(7401).to_string();
    let folder = site.folder.path().join("hostile-keys");
    let mut arguments: Vec<OsString> =
        vec!["slave".into(), "--honest".into(), honest.into(), "--datacenter".into(), DATACENTER.into()];
    arguments.extend(["--mode".into(), "keys".into(), "--listen".into(), address.clone().into()]);
    arguments.extend(["--folder".into(), folder.into_os_string(), "--trusted".into(), given.into_os_string()]);
    let mut liar = Daemon::new("hostile", built("hostile"), site.folder.path(), arguments);
    liar.start();
    let mut host = site.make_host(1);
    let arguments = host.daemon.arguments();
    let at = arguments.iter().position(|argument| argument == "--surrogate").expect("it has one");
    arguments
        .splice(at..at, ["--surrogates-in-order".into(), "--surrogate".into(), format!("http://{address}").into()]);
    host.daemon.start();
    // It is heard: both what it says of keys, and the snapshot.
    eventually("the host to ask for keys", || {
        let log = liar.log();
        if log.contains("lied: keys") { Ok(()) } else { Err(log) }
    });
    host.wait_applied(site.master.sequence());
    let sequence = site.push("services/web", "round", "honest\n");
    host.wait_applied(sequence);
    assert_eq!((host.sequence(), host.file("services/web/latest/round")), (sequence, "honest\n".to_owned()));
    let log = host.daemon.log();
    assert!(log.contains("statement 1 about keys is refused: its old key has not signed it"), "{log}");
    assert!(!host.state.join("keys.json").exists());
    // What conf-master itself says is followed all the same.
    key(&site, &["rotate"]);
    let sequence = site.push("services/web", "round", "after\n");
    host.wait_applied(sequence);
    assert_eq!(host.file("services/web/latest/round"), "after\n");
}
