//! Pushes over SSH, by keys that may do nothing else.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use serde_json::Value;
use tests::{
    Plan, Site, eventually,
    git::Work,
    program::{built, run, spawn, text},
    wire::{self, Claim, ZERO},
};

use crate::unlanded::left_behind;

const WEB: &str = "refs/heads/services/web/master";

/// What sshd does with a forced command: the client's own is in the environment. The folder's name
/// has a blank.
fn ssh_of(site: &Site) -> PathBuf {
    ssh_for(site, "ssh", "ann.ops", "")
}

/// The same for a key of somebody, run by sshd as somebody else: `run` is what stands before the
/// command.
fn ssh_for(site: &Site, file: &str, owner: &str, run: &str) -> PathBuf {
    let folder = site.folder.path().join("with space");
    fs::create_dir_all(&folder).expect("the folder can be made");
    let ssh = folder.join(file);
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    let (program, repo) = (quoted(&built("conf-master")), quoted(&site.master.repo));
    let script = format!(
        "#!/bin/sh\nshift $(($# - 1))\nexport SSH_ORIGINAL_COMMAND=\"$1\" SSH_CONNECTION='10.9.8.7 4711 10.0.0.1 22'\n\
         exec {run} {program} receive --repo {repo} --as '{owner}' $FLAGS\n"
    );
    fs::write(&ssh, script).expect("it can be written");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    ssh
}

/// A repository whose remote is the central one, over SSH.
fn over_ssh(site: &Site, name: &str) -> Work {
    over(site, name, &ssh_of(site))
}

fn over(site: &Site, name: &str, ssh: &Path) -> Work {
    let work = Work::new(&ssh.with_file_name(name), &format!("git@central:{}", site.master.repo.display()));
    work.git(&["config", "core.sshCommand", &format!("'{}'", ssh.display())]);
    work.git(&["config", "ssh.variant", "simple"]);
    work
}

/// Says to a program over SSH what no client of Git says, and leaves the way open. Returns the
/// answer, without the list of refs before it.
fn talk(site: &Site, program: &str, protocol: &str, words: &[u8]) -> String {
    let mut talking = tests::program::command(ssh_of(site), site.folder.path());
    talking.args(["git@central", program]).env("GIT_PROTOCOL", protocol);
    talking.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut talking = spawn(talking).expect("it starts");
    let mut input = talking.stdin.take().expect("it has one");
    let mut output = talking.stdout.take().expect("it has one");
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).map(|_| bytes).expect("it can be read")
    });
    // It may be refused before all of it was sent.
    let _ = input.write_all(words);
    eventually("the server to end", || {
        talking.try_wait().expect("it can be looked at").ok_or_else(|| "it goes on".to_owned())
    });
    let answer = String::from_utf8_lossy(&reading.join().expect("it ends")).into_owned();
    answer.split_once("0000").map_or(answer.clone(), |(_, answer)| answer.to_owned())
}

#[test]
fn a_push_over_ssh_has_the_limits_of_one_over_http() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let work = over_ssh(&site, "clone");
    work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
    let branch = WEB;
    assert_eq!(work.id(branch), site.work.id(branch));
    let earlier = work.id(branch);
    work.change().file("services/web/master", "config.yaml", "round: 2\n").land();
    let landed = site.master.git(&["log", "-2", "--first-parent", "--format=%B", "refs/conf/ledger"]);
    let (landed, before) = landed.split_once("Conf-Proven: yes\n").expect("the key proves a name");
    assert!(landed.contains("Conf-By: ann.ops\n") && landed.contains("Conf-Through: ssh 10.9.8.7"), "{landed}");
    assert!(before.contains("Conf-Proven: no"), "over HTTP nobody has proven one: {before}");
    // What needs more memory than a push may have: a commit of 600 MB, compressed 0.6.
    let message = site.folder.path().join("message");
    fs::write(&message, "x".repeat(600 << 20)).unwrap();
    let tree = work.id(&format!("{branch}^{{tree}}"));
    let large = work.git(&["commit-tree", &tree, "-p", branch, "-F", &message.display().to_string()]);
    work.try_git(&["push", "-q", "origin", &format!("{large}:{branch}")]).refused(&["unpack"]);
    // And nothing but what landed can be read, by its commits.
    let other = over_ssh(&site, "other");
    other.git(&["fetch", "-q", "origin", &earlier]);
    other.try_git(&["fetch", "-q", "origin", &tree]).refused(&["not our ref"]);
    work.git(&["update-ref", branch, &site.master.git(&["rev-parse", branch])]);
    work.change().file("services/web/master", "config.yaml", "round: 3\n").land();
}

#[test]
fn a_push_over_ssh_ends_where_it_ends_and_not_with_the_connection() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let (old, name) = (site.work.id(WEB), "refs/heads/services/web/other");
    let new = site.work.git(&["commit-tree", "-p", &old, "-m", "next", &format!("{old}^{{tree}}")]);
    let push = |claim: Claim<'_>, capabilities: &str, rest: &[u8]| {
        talk(&site, "git-receive-pack 'x'", "", &wire::push_request(&[claim], capabilities, Some(rest)))
    };
    let pack = site.work.git_pack(&[&new, &format!("^{old}")]);
    let claim = Claim { old: ZERO, new: &new, name };
    let told = push(claim, "report-status", &pack);
    assert!(told.contains(&format!("ok {name}")), "{told}");
    // Nothing follows but the options of the push.
    let gone = Claim { old: &new, new: ZERO, name };
    let option = [wire::line("nonsense"), b"0000".to_vec()].concat();
    let told = push(gone, "report-status side-band-64k delete-refs push-options", &option);
    assert!(told.contains(&format!("ng {name}")) && told.contains("nonsense"), "{told}");
    // Nothing at all.
    let told = push(gone, "report-status delete-refs", b"");
    assert!(told.contains(&format!("ok {name}")), "{told}");
    assert_eq!(site.master.git(&["for-each-ref", name]).trim(), "");
    assert_eq!(talk(&site, "git-receive-pack 'x'", "", b"0000"), "", "it has nothing to push");
}

#[test]
fn a_push_over_ssh_is_refused_before_git_starts() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let old = site.work.id(WEB);
    let mark = site.master.daemon.log_mark();
    let push = |words: &[u8], why: &str| {
        let told = talk(&site, "git-receive-pack 'x'", "", words);
        assert!(told.contains(why), "{told}");
    };
    let new = "7".repeat(40);
    let claim = Claim { old: &old, new: &new, name: WEB };
    // A file of 5 GiB begins.
    let heavy = b"PACK\0\0\0\x02\0\0\0\x01\xb0\x80\x80\x80\xa0\x01";
    push(&wire::push_request(&[claim], "report-status", Some(heavy)), "an object has 5368709120 bytes");
    push(&wire::push_request(&vec![claim; 1001], "report-status", None), "more than 1000 refs");
    let certified =
        [wire::line("push-cert\0 report-status side-band-64k\n"), wire::line("certificate version 0.1\n")].concat();
    push(&certified, "--signed");
    push(b"zzzz", "ERR the request's body ended early or is damaged: it is no push");
    assert_eq!(talk(&site, "git-receive-pack 'x'", "", b"0000PACKnone"), "", "nothing of it is a push");
    let log = site.master.daemon.log_since(mark);
    assert_eq!(log.matches("a push is refused before Git starts").count(), 3, "{log}");
    assert_eq!(site.master.git(&["rev-parse", WEB]).trim(), old);
}

#[test]
fn nobody_deepens_a_history_over_ssh_to_what_did_not_land() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let tip = site.work.id(WEB);
    let [left, ..] = left_behind(&site);
    for protocol in ["", "version=1", "version=2"] {
        let fetch = |shallow: &str| {
            let asked = if protocol == "version=2" {
                [
                    wire::line("command=fetch"),
                    b"0001".to_vec(),
                    wire::line(&format!("want {tip}\n")),
                    wire::line(&format!("shallow {shallow}\n")),
                    wire::line("deepen 9\n"),
                    wire::line("done\n"),
                    b"0000".to_vec(),
                    b"0000".to_vec(),
                ]
            } else {
                [
                    wire::line(&format!("want {tip} \n")),
                    wire::line(&format!("shallow {shallow}\n")),
                    wire::line("deepen 9"),
                    b"0000".to_vec(),
                    wire::line("done\n"),
                    Vec::new(),
                    Vec::new(),
                    Vec::new(),
                ]
            };
            talk(&site, "git-upload-pack 'x'", protocol, &asked.concat())
        };
        let told = fetch(&left);
        assert!(told.contains(&format!("not our ref {left}")) && !told.contains("PACK"), "{protocol}: {told}");
        assert!(fetch(&tip).contains("PACK"), "{protocol}: {}", fetch(&tip));
    }
    // Git's own client, in either version.
    let work = over_ssh(&site, "shallow");
    work.git(&["config", "ssh.variant", "ssh"]);
    for protocol in ["0", "2"] {
        let version = format!("protocol.version={protocol}");
        site.push("services/web", "round", protocol);
        work.git(&["-c", &version, "fetch", "-q", "--depth=1", "origin", WEB]);
        work.git(&["-c", &version, "fetch", "-q", "--deepen=1", "origin", WEB]);
        assert_eq!(work.git(&["rev-parse", "FETCH_HEAD^{tree}"]), site.work.id(&format!("{WEB}^{{tree}}")));
    }
}

#[test]
fn a_sender_who_never_ends_is_ended() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let ssh = ssh_of(&site);
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
fn one_address_has_four_pushes_over_ssh_at_once() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let work = over_ssh(&site, "clone");
    work.git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
    let hold = || {
        let mut held = tests::program::command(ssh_of(&site), site.folder.path());
        held.args(["git@central", "git-receive-pack 'x'"]);
        held.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut held = spawn(held).unwrap();
        // It has its place when it is shown the refs.
        held.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
        held
    };
    let mut held: Vec<_> = (0..4).map(|_| hold()).collect();
    let next = || work.change().file("services/web/master", "config.yaml", "round: 2\n").push();
    next().refused(&["too many pushes or fetches over SSH at once"]);
    drop(held.remove(0).stdin.take());
    eventually("a place to be free", || {
        let told = work.try_git(&["push", "-q", "origin", "services/web/master"]);
        if told.ok { Ok(()) } else { Err(told.text) }
    });
}

#[test]
fn a_key_for_pushes_runs_nothing_else() {
    let site = Plan { hosts: 0, slaves: 0, ..Plan::default() }.start();
    let ssh = ssh_of(&site);
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

const POLICY: &str = "\
groups: {web: [ann], readers: [bob]}
rights:
  - {group: administrators, may: [administer]}
  - {group: web, may: [read, push]}
  - {group: readers, may: [read]}
";

#[test]
fn the_policy_says_who_reads_and_who_pushes_over_ssh() {
    let mut site = Plan { hosts: 0, slaves: 0, tokens: true, ..Plan::default() }.start();
    site.work.change().file("policy", "policy.yaml", POLICY).land();
    let fetch = |work: &Work| work.try_git(&["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"]);
    let of = |site: &Site, owner: &str| over(site, owner, &ssh_for(site, &format!("ssh-{owner}"), owner, ""));
    let (ann, bob, eve) = (of(&site, "ann"), of(&site, "bob"), of(&site, "eve"));
    fetch(&ann).accepted();
    fetch(&bob).accepted();
    fetch(&eve).refused(&["eve lacks the right `read`"]);
    assert!(!eve.try_git(&["ls-remote", "origin"]).ok);
    ann.change().file("services/web/master", "round", "1\n").land();
    bob.change().file("services/web/master", "round", "2\n").push().refused(&["bob lacks the right `push`"]);
    // sshd may run the command as an account that the server was not told of: its word for the
    // owner of a key counts for nothing.
    let open = fs::Permissions::from_mode(0o711);
    fs::set_permissions(site.folder.path(), open).expect("its mode can be set");
    let run = "setpriv --reuid 65534 --regid 0 --clear-groups --";
    let other = over(&site, "other", &ssh_for(&site, "ssh-other", "ann", run));
    fetch(&other).refused(&["nobody lacks the right `read`"]);
    site.master.daemon.stop();
    site.master.daemon.argument("--ssh-user");
    site.master.daemon.argument("nobody");
    site.master.daemon.start();
    fetch(&other).accepted();
    other.change().file("services/web/master", "round", "3\n").land();
    let landed = site.master.git(&["log", "-1", "--format=%B", "refs/conf/ledger"]);
    assert!(landed.contains("Conf-By: ann\n"), "{landed}");
    // Root's word counts as before.
    fetch(&eve).refused(&["eve lacks the right `read`"]);
}
