//! Pushes over SSH, by keys that may do nothing else.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    process::Stdio,
};

use serde_json::Value;
use tests::{
    Plan, Site, eventually,
    git::Work,
    program::{built, run, spawn, text},
};

/// What sshd does with a forced command: the client's own is in the environment. The folder's name
/// has a blank.
fn over_ssh(site: &Site, name: &str) -> Work {
    let folder = site.folder.path().join("with space");
    fs::create_dir_all(&folder).expect("the folder can be made");
    let ssh = folder.join("ssh");
    let quoted = |path: &std::path::Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let (program, repo) = (quoted(&built("conf-master")), quoted(&site.master.repo));
    let script = format!(
        "#!/bin/sh\nshift $(($# - 1))\nexport SSH_ORIGINAL_COMMAND=\"$1\" SSH_CONNECTION='10.9.8.7 4711 10.0.0.1 22'\n\
         exec {program} receive --repo {repo} --as 'ann of ops' $FLAGS\n"
    );
    fs::write(&ssh, script).expect("it can be written");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    let work = Work::new(&folder.join(name), &format!("git@central:{}", site.master.repo.display()));
    work.git(&["config", "core.sshCommand", &quoted(&ssh)]);
    work.git(&["config", "ssh.variant", "simple"]);
    work
}

#[test]
fn a_push_over_ssh_has_the_limits_of_one_over_http() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let work = over_ssh(&site, "clone");
    work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
    let branch = "refs/heads/services/web/master";
    assert_eq!(work.id(branch), site.work.id(branch));
    let earlier = work.id(branch);
    work.change().file("services/web/master", "config.yaml", "round: 2\n").land();
    let landed = site.master.git(&["log", "-1", "--format=%B", "refs/conf/ledger"]);
    assert!(landed.contains(" as ann of ops") && landed.contains("Conf-Through: ssh 10.9.8.7"), "{landed}");
    // What needs more memory than a push may have: a commit of 600 MB, compressed 0.6.
    let message = site.folder.path().join("message");
    fs::write(&message, "x".repeat(600 << 20)).unwrap();
    let tree = work.id(&format!("{branch}^{{tree}}"));
    let large = work.git(&["commit-tree", &tree, "-p", branch, "-F", &message.display().to_string()]);
    work.try_git(&["push", "-q", "origin", &format!("{large}:{branch}")]).refused(&["unpack"]);
    // And nothing but what a ref points to can be read.
    let other = over_ssh(&site, "other");
    for id in [&earlier, &tree] {
        other.try_git(&["fetch", "-q", "origin", id]).refused(&["unadvertised object"]);
    }
    work.git(&["update-ref", branch, &site.master.git(&["rev-parse", branch])]);
    work.change().file("services/web/master", "config.yaml", "round: 3\n").land();
}

#[test]
fn a_sender_who_never_ends_leaves_his_place() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let ssh = over_ssh(&site, "clone").folder().parent().unwrap().join("ssh");
    let mut held = tests::program::command(&ssh, site.folder.path());
    held.args(["git@central", "git-receive-pack 'x'"]).env("FLAGS", "--longest 1");
    held.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut held = spawn(held).unwrap();
    // Nothing is sent, and the way to it stays open.
    let _sender = held.stdin.take().unwrap();
    let status = eventually("it to end", || held.try_wait().unwrap().ok_or_else(|| "it goes on".to_owned()));
    assert_eq!(status.signal(), Some(14), "SIGALRM: {status}");
}

#[test]
fn a_key_for_pushes_runs_nothing_else() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let ssh = over_ssh(&site, "clone").folder().parent().unwrap().join("ssh");
    for (command, words) in
        [("sh -c id", "\"sh\" cannot be run"), ("", "this key is for git"), ("git-shell", "cannot be run")]
    {
        let mut asked = tests::program::command(&ssh, site.folder.path());
        asked.args(["git@central", command]);
        let output = run(asked);
        assert!(!output.status.success() && text(&output).contains(words), "{command:?}: {}", text(&output));
    }
}

#[test]
fn a_refusal_over_ssh_names_the_key_and_repeats_are_counted() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let work = over_ssh(&site, "clone");
    work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
    for _ in 0..5 {
        work.change().file("services/web/master", "config.yaml", "a: [\n").push().refused(&["config.yaml"]);
    }
    let records = site.master.http().get_json("/api/v1/refused").unwrap();
    let records: Vec<&Value> = records.as_array().unwrap().iter().collect();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((&records[0]["through"], &records[0]["again"]), (&"ssh 10.9.8.7".into(), &4.into()), "{records:?}");
    let told = text(&site.master.run(&["log", "--refused"]));
    assert!(told.contains("and 4 or more like it"), "{told}");
}
